"""Fits the laws of TTFT and TPOT: shared coefficients, variants' own, endpoints' scales. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor import censored, intervals, steplaw
from predictor.drift import epochs
from predictor.model import FLOOR_S, TARGETS, LatencyModel, Law, Taught, build
from predictor.physics import REQUESTS, Array, Prior, fit_nonnegative, kv_capacity, tpot_columns, ttft_columns
from predictor.samples import Dataset
from predictor.scales import CLIP, RECENT_ROWS, log_scales, positions, relative

Pair = tuple[str, str]
"""Endpoint and variant."""

_ROUNDS: Final = 3
_PATIENT_ROUNDS: Final = 15
_FEW_GAVE_UP: Final = 0.98
"""Where more than 2 % of the requests gave up waiting, what they would have waited takes more rounds to settle."""
_OWN_LAW_ROWS: Final = 20
"""A variant with fewer rows takes the shared law times its scale."""
_BORROWED_ROWS: Final = 10.0
"""The other variants' rows, scaled to this one's level, weigh together as so many of its own."""
_SCALE_ROWS: Final = 3
"""An endpoint with fewer rows has no scale of its own."""
_TRUST_ROWS: Final = 20
"""An endpoint with fewer rows is neither judged nor a judge."""
_TRUST_ENDPOINTS: Final = 3
"""Of two that differ, nobody can say which one lies."""
_USUAL_WIDTH: Final = 2.0
_LEAST_WIDTH: Final = 0.05
_NO_QUANTILES: Final = np.ones((len(intervals.GROUPS), len(intervals.LEVELS)))


def fit_model(data: Dataset, *, now_s: float) -> LatencyModel:
    """A model of all rows, without intervals, scores and boosted parts."""
    rows_of = positions(data.variants)
    capacities = {variant: kv_capacity(data.matrix[rows]) for variant, rows in rows_of.items()}
    capacity = np.array([capacities[variant] for variant in data.variants])
    columns = {"ttft": ttft_columns(data.matrix, capacity), "tpot": tpot_columns(data.matrix)}
    mix, step = steplaw.mix_of(data.matrix, data.output_tokens), steplaw.typical()
    priors = {"ttft": steplaw.ttft_prior(step), "tpot": steplaw.tpot_prior(step, mix)}
    laws = {name: _fit_law(data, columns[name], priors[name], name) for name in TARGETS}
    ranges = np.array([data.matrix.min(axis=0), data.matrix.max(axis=0)])
    known = {variant: tokens for variant, tokens in capacities.items() if np.isfinite(tokens)}
    taught = {variant: _taught(data, rows) for variant, rows in rows_of.items()}
    return build(ttft=laws["ttft"], tpot=laws["tpot"], ranges=ranges, capacities=known, fitted_at_s=now_s,
                 taught=taught)  # fmt: skip


def _taught(data: Dataset, rows: Sequence[int]) -> Taught:
    mix = steplaw.mix_of(data.matrix[rows], data.output_tokens[rows])
    return Taught(rows=len(rows), uncached_tokens=mix.uncached_tokens, output_tokens=mix.output_tokens,
                  in_flight_most=float(data.matrix[rows, REQUESTS].max()))  # fmt: skip


def _fit_law(data: Dataset, columns: Array, prior: Prior, name: str) -> Law:
    """Shared law, variants' laws and endpoints' scales for one target.

    Law and scales are found in turn: the law is fitted on rows with their group's scale taken out, so a slow endpoint
    bends its own scale and not the law of the others. An endpoint that became another one has a scale for each time.
    """
    seen = np.flatnonzero(np.isfinite(data.target(name)))
    data, columns = data.take(seen), columns[seen]
    whole = data.observed(name)
    bound = data.target(name)
    target, weights = bound, whole.astype(np.float64)
    pairs = list(zip(data.endpoints, data.variants, strict=True))
    times = np.zeros(len(data), dtype=np.intp)
    recent = RECENT_ROWS if len(set(pairs)) > 1 else None
    by_variant, by_pair = np.zeros(len(data)), np.zeros(len(data))
    weights = weights * _believable(np.log(bound), pairs)
    for number in range(_ROUNDS if whole.mean() > _FEW_GAVE_UP else _PATIENT_ROUNDS):
        shared = fit_nonnegative(columns, target * np.exp(-by_variant - by_pair), weights, prior=prior)
        law_s = np.maximum(columns @ shared, FLOOR_S)
        variant_scales = log_scales(np.log(target / law_s), data.variants, recent=None)
        by_variant = np.array([variant_scales[variant] for variant in data.variants])
        left = np.log(target / law_s) - by_variant
        own = relative(left, pairs)
        if number:
            times = epochs(left, own, pairs)
        by_pair = _per_row(log_scales(own, _apart(pairs, times), recent=recent), pairs, times)
        target, weights = _filled_in(bound, whole, np.log(law_s) + by_variant + by_pair)
        weights = weights * trust(np.log(target / law_s) - by_variant - by_pair, pairs)
    level = target * np.exp(-by_variant - by_pair)
    variants = {
        variant: _variant_law(shared, columns, level, np.array(rows), scale=np.exp(variant_scales[variant]),
                              weights=weights, prior=prior)
        for variant, rows in positions(data.variants).items()
    }  # fmt: skip
    scales, changed = _endpoint_scales(columns, target, pairs, times, variants)
    return Law(shared=shared, variants=variants, scales=scales, quantiles=_NO_QUANTILES, samples=len(data),
               changed=changed)  # fmt: skip


def _believable(log_target: Array, pairs: Sequence[Pair]) -> Array:
    """For a first fit: 0 for endpoints whose median time is beyond what a slow engine explains, else 1."""
    groups = [rows for rows in positions(pairs).values() if len(rows) >= _TRUST_ROWS]
    found = np.ones(len(log_target))
    if len(groups) < _TRUST_ENDPOINTS:
        return found
    medians = [float(np.median(log_target[rows])) for rows in groups]
    usual = float(np.median(medians))
    for rows, middle in zip(groups, medians, strict=True):
        if abs(middle - usual) > CLIP:
            found[rows] = 0.0
    return found


def trust(log_left: Array, pairs: Sequence[Pair]) -> Array:
    """How much each row counts by how well its endpoint follows any law, 0..1.

    Rows of one whose errors are more than twice as wide as is usual (the median endpoint's) count by their variance, as
    least squares has it: one that says random times, or always the same, has next to no say in the others' law.

    Args:
        log_left: log(actual / predicted) with its endpoint's own scale taken out, shape (n,).
        pairs: whose each row is.
    """
    groups = [rows for rows in positions(pairs).values() if len(rows) >= _TRUST_ROWS]
    found = np.ones(len(log_left))
    if len(groups) < _TRUST_ENDPOINTS:
        return found
    spreads = [max(_width(log_left[rows]), _LEAST_WIDTH) for rows in groups]
    usual = _USUAL_WIDTH * float(np.median(spreads))
    for rows, spread in zip(groups, spreads, strict=True):
        found[rows] = min(1.0, (usual / spread) ** 2)
    return found


def _width(log_left: Array) -> float:
    low, high = np.quantile(log_left, (0.1, 0.9))
    return float(high - low)


def _filled_in(bound: Array, whole: NDArray[np.bool_], log_predicted: Array) -> tuple[Array, Array]:
    """What each latency was or may have been, and how much each row counts."""
    if whole.all():
        return bound, np.ones(len(bound))
    left = np.log(bound[whole]) - log_predicted[whole] if whole.any() else np.array([0.3])
    spread = max(float(np.sqrt(np.mean(np.minimum(left**2, 1.0)))), 0.05)
    filled = bound.copy()
    filled[~whole] = censored.expected(bound[~whole], np.exp(log_predicted[~whole]), spread)
    return filled, np.ones(len(bound))


def _apart(pairs: Sequence[Pair], times: NDArray[np.intp]) -> list[tuple[Pair, int]]:
    return list(zip(pairs, times.tolist(), strict=True))


def _per_row(scales: Mapping[tuple[Pair, int], float], pairs: Sequence[Pair], times: NDArray[np.intp]) -> Array:
    return np.array([scales[key] for key in _apart(pairs, times)])


def _variant_law(
    shared: Array, columns: Array, level: Array, own: NDArray[np.intp], *, scale: float, weights: Array, prior: Prior
) -> Array:
    """A variant's coefficients: fitted on its rows and, with little weight, on all others scaled to its level."""
    others = len(level) - len(own)
    if len(own) < _OWN_LAW_ROWS or others == 0:
        return np.asarray(shared * scale)
    borrowed = np.full(len(level), min(1.0, _BORROWED_ROWS / others))
    borrowed[own] = 1.0
    return fit_nonnegative(columns, level * scale, weights * borrowed, prior=prior)


def _endpoint_scales(
    columns: Array, target: Array, pairs: Sequence[Pair], times: NDArray[np.intp], variants: Mapping[str, Array]
) -> tuple[Mapping[Pair, float], Mapping[Pair, int]]:
    """The scale of each endpoint's latest time, and for how many rows it has been so, where it changed."""
    coefficients = np.array([variants[variant] for _, variant in pairs])
    law_s = np.maximum(np.einsum("ij,ij->i", columns, coefficients), FLOOR_S)
    ratio = relative(np.log(target / law_s), pairs)
    latest = {pair: int(times[rows].max()) for pair, rows in positions(pairs).items()}
    keys = _apart(pairs, times)
    rows_of = positions(keys)
    scales = {
        pair: float(np.exp(scale))
        for (pair, time), scale in log_scales(ratio, keys, recent=RECENT_ROWS if len(latest) > 1 else None).items()
        if time == latest[pair] and (time or len(rows_of[pair, time]) >= _SCALE_ROWS)
    }
    return scales, {pair: len(rows_of[pair, time]) for pair, time in latest.items() if time}
