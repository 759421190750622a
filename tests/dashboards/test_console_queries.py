"""The pure functions behind the pages."""

from __future__ import annotations

import doctest
import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import charts, diagnosis, figures, predictions, queries, scaling, summary, words

PURE = (words, queries, summary, charts, figures, diagnosis, scaling)


@pytest.mark.parametrize("module", PURE, ids=lambda module: module.__name__)
def test_examples_in_docstrings_hold(module: ModuleType):
    assert doctest.testmod(module).failed == 0


@given(st.floats(1, 30 * 86_400), st.integers(10, 400))
def test_bins_are_never_more_than_asked_for(span_s: float, points: int):
    width = queries.bin_width(span_s, points=points)
    assert span_s / width <= points + 1e-9


@given(st.floats(0, 1e9), st.floats(1, 1e5), st.sampled_from([1.0, 3.0, 30.0, 900.0]))
def test_bins_cover_the_window_and_stay_put(since_s: float, span_s: float, width_s: float):
    starts = queries.bin_starts(since_s, since_s + span_s, width_s)
    covered = queries.covered_s(starts, since_s, since_s + span_s, width_s)
    assert np.all(np.mod(starts, width_s) == 0)
    assert covered.sum() == pytest.approx(span_s, rel=1e-6, abs=1e-3)


def bins(rows: Sequence[tuple[float, str, int, int]]) -> pd.DataFrame:
    """Request bins: start, variant, requests, of these good."""
    frame = pd.DataFrame(rows, columns=["bin_s", "variant", "requests", "good"])
    return frame.assign(ok=frame["requests"], aborted=0, ttft_n=frame["requests"], ttft_ok=frame["good"], model="m")


def test_the_newest_bin_is_divided_by_what_it_covers_and_does_not_dip():
    rates = queries.rates(bins([(0, "a", 20, 20), (10, "a", 12, 12)]), ("requests",), since_s=0, until_s=16, width_s=10)
    assert rates["requests"].tolist() == [2.0, 2.0]


def test_a_bin_that_is_barely_begun_is_left_out():
    rates = queries.rates(bins([(0, "a", 20, 20), (10, "a", 1, 1)]), ("requests",), since_s=0, until_s=12, width_s=10)
    assert rates["bin_s"].tolist() == [0.0]


def test_no_requests_between_requests_is_zero_and_before_the_first_unknown():
    rates = queries.rates(bins([(10, "a", 10, 1), (30, "a", 10, 1)]), ("requests",), since_s=0, until_s=40, width_s=10)
    values = rates["requests"].tolist()
    assert math.isnan(values[0])
    assert values[1:] == [1.0, 0.0, 1.0]


def test_percentiles_of_each_bin_with_gaps_left_open():
    rows = pd.DataFrame({"done_s": [1.0, 2.0, 3.0, 25.0], "ttft_s": [0.1, 0.2, 0.3, 1.0]})
    table = queries.percentiles(rows, "ttft_s", starts=queries.bin_starts(0, 30, 10), width_s=10, quantiles=(0.5, 0.95))
    assert table["p50"].tolist()[0] == pytest.approx(0.2)
    assert math.isnan(table["p50"].tolist()[1])
    assert table["p95"].tolist()[2] == 1.0
    assert table["n"].tolist()[0] == 3


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=60))
def test_percentiles_are_ordered_and_inside_the_data(values: list[float]):
    rows = pd.DataFrame({"done_s": [1.0] * len(values), "ttft_s": values})
    table = queries.percentiles(
        rows, "ttft_s", starts=queries.bin_starts(0, 10, 10), width_s=10, quantiles=(0.5, 0.95, 0.99)
    )
    p50, p95, p99 = table[["p50", "p95", "p99"]].iloc[0]
    slack = 1e-9
    assert min(values) - slack <= p50 <= p95 + slack <= p99 + 2 * slack <= max(values) + 3 * slack


