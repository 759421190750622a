"""``fleet alerts watch`` as a process, against pages that a small server gives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from fleet.history import History
from tests.waiting import ENDS_WITHIN_S, until

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


class World:
    """Pages by path prefix; ``down`` ones answer 500."""

    def __init__(self) -> None:
        self.kv, self.down = 0.99, False

    def engine(self) -> str:
        at = f'{{engine="0",model_name="{MODEL}"}}'
        return f"vllm:kv_cache_usage_perc{at} {self.kv}\nvllm:num_requests_running{at} 1.0\n"

    def fleet(self, base: str) -> str:
        replica = {"name": "v-0", "url": base + "/engine", "variant": "v", "state": "ready", "since_s": 0}
        spec = {"name": "v", "model": MODEL, "accelerator": "h100_sxm", "requested": 1, "replicas": [replica]}
        return json.dumps({"variants": [spec]})


@pytest.fixture
def world() -> Iterator[tuple[World, str]]:
    state = World()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            texts = {"/engine/metrics": state.engine(), "/fleet": state.fleet(base), "/wva/metrics": ""}
            ok = self.path in texts and not (self.path == "/wva/metrics" and state.down)
            self.send_response(200 if ok else 500)
            self.end_headers()
            self.wfile.write(texts[self.path].encode() if ok else b"")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    base = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state, base
    server.shutdown()
    server.server_close()


def get(url: str) -> requests.Response | None:
    try:
        return requests.get(url, timeout=30)
    except requests.ConnectionError:
        return None


@pytest.fixture
def watch(world: tuple[World, str], tmp_path: Path, free_port: int) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    _, base = world
    history = f"sqlite:///{tmp_path / 'history.sqlite3'}"
    command = [
        sys.executable, "-m", "fleet.cli", "alerts", "watch", "--platform", base, "--wva", base + "/wva",
        "--port", str(free_port), "--interval-s", "0.2", "--for-scale", "0.005", "--history-url", history,
        "--die-with-parent",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{free_port}"
    until(lambda: process.poll() is not None or ((answer := get(url + "/healthz")) and answer.ok))
    assert process.poll() is None, process.stderr and process.stderr.read()
    yield url, history, process
    process.kill()
    process.wait(ENDS_WITHIN_S)


@pytest.mark.integration
def test_an_alert_fires_resolves_and_is_written_down(
    world: tuple[World, str], watch: tuple[str, str, subprocess.Popen[str]]
) -> None:
    state, _ = world
    url, history, process = watch

    def firing() -> list[dict[str, Any]]:
        alerts = requests.get(url + "/alerts", timeout=30).json()["alerts"]
        return [alert for alert in alerts if alert["state"] == "firing" and alert["alert"] == "KVMemoryPressure"]

    alert = until(firing)[0]
    assert alert["labels"]["pod"] == "v-0"
    assert alert["labels"]["namespace"] == "default"
    assert alert["value"] == 0.99
    assert alert["summary"] == f"{MODEL}: KV cache 99% full on v-0"
    assert alert["console"].endswith("/?model=meta-llama%2FLlama-3.1-8B-Instruct&alert=KVMemoryPressure")
    assert 'alertname="KVMemoryPressure",alertstate="firing"' in requests.get(url + "/metrics", timeout=30).text
    state.kv = 0.2
    until(lambda: not firing())
    process.send_signal(signal.SIGTERM)
    assert process.wait(ENDS_WITHIN_S) == 0
    rows = History(history).read("events", kind="alert", subject="KVMemoryPressure")
    assert [(row["data"]["state"], row["data"]["model"]) for row in rows] == [("firing", MODEL), ("resolved", MODEL)]
    assert rows[0]["severity"] == "warning"


@pytest.mark.integration
def test_compression_is_said_and_a_part_that_dies_is_named(
    world: tuple[World, str], watch: tuple[str, str, subprocess.Popen[str]]
) -> None:
    state, _ = world
    url, _, process = watch
    state.down = True

    def down() -> list[dict[str, Any]]:
        alerts = requests.get(url + "/alerts", timeout=30).json()["alerts"]
        return [alert for alert in alerts if alert["alert"] == "TargetDown" and alert["state"] == "firing"]

    assert until(down)[0]["labels"]["job"] == "wva"
    document = requests.get(url + "/alerts", timeout=30).json()
    assert document["for_scale"] == 0.005
    assert "compressed to 0.005" in document["note"]
    assert "GPUHung" in document["not_evaluated"]
    process.send_signal(signal.SIGINT)
    assert process.wait(ENDS_WITHIN_S) == 0
    assert process.stderr is not None
    assert "times 0.005" in process.stderr.read()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param([], "nothing to watch", id="no target"),
        pytest.param(["--router", "localhost:1"], "'localhost:1' is no URL", id="a router that is no URL"),
        pytest.param(["--platform", "http://a", "--engines", "http://b"], "both --platform and --engines", id="both"),
        pytest.param(["--router", "http://a", "--slo", "/nowhere.yaml"], "no such file", id="no SLO file"),
        pytest.param(["--router", "http://a", "--interval-s", "-1"], "INTERVAL_S", id="a negative interval"),
    ],
)
def test_bad_input_gives_one_line(arguments: list[str], line: str) -> None:
    command = [sys.executable, "-m", "fleet.cli", "alerts", "watch", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert line in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
