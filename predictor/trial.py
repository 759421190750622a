"""Rows predicted by models that knew only older ones: what scores, intervals and boosted parts are judged by. Pure."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor import boost, conformal, intervals
from predictor.conformal import Calibration, Errors
from predictor.laws import Pair, fit_model
from predictor.model import TARGETS, LatencyModel, LatencyPrediction, Law, Score
from predictor.physics import Array
from predictor.samples import Dataset

BLOCKS: Final = (0.4, 0.6, 0.8)
"""A backtest fits on the oldest rows up to each share and predicts on to the next; the last fifth is the score."""

CALIBRATION_ROWS: Final = 1000
"""Intervals look at so many of the newest rows of a backtest, ..."""
ENDPOINT_ROWS: Final = 100
"""... or at so many for each endpoint, where that is more."""

BETTER: Final = 0.98
"""A boosted part must bring the mean log error down to this share of the law's ..."""
SURE: Final = 2.0
"""... by more than so many standard errors of the difference, ..."""
STRETCH: Final = 50
"""... whose means over so many rows are taken as independent: requests of one burst err alike."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """Rows predicted by models that were fitted on older rows only."""

    rows: Dataset
    predicted: LatencyPrediction
    newest: int
    """So many rows at the end were predicted by the last model: they make the score."""
    boosted: frozenset[str] = frozenset()
    """Targets for which the boosted part was better, over all blocks and in the newest; ``predicted`` has it."""


def backtest(data: Dataset, *, now_s: float, boosting: bool = True) -> Trial:
    """Predict block after block, each with a model of all rows before it; in time order, never shuffled."""
    cuts = [round(len(data) * share) for share in (*BLOCKS, 1.0)]
    blocks = [_block(data, start, end, now_s, boosting=boosting) for start, end in itertools.pairwise(cuts)]
    tests = data.take(np.arange(cuts[0], cuts[-1]))
    sizes = [len(plain.ttft_s) for plain, _ in blocks]
    plain, other = (_joined([block[which] for block in blocks]) for which in (0, 1))
    boosted = frozenset(name for name in TARGETS if _wins(tests, of(plain, name), of(other, name), sizes[-1], name))
    chosen = {name: of(other if name in boosted else plain, name) for name in TARGETS}
    return Trial(rows=tests, predicted=LatencyPrediction(ttft_s=chosen["ttft"], tpot_s=chosen["tpot"]),
                 newest=sizes[-1], boosted=boosted)  # fmt: skip


def _block(
    data: Dataset, start: int, end: int, now_s: float, *, boosting: bool
) -> tuple[LatencyPrediction, LatencyPrediction]:
    """Predictions of rows ``start`` to ``end`` by the law of those before, without and with a boosted part."""
    known, test = data.take(np.arange(start)), data.take(np.arange(start, end))
    model = fit_model(known, now_s=now_s)
    plain = model.predict_for(test.matrix, test.endpoints, test.variants)
    if not boosting or start < boost.MIN_ROWS:
        return plain, plain
    return plain, with_tables(model, known, TARGETS).predict_for(test.matrix, test.endpoints, test.variants)


def with_tables(model: LatencyModel, data: Dataset, targets: tuple[str, ...] | frozenset[str]) -> LatencyModel:
    """``model`` with boosted parts for ``targets``, learned from the rows it was fitted on."""
    law_s = model.predict_for(data.matrix, data.endpoints, data.variants)
    laws: dict[str, Law] = {}
    for name in targets:
        seen = data.observed(name)
        if seen.sum() >= boost.MIN_ROWS:
            left = np.log(data.target(name)[seen] / of(law_s, name)[seen])
            laws[name] = replace(getattr(model, name), table=boost.fit_table(data.matrix[seen], left))
    return model.with_laws(laws)


def _joined(parts: list[LatencyPrediction]) -> LatencyPrediction:
    return LatencyPrediction(ttft_s=np.concatenate([part.ttft_s for part in parts]),
                             tpot_s=np.concatenate([part.tpot_s for part in parts]))  # fmt: skip


def _wins(rows: Dataset, plain: Array, other: Array, newest: int, name: str) -> bool:
    """The other predictions are better over the whole window beyond chance, and not worse on its newest part."""
    seen = rows.observed(name)
    if not seen.any():
        return False
    actual = np.log(rows.target(name)[seen])
    one, two = np.abs(np.log(plain[seen]) - actual), np.abs(np.log(other[seen]) - actual)
    recent = (np.arange(len(rows)) >= len(rows) - newest)[seen]
    better = two.mean() < BETTER * one.mean() and two[recent].sum() <= one[recent].sum()
    return bool(better and _beyond_chance(one - two))


def _beyond_chance(gains: Array) -> bool:
    """The mean of gains in the order of time is above 0 by :data:`SURE` standard errors."""
    stretches = len(gains) // STRETCH
    if stretches < 2:
        return False
    means = gains[: stretches * STRETCH].reshape(stretches, STRETCH).mean(axis=1)
    return bool(means.mean() > SURE * means.std(ddof=1) / math.sqrt(stretches))


def calibrated(model: LatencyModel, trial: Trial) -> LatencyModel:
    """``model`` with the intervals of a trial's ratios, and the scores of its newest rows."""
    return model.with_laws({name: _calibrated(getattr(model, name), name, trial) for name in TARGETS})


