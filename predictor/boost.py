"""Fits the tables of :mod:`predictor.residual`: scikit-learn's boosted trees of one split, never falling. Pure.

Imported only where models are fitted: scikit-learn takes a second and 100 MB, which the router has no use for.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from predictor.residual import AXES, BINS, bins

Array = NDArray[np.float64]

MIN_ROWS: Final = 200
"""With fewer rows there is nothing to learn from."""
MAX_ROWS: Final = 4000
"""Of the newest rows."""
_TREES: Final = 60
_RATE: Final = 0.1
_LEAF_ROWS: Final = 20


def fit_table(matrix: Array, log_left: Array) -> Array:
    """Table (axes, bins) that explains what the law leaves over; absolute error of the logarithm.

    Args:
        matrix: feature rows (n, 8), oldest first, n >= :data:`MIN_ROWS`.
        log_left: log(actual / law), endpoints' scales taken out, shape (n,).
    """
    places = bins(matrix[-MAX_ROWS:]).T.astype(np.float64)
    trees = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=_TREES, learning_rate=_RATE, max_leaf_nodes=2, min_samples_leaf=_LEAF_ROWS,
        monotonic_cst=[1] * len(AXES), early_stopping=False, max_bins=BINS + 1, random_state=0,
    ).fit(places, log_left[-MAX_ROWS:])  # fmt: skip
    return _tables(trees)


def _tables(trees: HistGradientBoostingRegressor) -> Array:
    """The sum of all trees along each axis; trees of one split add up, so axis by axis tells everything."""
    probes = np.zeros((len(AXES) * BINS + 1, len(AXES)))
    for axis in range(len(AXES)):
        probes[axis * BINS : (axis + 1) * BINS, axis] = np.arange(BINS)
    said = trees.predict(probes)
    table = (said[:-1] - said[-1]).reshape(len(AXES), BINS)
    table[0] += said[-1]  # what all rows have in common
    return np.asarray(np.maximum.accumulate(table.round(4), axis=1))
