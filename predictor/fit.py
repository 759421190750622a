"""From samples to a model, scored on rows newer than those it was fitted on. Pure."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor import intervals
from predictor.model import FLOOR_S, TARGETS, LatencyModel, LatencyPrediction, Law, Score, build
from predictor.physics import Array, fit_nonnegative, kv_capacity, tpot_columns, ttft_columns
from predictor.samples import Dataset
from predictor.scales import log_scales, positions

MIN_SAMPLES: Final = 30
"""Fewest samples of each target for a first model."""

BLOCKS: Final = (0.4, 0.6, 0.8)
"""A backtest fits on the oldest rows up to each share and predicts on to the next; the last fifth is the score."""

CALIBRATION_ROWS: Final = 1000
"""Intervals look at so many of the newest rows of a backtest."""

REFUSE_FACTOR: Final = 1.5
REFUSE_MARGIN: Final = 0.05
"""A fit whose held-out error is above the served model's times the factor plus the margin is refused."""

_ROUNDS: Final = 3
_OWN_LAW_ROWS: Final = 20
"""A variant with fewer rows takes the shared law times its scale."""
_BORROWED_ROWS: Final = 10.0
"""The other variants' rows, scaled to this one's level, weigh together as so many of its own."""
_SCALE_ROWS: Final = 3
"""An endpoint with fewer rows has no scale of its own."""


class FitOutcome(enum.StrEnum):
    """What a fit came to."""

    FITTED = "fitted"
    COLD = "cold"
    """Too few samples."""
    REFUSED = "refused"
    """Worse on the newest rows than the model that is served."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitResult:
    """A fit's model, or why there is none."""

    outcome: FitOutcome
    detail: str
    """One sentence with the numbers."""
    samples: Mapping[str, int]
    """Rows that carry each target."""
    model: LatencyModel | None = None


def fit_once(
    data: Dataset, *, now_s: float, min_samples: int = MIN_SAMPLES, served: LatencyModel | None = None
) -> FitResult:
    """Fit both targets on ``data`` (oldest first), scored on its newest fifth, then on all of it.

    Args:
        data: checked samples.
        now_s: Unix time to write into the model.
        min_samples: fewest rows of each target.
        served: the model in use; a fit that predicts the newest rows much worse is refused.
    Raises: RuntimeError or ValueError (LinAlgError) if the solver fails.
    """
    counts = {name: int(np.isfinite(data.target(name)).sum()) for name in TARGETS}
    if min(counts.values()) < min_samples:
        have = ", ".join(f"{count} of {min_samples} {name} samples" for name, count in counts.items())
        return FitResult(outcome=FitOutcome.COLD, detail=have, samples=counts)
    trial = backtest(data, now_s=now_s)
    if complaint := _much_worse(trial, served):
        return FitResult(outcome=FitOutcome.REFUSED, detail=complaint, samples=counts)
    model = fit_model(data, now_s=now_s, trial=trial)
    errors = ", ".join(f"{name} {_percent(getattr(model, name).score.mape)}" for name in TARGETS)
    detail = f"fitted on {counts['ttft']} samples; held-out error (MAPE): {errors}"
    return FitResult(outcome=FitOutcome.FITTED, detail=detail, samples=counts, model=model)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """Rows predicted by models that were fitted on older rows only."""

    rows: Dataset
    predicted: LatencyPrediction
    newest: int
    """So many rows at the end were predicted by the last model: they make the score."""


def backtest(data: Dataset, *, now_s: float) -> Trial:
    """Predict block after block, each with a model of all rows before it; in time order, never shuffled."""
    cuts = [round(len(data) * share) for share in (*BLOCKS, 1.0)]
    tests, answers = [], []
    for start, end in itertools.pairwise(cuts):
        model, test = fit_model(data.take(np.arange(start)), now_s=now_s), data.take(np.arange(start, end))
        tests.append(test)
        answers.append(model.predict_for(test.matrix, test.endpoints, test.variants))
    return Trial(
        rows=data.take(np.arange(cuts[0], cuts[-1])),
        predicted=LatencyPrediction(
            ttft_s=np.concatenate([answer.ttft_s for answer in answers]),
            tpot_s=np.concatenate([answer.tpot_s for answer in answers]),
        ),
        newest=len(tests[-1]),
    )


def fit_model(data: Dataset, *, now_s: float, trial: Trial | None = None) -> LatencyModel:
    """A model of all rows; intervals and scores are those of a ``trial``."""
    rows_of = positions(data.variants)
    capacities = {variant: kv_capacity(data.matrix[rows]) for variant, rows in rows_of.items()}
    capacity = np.array([capacities[variant] for variant in data.variants])
    columns = {"ttft": ttft_columns(data.matrix, capacity), "tpot": tpot_columns(data.matrix)}
    laws = {name: _fit_law(data, columns[name], name) for name in TARGETS}
    if trial is not None:
        laws = {name: _calibrated(law, name, trial) for name, law in laws.items()}
    ranges = np.array([data.matrix.min(axis=0), data.matrix.max(axis=0)])
    known = {variant: tokens for variant, tokens in capacities.items() if np.isfinite(tokens)}
    return build(ttft=laws["ttft"], tpot=laws["tpot"], ranges=ranges, capacities=known, fitted_at_s=now_s)


