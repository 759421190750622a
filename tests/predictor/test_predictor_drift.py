"""Changes of one endpoint are found within a dozen rows; noise, stalls and what happens to all are none."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.drift import changes, epochs
from predictor.scales import relative


def _epochs(errors: np.ndarray, endpoints: list[str]) -> np.ndarray:
    return epochs(errors, relative(errors, endpoints), endpoints)


def test_noise_is_no_change() -> None:
    for seed in range(10):
        assert changes(np.random.default_rng(seed).normal(0, 1, 3000)) == []


def test_stalls_are_no_change() -> None:
    errors = np.random.default_rng(1).normal(0, 1, 1000)
    errors[::97] += 40.0
    assert changes(errors) == []


@pytest.mark.parametrize("shift", [2.5, -2.5])
def test_a_shift_is_found_where_it_began(shift: float) -> None:
    for seed in range(10):
        errors = np.random.default_rng(seed).normal(0, 1, 230)
        errors[200:] += shift
        found = changes(errors)
        assert len(found) == 1
        assert abs(found[0] - 200) <= 5


def test_two_changes_are_two() -> None:
    errors = np.random.default_rng(4).normal(0, 1, 600)
    errors[200:400] += 3.0
    assert [round(change / 20) for change in changes(errors)] == [10, 20]


def test_one_of_three_endpoints_changes_and_its_neighbours_do_not() -> None:
    errors = np.random.default_rng(5).normal(0, 0.25, 900)
    endpoints = ["a", "b", "c"] * 300
    errors[600::3] += np.log(1.8)
    found = _epochs(errors, endpoints)
    assert {name: int(found[row::3].max()) for row, name in enumerate("abc")} == {"a": 1, "b": 0, "c": 0}


def test_a_wave_of_load_is_no_change() -> None:
    errors = np.random.default_rng(6).normal(0, 0.25, 1200) + 0.35 * np.sin(np.arange(1200) / 60)
    assert _epochs(errors, ["a", "b", "c", "d"] * 300).max() == 0


def test_few_rows_change_nothing() -> None:
    assert changes(np.array([5.0] * 7)) == []
