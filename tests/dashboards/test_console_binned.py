"""Closed bins are read once: what a live page asks, tick by tick, and that its answer is that of one whole read."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.binned import KEEP_S, LAG_S, Bins

WIDTH = 10.0


def counted(rows: list[float], asked: list[tuple[float, float]]):
    """Counts rows of [since, until) by bin; notes what it was asked."""

    def ask(since_s: float, until_s: float) -> pd.DataFrame:
        asked.append((since_s, until_s))
        inside = [at for at in rows if since_s <= at < until_s]
        frame = pd.DataFrame({"bin_s": [at // WIDTH * WIDTH for at in inside], "n": 1.0})
        return frame.groupby("bin_s", as_index=False).sum() if len(frame) else frame.astype(float)

    return ask


@given(
    st.lists(st.floats(0, 400), max_size=60),
    st.lists(st.floats(0, 10), min_size=1, max_size=12),
    st.floats(30, 200),
)
def test_a_window_that_moves_reads_as_if_it_were_read_whole(rows: list[float], steps: list[float], span: float):
    bins, until = Bins(lambda: 0.0), 200.0
    for step in steps:
        until += step
        found = bins.read("k", until - span, until, WIDTH, counted(rows, []))
        whole = counted(rows, [])(until - span, until)
        assert dict(zip(found["bin_s"], found["n"], strict=True)) == dict(zip(whole["bin_s"], whole["n"], strict=True))


def test_only_what_is_new_is_asked_for():
    bins, asked = Bins(lambda: 0.0), []
    rows = [float(at) for at in range(0, 300, 3)]
    for until in (200.0, 202.0, 204.0):
        bins.read("k", until - 100, until, WIDTH, counted(rows, asked))
    assert asked[0] == (100.0, 200.0)
    assert asked[1:] == [(102.0, 110.0), (180.0, 202.0), (104.0, 110.0), (180.0, 204.0)]
    assert LAG_S == 20.0


def test_everything_is_read_anew_after_a_while_and_for_another_question():
    now, asked = [0.0], []
    bins = Bins(lambda: now[0])
    ask = counted([], asked)
    bins.read("k", 100.0, 200.0, WIDTH, ask)
    bins.read("other", 100.0, 200.0, WIDTH, ask)
    now[0] = KEEP_S + 1
    bins.read("k", 100.0, 200.0, WIDTH, ask)
    assert asked == [(100.0, 200.0)] * 3


@pytest.mark.parametrize("since", [100.0, 103.0])
def test_a_short_window_is_read_as_it_is(since: float):
    asked: list[tuple[float, float]] = []
    Bins().read("k", since, since + 15.0, WIDTH, counted([], asked))
    assert asked == [(since, since + 15.0)]
