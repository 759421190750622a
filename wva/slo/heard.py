"""What a variant's fresh replicas say, added up in one pass over them: the loop that a large fleet pays for. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.types import ReplicaObservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Sums over a variant's fresh replicas."""

    replicas: int
    samples: int
    """Of them, with a sample."""
    running: float
    waiting: float
    in_flight: float
    """Both together."""
    kv_utilisation: float
    """Sum of shares."""
    rates: tuple[float, ...]
    """Requests a second of those that tell."""
    hits: tuple[float, ...]
    """Prefix hit ratios of those that tell."""
    kv_tokens: float | None
    """KV memory of a replica, mean of those that tell."""
    max_running: float | None
    """The fewest that one lets run at once."""


def hear(fresh: Sequence[ReplicaObservation]) -> Heard:
    """The sums; what a replica does not say counts as 0 where all are added up."""
    samples = [seen.sample for seen in fresh if seen.sample is not None]
    running = [sample.running or 0.0 for sample in samples]
    waiting = [sample.waiting or 0.0 for sample in samples]
    sizes = [sample.kv_capacity_tokens for sample in samples if sample.kv_capacity_tokens]
    rates = [seen.request_rps for seen in fresh if seen.request_rps is not None]
    hits = [seen.prefix_hit_ratio for seen in fresh if seen.prefix_hit_ratio is not None]
    return Heard(
        replicas=len(fresh), samples=len(samples), running=sum(running), waiting=sum(waiting),
        in_flight=sum([one + other for one, other in zip(running, waiting, strict=True)]),
        kv_utilisation=sum([sample.kv_utilisation or 0.0 for sample in samples]),
        rates=tuple([rate for rate in rates if 0.0 <= rate < math.inf]),
        hits=tuple([ratio for ratio in hits if 0.0 <= ratio < math.inf]),
        kv_tokens=sum(sizes) / len(sizes) if sizes else None,
        max_running=min([sample.max_running for sample in samples if sample.max_running], default=None),
    )  # fmt: skip
