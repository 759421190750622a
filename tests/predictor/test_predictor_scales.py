"""Group scales: shrunk, clipped, recent, and deaf to single liars."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.scales import CLIP, log_scales


def test_ten_rows_carry_ten_elevenths_of_what_they_say() -> None:
    found = log_scales(np.full(10, math.log(1.8)), ["slow"] * 10)
    assert found["slow"] == pytest.approx(math.log(1.8) * 10 / 11)


def test_one_liar_in_ten_changes_nothing() -> None:
    ratio = np.zeros(10)
    ratio[4] = 50.0
    assert log_scales(ratio, ["e"] * 10)["e"] == 0


def test_only_the_newest_rows_count() -> None:
    ratio = np.r_[np.zeros(500), np.full(20, 1.0)]
    assert log_scales(ratio, ["e"] * 520, recent=20)["e"] == pytest.approx(20 / 21)
    assert log_scales(ratio, ["e"] * 520, recent=None)["e"] == 0


def test_groups_do_not_touch_each_other() -> None:
    found = log_scales(np.array([1.0, -1.0] * 30), ["a", "b"] * 30)
    assert found["a"] == pytest.approx(30 / 31)
    assert found["b"] == pytest.approx(-30 / 31)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_never_beyond_the_clip(ratio: list[float]) -> None:
    assert abs(log_scales(np.array(ratio), [0] * len(ratio))[0]) <= CLIP
