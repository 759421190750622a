"""The default analyzer: saturation = 0.5 KV utilisation + 0.3 queue ratio + 0.2 throughput degradation. Pure.

An analyzer turns replicas into :class:`wva.types.Signals` and knows nothing of replica counts wanted, cost or time;
the optimizer plans from them. ``queue_ratio`` is requests waiting per ready replica over ``queue_full`` (default 5,
upstream's V1 ``queueLengthThreshold``: there five waiting requests alone call a replica saturated), at most 1; requests
that wait at the router count as waiting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from fleet.types import ReplicaObservation
from wva.types import Signals

KV_WEIGHT: Final = 0.5
QUEUE_WEIGHT: Final = 0.3
DEGRADATION_WEIGHT: Final = 0.2


def clip(value: float) -> float:
    """``value`` in 0..1; NaN is 0."""
    return min(max(0.0, value), 1.0)


def saturation(kv_utilisation: float, queue_ratio: float, throughput_degradation: float) -> float:
    """The formula, each term clipped to 0..1.

    >>> round(saturation(0.9, 1.5, 0.25), 3)
    0.8
    """
    return (
        KV_WEIGHT * clip(kv_utilisation)
        + QUEUE_WEIGHT * clip(queue_ratio)
        + DEGRADATION_WEIGHT * clip(throughput_degradation)
    )


def usable(value: float | None) -> float | None:
    """``value`` if it is a number that an engine can mean."""
    return value if value is not None and 0.0 <= value < math.inf else None


def analyse(
    replicas: Sequence[ReplicaObservation], *, router_waiting: float, degradation: float, queue_full: float
) -> Signals | None:
    """Signals of one variant over its fresh replicas.

    Args:
        replicas: ready replicas with usable samples.
        router_waiting: requests waiting at the router, per replica of the model.
        degradation: throughput degradation of the variant (:func:`wva.capacity.degradation`).
        queue_full: waiting requests per replica that count as a full queue.
    Returns: ``None`` without replicas.
    """
    samples = [replica.sample for replica in replicas if replica.sample is not None]
    if not samples:
        return None
    utilisation = sum(clip(sample.kv_utilisation or 0.0) for sample in samples) / len(samples)
    waiting = sum(sample.waiting or 0.0 for sample in samples) / len(samples) + router_waiting
    return _signals(len(samples), utilisation, waiting, degradation, queue_full)


def combine(parts: Sequence[Signals], *, queue_full: float) -> Signals | None:
    """Signals of a whole group: the mean over replicas, since the router spreads the load over all of them."""
    replicas = sum(part.replicas for part in parts)
    if not replicas:
        return None

    def mean(field: str) -> float:
        return float(sum(getattr(part, field) * part.replicas for part in parts)) / replicas

    return _signals(replicas, mean("kv_utilisation"), mean("waiting"), mean("throughput_degradation"), queue_full)


def _signals(replicas: int, utilisation: float, waiting: float, degradation: float, queue_full: float) -> Signals:
    ratio = clip(waiting / queue_full)
    return Signals(
        replicas=replicas,
        kv_utilisation=utilisation,
        queue_ratio=ratio,
        throughput_degradation=degradation,
        saturation=saturation(utilisation, ratio, degradation),
        waiting=waiting,
    )
