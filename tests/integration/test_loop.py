"""The whole loop as a user runs it: `fleet up`, its JSON, and what happens when parts are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from fleet.history import History
from tests.integration import screenshots
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@dataclass
class Loop:
    """One running `fleet up`."""

    process: subprocess.Popen[str]
    home: Path
    addresses: dict[str, str] = field(default_factory=dict)

    def wait_until_up(self, seconds: float = 180.0) -> None:
        """Read the addresses from the line that announces them."""
        log = self.home / "stderr.log"

        def announced() -> bool:
            found = re.search(r"all parts are up .*?: (.*)", log.read_text())
            if found:
                self.addresses = dict(pair.rsplit(" ", 1) for pair in found[1].split(", "))
            return bool(found)

        until(announced, lambda: log.read_text()[-2000:], limit_s=seconds, every_s=0.2)

    def finish(self, seconds: float) -> tuple[int, dict[str, Any]]:
        """Exit code and the JSON object."""
        out, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, json.loads(out)

    def pid_of(self, *words: str) -> int:
        """The pid of the process below us whose command line has all words."""
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = status.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if all(word in line for word in words):
                return int(status.parent.name)
        raise AssertionError(f"no process with {words}")


def start(home: Path, traces: Path | None, *arguments: str) -> Loop:
    """Start `fleet up` headless in a folder of its own."""
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fleet.cli", "up", "--headless", "--json", "--home", str(home), *arguments]
    environment = os.environ | ({"FLEET_TRACES": str(traces)} if traces else {})
    environment.pop("FLEET_HOME", None)
    with (home / "stderr.log").open("w") as log:
        return Loop(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment), home)


@pytest.fixture
def launch(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Loop]:
    """Start loops that are surely gone after the test."""

    def begin(*arguments: str, traces: Path | None = None) -> Loop:
        loop = start(tmp_path / "up", traces, *arguments)

        def end() -> None:
            if loop.process.poll() is None:
                loop.process.send_signal(signal.SIGTERM)
                loop.process.wait(90)

        request.addfinalizer(end)
        return loop

    return begin


@pytest.mark.needs_chromium
def test_the_loop_serves_scales_both_ways_learns_and_shows_it_on_every_page(
    launch: Callable[..., Loop], traces_dir: Path, chromium_binary: str
) -> None:
    loop = launch("--duration", "120", traces=traces_dir)
    loop.wait_until_up()
    time.sleep(45)  # some history to show: the first rise of the load
    assert walk(loop.addresses["console"], chromium_binary) == {}
    code, result = loop.finish(240)

    assert (code, result["died"], result["engine_restarts"]) == (0, [], 0)
    assert result["requests"] > 800
    assert result["success_rate"] > 0.99
    directions = {event["direction"] for event in result["scale_events"]}
    assert directions == {"up", "down"}
    assert all(event["reason"] and event["from"] != event["to"] for event in result["scale_events"])
    assert result["predictor"]["samples"] > 200
    assert result["predictor"]["error"]
    assert set(result["replicas"]) == {"llama-8b-h100", "llama-8b-a100"}
    assert 0 < result["ttft_p50_s"] <= result["ttft_p95_s"]
    assert 0 < result["tpot_p50_s"] <= result["tpot_p95_s"]
    assert result["tokens_per_s"] > 500
    assert result["client"]["requests"] == pytest.approx(result["requests"], rel=0.02)

    history = History(f"sqlite:///{loop.home}/history.sqlite3")
    assert all(history.count(table) > 0 for table in ("samples", "requests", "decisions", "events"))


def walk(console: str, chromium: str) -> dict[str, list[str]]:
    """Open every page of a running console; error boxes and browser errors by page."""
    found: dict[str, list[str]] = {}
    with screenshots.browser(chromium) as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        heard: list[str] = []
        screenshots.listen(page, heard)
        for name in screenshots.PAGES:
            page.goto(f"{console}/{'' if name == 'overview' else name}")
            screenshots.settle(page)
            if wrong := screenshots.complaints(page) + heard:
                found[name] = wrong
    return found


def test_killed_engine_predictor_and_controller_come_back_and_lose_only_what_was_in_flight(
    launch: Callable[..., Loop],
) -> None:
    loop = launch("--duration", "60", "--no-console", "--mean-rps", "6")
    loop.wait_until_up()
    until(lambda: _sent(loop) > 60, "sixty requests are sent")
    platform = loop.addresses["simulator"]
    victim = next(replica for replica in _replicas(platform) if replica["state"] == "ready")
    in_flight = _running(victim["url"])
    os.kill(loop.pid_of("simulator.engine_main", f"--port {victim['url'].rsplit(':', 1)[1]}"), signal.SIGKILL)
    os.kill(loop.pid_of("predictor serve", str(loop.home)), signal.SIGKILL)
    os.kill(loop.pid_of("wva run", str(loop.home)), signal.SIGKILL)

    until(lambda: all(_healthy(loop.addresses[name]) for name in ("predictor", "controller")), "well again")
    until(lambda: any(r["name"] == victim["name"] and r["state"] == "ready" for r in _replicas(platform)), "its engine")
    code, result = loop.finish(180)

    assert code == 1, "a part died on the way, so the run says so"
    assert sorted(line.split(" ")[0] for line in result["died"]) == ["predictor", "wva"]
    assert result["engine_restarts"] == 1
    failed = result["client"]["failed"]
    assert failed <= in_flight + 5, result["client"]["failures"]
    assert result["predictor"]["samples"] > 0
    events = History(f"sqlite:///{loop.home}/history.sqlite3").read("events", kind="process")
    assert {event["subject"] for event in events} == {"predictor", "wva"}


def test_a_taken_port_is_replaced_and_ctrl_c_ends_every_process(launch: Callable[..., Loop]) -> None:
    import socket

    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody else holds it: just as good
        loop = launch("--no-console", "--mean-rps", "3")
        loop.wait_until_up()
    assert not loop.addresses["requests"].endswith(":8080/v1")
    assert "ports that are taken are replaced: " in (loop.home / "stderr.log").read_text()
    answer = requests.get(loop.addresses["requests"] + "/models", timeout=10)
    assert answer.json()["data"][0]["id"] == "meta-llama/Llama-3.1-8B-Instruct"
    loop.process.send_signal(signal.SIGINT)
    code, result = loop.finish(60)
    assert (code, result["died"]) == (0, [])
    assert "history is kept in" in (loop.home / "stderr.log").read_text()
    until(lambda: not _left(loop.home), lambda: f"all ended: {_left(loop.home)}")


def _left(home: Path) -> list[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = status.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(home) in line and str(os.getpid()) != status.parent.name:
            found.append(line)
    return found


def _sent(loop: Loop) -> int:
    try:
        return int(json.loads((loop.home / "traffic.json").read_text()).get("sent", 0))
    except (OSError, ValueError):
        return 0


def _replicas(platform: str) -> list[dict[str, Any]]:
    document = requests.get(f"{platform}/fleet", timeout=5).json()
    return [replica for variant in document["variants"] for replica in variant["replicas"]]


def _running(engine: str) -> int:
    page = requests.get(f"{engine}/metrics", timeout=5).text
    values = re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)", page, re.MULTILINE)
    return int(sum(map(float, values)))


def _healthy(address: str) -> bool:
    try:
        return requests.get(f"{address}/healthz", timeout=2).status_code == 200
    except requests.RequestException:
        return False
