"""Following a real history: each row once, garbled rows alone, absent and broken files survived."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fleet.errors import HistoryError
from fleet.history import Event, History, RequestOutcome, RequestRecord
from predictor.features import NAMES
from predictor.train import Follower, newest_pool


def record(number: int, **changes: object) -> RequestRecord:
    values = {
        "at_s": float(number),
        "request_id": str(number),
        "model": "m",
        "outcome": RequestOutcome.OK,
        "status": 200,
        "endpoint": "http://a:1",
        "variant": "h100",
        "streaming": True,
        "ttft_s": 0.2,
        "tpot_s": 0.01,
        "features": dict.fromkeys(NAMES, 1.0),
        **changes,
    }
    return RequestRecord(**values)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'history.sqlite3'}"


def test_each_finished_request_is_read_once(url: str) -> None:
    history, follower = History(url), Follower(url, limit=100)
    assert follower.poll() == []
    history.add([record(1), record(2, outcome=RequestOutcome.ERROR), record(3)])
    assert len(follower.poll()) == 2
    assert follower.poll() == []
    history.add([record(4)])
    assert [row["features"] for row in follower.poll()] == [dict.fromkeys(NAMES, 1.0)]


def test_starts_with_the_newest_and_catches_up_in_pieces(url: str) -> None:
    history, follower = History(url), Follower(url, limit=50)
    history.add([record(i) for i in range(500)])
    assert [len(follower.poll()) for _ in range(4)] == [50, 50, 50, 0]
    history.add([record(i) for i in range(70)])
    assert [len(follower.poll()) for _ in range(3)] == [50, 20, 0]


def test_a_garbled_row_spoils_only_itself(url: str, tmp_path: Path) -> None:
    History(url).add([record(1), record(2), record(3)])
    with sqlite3.connect(tmp_path / "history.sqlite3") as database:
        database.execute("UPDATE requests SET features = '{\"input_tok' WHERE request_id = '2'")
    pool = newest_pool(url, limit=100)
    assert len(pool) == 2
    assert dict(pool.rejected) == {"missing_features": 1}


def test_a_broken_history_is_one_failed_poll(url: str, tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite3"
    file.write_bytes(b"this is no database, and long enough to be taken for one" * 50)
    follower = Follower(url, limit=100)
    with pytest.raises(HistoryError) as caught:
        follower.poll()
    assert "not a database" in str(caught.value)
    assert "\n" not in str(caught.value)
    file.unlink()
    History(url).add([record(1)])
    assert len(follower.poll()) == 1


def test_a_table_that_went_away_is_one_failed_poll(url: str, tmp_path: Path) -> None:
    follower = Follower(url, limit=100)
    History(url).add([record(1)])
    assert len(follower.poll()) == 1
    with sqlite3.connect(tmp_path / "history.sqlite3") as database:
        database.execute("ALTER TABLE requests RENAME TO away")
    with pytest.raises(HistoryError, match="no such table"):
        follower.poll()
    with sqlite3.connect(tmp_path / "history.sqlite3") as database:
        database.execute("ALTER TABLE away RENAME TO requests")
    History(url).add([record(2)])
    assert len(follower.poll()) == 1


def test_another_file_in_its_place_is_read_from_its_start(url: str, tmp_path: Path) -> None:
    History(url).add([record(i) for i in range(30)])
    follower = Follower(url, limit=100)
    assert len(follower.poll()) == 30
    follower.close()
    for file in tmp_path.glob("history.sqlite3*"):
        file.unlink()
    History(url).add([record(1), record(2)])
    assert len(follower.poll()) == 2


def test_events_are_written(url: str) -> None:
    Follower(url, limit=10).note([Event(at_s=1.0, kind="model", subject="predictor", message="first fit")])
    assert [row["message"] for row in History(url).read("events", kind="model")] == ["first fit"]
