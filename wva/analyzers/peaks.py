"""The highest KV utilisation and queue of each replica over the last minute, as upstream's queries read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from fleet.types import ReplicaObservation

PEAK_S: Final = 60.0


class Gauge(NamedTuple):
    """One replica's gauges at one time."""

    at_s: float
    kv: float
    waiting: float


Peaks = Mapping[str, tuple[Gauge, ...]]
"""By replica name."""


def remembered(before: Peaks, fresh: Sequence[ReplicaObservation], now_s: float) -> dict[str, tuple[Gauge, ...]]:
    """The last minute's gauges of the replicas that report; a replica that left takes its own along."""
    found = {}
    for seen in fresh:
        if seen.sample is None:
            continue
        past = tuple(one for one in before.get(seen.replica.name, ()) if now_s - PEAK_S <= one.at_s < now_s)
        found[seen.replica.name] = (*past, Gauge(now_s, seen.sample.kv_utilisation or 0.0, seen.sample.waiting or 0.0))
    return found


def of(gauges: Sequence[Gauge]) -> tuple[float, float]:
    """Highest KV utilisation and queue."""
    return max(one.kv for one in gauges), max(one.waiting for one in gauges)