def _fit_law(data: Dataset, columns: Array, name: str) -> Law:
    """Shared law, variants' laws and endpoints' scales for one target.

    Law and scales are found in turn: the law is fitted on rows with their group's scale taken out, so a slow endpoint
    bends its own scale and not the law of the others.
    """
    seen = np.flatnonzero(np.isfinite(data.target(name)))
    data, columns = data.take(seen), columns[seen]
    target = data.target(name)
    pairs = list(zip(data.endpoints, data.variants, strict=True))
    by_variant, by_pair = np.zeros(len(data)), np.zeros(len(data))
    for _ in range(_ROUNDS):
        shared = fit_nonnegative(columns, target * np.exp(-by_variant - by_pair))
        ratio = _log_ratio(target, columns @ shared)
        variant_scales = log_scales(ratio, data.variants, recent=None)
        by_variant = np.array([variant_scales[variant] for variant in data.variants])
        pair_scales = log_scales(ratio - by_variant, pairs)
        by_pair = np.array([pair_scales[pair] for pair in pairs])
    level = target * np.exp(-by_variant - by_pair)
    variants = {
        variant: _variant_law(shared, columns, level, np.array(rows), np.exp(variant_scales[variant]))
        for variant, rows in positions(data.variants).items()
    }
    return Law(shared=shared, variants=variants, scales=_endpoint_scales(columns, target, pairs, variants),
               quantiles=np.ones((2, len(intervals.LEVELS))), samples=len(data))  # fmt: skip


def _variant_law(shared: Array, columns: Array, level: Array, own: Array, scale: float) -> Array:
    """A variant's coefficients: fitted on its rows and, with little weight, on all others scaled to its level."""
    others = len(level) - len(own)
    if len(own) < _OWN_LAW_ROWS or others == 0:
        return np.asarray(shared * scale)
    weights = np.full(len(level), min(1.0, _BORROWED_ROWS / others))
    weights[own] = 1.0
    return fit_nonnegative(columns, level * scale, weights)


def _endpoint_scales(
    columns: Array, target: Array, pairs: list[tuple[str, str]], variants: Mapping[str, Array]
) -> Mapping[tuple[str, str], float]:
    coefficients = np.array([variants[variant] for _, variant in pairs])
    ratio = _log_ratio(target, np.einsum("ij,ij->i", columns, coefficients))
    counts = positions(pairs)
    return {
        pair: float(np.exp(scale))
        for pair, scale in log_scales(ratio, pairs).items()
        if len(counts[pair]) >= _SCALE_ROWS
    }


def _log_ratio(actual: Array, predicted: Array) -> Array:
    return np.asarray(np.log(actual / np.maximum(predicted, FLOOR_S)))


def _calibrated(law: Law, name: str, trial: Trial) -> Law:
    """``law`` with the quantiles of all of the trial's ratios, and the score of its newest rows."""
    actual = trial.rows.target(name)
    seen = np.isfinite(actual)
    if not seen.any():
        return law
    actual, predicted = actual[seen], of(trial.predicted, name)[seen]
    ratio, in_queue = actual / predicted, intervals.queued(trial.rows.matrix)[seen]
    newest = max(1, int(seen[-trial.newest :].sum()))
    return replace(
        law,
        quantiles=intervals.calibrate(ratio[-CALIBRATION_ROWS:], in_queue[-CALIBRATION_ROWS:]),
        score=score(actual[-newest:], predicted[-newest:], coverage=_coverage(ratio, in_queue, newest)),
    )


def _coverage(ratio: Array, in_queue: NDArray[np.bool_], newest: int) -> float | None:
    """Coverage of the 90 % interval on the newest rows, calibrated on those before; None below 20 of either."""
    if min(newest, len(ratio) - newest) < intervals.MIN_GROUP:
        return None
    table = intervals.calibrate(ratio[:-newest][-CALIBRATION_ROWS:], in_queue[:-newest][-CALIBRATION_ROWS:])
    group, tested = in_queue[-newest:].astype(np.intp), ratio[-newest:]
    low, high = intervals.at_level(table, 0.05)[group], intervals.at_level(table, 0.95)[group]
    return float(np.mean((tested >= low) & (tested <= high)))


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


def _much_worse(trial: Trial, served: LatencyModel | None) -> str:
    """Why the trial must not replace the served model; empty if it may."""
    if served is None:
        return ""
    size = len(trial.rows)
    newest = np.arange(size - trial.newest, size)
    rows = trial.rows.take(newest)
    current = served.predict_for(rows.matrix, rows.endpoints, rows.variants)
    for name in TARGETS:
        seen = np.isfinite(rows.target(name))
        actual = rows.target(name)[seen]
        ours, theirs = (score(actual, of(p, name)[-trial.newest :][seen]).mape for p in (trial.predicted, current))
        if ours is not None and theirs is not None and ours > REFUSE_FACTOR * theirs + REFUSE_MARGIN:
            return (f"refused: {name} error {_percent(ours)} on the newest {len(actual)} rows, "
                    f"the served model has {_percent(theirs)}")  # fmt: skip
    return ""


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
