"""The whole service as a process: learns from a history, is killed, comes back, stops cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.history import History, RequestOutcome, RequestRecord
from predictor.features import NAMES
from tests.waiting import ENDS_WITHIN_S, until

pytestmark = pytest.mark.integration

ROW = {"kv_cache_percentage": 0.3, "input_token_length": 1000, "num_request_waiting": 0, "num_request_running": 5,
       "num_tokens_generated": 0, "prefix_cache_score": 0.5, "endpoint": "http://a:1", "variant": "h100"}  # fmt: skip


class Live:
    """``fleet predictor serve`` processes on one home folder."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.url, self.history_url = home, f"http://127.0.0.1:{port}", f"sqlite:///{home / 'h.sqlite3'}"
        self.port, self.processes = port, []

    def start(self) -> subprocess.Popen[bytes]:
        arguments = ("predictor", "serve", "--port", self.port, "--refit-s", 0.3, "--die-with-parent",
                     "--history-url", self.history_url, "--home", self.home)  # fmt: skip
        with (self.home / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "fleet.cli", *map(str, arguments)], stderr=log)
        self.processes.append(process)
        return process

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, None

    def until(self, done: Callable[[], bool], what: str) -> None:
        until(done, lambda: f"{what}: {(self.home / 'log').read_text()}")

    def ready(self) -> bool:
        return self.ask("/readyz")[0] == 200


@pytest.fixture
def live(tmp_path: Path, free_port: int) -> Iterator[Live]:
    running = Live(tmp_path, free_port)
    yield running
    for process in running.processes:
        process.kill()
        process.wait()


def _write(history: History, samples) -> None:
    history.add(
        RequestRecord(
            at_s=float(number), request_id=str(number), model="m", outcome=RequestOutcome.OK, status=200,
            endpoint=sample.endpoint, variant=sample.variant, streaming=True, ttft_s=sample.ttft_s,
            tpot_s=sample.tpot_s, features=dict(zip(NAMES, sample.features, strict=True)),
        )
        for number, sample in enumerate(samples)
    )  # fmt: skip


def _children(pid: int) -> set[int]:
    return {int(path.name) for path in Path("/proc").glob("[0-9]*") if _parent(path) == pid}


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None  # it ended meanwhile


def test_learns_from_the_history_and_answers(live: Live, world) -> None:
    process = live.start()
    live.until(lambda: live.ask("/healthz")[0] == 200, "never healthy")
    assert live.ask("/readyz") == (503, {"detail": "Models are not ready: 0 of 30 ttft samples, 0 of 30 tpot samples"})
    history = History(live.history_url)
    _write(history, world(200))
    live.until(live.ready, "never ready")
    code, answer = live.ask("/predict", ROW)
    assert code == 200
    assert 10 < answer["ttft_ms"] < 500
    assert live.ask("/status")[1]["samples"] == 200
    live.until(lambda: bool(history.read("events", kind="model")), "no event")
    assert history.read("events", kind="model")[0]["message"].startswith("first fit: fitted on 200 samples")
    process.send_signal(signal.SIGTERM)
    assert process.wait(ENDS_WITHIN_S) == 0
    assert "Traceback" not in (live.home / "log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and relies on the parent-death signal")
def test_killed_it_leaves_no_orphan_and_its_successor_serves_the_same_model(live: Live, world) -> None:
    history = History(live.history_url)
    _write(history, world(200))
    process = live.start()
    live.until(live.ready, "never ready")
    before, children = live.ask("/predict", ROW)[1]["ttft_ms"], _children(process.pid)
    assert children, "fits run in a process of their own"
    process.kill()
    process.wait()
    live.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "orphans")
    live.history_url = "sqlite:////proc/nowhere/h.sqlite3"
    live.start()
    live.until(live.ready, "the artifact was not loaded")
    assert live.ask("/predict", ROW)[1]["ttft_ms"] == before
    live.until(lambda: "cannot be" in live.ask("/status")[1]["history_error"], "the history's loss is not told")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process in /proc")
def test_killing_the_fitting_process_does_not_stop_the_service(live: Live, world) -> None:
    history, samples = History(live.history_url), world(300)
    _write(history, samples[:200])
    process = live.start()
    live.until(live.ready, "never ready")
    for pid in _children(process.pid):
        os.kill(pid, signal.SIGKILL)
    _write(history, samples[200:250])
    live.until(lambda: live.ask("/data/status")[1]["accepted"] == 250, "rows not read")
    _write(history, samples[250:])
    live.until(lambda: live.ask("/status")[1]["samples"] == 300, "never fitted again")
    assert live.ask("/predict", ROW)[0] == 200


def test_a_taken_port_is_one_line(live: Live) -> None:
    live.start()
    live.until(lambda: live.ask("/healthz")[0] == 200, "never healthy")
    second = live.start()
    assert second.wait(ENDS_WITHIN_S) == 2
    lines = [line for line in (live.home / "log").read_text().splitlines() if line.startswith("fleet: ")]
    assert len(lines) == 1
    assert f"port {live.port} cannot be used" in lines[0]
