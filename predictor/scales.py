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


def positions(keys: Sequence[Key]) -> Mapping[Key, list[int]]:
    """Rows of each group, in order."""
    groups: dict[Key, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups


def _shrunk(values: Array) -> float:
    n = len(values)
    return float(np.clip(np.median(values) * n / (n + PRIOR_ROWS), -CLIP, CLIP))