def test_percentiles_of_nothing_are_an_empty_table_with_its_columns():
    empty = pd.DataFrame(columns=["done_s", "ttft_s", "variant"])
    table = queries.percentiles(empty, "ttft_s", by=("variant",), starts=np.array([0.0]), width_s=10, quantiles=(0.95,))
    assert table.empty
    assert "p95" in table.columns


@pytest.mark.parametrize(
    ("good", "objective", "left"),
    [
        pytest.param(1.0, 0.95, 1.0, id="nothing-failed-leaves-all"),
        pytest.param(0.95, 0.95, 0.0, id="just-kept-leaves-nothing"),
        pytest.param(0.90, 0.95, -1.0, id="twice-the-budget-is-overspent-once"),
    ],
)
def test_error_budget(good: float, objective: float, left: float):
    assert queries.budget_left(good, objective) == pytest.approx(left)


def test_attainment_is_of_all_requests_not_a_mean_of_bins():
    frame = bins([(0, "a", 90, 90), (10, "a", 10, 0)])
    assert queries.attainment(frame, "ttft") == pytest.approx(0.9)
    over_time = queries.attainment_over_time(frame, "ttft", queries.bin_starts(0, 30, 10))
    assert over_time["value"].tolist()[:2] == [1.0, 0.0]
    assert math.isnan(over_time["value"].tolist()[2])


def test_requests_given_up_by_the_client_are_not_counted_against_success():
    frame = bins([(0, "a", 10, 8)]).assign(ok=8, aborted=2)
    assert queries.success_rate(frame) == 1.0


def test_a_pause_breaks_the_line_and_a_sparse_series_stays_whole():
    sparse = pd.DataFrame({"bin_s": [0.0, 15.0, 30.0, 45.0], "variant": "a", "value": 1.0})
    paused = pd.DataFrame({"bin_s": [0.0, 5.0, 10.0, 60.0], "variant": "b", "value": 1.0})
    whole = queries.broken_at_gaps(pd.concat([sparse, paused]), at="bin_s", by=("variant",), width_s=5)
    assert whole[whole["variant"] == "a"]["value"].notna().all()
    assert whole[whole["variant"] == "b"]["value"].isna().tolist() == [False, False, False, True, False]


def test_a_counter_that_starts_again_counts_from_zero():
    frame = pd.DataFrame({"bin_s": [0.0, 1.0, 2.0], "variant": "a", "endpoint": "e", "high": [5.0, 9.0, 2.0]})
    increase = queries.counter_increase(frame, by=("variant", "endpoint"))["value"]
    assert math.isnan(increase[0])
    assert increase.tolist()[1:] == [4.0, 2.0]


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30))
def test_a_counter_never_decreases(values: list[float]):
    frame = pd.DataFrame({"bin_s": np.arange(len(values)), "variant": "a", "high": values})
    assert (queries.counter_increase(frame, by=("variant",))["value"].dropna() >= 0).all()


def test_the_fullest_engine_is_on_top():
    frame = pd.DataFrame(
        {
            "bin_s": [0.0, 10.0] * 2,
            "variant": "v",
            "endpoint": ["calm"] * 2 + ["full"] * 2,
            "value": [0.9, 0.1, 0.2, 0.8],
        }
    )
    table = queries.heat_rows(frame, queries.bin_starts(0, 20, 10), recent_bins=1)
    assert [endpoint for _, endpoint in table.index] == ["full", "calm"]


def decision(
    number: int, at_s: float, variant: str = "v", direction: str = "hold", **fields: object
) -> dict[str, object]:
    return {
        "id": number, "at_s": at_s, "variant": variant, "direction": direction, "reason": "steady", "current": 1,
        "desired": 1, "detail": "", "signals": {}, **fields,
    }  # fmt: skip


def test_repeated_decisions_fold_into_one_row_newest_first():
    rows = pd.DataFrame([decision(1, 0), decision(2, 3), decision(3, 6, direction="up", desired=2), decision(4, 9)])
    folded = scaling.decision_runs(rows)
    assert folded["id"].tolist() == [4, 3, 2]
    assert folded["times"].tolist() == [1, 1, 2]
    assert folded["first_s"].tolist() == [9, 6, 0]


