"""The controller as a process: a start without its Prometheus, and a death in mid-transition."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from fleet.history import History
from tests.waiting import ENDS_WITHIN_S, until
from tests.wva.fake_platform import FakePlatform, serving
from tests.wva.test_wva_loop import CAREFUL, FULL, IDLE
from tests.wva.wva_builders import spec


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with serving(FakePlatform(spec("a", max_replicas=4, **CAREFUL))) as running:
        yield running


def start(platform: FakePlatform, folder: Path, port: int, *options: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "fleet.cli", "wva", "run", "--platform", platform.url, "--port", str(port),
            "--interval-s", "0.2", "--scale-down-stabilisation-s", "2", *options]  # fmt: skip
    environment = {**os.environ, "FLEET_HOME": str(folder)}
    return subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)


def written(folder: Path) -> set[str]:
    """Directions of the scalings that the history has."""
    events = History(f"sqlite:///{folder / 'history.sqlite3'}").read("events", kind="scale")
    return {each["data"]["direction"] for each in events}


@pytest.mark.integration
def test_with_wait_it_starts_without_prometheus_and_holds(
    platform: FakePlatform, tmp_path: Path, free_port: int
) -> None:
    platform.load = IDLE
    platform.scale("a", 3)
    nowhere = ("--source", "prometheus", "--prometheus-url", "http://127.0.0.1:9", "--wait")
    process = start(platform, tmp_path, free_port, *nowhere)
    try:
        base = f"http://127.0.0.1:{free_port}"
        until(lambda: requests.get(f"{base}/healthz", timeout=30).ok, "healthy")
        decision = requests.get(f"{base}/fleet", timeout=30).json()["decisions"][0]
        metrics = requests.get(f"{base}/metrics", timeout=30).text
        process.send_signal(signal.SIGINT)
        assert process.wait(ENDS_WITHIN_S) == 0
    finally:
        process.kill()
        _, errors = process.communicate()
    assert (decision["desired"], decision["reason"]) == (3, "no_signal")
    assert 'wva_errors_total{component="source",error_type="ConnectionError"}' in metrics
    assert "_created" not in metrics
    assert "Prometheus http://127.0.0.1:9: cannot be reached" in errors
    assert "Traceback" not in errors
    assert platform.scalings == []


@pytest.mark.integration
def test_a_whole_process_killed_in_mid_transition_goes_on(
    platform: FakePlatform, tmp_path: Path, free_port: int
) -> None:
    base = f"http://127.0.0.1:{free_port}"
    platform.load = FULL
    process = start(platform, tmp_path, free_port)
    try:
        until(lambda: platform.variants["a"].requested == 4, "scaled up")
        until(lambda: written(tmp_path) == {"up"}, "the scaling is written down")  # a killed writer loses the latest
        until(lambda: requests.get(f"{base}/healthz", timeout=30).status_code == 200, "healthy")
    finally:
        process.kill()
        process.wait()
    learned = json.loads((tmp_path / "wva-state.json").read_text())
    assert learned["variants"]["default/a"]["requested"] >= 3
    platform.load = IDLE
    process = start(platform, tmp_path, free_port)
    try:
        until(lambda: platform.variants["a"].requested < 4, "scaled down")
        until(lambda: requests.get(f"{base}/healthz", timeout=30).ok, "healthy")
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_S) == 0
    finally:
        process.kill()
        _, errors = process.communicate()
    assert "state: goes on with 1 variants" in errors
    assert "Traceback" not in errors
    assert written(tmp_path) == {"up", "down"}
