"""Multiplicative corrections of a group (a variant, an endpoint): shrunk towards 1 and clipped. Pure.

They are computed from the law's own, uncorrected residuals on the newest rows, each time anew. That is the fixed point
which an online update of the corrected residual approaches, and it cannot run away.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

PRIOR_ROWS: Final = 1.0
"""A group's own rows weigh n / (n + PRIOR_ROWS): ten rows carry 91 % of what they say."""

RECENT_ROWS: Final = 200
"""A scale looks at so many of the group's newest rows."""

NEIGHBOURS: Final = 30
"""Rows of others before one and as many after it that tell what the load of that time did to all."""

_BOUND: Final = 0.5
"""One of them counts as no more than this (log): a stall is no trend."""

_USUAL_SPREAD: Final = 0.25
_LEAST_SPREAD: Final = 0.02
"""Standard deviation of a group's log errors: where its rows are too few to tell, and at least."""
_ALIKE: Final = 3.0
"""Rows that meet one load err alike: so many of them tell as much as one that stands alone."""

CLIP: Final = math.log(8.0)
"""No group is more than 8 times faster or slower than its law."""


def log_scales(log_ratio: Array, keys: Sequence[Key], *, recent: int | None = RECENT_ROWS) -> Mapping[Key, float]:
    """Shrunk median of log(actual / law) by group, clipped to +-log 8.

    Args:
        log_ratio: shape (n,), oldest first, finite.
        keys: the group of each row.
        recent: newest rows of a group that count; ``None``: all.
    """
    return {key: _shrunk(log_ratio[rows[-recent:] if recent else rows]) for key, rows in positions(keys).items()}


def relative(log_ratio: Array, endpoints: Sequence[Key]) -> Array:
    """Errors of each endpoint less those of the others at about the same time.

    What the law does not know of the present load shows at all endpoints alike and is no property of one. Each
    endpoint's own usual error is taken out of what it says of the time. An endpoint that is alone keeps its errors.

    Args:
        log_ratio: log(actual / law), shape (n,), oldest first, finite.
        endpoints: whose each row is.
    """
    groups = [np.array(rows) for rows in positions(endpoints).values()]
    bounded, found = np.empty_like(log_ratio), log_ratio.copy()
    for mine in groups:
        bounded[mine] = np.clip(log_ratio[mine] - np.median(log_ratio[mine]), -_BOUND, _BOUND)
    for mine in groups:
        others = np.delete(bounded, mine)
        if not len(others):
            continue
        sums = np.concatenate(([0.0], np.cumsum(others)))
        before = mine - np.arange(len(mine))  # rows of others that are older
        low, high = np.maximum(before - NEIGHBOURS, 0), np.minimum(before + NEIGHBOURS, len(others))
        found[mine] -= (sums[high] - sums[low]) / (high - low)
    return found


def positions(keys: Sequence[Key]) -> Mapping[Key, list[int]]:
    """Rows of each group, in order."""
    groups: dict[Key, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups


def _shrunk(values: Array) -> float:
    """The group's median error, less what chance alone would make of so few rows (empirical Bayes)."""
    n = len(values)
    middle = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), _LEAST_SPREAD) if n > 3 else _USUAL_SPREAD
    chance = _ALIKE * spread**2 / n
    size = middle**2
    shrink = size / (size + chance) if size > 0 else 0.0
    return float(np.clip(middle * shrink * n / (n + PRIOR_ROWS), -CLIP, CLIP))
