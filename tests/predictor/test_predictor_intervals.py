"""How quantiles are looked up: by group, by endpoint, beyond what training saw."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.intervals import GROUPS, LEVELS, MIDDLE, groups, logs_at, row_of_logs, widened

TABLE = np.tile(np.exp(0.4 * (np.array(LEVELS) - 0.4)), (len(GROUPS), 1))


def test_groups_go_by_the_queue_then_by_what_is_pending() -> None:
    rows = np.zeros((5, 8))
    rows[:, 0], rows[:, 1] = 900.0, 500.0
    rows[1:, 2] = 300.0
    rows[2:, 2] = 600.0
    rows[3:, 5] = 4.0
    rows[4, 2] = 0.0
    assert [GROUPS[group] for group in groups(rows)] == ["idle", "pending", "behind", "queued", "queued"]


@pytest.mark.parametrize("level", [0.05, 0.3, 0.5, 0.9])
def test_a_width_stretches_the_distance_from_the_middle_on_its_own_side(level: float) -> None:
    widths = np.array([(1.0, 1.0), (2.0, 0.5)])
    usual, own = logs_at(TABLE, level, np.array([0, 0]), widths)
    middle = np.log(TABLE[0, MIDDLE])
    assert own - middle == pytest.approx((usual - middle) * (2.0 if level < 0.5 else 0.5))


def test_a_row_of_all_levels_says_the_same() -> None:
    width = np.array([0.7, 1.6])
    one_by_one = [logs_at(TABLE, level, np.array([1]), width[None])[0] for level in LEVELS]
    assert row_of_logs(TABLE, 1, width).tolist() == pytest.approx(one_by_one)


def test_intervals_widen_the_further_out_a_row_is() -> None:
    high = widened(np.array([0.4, 0.4, 0.4]), np.array([0.0, 0.5, 2.0]))
    low = widened(np.array([-0.4, -0.4, -0.4]), np.array([0.0, 0.5, 2.0]))
    assert high[0] == 0.4 < high[1] < high[2]
    assert low.tolist() == (-high).tolist()