def recalibrated(model: LatencyModel, rows: Dataset) -> LatencyModel:
    """``model`` with intervals from what was served for the newest rows; unchanged where too few were."""
    laws: dict[str, Law] = {}
    for name in TARGETS:
        law, served = getattr(model, name), rows.served(name)
        errors = _errors(rows, name, served, rows.observed(name) & np.isfinite(served))
        if len(errors) >= CALIBRATION_ROWS // 5:
            found = _calibration(errors, law)
            laws[name] = replace(law, quantiles=found.quantiles, widths=found.widths)
    return model.with_laws(laws)


def _calibrated(law: Law, name: str, trial: Trial) -> Law:
    """``law`` with the quantiles of the trial's ratios, and the score of its newest rows.

    Where a row's own prediction was served, its ratio is what happened; elsewhere the trial's prediction stands for it.
    """
    seen = trial.rows.observed(name)
    if not seen.any():
        return law
    served, predicted = trial.rows.served(name), of(trial.predicted, name)
    errors = _errors(trial.rows, name, np.where(np.isfinite(served), served, predicted), seen)
    newest = max(1, int(seen[-trial.newest :].sum()))
    found = _calibration(errors, law)
    actual = trial.rows.target(name)[seen]
    scored = score(actual[-newest:], predicted[seen][-newest:], coverage=_coverage(errors, law, newest))
    return replace(law, quantiles=found.quantiles, widths=found.widths, score=scored)


def _errors(rows: Dataset, name: str, predicted: Array, chosen: NDArray[np.bool_]) -> Errors[Pair]:
    """What was predicted of some rows against what came."""
    pairs = list(zip(rows.endpoints, rows.variants, strict=True))
    return Errors(
        ratios=(rows.target(name) / predicted)[chosen],
        members=intervals.groups(rows.matrix)[chosen],
        keys=[pairs[row] for row in np.flatnonzero(chosen)],
    )


def _calibration(errors: Errors[Pair], law: Law) -> Calibration[Pair]:
    """From the newest rows."""
    count = max(CALIBRATION_ROWS, ENDPOINT_ROWS * len(set(errors.keys)))
    return conformal.calibrate(errors.between(len(errors) - count, len(errors)), changed=law.changed)


def _coverage(errors: Errors[Pair], law: Law, newest: int) -> float | None:
    """Coverage of the 90 % interval on the newest rows, calibrated on those before; None below 20 of either."""
    start = len(errors) - newest
    if min(newest, start) < conformal.MIN_GROUP:
        return None
    found, tested = _calibration(errors.between(0, start), law), errors.between(start, len(errors))
    low, high = (found.ratios(tested, level) for level in (0.05, 0.95))
    return float(np.mean((tested.ratios >= low) & (tested.ratios <= high)))


def score(actual: Array, predicted: Array, *, coverage: float | None = None) -> Score:
    """Errors of predictions; both in seconds, shape (n,)."""
    if len(actual) == 0:
        return Score()
    relative = predicted / actual - 1.0
    return Score(
        n=len(actual),
        mape=float(np.mean(np.abs(relative))),
        median_ape=float(np.median(np.abs(relative))),
        bias=float(np.mean(relative)),
        coverage=coverage,
    )


def of(prediction: LatencyPrediction, name: str) -> Array:
    """One target's predictions, seconds."""
    return prediction.ttft_s if name == "ttft" else prediction.tpot_s
