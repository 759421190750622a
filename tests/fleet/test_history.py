"""The history: what is written is read back, readers and writers share the file, bad paths give one line."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from fleet.errors import HistoryError
from fleet.history import Event, History, HistoryWriter, RequestOutcome, RequestRecord, SignalSample
from fleet.history.schema import metadata
from fleet.types import Decision, Direction, Reason


def _request(at_s: float, **changes: object) -> RequestRecord:
    fields = {"at_s": at_s, "request_id": f"r{at_s}", "model": "m", "outcome": RequestOutcome.OK, "status": 200}
    return RequestRecord(**{**fields, **changes})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'h' / 'history.sqlite3'}"


def test_all_four_kinds_come_back_as_they_went_in(url: str) -> None:
    history = History(url)
    decision = Decision(at_s=3.0, variant="v", namespace="n", model="m", accelerator="h100_sxm", current=1, desired=2,
                        direction=Direction.UP, reason=Reason.SATURATED, detail="0.9 > 0.8", saturation=0.9,
                        signals={"kv": 0.97, "queue": None})  # fmt: skip
    rows = [
        SignalSample(at_s=1.0, signal="vllm:num_requests_waiting", value=4.0, endpoint="http://e"),
        _request(2.0, ttft_s=0.1, features={"waiting": 2.0}),
        decision,
        Event(at_s=4.0, kind="scale", subject="v", message="1 to 2", data={"from": 1, "to": 2}),
    ]
    assert history.add(rows) == 4
    assert history.read("samples")[0]["value"] == 4.0
    assert history.read("requests")[0]["features"] == {"waiting": 2.0}
    stored = history.read("decisions")[0]
    assert (stored["reason"], stored["direction"], stored["signals"]) == (
        "saturated",
        "up",
        {"kv": 0.97, "queue": None},
    )
    assert history.read("events")[0]["data"] == {"from": 1, "to": 2}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        pytest.param({"since_s": 2.0}, [2.0, 3.0, 4.0], id="since-includes-its-bound"),
        pytest.param({"until_s": 3.0}, [1.0, 2.0], id="until-excludes-its-bound"),
        pytest.param({"limit": 2, "newest_first": True}, [4.0, 3.0], id="newest-first"),
        pytest.param({"after_id": 3}, [4.0], id="following-by-id"),
        pytest.param({"model": "other"}, [3.0], id="a-column-equals"),
        pytest.param({"model": ["other", "m"], "limit": 1}, [1.0], id="a-column-is-one-of"),
    ],
)
def test_read_filters(url: str, where: dict[str, object], expected: list[float]) -> None:
    history = History(url)
    history.add(_request(at, model="other" if at == 3.0 else "m") for at in (1.0, 2.0, 3.0, 4.0))
    assert [row["at_s"] for row in history.read("requests", **where)] == expected


def test_prune_drops_only_what_is_older(url: str) -> None:
    history = History(url)
    history.add(_request(at) for at in (1.0, 2.0, 3.0))
    assert history.prune(3.0) == 2
    assert [row["at_s"] for row in history.read("requests")] == [3.0]


def test_migrations_and_schema_say_the_same(url: str) -> None:
    History(url).close()
    with create_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_file_is_in_wal_mode(url: str) -> None:
    History(url).close()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_writer_killed_in_mid_flight_loses_nothing_committed_and_the_file_stays_usable(url: str) -> None:
    script = (
        "import sys, time\n"
        "from fleet.history import History, Event\n"
        "history = History(sys.argv[1])\n"
        "for number in range(100000):\n"
        "    history.add([Event(at_s=float(number), kind='process', subject='w', message=str(number))])\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    committed = -1
    while committed < 50:
        committed = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    survivor = History(url)
    assert len(survivor.read("events")) >= committed + 1
    assert survivor.add([Event(at_s=1e9, kind="process", subject="w", message="after")]) == 1


def test_two_processes_may_open_a_new_history_at_once(url: str) -> None:
    script = "import sys; from fleet.history import History; History(sys.argv[1]); print('ok')"
    both = [subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["ok", "ok"]


def test_the_writer_thread_writes_what_it_was_given(url: str) -> None:
    history = History(url)
    writer = HistoryWriter(history, flush_s=0.01)
    for number in range(1200):
        writer.put(_request(float(number)))
    writer.close()
    assert (history.count("requests"), writer.dropped) == (1200, 0)


def test_the_writer_counts_what_it_has_no_room_for(url: str) -> None:
    history = History(url)
    writer = HistoryWriter(history, flush_s=0.01, max_rows=5)
    with sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        deadline = time.monotonic() + 120
        while not writer.dropped and time.monotonic() < deadline:
            writer.put(_request(1.0))
        blocker.execute("ROLLBACK")
    writer.close()
    assert writer.dropped > 0
    assert history.count("requests") == writer.written > 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        pytest.param("nonsense", "is no SQLAlchemy URL", id="no-url"),
        pytest.param("sqlite:////proc/nowhere/h.sqlite3", "folder cannot be made", id="folder-cannot-be-made"),
        pytest.param("sqlite:////dev/null", "cannot be opened", id="no-database-file"),
    ],
)
def test_a_path_that_cannot_be_used_gives_one_line(bad: str, words: str) -> None:
    with pytest.raises(HistoryError, match=words) as caught:
        History(bad)
    assert "\n" not in str(caught.value)


def test_a_history_of_a_newer_version_gives_one_line(url: str) -> None:
    History(url).close()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(HistoryError, match="9999"):
        History(url)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/sys").exists(), reason="root may write anywhere")
def test_a_read_only_folder_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="FLEET_HOME"):
        History("sqlite:////proc/sys/history.sqlite3")


def _damaged(path: Path) -> None:
    """Whole, and then overwritten in its middle."""
    history = History(f"sqlite:///{path}")
    history.add([_request(float(number)) for number in range(2000)])
    history.close()
    pages = bytearray(path.read_bytes())
    pages[4096 : len(pages) // 2] = b"\xff" * (len(pages) // 2 - 4096)
    path.write_bytes(bytes(pages))


def test_a_damaged_file_is_told_from_one_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    for spoil in (lambda: path.write_bytes(b"\x01no database at all" * 500), lambda: _damaged(path)):
        path.unlink(missing_ok=True)
        spoil()
        with pytest.raises(HistoryError, match="Move it away, and a new one is begun") as caught:
            History(f"sqlite:///{path}")
        assert "\n" not in str(caught.value)
        assert "permissions" not in str(caught.value)


def test_a_file_that_can_only_be_read_is_refused_at_once_and_can_be_read(url: str) -> None:
    History(url).add([_request(1.0)])
    only_read = f"sqlite:///file:{url.removeprefix('sqlite:///')}?mode=ro&uri=true"
    with pytest.raises(HistoryError, match=r"readonly database\. Check its permissions"):
        History(only_read)
    assert History(only_read, read_only=True).count("requests") == 1
    assert not Path("file:").exists(), "no folder is made of the address"


def test_a_database_of_another_kind_is_said_to_be_none_of_ours() -> None:
    with pytest.raises(HistoryError, match=r"no such database is supported \(limit: sqlite, postgresql\)"):
        History("oracle://u:secret@db/x")
