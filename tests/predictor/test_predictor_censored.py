"""Requests that gave up say that the wait was longer, neither more nor less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from predictor.censored import expected
from predictor.fit import fit_model
from predictor.model import LatencyModel
from predictor.samples import dataset


def test_a_bound_far_below_says_nothing_and_one_above_a_little_more_than_itself() -> None:
    found = expected(np.array([0.001, 1.0, 10.0]), np.ones(3), 0.3)
    assert found[0] == pytest.approx(1.0)
    assert found[1] == pytest.approx(np.exp(0.3 * np.sqrt(2 / np.pi)))
    assert 10.0 < found[2] < 11.0


def test_extreme_bounds_stay_finite() -> None:
    found = expected(np.array([1e-9, 600.0]), np.array([600.0, 1e-4]), 0.05)
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_impatient_clients_do_not_teach_that_waits_are_short(world) -> None:
    """Who would wait longer than he is patient leaves: left out or believed, long waits would look short."""
    samples, patience_s = world(1500, noise=0.4), np.random.default_rng(1).exponential(0.25, 1500)
    gave_up = [replace(s, ttft_s=most, tpot_s=None, censored=True) if s.ttft_s > most else s
               for s, most in zip(samples, patience_s.tolist(), strict=True)]  # fmt: skip
    assert 400 < sum(s.censored for s in gave_up) < 900
    truth = fit_model(dataset(samples), now_s=0.0)
    long = dataset([s for s in world(600, seed=9) if s.ttft_s and s.ttft_s > 0.25])

    def level(model: LatencyModel) -> float:
        found = model.predict_for(long.matrix, long.endpoints, long.variants).ttft_s
        return float(np.exp(np.mean(np.log(found / long.ttft_s))))

    rightly = level(fit_model(dataset(gave_up), now_s=0.0))
    left_out = level(fit_model(dataset([s for s in gave_up if not s.censored]), now_s=0.0))
    believed = level(fit_model(dataset([replace(s, censored=False) for s in gave_up]), now_s=0.0))
    right = level(truth)
    assert abs(np.log(rightly / right)) < 0.8 * min(abs(np.log(left_out / right)), abs(np.log(believed / right)))
