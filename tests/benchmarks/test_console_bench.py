"""What the console's bench says of visits that failed, were not made, or were not measured."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.console.bench import outcome
from benchmarks.console.seen import RANGES, VIEWERS, Crowd, Visit, crowd_of
from benchmarks.console.week import Size
from dashboards.paths import PATHS

SIZE = Size(raw_rows=1, summary_rows=1, mib=1.0)
CROWD = Crowd(seen=VIEWERS, draws=10.0, mean_s=0.1, p95_within_s=0.3)
ALL = [Visit(page=page, range=span, first_s=1.0, whole_s=1.5, server_s=0.2) for span in RANGES for page in PATHS]


def values(rows: list[Visit], crowd: Crowd = CROWD) -> dict[str, float | None]:
    return {name: bar.value for name, bar in outcome(rows, crowd, SIZE).bars.items()}


def test_the_worst_visit_is_the_figure():
    rows = [*ALL[:-1], replace(ALL[-1], first_s=3.0, server_s=0.4)]
    assert values(rows) == {"first_paint_s_worst": 3.0, "refresh_ms_worst": 400.0, "refresh_ms_p95_20_viewers": 300.0}


def test_a_page_that_never_came_counts_with_the_time_waited_and_is_named():
    rows = [*ALL[:-1], replace(ALL[-1], first_s=45.0, server_s=math.nan, failed="first panel")]
    found = outcome(rows, CROWD, SIZE)
    assert found.bars["first_paint_s_worst"].value == 45.0
    assert found.bars["refresh_ms_worst"].value is None
    assert any("alerts over 7d (first panel)" in note for note in found.notes)


def test_visits_that_were_not_made_leave_the_bars_unknown():
    assert values(ALL[:-1])["first_paint_s_worst"] is None
    assert any("1 visits were not made" in note for note in outcome(ALL[:-1], CROWD, SIZE).notes)


@pytest.mark.parametrize("crowd", [replace(CROWD, seen=VIEWERS - 1), replace(CROWD, p95_within_s=math.inf)])
def test_a_crowd_that_did_not_all_see_its_page_has_no_figure(crowd: Crowd):
    assert values(ALL, crowd)["refresh_ms_p95_20_viewers"] is None


def test_a_crowds_figures_are_those_between_two_readings():
    before = {"overview": (10.0, 5.0, [(0.1, 10.0), (math.inf, 10.0)])}
    after = {"overview": (30.0, 7.0, [(0.1, 20.0), (0.5, 30.0), (math.inf, 30.0)])}
    assert crowd_of(3, before, after) == Crowd(seen=3, draws=20.0, mean_s=0.1, p95_within_s=0.5)
