"""What the law leaves over, as steps along each axis of load: the boosted part of a prediction. Pure.

``log latency = log(law) + sum of one table an axis``. Each table is what boosted trees of one split
(:mod:`predictor.boost`) come to: a step function, here on logarithmic bins. The tables never fall and the law never
falls, so a prediction does not either when work is added; beyond the last bin only the law goes on.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.physics import CACHED, CONTEXT, INPUT, KV, PENDING, REQUESTS, WAITING

Array = NDArray[np.float64]

AXES: Final = ("uncached", "input", "pending", "requests", "context", "waiting", "kv")
BINS: Final = 24
UNIT: Final = np.array([16.0, 16.0, 16.0, 1.0, 64.0, 1.0, 0.02])[:, None]
"""What one is along each axis, before the logarithm."""
STEP: Final = np.array([0.36, 0.36, 0.4, 0.28, 0.36, 0.28, 0.17])[:, None]
"""Width of a bin, natural logarithm: 23 of them reach 64 000 tokens, 625 requests, a full cache."""
_FEATURES: Final = np.array([INPUT, INPUT, PENDING, REQUESTS, CONTEXT, WAITING, KV])
"""Each axis's feature; of the first, what is cached is taken off."""
_OFFSET: Final = (np.arange(len(AXES), dtype=np.intp) * BINS)[:, None]


def bins(matrix: Array) -> NDArray[np.intp]:
    """Bin of each row along each axis, shape (axes, n), from feature rows (n, 8)."""
    return bins_of(matrix.T)


def bins_of(rows: Array) -> NDArray[np.intp]:
    """The same from features (8, n)."""
    values = rows.take(_FEATURES, axis=0)
    values[0] -= rows[CACHED]
    np.maximum(values[0], 0.0, out=values[0])
    values /= UNIT
    np.log1p(values, out=values)
    values /= STEP
    np.minimum(values, BINS - 1, out=values)
    return values.astype(np.intp)


def factor(table: Array, places: NDArray[np.intp]) -> Array:
    """What rows in these :func:`bins` take, relative to the law, shape (n,).

    Args:
        table: shape (axes, bins), never falling along an axis.
        places: shape (axes, n).
    """
    return np.asarray(np.exp(table.ravel().take(places + _OFFSET).sum(axis=0)))
