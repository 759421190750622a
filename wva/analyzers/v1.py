"""Upstream's V1 saturation analyzer (percentages), version 0.9 with its defaults. Pure.

A replica is saturated with KV utilisation at or above 0.80 or five requests waiting. The spare of those that are not,
averaged over all variants of the model, decides: below the triggers one replica more of the cheapest variant; with
enough left for one replica fewer, one less of the dearest. While anything of the model is on its way nothing moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

KV_THRESHOLD: Final = 0.80
QUEUE_THRESHOLD: Final = 5.0
KV_TRIGGER: Final = 0.10
QUEUE_TRIGGER: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """What the replicas that are not saturated have left, on average; 0 without any."""

    replicas: int
    kv: float
    queue: float

    @property
    def short(self) -> bool:
        """Whether a trigger is undercut."""
        return self.kv < KV_TRIGGER or self.queue < QUEUE_TRIGGER

    @property
    def allows_fewer(self) -> bool:
        """Whether one replica fewer would still leave both triggers, its load spread over the rest."""
        if self.replicas < 2:
            return False
        grown = self.replicas / (self.replicas - 1)
        kv, queue = (KV_THRESHOLD - self.kv) * grown, (QUEUE_THRESHOLD - self.queue) * grown
        return KV_THRESHOLD - kv >= KV_TRIGGER and QUEUE_THRESHOLD - queue >= QUEUE_TRIGGER


def spare(loads: Sequence[tuple[float, float]]) -> Spare:
    """From (KV utilisation, queue) of each replica.

    >>> spare([(0.75, 0.0), (0.76, 0.0), (0.9, 0.0)]).short
    True
    """
    calm = [(kv, queue) for kv, queue in loads if kv < KV_THRESHOLD and queue < QUEUE_THRESHOLD]
    if not calm:
        return Spare(replicas=0, kv=0.0, queue=0.0)
    return Spare(
        replicas=len(calm),
        kv=sum(KV_THRESHOLD - kv for kv, _ in calm) / len(calm),
        queue=sum(QUEUE_THRESHOLD - queue for _, queue in calm) / len(calm),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One variant as the rule sees it."""

    name: str
    cost: float
    current: int
    """Replicas that serve."""
    desired: int
    """Asked for."""
    pending: int


def targets(variants: Sequence[Standing], loads: Sequence[tuple[float, float]]) -> Mapping[str, int]:
    """Replicas of each variant, before its bounds."""
    found = {one.name: one.desired or one.current for one in variants}
    if any(one.pending or (one.desired and one.desired != one.current) for one in variants):
        return found
    left = spare(loads)
    if left.short:
        cheapest = min(variants, key=lambda one: (one.cost, one.name))
        found[cheapest.name] += 1
    elif left.allows_fewer:
        names = sorted((one for one in variants if found[one.name] > 1), key=lambda one: one.name, reverse=True)
        if names:
            found[max(names, key=lambda one: one.cost).name] -= 1
    return found
