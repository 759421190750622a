"""Which share of requests misses its targets at a level of load, learned as a distribution over curves. Pure.

A *level* is requests in flight per replica over the level at which the physics expects 1 % of them to miss
(:class:`wva.slo.law.Law`). The candidate curves are ``floor + (1 - floor) / (1 + 99 * (s / level)**k)``: they
pass 1 % at ``s``, the steeper the larger ``k``; ``floor`` is what misses at any load. Every observation (so many
requests at this level, so many of them missed) reweighs all curves (Bayes on a grid), so that a replica that was never
loaded teaches nothing about high levels, few samples leave the prior, and the expected share at a level carries the
uncertainty. Misses come in clusters: observations count for less than their number (:func:`tempered`), and old ones
fade.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SHIFTS: Final = np.arange(-2.88, 1.01, 0.12)
"""ln(s): from a twentieth of the expected level to nearly three times it."""
_STEEPNESS: Final = (1.0, 3.0, 7.0, 16.0)
_FLOORS: Final = (0.0005, 0.01, 0.05)
_FLOOR_PRIOR: Final = (0.95, 0.04, 0.01)
SHAPES: Final = np.array([(s, k, f) for s in _SHIFTS for k in _STEEPNESS for f in _FLOORS])
LEVELS: Final = np.exp(np.arange(-3.6, 2.01, 0.08))
"""Levels at which curves are tabulated; evenly spaced in their logarithm."""
LOG_FIRST: Final = float(np.log(LEVELS[0]))
LOG_STEP: Final = 0.08
CLUSTER: Final = 100.0
"""Requests that miss together, roughly: so many observations of one pass count as one half of their number."""
LIFE_AT_LEAST_S: Final = 20.0
"""What came of requests is set against the mean load over their life, and over so long at least: two scrapes."""
MISSED: Final = 1e-4
"""No curve promises less than this."""


def _curves() -> Array:
    shift, steep, floor = (SHAPES[:, i, None] for i in range(3))
    with np.errstate(over="ignore"):
        share = 1.0 / (1.0 + 99.0 * np.exp(np.clip(steep * (shift - np.log(LEVELS)[None, :]), -50.0, 50.0)))
    return np.asarray(np.clip(floor + (1.0 - floor) * share, MISSED, 1.0 - 1e-6), dtype=np.float64)


CURVES: Final = _curves()
"""Share of misses, one row a curve, one column a level."""
_LOG_MISS: Final = np.log(CURVES)
_LOG_GOOD: Final = np.log1p(-CURVES)
_LOAD_PART: Final = 1.0 - (1.0 - CURVES) / (1.0 - np.clip(SHAPES[:, 2, None], MISSED, 1.0))
"""Of those, what depends on the load: misses beyond the floor."""


def prior(spread: float) -> Array:
    """Log weights before any observation.

    Args:
        spread: standard deviation of ln(s); small where the limit is known (KV memory), large where it is guessed.
    """
    floors = np.log(np.array([_FLOOR_PRIOR[_FLOORS.index(f)] for f in SHAPES[:, 2]]))
    return np.asarray(-0.5 * (SHAPES[:, 0] / spread) ** 2 + floors, dtype=np.float64)


def column(level: float) -> int:
    """Index of the tabulated level nearest to ``level``."""
    place = (math.log(max(level, 1e-9)) - LOG_FIRST) / LOG_STEP
    return min(max(round(place), 0), len(LEVELS) - 1)


def evidence(good: Array, missed: Array) -> Array:
    """Log weights of the data.

    Args:
        good: requests that met their targets, by tabulated level (last axis), already tempered and faded.
        missed: those that did not.
    """
    return np.asarray(good @ _LOG_GOOD.T + missed @ _LOG_MISS.T, dtype=np.float64)


def tempered(count: float) -> float:
    """Weight of each of ``count`` requests observed together."""
    return CLUSTER / (CLUSTER + count) if count > 0 else 0.0


def expected(log_weights: Array) -> Array:
    """Expected share of misses that load causes, by tabulated level; never falls with the level.

    Args:
        log_weights: prior plus data, shape (curves,) or (groups, curves).
    """
    shifted = np.exp(log_weights - log_weights.max(axis=-1, keepdims=True))
    shares = (shifted / shifted.sum(axis=-1, keepdims=True)) @ _LOAD_PART
    return np.asarray(np.maximum.accumulate(shares, axis=-1), dtype=np.float64)


def bearable(table: Array, share: float) -> float:
    """Highest level whose expected share of misses is at most ``share``; interpolated in the logarithm.

    >>> round(bearable(expected(prior(0.01)), 0.01), 1)
    1.0
    """
    above = int(np.searchsorted(table, share, side="right"))
    if above == 0:
        return float(LEVELS[0])
    if above >= len(LEVELS):
        return float(LEVELS[-1])
    low, high = table[above - 1], table[above]
    part = (share - low) / (high - low) if high > low else 0.0
    return float(LEVELS[above - 1] * math.exp(LOG_STEP * part))
