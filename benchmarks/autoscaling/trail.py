"""What one run leaves behind, and the figures made of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
"""From, until; seconds."""


@dataclass(slots=True, kw_only=True)
class Trail:
    """One arm's run."""

    initial: int
    events: list[tuple[float, int]] = field(default_factory=list)
    """When another number of replicas was asked for, and which."""
    total: float = 0.0
    """Requests."""
    good: float = 0.0
    """Requests that met every target."""
    cached: list[float] = field(default_factory=list)
    """Prompt tokens found in caches, by request (fine mode)."""
    paid: list[Interval] = field(default_factory=list)
    """Each replica from its start to its end, draining included."""
    serving: list[Interval] = field(default_factory=list)
    end_s: float = 0.0

    def settled_s(self, load_end_s: float, floor: int) -> float:
        """End of the episode as published: the load is over and no more than ``floor`` replicas are left.

        A pool that was never made smaller is not waited for.
        """
        asked = [self.initial, *(replicas for _, replicas in self.events)]
        if asked == sorted(asked):
            return load_end_s
        times = sorted({load_end_s, *(end for _, end in self.paid if end > load_end_s)})
        return next((at_s for at_s in times if self.count(at_s) <= floor), self.end_s)

    def count(self, at_s: float) -> int:
        """Replicas paid for at a time."""
        return sum(start <= at_s < end for start, end in self.paid)

    def replica_s(self, until_s: float) -> float:
        """Paid replica-seconds until a time."""
        return sum(max(0.0, min(end, until_s) - start) for start, end in self.paid)

    def changes(self, until_s: float) -> int:
        """How often the number asked for changed."""
        return sum(at_s <= until_s for at_s, _ in self.events)

    def short_s(self, need: NDArray[np.int64], bin_s: float) -> float:
        """Seconds with fewer serving replicas than needed, to a second."""
        seconds = int(len(need) * bin_s)
        serving = on_axis(self.serving, seconds)
        return float((serving < np.repeat(need, int(bin_s))[:seconds]).sum())


def on_axis(intervals: Sequence[Interval], seconds: int) -> NDArray[np.int64]:
    """How many intervals cover each whole second (at its middle)."""
    change = np.zeros(seconds + 1, dtype=np.int64)
    for start, end in intervals:
        first, last = (int(np.clip(np.ceil(at_s - 0.5), 0, seconds)) for at_s in (start, end))
        change[first] += 1
        change[last] -= 1
    return np.cumsum(change[:seconds])
