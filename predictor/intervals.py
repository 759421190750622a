"""Split-conformal quantiles of the ratio actual / predicted, idle and queued apart. Pure.

The ratios come from the newest rows, predicted by a model that was fitted on older ones; every refit makes them anew,
so they roll with the traffic. A latency quantile is the point prediction times the ratio's quantile.
Source: Lei et al. 2018 (split conformal, rank ceil((n + 1) * level)); groups as in Mondrian conformal prediction.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.physics import WAITING

Array = NDArray[np.float64]

LEVELS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Levels for which ratios are stored; between them they are interpolated."""

MIN_GROUP: Final = 20
"""A group with fewer calibration rows uses those of both groups."""

_STRETCH: Final = 1.5
"""Where there are too few rows for a level, the furthest ratio seen is stretched by this."""


def queued(matrix: Array) -> NDArray[np.bool_]:
    """Rows (of feature rows (n, 8)) that met a queue at their endpoint."""
    return matrix[:, WAITING] > 0


def ratio_quantile(ratios: Array, level: float) -> float:
    """The ratio that a new request stays below with probability ``level``.

    Args:
        ratios: actual / predicted on calibration rows, shape (n,), n >= 1, > 0.
        level: in (0, 1). Below 0.5 the lower rank is taken, so an interval never covers too little.

    >>> ratio_quantile(np.arange(1.0, 10.0), 0.9)
    9.0
    """
    ordered = np.sort(ratios)
    n = len(ordered)
    upper = level >= 0.5
    rank = math.ceil((n + 1) * level - 1e-9) if upper else math.floor((n + 1) * level + 1e-9)
    if rank > n:
        return float(ordered[-1] * _STRETCH)
    if rank < 1:
        return float(ordered[0] / _STRETCH)
    return float(ordered[rank - 1])


def calibrate(ratios: Array, in_queue: NDArray[np.bool_]) -> Array:
    """Quantiles of ratio at :data:`LEVELS`, shape (2, levels): first row idle, second queued."""
    table = np.empty((2, len(LEVELS)))
    for group in (0, 1):
        own = ratios[in_queue == bool(group)]
        chosen = own if len(own) >= MIN_GROUP else ratios
        table[group] = [ratio_quantile(chosen, level) for level in LEVELS]
    return np.asarray(np.maximum.accumulate(table, axis=1))


def at_level(table: Array, level: float) -> Array:
    """The ratio at ``level`` (in 0.01 .. 0.99, clipped) for idle and queued, shape (2,)."""
    return np.array([np.interp(level, LEVELS, row) for row in table])
