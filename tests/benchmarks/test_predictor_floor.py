"""The floor under every prediction: futures differ after a decision and never before it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.predictor.cases import case
from benchmarks.predictor.floor import Splitter, best, judged
from benchmarks.predictor.record import Recorder
from benchmarks.predictor.traffic import arrivals, stream, tide
from predictor.samples import dataset


def test_best_prediction_has_the_least_relative_error() -> None:
    outcomes = np.random.default_rng(3).lognormal(0.0, 0.7, size=200)
    tried = {point: np.abs(point / outcomes - 1.0).mean() for point in outcomes.tolist()}
    assert best(outcomes) == min(tried, key=lambda point: tried[point])


def test_floor_is_bracketed_and_a_bad_prediction_is_above_it() -> None:
    outcomes = np.random.default_rng(4).lognormal(0.0, 0.3, size=(50, 12))
    found = judged(outcomes, np.full(50, 2.0))
    assert found.least < found.most < found.ours


def test_decisions_without_two_outcomes_do_not_count() -> None:
    outcomes = np.array([[1.0, np.nan], [1.0, 2.0]])
    assert judged(outcomes, np.array([100.0, 1.0])).ours == pytest.approx(25.0)


def test_a_split_run_is_the_run_that_was_not_split() -> None:
    one = case(5, requests=120)
    rng = np.random.default_rng([one.seed, 11])
    run = Splitter(one, tide(one.traffic, rng), frozenset({60, 90}), 3)
    split = run.go(rng)
    plain = Recorder(one.fleet, seed=one.seed).run(arrivals(one.traffic, np.random.default_rng([one.seed, 11])))
    assert np.array_equal(split.matrix, dataset(list(plain.samples)).matrix)
    assert [len(one.outcomes) for one in run.splits] == [3, 3]
    tpot_s = run.splits[0].outcomes[:, 1]
    assert np.isfinite(tpot_s).all()
    assert len(set(tpot_s.tolist())) == 3, "each future is its own"


def test_a_stream_goes_on_from_any_time() -> None:
    one = case(2, requests=50)
    drawn = tide(one.traffic, np.random.default_rng(1))
    later = list(stream(one.traffic, drawn, np.random.default_rng(2), from_s=500.0, name="later"))
    assert [arrival.request.request_id for arrival in later[:2]] == ["later0", "later1"]
    assert later[0].at_s >= 500.0
