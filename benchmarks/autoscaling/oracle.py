"""The clairvoyant: the cheapest replica counts that cover a known need, start-up time paid. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.autoscaling.pool import Bounds

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The optimum."""

    serving: Counts
    """Replicas ready in each bin."""
    bin_s: float
    startup_s: float
    starts: int
    replica_s: float
    """Paid seconds: serving and starting."""
    late_bins: int
    """Bins at the beginning whose need no start could have met in time."""

    @property
    def average(self) -> float:
        """Mean paid replicas."""
        return self.replica_s / (len(self.serving) * self.bin_s)

    def at(self, now_s: float) -> int:
        """Replicas that serve at a time; the last count after the end."""
        return int(self.serving[min(int(now_s / self.bin_s), len(self.serving) - 1)])

    def asked(self, now_s: float, lead_s: float) -> int:
        """Replicas to have asked for by ``now_s`` when a start takes up to ``lead_s``: a perfect forecast."""
        first = min(int(now_s / self.bin_s), len(self.serving) - 1)
        last = min(int((now_s + lead_s) / self.bin_s), len(self.serving) - 1)
        return int(self.serving[first : last + 1].max())


def best(need: Sequence[int] | Counts, *, bin_s: float, startup_s: float, bounds: Bounds, initial: int) -> Best:
    """Replica counts of least paid time that serve ``need`` in every bin.

    A dynamic program over the number of serving replicas: each bin pays for those that serve, each start for
    ``startup_s`` beforehand; stopping is free. What nobody could have started in time is left out.

    Args:
        need: replicas by bin.
        initial: serving replicas before the first bin.

    >>> best([3, 3, 5, 3], bin_s=360.0, startup_s=100.0, bounds=Bounds(low=3, high=8), initial=3).replica_s
    5240.0
    """
    wanted = np.minimum(np.asarray(need, dtype=np.int64), bounds.high)
    reachable = np.arange(len(wanted)) * bin_s >= startup_s
    limits = np.where(reachable, bounds.high, min(initial, bounds.high))
    late = int((wanted > limits).sum())
    wanted = np.maximum(np.minimum(wanted, limits), min(bounds.low, initial))
    levels = np.arange(bounds.high + 1)
    moves = np.maximum(levels[:, None] - levels[None, :], 0) * startup_s  # [to, from]
    cost = np.where(levels == initial, 0.0, np.inf)
    chosen = np.zeros((len(wanted), len(levels)), dtype=np.int64)
    for index, (least, most) in enumerate(zip(wanted.tolist(), limits.tolist(), strict=True)):
        reach = cost[None, :] + moves
        chosen[index] = reach.argmin(axis=1)
        allowed = (levels >= least) & (levels <= most)
        cost = np.where(allowed, reach[levels, chosen[index]] + levels * bin_s, np.inf)
    return _traced(chosen, cost, bin_s=bin_s, startup_s=startup_s, initial=initial, late=late)


def _traced(chosen: Counts, cost: NDArray[np.float64], *, bin_s: float, startup_s: float, initial: int, late: int
            ) -> Best:  # fmt: skip
    """The way back from the cheapest end."""
    serving = np.empty(len(chosen), dtype=np.int64)
    level = int(cost.argmin())
    for index in range(len(chosen) - 1, -1, -1):
        serving[index] = level
        level = int(chosen[index, level])
    starts = int(np.maximum(np.diff([initial, *serving.tolist()]), 0).sum())
    return Best(serving=serving, bin_s=bin_s, startup_s=startup_s, starts=starts, replica_s=float(cost.min()),
                late_bins=late)  # fmt: skip