def test_a_scaling_that_is_written_twice_is_one_mark():
    rows = pd.DataFrame([
        decision(1, 0, direction="up", desired=2, signals={"requested": 1}),
        decision(2, 3, direction="up", desired=2, signals={"requested": 2}),
        decision(3, 300, direction="up", desired=3, current=2),
    ])  # fmt: skip
    moves = scaling.scalings(rows)
    assert moves["id"].tolist() == [1, 3]
    assert moves["before"].tolist() == [1, 2]


def test_no_decisions_give_empty_tables():
    nothing = pd.DataFrame(columns=list(decision(1, 0)))
    assert scaling.decision_runs(nothing).empty
    assert scaling.scalings(nothing).empty


def test_prediction_errors_are_relative_to_what_happened():
    rows = pd.DataFrame({
        "done_s": [1.0, 2.0, 3.0], "variant": "v", "endpoint": "e", "ttft_s": [0.1, 0.2, None],
        "predicted_ttft_s": [0.11, None, 0.3],
    })  # fmt: skip
    pairs = predictions.prediction_pairs(rows, "ttft")
    assert pairs["error"].tolist() == [pytest.approx(0.1)]
    assert predictions.mean_absolute_error(pairs) == pytest.approx(0.1)
    assert predictions.mean_absolute_error(pairs.iloc[:0]) is None


def test_a_bin_with_too_few_requests_says_nothing_of_the_error():
    pairs = pd.DataFrame({"done_s": [1.0, 2.0, 3.0, 4.0, 11.0], "error": [0.1] * 5})
    table = predictions.error_over_time(pairs, queries.bin_starts(0, 20, 10), 10)
    assert table["absolute"].tolist()[0] == pytest.approx(0.1)
    assert math.isnan(table["absolute"].tolist()[1])


@given(st.integers(0, 500), st.integers(2, 50))
def test_thinning_keeps_both_ends_and_the_bound(count: int, limit: int):
    kept = queries.thinned(pd.DataFrame({"x": range(count)}), limit)["x"].tolist()
    assert len(kept) <= max(limit, 0)
    assert count == 0 or (kept[0], kept[-1]) == (0, count - 1)


def alert(at_s: float, state: str, subject: str = "HighTTFT", **labels: str) -> dict[str, object]:
    return {"id": int(at_s), "at_s": at_s, "kind": "alert", "subject": subject, "severity": "critical", "message": "m",
            "data": {"state": state, "labels": labels, "model": labels.get("model_name", "")}}  # fmt: skip


def test_alerts_pair_up_by_name_and_labels():
    events = pd.DataFrame([
        alert(1, "firing", variant="a"), alert(2, "firing", variant="b"), alert(3, "firing", variant="a"),
        alert(5, "resolved", variant="a"), alert(6, "resolved", subject="Never"),
    ])  # fmt: skip
    spells = queries.alert_spells(events, until_s=10)
    assert spells["from_s"].tolist() == [2.0, 1.0]
    assert math.isnan(spells["to_s"][0])
    assert spells["to_s"][1] == 5.0


def test_no_events_are_no_alerts():
    assert queries.alert_spells(pd.DataFrame(columns=list(alert(0, "firing"))), until_s=1).empty


def test_a_timeline_has_the_three_marks():
    signals = pd.DataFrame({
        "bin_s": [0.0, 0.0, 0.0], "signal": ["wva_desired_replicas", "requested_replicas", "wva_current_replicas"],
        "model": "m", "variant": "v", "endpoint": "", "mean": [3.0, 2.0, 1.0], "high": [3.0, 2.0, 1.0], "low": 0.0,
    })  # fmt: skip
    marks = {"planned": "wva_desired_replicas", "requested": "requested_replicas", "observed": "wva_current_replicas"}
    timeline = scaling.replica_timeline(signals, marks)
    assert dict(zip(timeline["mark"], timeline["value"], strict=True)) == {"planned": 3, "requested": 2, "observed": 1}
    assert scaling.replica_timeline(signals.iloc[:0], marks).empty
