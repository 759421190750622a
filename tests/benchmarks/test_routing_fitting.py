"""The fit of the published ladder: within what the data sheet allows, and near the figures that it was fitted to."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.routing import fitting
from benchmarks.routing.arms import Random
from benchmarks.routing.fitting import ARMS, Arm, floor, log_errors, scaled
from benchmarks.routing.published import LADDER
from fleet.hardware import DEPLOYMENTS

ROW = DEPLOYMENTS[fitting.DEPLOYMENT].coefficients


def test_half_of_the_ladder_is_fitted_and_half_is_not() -> None:
    for arm in ARMS:
        assert set(arm.rates) < set(LADDER)
        assert hasattr(next(iter(LADDER.values())), arm.published)
    assert sum(len(arm.rates) for arm in ARMS) == 17


def test_the_committed_row_is_above_the_data_sheets_floor() -> None:
    least = floor()
    assert least.d0 == pytest.approx(7.4, abs=0.1)
    assert ROW.d0 > least.d0
    assert ROW.d_kv > least.d_kv == pytest.approx(3.91e-5, rel=0.01)


def test_factors_scale_the_starting_row() -> None:
    one, twice = scaled([1.0] * 4), scaled([2.0] * 4)
    assert (twice.d0, twice.d_kv, twice.reuse, twice.eta) == (2 * one.d0, 2 * one.d_kv, 2 * one.reuse, 2 * one.eta)
    assert dataclasses.replace(twice, d0=one.d0, d_kv=one.d_kv, reuse=one.reuse, eta=one.eta) == one


def test_a_slower_engine_gives_fewer_tokens() -> None:
    arm = Arm(make=Random, rates=(3,), published="service_tok_s")
    slow = dataclasses.replace(ROW, d0=2 * ROW.d0)
    (near,), (far,) = log_errors(ROW, [arm], [2]), log_errors(slow, [arm], [2])
    assert abs(near) < 0.1
    assert far < near - 0.1
