"""How good the predictor would have been: learning curves over time-ordered samples, by regime. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.fit import fit_once, of, score
from predictor.intervals import queued
from predictor.model import TARGETS, LatencyModel, Score
from predictor.samples import Dataset

SIZES: Final = (20, 50, 100, 300, 1000, 3000, 10_000)
"""Training sizes of the curve."""

TEST_SHARE: Final = 0.4
"""The newest rows that are only predicted."""

GAP_ROWS: Final = 20
"""Rows between training and test that neither sees, so that no burst is in both."""

REGIMES: Final = ("all", "idle", "queued")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Error for one target in one regime after training on ``n`` rows."""

    n: int
    target: str
    """``ttft`` or ``tpot``."""
    regime: str
    """``all``; ``idle``: nothing waited at the endpoint; ``queued``."""
    score: Score


def learning_curve(data: Dataset, *, sizes: Sequence[int] = SIZES) -> list[Point]:
    """Errors on the newest 40 %, of models fitted on the ``n`` rows just before (and a gap of 20 rows).

    Args:
        data: checked samples, oldest first.
        sizes: training sizes; those for which there are too few rows are left out.
    """
    start = round(len(data) * (1 - TEST_SHARE))
    test, end = data.take(np.arange(start, len(data))), start - GAP_ROWS
    points: list[Point] = []
    for n in sizes:
        if n <= end:
            result = fit_once(data.take(np.arange(end - n, end)), now_s=0.0, min_samples=n // 2)
            points += [] if result.model is None else _points(result.model, test, n)
    return points


def _points(model: LatencyModel, test: Dataset, n: int) -> list[Point]:
    in_queue = queued(test.matrix)
    members = {"all": np.ones(len(test), dtype=np.bool_), "idle": ~in_queue, "queued": in_queue}
    return [
        Point(n=n, target=target, regime=regime, score=_score(model, test, target, members[regime]))
        for target in TARGETS
        for regime in REGIMES
    ]


def _score(model: LatencyModel, test: Dataset, target: str, members: NDArray[np.bool_]) -> Score:
    rows = test.take(np.flatnonzero(members & np.isfinite(test.target(target))))
    if not len(rows):
        return Score()
    actual, point = rows.target(target), model.predict_for(rows.matrix, rows.endpoints, rows.variants)
    low, high = (of(model.quantile(rows.matrix, point, level), target) for level in (0.05, 0.95))
    return score(actual, of(point, target), coverage=float(np.mean((actual >= low) & (actual <= high))))
