"""The writer thread under a steady trickle, and with more rows than fit one transaction."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from fleet.history import Event, History, HistoryWriter, RequestOutcome, RequestRecord, SignalSample
from tests.waiting import until


def event(number: int) -> Event:
    return Event(at_s=float(number), kind="config", subject="x", message="")


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(f"sqlite:///{tmp_path / 'h.sqlite3'}")


def test_rows_that_trickle_in_are_written_while_they_do(history: History) -> None:
    """Each row comes before the one before it is due: the batch must be written all the same."""
    writer = HistoryWriter(history, flush_s=0.2)
    for number in range(4000):
        writer.put(event(number))
        time.sleep(0.01)
        if writer.written:
            break
    assert writer.written, "nothing was written until the trickle ended"
    writer.close()
    assert history.count("events") == writer.written


def test_no_row_is_lost_between_batches(history: History) -> None:
    with sqlite3.connect(str(history.url).removeprefix("sqlite:///"), isolation_level=None) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        writer = HistoryWriter(history, flush_s=0.01)
        for number in range(11_500):
            writer.put(event(number))
        blocker.execute("ROLLBACK")
    writer.close(timeout_s=30.0)
    assert (history.count("events"), writer.dropped) == (11_500, 0)


@pytest.mark.parametrize("bad", [
    pytest.param(SignalSample(at_s=1.0, signal="s", value=None), id="nothing"),  # type: ignore[arg-type]
    pytest.param(RequestRecord(at_s=1.0, request_id="r", model="m", outcome=RequestOutcome.OK, status=2**63), id="big"),
    pytest.param(replace(event(1), data={"x": object()}), id="no JSON"),
    pytest.param(replace(event(1), message="\ud800"), id="no Unicode"),
])  # fmt: skip
def test_a_row_that_the_database_refuses_is_dropped_alone_and_counted(history: History, bad: Any) -> None:
    writer = HistoryWriter(history, flush_s=0.01)
    for number in range(100):
        writer.put(bad if number == 40 else event(number))
    writer.close(30.0)
    assert (history.count("events"), writer.written, writer.dropped, writer.failures) == (99, 99, 1, 0)


def test_a_failing_write_is_counted_and_tried_again(history: History) -> None:
    writer = HistoryWriter(history, flush_s=0.01)
    with history._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE events RENAME TO elsewhere")
    writer.put(event(1))
    until(lambda: writer.failures >= 2, "two failures")
    with history._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO events")
    until(lambda: writer.written == 1, "a row written")
    writer.close()
    assert history.count("events") == 1


def test_a_write_that_fails_for_long_is_said_once_and_so_is_its_end(
    history: History, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    whole = history.keep

    def refused(_values: Any) -> int:
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("attempt to write a readonly database"))

    monkeypatch.setattr(history, "keep", refused)
    writer = HistoryWriter(history, flush_s=0.01)
    writer.put(event(1))
    until(lambda: writer.failures > 5)
    monkeypatch.setattr(history, "keep", whole)
    until(lambda: writer.written == 1)
    writer.close()
    assert [record.getMessage() for record in caplog.records if record.name == "fleet.history.writer"] == [
        "history: 1 rows wait, the write failed and is tried again: attempt to write a readonly database",
        "history: it can be written again",
    ]
    assert history.count("events") == 1
