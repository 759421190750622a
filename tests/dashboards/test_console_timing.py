"""The pace of live pages: rarer while many look, as asked for again when they have gone."""

from __future__ import annotations

from dashboards.timing import Pace


def test_many_viewers_make_refreshes_rarer_and_the_pace_comes_back():
    now = [0.0]
    pace = Pace(lambda: now[0])

    def look(draws_per_s: float, worked_s: float, for_s: int) -> None:
        for _ in range(for_s):
            now[0] += 1.0
            for _ in range(round(draws_per_s / pace.times)):
                pace.note(worked_s)

    look(1.0, 0.2, 60)
    assert pace.times == 1
    look(10.0, 0.2, 60)  # two cores' worth of work
    assert pace.times == 8
    look(1.0, 0.02, 120)
    for _ in range(10):
        now[0] += 20.0
        pace.note(0.02)
    assert pace.times == 1


def test_the_pace_has_an_end():
    now = [0.0]
    pace = Pace(lambda: now[0])
    for _ in range(20):
        now[0] += 11.0
        pace.note(1000.0)
    assert pace.times == Pace.MOST
