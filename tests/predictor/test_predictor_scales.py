"""Group scales: shrunk, clipped, recent, and deaf to single liars."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.scales import CLIP, log_scales, relative


def test_ten_rows_carry_ten_elevenths_of_what_they_say() -> None:
    found = log_scales(np.full(10, math.log(1.8)), ["slow"] * 10)
    assert found["slow"] == pytest.approx(math.log(1.8) * 10 / 11, rel=0.001)


def test_a_small_difference_of_noisy_rows_is_taken_for_chance() -> None:
    noisy = np.random.default_rng(2).normal(0.1, 0.3, 10)
    assert abs(log_scales(noisy, ["e"] * 10)["e"]) < 0.5 * abs(np.median(noisy))


def test_what_happens_to_all_is_no_property_of_one() -> None:
    wave = 0.4 * np.sin(np.arange(600) / 80)
    endpoints = ["a", "b", "c"] * 200
    own = np.array([math.log(1.8), 0.0, 0.0] * 200)
    apart = relative(wave + own, endpoints)
    for name, expected in (("a", math.log(1.8)), ("b", 0.0)):
        rows = [row for row, endpoint in enumerate(endpoints) if endpoint == name]
        assert apart[rows] == pytest.approx(np.full(200, expected), abs=0.2)


def test_one_that_is_alone_keeps_its_errors() -> None:
    errors = np.random.default_rng(0).normal(0, 1, 50)
    assert relative(errors, ["a"] * 50).tolist() == errors.tolist()


def test_one_liar_in_ten_changes_nothing() -> None:
    ratio = np.zeros(10)
    ratio[4] = 50.0
    assert log_scales(ratio, ["e"] * 10)["e"] == 0


def test_only_the_newest_rows_count() -> None:
    ratio = np.r_[np.zeros(500), np.full(20, 1.0)]
    assert log_scales(ratio, ["e"] * 520, recent=20)["e"] == pytest.approx(20 / 21, rel=0.001)
    assert log_scales(ratio, ["e"] * 520, recent=None)["e"] == 0


def test_groups_do_not_touch_each_other() -> None:
    found = log_scales(np.array([1.0, -1.0] * 30), ["a", "b"] * 30)
    assert found["a"] == pytest.approx(30 / 31, rel=0.001)
    assert found["b"] == pytest.approx(-30 / 31, rel=0.001)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_never_beyond_the_clip(ratio: list[float]) -> None:
    assert abs(log_scales(np.array(ratio), [0] * len(ratio))[0]) <= CLIP
