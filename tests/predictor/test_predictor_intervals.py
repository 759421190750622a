"""Statistical promises are checked where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.intervals import LEVELS, at_level, calibrate, ratio_quantile


@pytest.mark.parametrize(
    ("n", "level", "expected"),
    [
        pytest.param(99, 0.9, 90, id="rank-is-n-plus-1-times-level"),
        pytest.param(99, 0.05, 5, id="lower-tail-takes-the-lower-rank"),
        pytest.param(9, 0.9, 9, id="nine-rows-just-reach-90-percent"),
        pytest.param(8, 0.9, 8 * 1.5, id="too-few-rows-stretch-the-widest"),
        pytest.param(8, 0.1, 1 / 1.5, id="too-few-rows-stretch-the-lowest"),
    ],
)
def test_rank(n: int, level: float, expected: float) -> None:
    ratios = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert ratio_quantile(ratios, level) == pytest.approx(expected)


def test_coverage_is_what_is_asked_for_in_both_groups() -> None:
    rng = np.random.default_rng(5)
    hits = {False: [], True: []}
    for _ in range(60):
        queue = rng.random(800) < 0.3
        ratio = np.where(queue, rng.lognormal(0.2, 0.5, 800), rng.lognormal(0, 0.1, 800))
        table = calibrate(ratio[:400], queue[:400])
        low, high = (at_level(table, level)[queue[400:].astype(int)] for level in (0.05, 0.95))
        inside = (ratio[400:] >= low) & (ratio[400:] <= high)
        for group, seen in hits.items():
            seen.append(inside[queue[400:] == group].mean())
    assert 0.88 <= np.mean(hits[False]) <= 0.93
    assert 0.88 <= np.mean(hits[True]) <= 0.94


def test_a_small_group_borrows_from_both() -> None:
    ratio = np.r_[np.full(40, 1.0), np.full(5, 9.0)]
    table = calibrate(ratio, ratio > 5)
    assert at_level(table, 0.95)[1] == at_level(calibrate(ratio, np.zeros(45, dtype=bool)), 0.95)[0]


def test_levels_rise() -> None:
    table = calibrate(np.random.default_rng(1).lognormal(0, 1, 7), np.zeros(7, dtype=bool))
    assert table.shape == (2, len(LEVELS))
    assert (np.diff(table, axis=1) >= 0).all()
