"""How good the predictor would have been, beside others: by size of training, regime, endpoint. Pure.

Always in the order of time: training rows, a gap, then the rows that are only predicted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictor.baselines import METHODS, Fitted, Method
from predictor.intervals import queued
from predictor.model import TARGETS, Score
from predictor.samples import Dataset
from predictor.trial import score

SIZES: Final = (20, 50, 100, 300, 1000, 3000, 10_000)
"""Training sizes of the curve."""

TEST_SHARE: Final = 0.4
"""The newest rows that are only predicted."""

GAP_ROWS: Final = 20
"""Rows between training and test that neither sees, so that no burst is in both."""

REGIMES: Final = ("all", "idle", "queued")
FIRST_ROWS: Final = 10
"""Rows of an endpoint that was left out, after which it is predicted again."""
_MOST_ENDPOINTS: Final = 8
_DOTS: Final = 300

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Error of one method for one target in one regime after training on ``n`` rows."""

    n: int
    target: str
    """``ttft`` or ``tpot``."""
    regime: str
    """``all``; ``idle``: nothing waited at the endpoint; ``queued``."""
    score: Score
    method: str = "ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Error at one endpoint that training had not seen, and after its first few rows."""

    endpoint: str
    target: str
    unseen: Score
    after: Score


def learning_curve(
    data: Dataset, *, sizes: Sequence[int] = SIZES, methods: Mapping[str, Method] | None = None
) -> list[Point]:
    """Errors on the newest 40 %, of methods trained on the ``n`` rows just before (and a gap of 20 rows).

    Args:
        data: checked samples, oldest first.
        sizes: training sizes; those for which there are too few rows are left out.
        methods: by name; default: ours alone.
    """
    chosen = {"ours": METHODS["ours"]} if methods is None else methods
    start = round(len(data) * (1 - TEST_SHARE))
    test, end = data.take(np.arange(start, len(data))), start - GAP_ROWS
    points: list[Point] = []
    for n in sizes:
        if n <= end and _trainable(train := data.take(np.arange(end - n, end)), n):
            for name, method in chosen.items():
                points += _points(method(train), test, n, name)
    return points


def _trainable(train: Dataset, n: int) -> bool:
    return all(train.observed(target).sum() >= n // 2 for target in TARGETS)


def _points(fitted: Fitted, test: Dataset, n: int, method: str) -> list[Point]:
    in_queue = queued(test.matrix)
    members = {"all": np.ones(len(test), dtype=np.bool_), "idle": ~in_queue, "queued": in_queue}
    return [
        Point(n=n, target=target, regime=regime, score=score_of(fitted, test, target, members[regime]), method=method)
        for target in TARGETS
        for regime in REGIMES
    ]


def score_of(fitted: Fitted, test: Dataset, target: str, members: NDArray[np.bool_] | None = None) -> Score:
    """Every figure of a method on some rows of ``test`` whose outcome was seen to its end."""
    seen = test.observed(target) if members is None else members & test.observed(target)
    rows = test.take(np.flatnonzero(seen))
    if not len(rows):
        return Score()
    actual = rows.target(target)
    found = score(actual, fitted.point(rows, target))
    band, upper = fitted.band(rows, target), fitted.upper(rows, target)
    if band is not None:
        low, high = band
        found = replace(found, coverage=float(np.mean((actual >= low) & (actual <= high))),
                        width=float(np.mean(np.log(np.maximum(high, low) / low))))  # fmt: skip
    return found if upper is None else replace(found, pinball_s=pinball(actual, upper, 0.9))


def pinball(actual: Array, quantile: Array, level: float) -> float:
    """Mean pinball loss of a quantile at ``level``."""
    short = actual - quantile
    return float(np.mean(np.maximum(level * short, (level - 1.0) * short)))


def leave_one_out(data: Dataset, *, method: Method = METHODS["ours"], rows: int = FIRST_ROWS) -> list[LeftOut]:
    """Train without one endpoint, then with its first ``rows``; errors on its later ones, by endpoint.

    The endpoints with most rows, at most eight; those that are too few for a test are left out, as is a fleet of one.
    """
    found: list[LeftOut] = []
    counts = Counter(data.endpoints)
    names = np.array(data.endpoints)
    for endpoint, count in counts.most_common(_MOST_ENDPOINTS):
        if len(counts) < 2 or count < 5 * rows:
            continue
        own, others = np.flatnonzero(names == endpoint), np.flatnonzero(names != endpoint)
        cut = own[count // 2]  # the first half of the time teaches, the second is predicted
        known, later = others[others < cut], own[own >= cut]
        first, test = later[:rows], data.take(later[rows:])
        before, after = (method(data.take(np.concatenate((known, extra)))) for extra in (first[:0], first))
        found += [LeftOut(endpoint=endpoint, target=target, unseen=score_of(before, test, target),
                          after=score_of(after, test, target)) for target in TARGETS]  # fmt: skip
    return found


def by_endpoint(fitted: Fitted, test: Dataset) -> dict[str, dict[str, Score]]:
    """Target -> endpoint -> figures, for the endpoints with most rows."""
    names = np.array(test.endpoints)
    most = [name for name, _ in Counter(test.endpoints).most_common(_MOST_ENDPOINTS)]
    return {target: {name: score_of(fitted, test, target, names == name) for name in most} for target in TARGETS}


def evaluation(data: Dataset, *, methods: Iterable[str] = ("ours", "upstream", "token-load", "lmetric"),
               sizes: Sequence[int] = SIZES, extra: Mapping[str, Method] | None = None) -> dict[str, Any]:  # fmt: skip
    """All figures as JSON values: what ``fleet predictor evaluate --json`` prints and ``/evaluation`` answers."""
    chosen = {name: METHODS[name] for name in methods} | dict(extra or {})
    points = learning_curve(data, sizes=sizes, methods=chosen)
    report: dict[str, Any] = {"samples": len(data), "censored": int(data.censored.sum()), "methods": list(chosen),
                              "curve": [asdict(point) for point in points]}  # fmt: skip
    if points:
        start = round(len(data) * (1 - TEST_SHARE))
        train, test = data.take(np.arange(start - GAP_ROWS)), data.take(np.arange(start, len(data)))
        fitted = METHODS["ours"](train)
        report["endpoints"] = {target: {name: asdict(one) for name, one in found.items()}
                               for target, found in by_endpoint(fitted, test).items()}  # fmt: skip
        report["left_out"] = [asdict(one) for one in leave_one_out(data)]
        report["pairs"] = {target: _pairs(fitted, test, target) for target in TARGETS}
    return report


def _pairs(fitted: Fitted, test: Dataset, target: str) -> list[list[float]]:
    """Actual, predicted, low, high in seconds and 1 for queued, of rows spread over the test."""
    seen = np.flatnonzero(test.observed(target))
    rows = test.take(seen[:: max(1, len(seen) // _DOTS)])
    low, high = fitted.band(rows, target) or (fitted.point(rows, target),) * 2
    columns = (rows.target(target), fitted.point(rows, target), low, high, queued(rows.matrix).astype(float))
    return [[float(f"{value:.4g}") for value in row] for row in zip(*columns, strict=True)]
