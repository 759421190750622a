"""The writer process: what is handed over is on disk after a stop, whatever happens to the process meanwhile."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.history import Event, History, ProcessWriter, RequestOutcome, RequestRecord, SignalSample
from fleet.history.wire import LENGTH, flat, frame, rows_of, values_of
from fleet.types import Decision, Direction, Reason
from tests.waiting import ENDS_WITHIN_S, until

ROWS = (
    SignalSample(at_s=1.0, signal="vllm:num_requests_waiting", value=4.0, endpoint="http://e"),
    RequestRecord(at_s=2.0, request_id="r", model="m", outcome=RequestOutcome.OK, status=200, features={"waiting": 2.0},
                  candidates={"http://e": (0.1, 0.01)}),
    Decision(at_s=3.0, variant="v", namespace="n", model="m", accelerator="h100_sxm", current=1, desired=2,
             direction=Direction.UP, reason=Reason.SATURATED, detail="0.9 > 0.8", signals={"kv": 0.97, "queue": None}),
    Event(at_s=4.0, kind="scale", subject="v", message="1 to 2", data={"from": 1}),
)  # fmt: skip
EVENT = ROWS[3]


def event(number: int) -> Event:
    return Event(at_s=float(number), kind="config", subject="x", message="")


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(f"sqlite:///{tmp_path / 'h.sqlite3'}")


def turn(writer: ProcessWriter, holds: Callable[[], bool]) -> None:
    """Flush, as the router's tick does, until it is so."""
    until(lambda: (writer.flush(), holds())[1])


def test_a_frame_holds_rows_of_every_kind():
    found = rows_of(frame([flat(row) for row in ROWS])[LENGTH.size :])
    there = values_of(ROWS)
    there[RequestRecord][0]["candidates"] = {"http://e": [0.1, 0.01]}
    assert found == there


def test_what_was_put_is_on_disk_after_close(history):
    writer = ProcessWriter(history.url)
    for number in range(1200):
        writer.put(event(number))
    for row in ROWS[:3]:
        writer.put(row)
    writer.close(60.0)
    assert (history.count("events"), history.count("requests"), history.count("decisions")) == (1200, 1, 1)
    assert (writer.written, writer.dropped, writer.pid) == (1203, 0, 0)
    assert history.read("requests")[0]["candidates"] == {"http://e": [0.1, 0.01]}


@pytest.mark.parametrize("bad", [
    pytest.param(replace(EVENT, message="a\ud800b"), id="no Unicode"),
    pytest.param(replace(EVENT, data={"tokens": 2**70}), id="an integer too large to send"),
    pytest.param(replace(ROWS[1], input_tokens=2**63), id="an integer too large for the database"),
    pytest.param(replace(EVENT, at_s=float("nan")), id="no number"),
    pytest.param(replace(EVENT, message=None), id="nothing where something must be"),
])  # fmt: skip
def test_a_row_that_cannot_be_written_is_dropped_alone_and_counted(history, caplog, bad):
    writer = ProcessWriter(history.url)
    for number in range(100):
        writer.put(bad if number in {40, 90} else event(number))
    turn(writer, lambda: writer.written == 98)
    writer.put(event(100))
    writer.close(60.0)
    assert sorted(row["at_s"] for row in history.read("events")) == [n for n in range(101) if n not in {40, 90}]
    assert (writer.written, writer.dropped, writer.restarts) == (99, 2, 0)
    assert "too slow" not in caplog.text


def test_no_process_is_started_before_it_is_needed(history):
    writer = ProcessWriter(history.url)
    assert writer.pid == 0
    writer.close()
    assert (writer.pid, writer.restarts) == (0, 0)


def test_a_few_rows_are_written_without_waiting_for_more(history):
    writer = ProcessWriter(history.url)
    writer.put(event(1))
    turn(writer, lambda: writer.written == 1)
    assert history.count("events") == 1
    writer.close(60.0)


def test_a_writer_that_dies_is_started_again_and_no_row_is_lost(history):
    writer = ProcessWriter(history.url)
    writer.put(event(0))
    turn(writer, lambda: writer.written == 1)
    first = writer.pid
    with sqlite3.connect(str(history.url).removeprefix("sqlite:///"), isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")  # it has the rows and cannot write them when it dies
        for number in range(1, 300):
            writer.put(event(number))
        turn(writer, lambda: not writer._unsent)
        os.kill(first, signal.SIGKILL)
        turn(writer, lambda: writer.pid not in (0, first))
        blocker.execute("ROLLBACK")
    for number in range(300, 400):
        writer.put(event(number))
    writer.close(60.0)
    assert (writer.restarts, writer.dropped, writer.written) == (1, 0, 400)
    assert sorted(row["at_s"] for row in history.read("events")) == [float(number) for number in range(400)]


def test_what_there_is_no_room_for_is_counted(history):
    writer = ProcessWriter(history.url, max_rows=100)
    writer.flush()
    with sqlite3.connect(str(history.url).removeprefix("sqlite:///"), isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        for number in range(150):
            writer.put(event(number))
        blocker.execute("ROLLBACK")
    writer.close(60.0)
    assert (writer.dropped, writer.written, history.count("events")) == (50, 100, 100)


def test_a_database_that_stays_locked_does_not_hold_up_a_stop_and_is_written_to_later(history):
    writer = ProcessWriter(history.url)
    writer.flush()
    process = writer._process
    with sqlite3.connect(str(history.url).removeprefix("sqlite:///"), isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        writer.put(event(1))
        writer.close(0.5)
        assert (writer.dropped, writer.written, process.returncode) == (0, 0, None), "close() waited"
        blocker.execute("ROLLBACK")
    assert process.wait(ENDS_WITHIN_S) == 0
    assert history.count("events") == 1


def test_rows_that_no_process_took_are_counted_as_lost(history):
    writer = ProcessWriter(history.url)
    writer.flush()
    os.kill(writer.pid, signal.SIGKILL)
    writer._process.wait(ENDS_WITHIN_S)
    writer.put(event(1))
    writer.close(0.2)
    assert (writer.dropped, writer.written, history.count("events")) == (1, 0, 0)


def test_the_process_writes_what_it_has_when_its_parent_is_gone(history):
    writer = ProcessWriter(history.url)
    for number in range(100):
        writer.put(event(number))
    turn(writer, lambda: not writer._unsent)
    writer._socket.close()  # as the death of the parent does
    writer._process.wait(ENDS_WITHIN_S)
    assert history.count("events") == 100
    assert writer._process.returncode == 0
