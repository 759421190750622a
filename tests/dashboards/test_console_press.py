"""Pages written once for all who look: shared, shown again while a new one is written, never after a failure."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from dashboards.press import KEEP_S, Press

LONG_S = 30.0


class Writing:
    """A page that takes until it is let go, and says how often it was written."""

    def __init__(self, moment_s: float, value: str) -> None:
        self.moment_s, self.value, self.times = moment_s, value, 0
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> tuple[float, str]:
        self.times += 1
        self.begun.set()
        assert self.go.wait(LONG_S)
        return self.moment_s, self.value


def at_once(moment_s: float, value: str) -> Callable[[], tuple[float, str]]:
    return lambda: (moment_s, value)


def never() -> tuple[float, str]:
    raise AssertionError("written although it was there")


def test_viewers_of_the_same_moment_share_one_writing():
    press, page, seen = Press[str](), Writing(10.0, "ten"), []
    viewers = [threading.Thread(target=lambda: seen.append(press.sheet("p", 10.0, page))) for _ in range(5)]
    for viewer in viewers:
        viewer.start()
    assert page.begun.wait(LONG_S)
    page.go.set()
    for viewer in viewers:
        viewer.join(LONG_S)
    assert seen == [("ten", True)] * 5
    assert page.times == 1
    assert press.sheet("p", 10.0, never) == ("ten", True)


def test_an_earlier_sheet_is_shown_again_while_the_new_one_is_written():
    press = Press[str](patience_s=0.01)
    press.sheet("p", 10.0, at_once(10.0, "ten"))
    slow = Writing(12.0, "twelve")
    assert press.sheet("p", 12.0, slow, oldest_s=8.0) == ("ten", False)
    assert press.sheet("p", 12.0, slow, oldest_s=8.0) == ("ten", False)
    slow.go.set()
    assert press.sheet("p", 12.0, slow, oldest_s=11.0) == ("twelve", True), "too old a sheet is waited for"
    assert slow.times == 1


def test_a_viewer_without_an_earlier_sheet_comes_before_refreshes():
    press, order = Press[str](patience_s=0.01), []

    def noted(name: str) -> Callable[[], tuple[float, str]]:
        def write() -> tuple[float, str]:
            order.append(name)
            return 2.0, name

        return write

    for name in ("refresh", "other"):
        press.sheet(name, 1.0, at_once(1.0, name))
    busy = [Writing(1.0, "busy"), Writing(1.0, "busy")]
    for number, one in enumerate(busy):
        threading.Thread(target=press.sheet, args=(f"busy-{number}", 1.0, one), daemon=True).start()
        assert one.begun.wait(LONG_S)
    for name in ("refresh", "other"):
        press.sheet(name, 2.0, noted(name), oldest_s=0.0)
    first = threading.Thread(target=press.sheet, args=("first", 1.0, noted("first")), daemon=True)
    first.start()
    while press.waiting < 3:
        first.join(0.01)
    busy[0].go.set()
    first.join(LONG_S)
    assert order[0] == "first"
    busy[1].go.set()


def test_a_failure_reaches_those_who_wait_and_what_was_before_is_not_shown_again():
    press = Press[str]()
    press.sheet("p", 1.0, at_once(1.0, "one"))

    def broken() -> tuple[float, str]:
        raise ValueError("no history")

    for _ in range(2):
        with pytest.raises(ValueError, match="no history"):
            press.sheet("p", 2.0, broken, oldest_s=0.0)
    assert press.sheet("p", 3.0, at_once(3.0, "three"), oldest_s=0.0) == ("three", True)


def test_a_sheet_of_a_fixed_moment_is_written_anew_after_a_while():
    now = [0.0]
    press = Press[str](lambda: now[0])
    press.sheet("p", 1.0, at_once(1.0, "one"))
    now[0] = KEEP_S - 1
    assert press.sheet("p", 1.0, never) == ("one", True)
    now[0] = KEEP_S + 1
    assert press.sheet("p", 1.0, at_once(1.0, "anew")) == ("anew", True)
    press.forget()
    assert press.sheet("p", 1.0, at_once(1.0, "after all")) == ("after all", True)


def test_a_sheet_draws_the_same_as_drawing_at_once():
    script = """
from dashboards import paper
import streamlit as st

def page():
    paper.html("<p>one</p>")
    left, right = paper.columns([3, 2])
    with right:
        paper.html("<p>right</p>")
    with left, paper.frame("box"):
        paper.html("<p>boxed</p>")
        paper.code("fleet up")
        paper.live(lambda: st.toggle("Mine", key="mine"))

{how}
"""
    written = "with paper.sheet() as sheet:\n    page()\nassert len(sheet.nodes) == 2\nsheet.show()"
    seen = [AppTest.from_string(script.replace("{how}", how)).run() for how in ("page()", written)]
    assert not any(run.exception for run in seen)
    for kind in ("html", "code", "toggle", "column"):
        assert len(seen[0].get(kind)) == len(seen[1].get(kind)) > 0
    assert next(one.proto.body for one in seen[1].get("html")) == "<p>one</p>"
    assert len(seen[1].columns[0].get("html")) == len(seen[1].columns[1].get("html")) == 1
