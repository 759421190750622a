"""From samples to a model, scored on rows newer than those it was fitted on. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
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

HOLDOUT: Final = 0.25
"""Share of rows, the newest, that the scored fit does not see; then all rows are fitted again."""

CALIBRATION_ROWS: Final = 1000
"""Intervals look at so many of the newest held-out rows."""

REFUSE_FACTOR: Final = 1.5
"""A fit whose held-out error is so many times the served model's (plus 5 points) is refused."""

_ROUNDS: Final = 3
_OWN_LAW_ROWS: Final = 20
"""A variant with fewer rows takes the shared law times its scale."""
_BORROWED_ROWS: Final = 30.0
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
    """Fit both targets on ``data`` (oldest first), scored on its newest quarter, then on all of it.

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
    older, newer = split(data)
    trial = fit_model(older, now_s=now_s)
    if complaint := _much_worse(trial, served, newer):
        return FitResult(outcome=FitOutcome.REFUSED, detail=complaint, samples=counts)
    model = fit_model(data, now_s=now_s, calibration=(trial, newer))
    errors = ", ".join(f"{name} {_percent(getattr(model, name).score.mape)}" for name in TARGETS)
    detail = f"fitted on {counts['ttft']} samples; held-out error (MAPE): {errors}"
    return FitResult(outcome=FitOutcome.FITTED, detail=detail, samples=counts, model=model)


def split(data: Dataset, *, holdout: float = HOLDOUT) -> tuple[Dataset, Dataset]:
    """Older rows and the newest ``holdout`` share, in time order, never shuffled."""
    cut = len(data) - max(1, round(len(data) * holdout))
    return data.take(np.arange(cut)), data.take(np.arange(cut, len(data)))


def fit_model(data: Dataset, *, now_s: float, calibration: tuple[LatencyModel, Dataset] | None = None) -> LatencyModel:
    """A model of all rows; intervals and scores come from an older model's errors on ``calibration`` rows."""
    rows_of = positions(data.variants)
    capacities = {variant: kv_capacity(data.matrix[rows]) for variant, rows in rows_of.items()}
    capacity = np.array([capacities[variant] for variant in data.variants])
    columns = {"ttft": ttft_columns(data.matrix, capacity), "tpot": tpot_columns(data.matrix)}
    laws = {name: _fit_law(data, columns[name], name) for name in TARGETS}
    if calibration is not None:
        laws = {name: _calibrated(law, name, *calibration) for name, law in laws.items()}
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


def _calibrated(law: Law, name: str, trial: LatencyModel, newer: Dataset) -> Law:
    """``law`` with the quantiles and the score that ``trial``, which saw older rows only, has on ``newer`` ones."""
    observed = newer.take(np.flatnonzero(np.isfinite(newer.target(name))))
    if not len(observed):
        return law
    predicted = of(trial.predict_for(observed.matrix, observed.endpoints, observed.variants), name)
    ratio, in_queue = observed.target(name) / predicted, intervals.queued(observed.matrix)
    quantiles = intervals.calibrate(ratio[-CALIBRATION_ROWS:], in_queue[-CALIBRATION_ROWS:])
    return Law(
        shared=law.shared,
        variants=law.variants,
        scales=law.scales,
        quantiles=quantiles,
        samples=law.samples,
        score=score(observed.target(name), predicted, coverage=_coverage(ratio, in_queue)),
    )


def _coverage(ratio: Array, in_queue: NDArray[np.bool_]) -> float | None:
    """Coverage of the 90 % interval on the newer half, calibrated on the older half; None below 40 rows."""
    half = len(ratio) // 2
    if half < intervals.MIN_GROUP:
        return None
    table = intervals.calibrate(ratio[:half], in_queue[:half])
    group = in_queue[half:].astype(np.intp)
    low, high = intervals.at_level(table, 0.05)[group], intervals.at_level(table, 0.95)[group]
    return float(np.mean((ratio[half:] >= low) & (ratio[half:] <= high)))


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


def model_errors(model: LatencyModel, data: Dataset) -> Mapping[str, Score]:
    """Error of ``model`` on ``data``, by target."""
    predicted = model.predict_for(data.matrix, data.endpoints, data.variants)
    scores = {}
    for name in TARGETS:
        seen = np.isfinite(data.target(name))
        scores[name] = score(data.target(name)[seen], of(predicted, name)[seen])
    return scores


def _much_worse(trial: LatencyModel, served: LatencyModel | None, newer: Dataset) -> str:
    """Why the trial must not replace the served model; empty if it may."""
    if served is None:
        return ""
    new, old = model_errors(trial, newer), model_errors(served, newer)
    for name in TARGETS:
        ours, theirs = new[name].mape, old[name].mape
        if ours is not None and theirs is not None and ours > REFUSE_FACTOR * theirs + 0.05:
            return (f"refused: {name} error {_percent(ours)} on the newest {new[name].n} rows, "
                    f"the served model has {_percent(theirs)}")  # fmt: skip
    return ""


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
