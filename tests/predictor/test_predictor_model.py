"""Predictions: never negative, monotone where physics is, and by endpoint, variant or the shared law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.features import NAMES, matrix
from predictor.fit import fit_once
from predictor.intervals import LEVELS
from predictor.model import FLOOR_S, LatencyModel, Law, build
from predictor.physics import TPOT_COLUMNS, TTFT_COLUMNS
from predictor.samples import dataset

GROWING = (
    "input_tokens",
    "prefill_tokens_in_flight",
    "requests_in_flight",
    "context_tokens_in_flight",
    "waiting",
)
LIMITS = {
    "input_tokens": 20_000,
    "cached_tokens": 20_000,
    "prefill_tokens_in_flight": 50_000,
    "requests_in_flight": 300,
    "context_tokens_in_flight": 500_000,
    "waiting": 200,
    "running": 300,
    "kv_utilisation": 1,
}
ROWS = st.fixed_dictionaries({name: st.floats(0, limit) for name, limit in LIMITS.items()})


@pytest.fixture(scope="module")
def model(world) -> LatencyModel:
    fitted = fit_once(dataset(world(1500, seed=3)), now_s=1.0).model
    assert fitted is not None
    return fitted


@settings(max_examples=150, deadline=None)
@given(row=ROWS, name=st.sampled_from(GROWING), more=st.floats(0, 1e5), variant=st.sampled_from(["h100", "a100", "?"]))
def test_more_work_never_predicts_less(model, row, name, more, variant) -> None:
    rows = matrix([row, {**row, name: row[name] + more}])
    found = model.predict_for(rows, ["", ""], [variant, variant])
    assert found.ttft_s[1] >= found.ttft_s[0] * (1 - 1e-12)
    assert found.tpot_s[1] >= found.tpot_s[0] * (1 - 1e-12)


@settings(max_examples=100, deadline=None)
@given(row=ROWS, more=st.floats(0, 1e5))
def test_a_larger_cache_hit_never_predicts_more(model, row, more) -> None:
    rows = matrix([row, {**row, "cached_tokens": row["cached_tokens"] + more}])
    found = model.predict_for(rows, ["", ""], ["h100", "h100"])
    assert found.ttft_s[1] <= found.ttft_s[0] * (1 + 1e-12)


@settings(max_examples=100, deadline=None)
@given(row=ROWS)
def test_predictions_are_finite_and_positive_and_quantiles_ordered(model, row) -> None:
    rows = matrix([row])
    places = model.places(["http://a:1"], ["h100"])
    point = model.predict_at(rows, places)
    steps = [model.quantile(rows, point, level, places).ttft_s[0] for level in (0.05, 0.5, 0.9, 0.99)]
    assert FLOOR_S <= point.ttft_s[0] < np.inf
    assert FLOOR_S <= point.tpot_s[0] < np.inf
    assert steps == sorted(steps)


def _constant(seconds: float, width: int, scales: dict[tuple[str, str], float]) -> Law:
    flat = np.zeros(width)
    flat[0] = seconds
    return Law(shared=flat, variants={"v": 2 * flat}, scales=scales, quantiles=np.ones((2, len(LEVELS))), samples=1)


@pytest.mark.parametrize(
    ("endpoint", "variant", "ttft_s"),
    [
        pytest.param("http://slow", "v", 0.6, id="an-endpoint-s-own-scale-on-its-variant"),
        pytest.param("http://new", "v", 0.2, id="a-new-endpoint-is-like-its-variant"),
        pytest.param("http://new", "w", 0.1, id="a-new-variant-is-like-the-shared-law"),
        pytest.param("http://slow", "w", 0.1, id="an-address-taken-over-by-another-variant-starts-afresh"),
    ],
)
def test_which_coefficients_hold(endpoint: str, variant: str, ttft_s: float) -> None:
    model = build(
        ttft=_constant(0.1, len(TTFT_COLUMNS), {("http://slow", "v"): 3.0}),
        tpot=_constant(0.01, len(TPOT_COLUMNS), {}),
        ranges=np.zeros((2, len(NAMES))),
        capacities={},
        fitted_at_s=0.0,
    )
    found = model.predict_for(matrix([{}]), [endpoint], [variant])
    assert found.ttft_s[0] == pytest.approx(ttft_s)
    assert found.tpot_s[0] == pytest.approx(0.02 if variant == "v" else 0.01)


def test_says_when_it_extrapolates(model) -> None:
    inside, beyond = {"input_tokens": 500.0}, {"input_tokens": 1e6}
    assert model.outside(matrix([inside, beyond])).tolist() == [False, True]
    assert not model.cold
