"""Statistical promises are checked where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.intervals import GROUPS, LEVELS, at_level, calibrate, groups, ratio_quantile, tracked, widened


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
    assert ratio_quantile(np.arange(1.0, n + 1).tolist(), level) == pytest.approx(expected)


def test_coverage_is_what_is_asked_for_in_both_groups() -> None:
    rng = np.random.default_rng(5)
    hits = {False: [], True: []}
    for _ in range(60):
        queue = rng.random(800) < 0.3
        ratio = np.where(queue, rng.lognormal(0.2, 0.5, 800), rng.lognormal(0, 0.1, 800))
        group = np.where(queue, 2, 0)
        table = calibrate(ratio[:400], group[:400])
        low, high = (at_level(table, level)[group[400:]] for level in (0.05, 0.95))
        inside = (ratio[400:] >= low) & (ratio[400:] <= high)
        for group, seen in hits.items():
            seen.append(inside[queue[400:] == group].mean())
    assert 0.88 <= np.mean(hits[False]) <= 0.93
    assert 0.88 <= np.mean(hits[True]) <= 0.94


def test_a_small_group_borrows_from_all() -> None:
    ratio = np.r_[np.full(40, 1.0), np.full(5, 9.0)]
    table = calibrate(ratio, np.where(ratio > 5, 2, 0))
    assert at_level(table, 0.95)[2] == at_level(calibrate(ratio, np.zeros(45, dtype=int)), 0.95)[0]


def test_levels_rise() -> None:
    table = calibrate(np.random.default_rng(1).lognormal(0, 1, 7), np.zeros(7, dtype=int))
    assert table.shape == (len(GROUPS), len(LEVELS))
    assert (np.diff(table, axis=1) >= 0).all()


def test_groups_go_by_the_queue_then_by_what_is_pending() -> None:
    rows = np.zeros((3, 8))
    rows[1:, 2] = 100.0
    rows[2, 5] = 4.0
    assert [GROUPS[group] for group in groups(rows)] == ["idle", "pending", "queued"]


def test_the_level_adapts_where_errors_keep_growing() -> None:
    """Every error is larger than those before: a fixed rank would always be too low."""
    rng = np.random.default_rng(3)
    ratios = (rng.lognormal(0, 0.2, 3000) * np.exp(np.linspace(0, 2, 3000))).tolist()
    hits = [ratios[i + j] <= tracked(ratios[:i])[LEVELS.index(0.9)] for i in range(600, 2900, 50) for j in range(10)]
    fixed = [ratios[i + j] <= ratio_quantile(sorted(ratios[i - 400 : i]), 0.9) for i in range(600, 2900, 50)
             for j in range(10)]  # fmt: skip
    assert np.mean(fixed) < 0.86
    assert 0.87 <= np.mean(hits) <= 0.95


def test_intervals_widen_the_further_out_a_row_is() -> None:
    high = widened(np.array([1.5, 1.5, 1.5]), np.array([0.0, 0.5, 2.0]))
    low = widened(np.array([0.7, 0.7, 0.7]), np.array([0.0, 0.5, 2.0]))
    assert high[0] == 1.5 < high[1] < high[2]
    assert low[0] == 0.7 > low[1] > low[2] > 0
