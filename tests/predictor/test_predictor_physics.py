"""The columns mean what they say, and the fit is non-negative, exact on exact data and robust."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import predictor.intervals
from predictor.features import matrix
from predictor.physics import (
    TPOT_COLUMNS,
    TTFT_COLUMNS,
    fit_nonnegative,
    kv_capacity,
    tpot_columns,
    ttft_columns,
)

BUSY = {
    "input_tokens": 3000,
    "cached_tokens": 1000,
    "prefill_tokens_in_flight": 2096,
    "requests_in_flight": 10,
    "context_tokens_in_flight": 20_000,
    "waiting": 2,
    "running": 8,
    "kv_utilisation": 0.5,
}


def _ttft(capacity: float = np.inf, **changes: float) -> dict[str, float]:
    columns = ttft_columns(matrix([{**BUSY, **changes}]), capacity)
    return dict(zip(TTFT_COLUMNS, columns[0].tolist(), strict=True))


def test_ttft_columns_by_hand() -> None:
    columns = _ttft(capacity=22_000)
    assert columns["uncached_k"] == pytest.approx(2.0)
    assert columns["uncached_x_length_m"] == pytest.approx(6.0)
    assert columns["pending_k"] == pytest.approx(2.096)
    assert columns["steps_x_requests"] == pytest.approx(3 * 10)  # (2000 + 2096) / 2048 = 2 chunks and the step now
    assert columns["steps_x_context_k"] == pytest.approx(3 * 20)
    assert columns["overflow_k"] == pytest.approx(1.0)


def test_overflow_is_zero_where_the_capacity_is_unknown() -> None:
    assert _ttft()["overflow_k"] == 0


def test_more_cached_than_sent_counts_as_all_cached() -> None:
    assert _ttft(cached_tokens=9000)["uncached_k"] == 0


def test_tpot_columns_by_hand() -> None:
    columns = dict(zip(TPOT_COLUMNS, tpot_columns(matrix([BUSY]))[0].tolist(), strict=True))
    assert columns == pytest.approx({"constant": 1, "requests": 10, "context_k": 20, "pending_k": 2.096, "length_k": 3})


def test_fit_recovers_an_exact_law() -> None:
    columns = np.random.default_rng(0).random((200, 4)) * [1, 10, 1000, 1e-3] + 1e-6
    law = np.array([0.02, 0.0, 3e-5, 7.0])
    np.testing.assert_allclose(fit_nonnegative(columns, columns @ law), law, atol=1e-9, rtol=1e-6)


def test_five_percent_of_liars_hardly_move_the_fit() -> None:
    rng = np.random.default_rng(1)
    columns = np.c_[np.ones(400), rng.random(400) * 10]
    target = columns @ np.array([0.1, 0.05]) * rng.lognormal(0, 0.05, 400)
    target[rng.choice(400, 20, replace=False)] *= 50
    np.testing.assert_allclose(fit_nonnegative(columns, target), [0.1, 0.05], rtol=0.06)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(0, 3))
def test_coefficients_are_finite_and_never_negative(seed: int, n: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    columns = rng.exponential(10.0 ** rng.integers(-3, 4), (n, 6)) * (rng.random((n, 6)) < 0.7)
    coefficients = fit_nonnegative(columns, rng.lognormal(0, spread, n))
    assert np.isfinite(coefficients).all()
    assert (coefficients >= 0).all()


def test_capacity_is_read_off_rows_without_a_queue() -> None:
    rows = matrix([{"context_tokens_in_flight": 24_000 * kv, "kv_utilisation": kv} for kv in np.linspace(0.3, 0.9, 9)])
    assert kv_capacity(rows) == pytest.approx(24_000)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"waiting": 1.0}, id="a-queue-hides-it"),
        pytest.param({"kv_utilisation": 0.05}, id="an-empty-cache-cannot-tell"),
        pytest.param({"kv_utilisation": 0.99}, id="a-full-cache-cannot-tell"),
        pytest.param({"context_tokens_in_flight": 0.0}, id="nothing-in-flight"),
    ],
)
def test_capacity_stays_unknown(change: dict[str, float]) -> None:
    row = {"context_tokens_in_flight": 12_000.0, "kv_utilisation": 0.5, **change}
    assert kv_capacity(matrix([row] * 30)) == float("inf")


def test_documented_examples_hold() -> None:
    assert doctest.testmod(predictor.intervals).failed == 0
