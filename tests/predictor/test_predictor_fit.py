"""The fit on a world whose law is known: error bars, slow endpoints, honest scores, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from predictor.evaluate import learning_curve
from predictor.fit import FitOutcome, backtest, fit_once, of, score
from predictor.intervals import queued
from predictor.model import TARGETS, LatencyModel
from predictor.samples import Dataset, dataset


def _mape(model: LatencyModel, data: Dataset, target: str) -> float:
    found = of(model.predict_for(data.matrix, data.endpoints, data.variants), target)
    mape = score(data.target(target), found).mape
    assert mape is not None
    return mape


def _fitted(samples) -> LatencyModel:
    result = fit_once(dataset(samples), now_s=7.0)
    assert result.outcome is FitOutcome.FITTED, result.detail
    assert result.model is not None
    return result.model


@pytest.mark.parametrize(
    ("n", "ttft", "tpot"),
    [
        pytest.param(100, 0.25, 0.20, id="a-hundred-samples"),
        pytest.param(3000, 0.18, 0.14, id="three-thousand-samples"),
    ],
)
def test_error_on_later_requests_stays_under_the_bar(world, n: int, ttft: float, tpot: float) -> None:
    errors = {"ttft": [], "tpot": []}
    for seed in range(5):
        samples = world(n + 1020, seed=seed, noise=0.15)
        model, later = _fitted(samples[:n]), dataset(samples[n + 20 :])
        for target, seen in errors.items():
            seen.append(_mape(model, later, target))
    assert np.mean(errors["ttft"]) <= ttft
    assert np.mean(errors["tpot"]) <= tpot


def test_intervals_cover_and_so_does_the_score_of_coverage(world) -> None:
    hits = {(target, group): [] for target in TARGETS for group in (False, True)}
    claimed = []
    for seed in range(5):
        samples = world(2500, seed=seed)
        model, later = _fitted(samples[:1500]), dataset(samples[1520:])
        places, group = model.places(later.endpoints, later.variants), queued(later.matrix)
        point = model.predict_at(later.matrix, places)
        low, high = (model.quantile(later.matrix, point, level, places) for level in (0.05, 0.95))
        for target in TARGETS:
            actual = later.target(target)
            inside = (actual >= of(low, target)) & (actual <= of(high, target))
            for busy in (False, True):
                hits[target, busy].append(inside[group == busy].mean())
            claimed.append(getattr(model, target).score.coverage)
    for (target, busy), seen in hits.items():
        assert 0.85 <= np.mean(seen) <= 0.95, (target, busy)
    assert 0.85 <= np.mean(claimed) <= 0.95


SLOW = ("http://slow:1", "h100", 1.8)


def test_an_unseen_slower_endpoint_is_right_after_ten_samples(world) -> None:
    before, after = [], []
    for seed in range(5):
        known, slow = world(400, seed=seed), world(310, seed=100 + seed, endpoints=(SLOW,))
        later = dataset(slow[10:])
        before.append(_mape(_fitted(known), later, "ttft"))
        after.append(_mape(_fitted([*known, *slow[:10]]), later, "ttft"))
    assert np.mean(before) > 0.35
    assert np.mean(after) < 0.22


def test_a_slow_endpoint_does_not_bend_the_others(world) -> None:
    known, later = world(600, seed=1), dataset(world(300, seed=2))
    clean = _mape(_fitted(known), later, "ttft")
    mixed = _mape(_fitted([*known, *world(150, seed=3, endpoints=(SLOW,))]), later, "ttft")
    assert mixed < clean + 0.03


def test_each_variant_has_its_own_law_and_capacity(world) -> None:
    model = _fitted(world(1000))
    rows = dataset(world(50, seed=9)).matrix
    fast, slow = (model.predict_for(rows, [""] * 50, [name] * 50) for name in ("h100", "a100"))
    assert np.median(slow.ttft_s / fast.ttft_s) == pytest.approx(2.0, rel=0.15)
    assert model.capacities["h100"] == pytest.approx(66_000, rel=0.05)


def test_cold_below_the_minimum_and_says_how_many_there_are(world) -> None:
    samples = [replace(sample, tpot_s=None) if i % 2 else sample for i, sample in enumerate(world(40))]
    result = fit_once(dataset(samples), now_s=0.0, min_samples=30)
    assert result.outcome is FitOutcome.COLD
    assert result.model is None
    assert result.detail == "40 of 30 ttft samples, 20 of 30 tpot samples"


def test_a_backtest_never_sees_what_it_predicts(world) -> None:
    samples = world(400)
    changed = [*samples[:320], *(replace(sample, ttft_s=9 * (sample.ttft_s or 1)) for sample in samples[320:])]
    honest, shocked = (backtest(dataset(rows), now_s=0.0) for rows in (samples, changed))
    np.testing.assert_allclose(honest.predicted.ttft_s, shocked.predicted.ttft_s)
    model = fit_once(dataset(changed), now_s=0.0).model
    assert model is not None
    assert model.ttft.score.bias == pytest.approx(-8 / 9, abs=0.05)


def test_scores_are_of_the_newest_fifth(world) -> None:
    model = _fitted(world(500))
    assert model.ttft.score.n == 100
    assert model.ttft.samples == 500
    assert model.fitted_at_s == 7.0


def test_a_fit_that_is_much_worse_than_what_is_served_is_refused(world) -> None:
    samples = world(300)
    served = _fitted(samples)
    garbled = [replace(s, ttft_s=20 * (s.ttft_s or 1)) if i < 230 else s for i, s in enumerate(samples)]
    result = fit_once(dataset(garbled), now_s=0.0, served=served)
    assert result.outcome is FitOutcome.REFUSED
    assert "the served model has" in result.detail
    assert fit_once(dataset(garbled), now_s=0.0).outcome is FitOutcome.FITTED


def test_plausible_lies_of_one_endpoint_move_only_its_own_predictions(world) -> None:
    samples, later = world(900, seed=4), dataset(world(300, seed=5))
    lying = [replace(s, ttft_s=7 * (s.ttft_s or 1)) if s.endpoint == "http://b:1" else s for s in samples]
    others = later.take(np.flatnonzero(np.array(later.endpoints) != "http://b:1"))
    assert _mape(_fitted(lying), others, "ttft") < _mape(_fitted(samples), others, "ttft") + 0.05


def test_the_learning_curve_is_time_ordered_and_leaves_out_what_cannot_be_trained(world) -> None:
    points = learning_curve(dataset(world(1000)), sizes=(20, 300, 3000))
    assert {point.n for point in points} == {20, 300}
    whole = {point.target: point.score for point in points if point.n == 300 and point.regime == "all"}
    parts = [point.score.n for point in points if point.n == 300 and point.target == "ttft" and point.regime != "all"]
    assert whole["ttft"].n == 400 == sum(parts)
    assert whole["ttft"].mape is not None
    assert whole["ttft"].mape < 0.2
    assert whole["tpot"].coverage == pytest.approx(0.9, abs=0.08)
