"""The pool is bounded, keeps rare regimes and knows the error of what was served."""

from __future__ import annotations

import pytest

from predictor.features import NAMES
from predictor.pool import Pool
from predictor.samples import Sample, make


def _sample(number: int, *, waiting: float = 0.0, tokens: float = 2000.0, **more: float) -> Sample:
    features = dict.fromkeys(NAMES, 0.0) | {"input_tokens": tokens, "waiting": waiting, "running": float(number)}
    return make(features, ttft_s=0.2, tpot_s=0.01, **more)


def _numbers(pool: Pool) -> list[int]:
    return [int(sample.features[NAMES.index("running")]) for sample in pool.samples()]


def test_order_is_kept_and_the_newest_stay() -> None:
    pool = Pool(100)
    for number in range(250):
        pool.add(_sample(number))
    assert _numbers(pool) == list(range(150, 250))
    assert (len(pool), pool.accepted) == (100, 250)


def test_a_rare_regime_survives_a_flood_of_the_usual() -> None:
    pool = Pool(100)
    for number in range(20):
        pool.add(_sample(number, waiting=3))
        pool.add(_sample(number, tokens=9000))
    for number in range(100, 1000):
        pool.add(_sample(number))
    assert pool.strata() == {"idle/1024-4096": 60, "idle/4096+": 20, "queued/1024-4096": 20}
    assert len(pool) == 100


def test_error_of_what_was_served() -> None:
    pool = Pool(100)
    assert pool.served_error() == {"ttft_mape": None, "tpot_mape": None, "median": None, "tpot_median": None, "n": 0}
    for predicted in (0.1, 0.2, 0.4):
        pool.add(_sample(0, predicted_ttft_s=predicted, predicted_tpot_s=0.015))
    pool.add(_sample(0))
    error = pool.served_error()
    assert error["n"] == 3
    assert error["ttft_mape"] == pytest.approx(0.5)
    assert error["median"] == pytest.approx(0.5)
    assert error["tpot_mape"] == pytest.approx(0.5)
