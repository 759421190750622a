"""Quantiles of the ratio actual / predicted that hold in the long run, by the kind of load met. Pure.

The ratios come from the newest rows, predicted by models that knew only older ones; every refit makes them anew, so
they roll with the traffic. A latency quantile is the point prediction times the ratio's quantile. Conformal: the rank
is ceil((n + 1) * level) (Lei et al. 2018), groups are apart (Mondrian), and the level that is looked up adapts: it
rises by each miss and falls by each hit (adaptive conformal inference, Gibbs and Candes 2021), so coverage is right on
average even where the past does not resemble the present.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.physics import PENDING, WAITING

Array = NDArray[np.float64]

LEVELS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Levels for which ratios are stored; between them they are interpolated."""

GROUPS: Final = ("idle", "pending", "queued")
"""``idle``: no prompt of ours was being computed at the endpoint; ``pending``: some were; ``queued``: the engine itself
told of a queue. How wide the errors are differs more between these than within them."""

MIN_GROUP: Final = 20
"""A group with fewer calibration rows uses those of all groups."""

WINDOW: Final = 400
"""Of a group's newest ratios, so many make its quantiles."""

RATE: Final = 0.01
"""How far one miss or hit moves the level that is looked up."""

_STRETCH: Final = 1.5
"""Where there are too few rows for a level, the furthest ratio seen is stretched by this."""


def queued(matrix: Array) -> NDArray[np.bool_]:
    """Rows (of feature rows (n, 8)) that met a queue at their endpoint."""
    return matrix[:, WAITING] > 0


def groups(matrix: Array) -> NDArray[np.intp]:
    """Positions in :data:`GROUPS` of feature rows (n, 8)."""
    return np.where(matrix[:, WAITING] > 0, 2, (matrix[:, PENDING] > 0).astype(np.intp))


def ratio_quantile(ordered: Sequence[float], level: float) -> float:
    """The ratio that a new request stays below with probability ``level``.

    Args:
        ordered: actual / predicted on calibration rows, rising, at least one, > 0.
        level: below 0.5 the lower rank is taken, so an interval never covers too little.

    >>> ratio_quantile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 0.9)
    9.0
    """
    n = len(ordered)
    upper = level >= 0.5
    rank = math.ceil((n + 1) * level - 1e-9) if upper else math.floor((n + 1) * level + 1e-9)
    if rank > n:
        return float(ordered[-1] * _STRETCH)
    if rank < 1:
        return float(ordered[0] / _STRETCH)
    return float(ordered[rank - 1])


def calibrate(ratios: Array, members: NDArray[np.intp]) -> Array:
    """Quantiles of ratio at :data:`LEVELS`, shape (groups, levels), never falling along a row.

    Args:
        ratios: actual / predicted, oldest first, shape (n,), n >= 1, > 0.
        members: the group of each, positions in :data:`GROUPS`.
    """
    table = np.empty((len(GROUPS), len(LEVELS)))
    everything: list[float] | None = None
    for group in range(len(GROUPS)):
        own = ratios[members == group]
        if len(own) >= MIN_GROUP:
            table[group] = tracked(own.tolist())
            continue
        everything = tracked(ratios.tolist()) if everything is None else everything
        table[group] = everything
    return np.asarray(np.maximum.accumulate(table, axis=1))


def tracked(ratios: Sequence[float]) -> list[float]:
    """Quantiles at :data:`LEVELS` from a rolling window, each at the level that would have held so far."""
    window: list[float] = []
    order: deque[float] = deque()
    looked_up = list(LEVELS)
    for ratio in ratios:
        if len(window) >= MIN_GROUP:
            for index, level in enumerate(LEVELS):
                hit = ratio <= ratio_quantile(window, looked_up[index])
                looked_up[index] += RATE * (level - hit)
        insort(window, ratio)
        order.append(ratio)
        if len(window) > WINDOW:
            del window[bisect_left(window, order.popleft())]
    return [ratio_quantile(window, min(max(level, -0.01), 1.01)) for level in looked_up]


def at_level(table: Array, level: float) -> Array:
    """The ratio at ``level`` (in 0.01 .. 0.99, clipped) by group, shape (groups,)."""
    return np.array([np.interp(level, LEVELS, row) for row in table])


def widened(ratio: Array, excess: Array) -> Array:
    """Ratios moved away from 1 where a row lies outside what training saw.

    Args:
        ratio: at one level, one a row.
        excess: how far beyond, as :meth:`predictor.model.LatencyModel.excess` says; 0 inside.
    """
    beyond = excess > 0
    if not beyond.any():
        return ratio
    apart = np.abs(np.log(ratio)) * (1.0 + excess) + 0.25 * excess
    return np.where(beyond, np.exp(np.where(ratio >= 1.0, apart, -apart)), ratio)
