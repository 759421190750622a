"""The router as a process: start, serve, stop, and its one-line errors."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from fleet.discovery import variant_to_json
from fleet.errors import ConfigError
from fleet.history import History
from fleet.types import ReplicaState
from router.profile import DEFAULT
from router.service import RouterService
from router.settings import RouterSettings
from tests import waiting
from tests.router.dataplane_stubs import Client, Engine, completion, events, on_loop, until
from tests.router.test_router_app import ask, engine_script, started
from tests.router.test_router_scrape import fleet, models, page, pages

PIECE = b'data: {"choices":[{"text":"x"}]}\n\n'


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({}, "one source of engines", id="no source of engines"),
        pytest.param({"engines": "http://a:1", "platform": "http://b:2"}, "one source of engines", id="two sources"),
        pytest.param({"engines": "a:1"}, "no engine URL", id="an engine that is no URL"),
    ],
)
def test_settings_that_cannot_work_are_refused(given, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        RouterService(RouterSettings(**given), DEFAULT, home=tmp_path)


@on_loop
async def test_a_replica_that_stops_gets_no_new_request_while_its_stream_goes_on(tmp_path):
    gate = asyncio.Event()

    async def slow(_engine, _request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
        await gate.wait()
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(PIECE), PIECE))

    async with Engine(engine_script(slow)) as old, Engine(engine_script()) as new:
        documents = [_document((old.url, ReplicaState.READY))]

        async def platform_script(_engine, _request, writer):
            body = documents[-1]
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body)

        async with Engine(platform_script) as platform:
            settings = RouterSettings(platform=platform.url, port=0, admin_port=0, poll_s=0.02, scrape_s=0.05)
            service = RouterService(settings, DEFAULT, home=tmp_path)
            await service.start()
            client = Client(*await asyncio.open_connection("127.0.0.1", service.port))
            client.send(completion(stream=True))
            await client.reader.readuntil(b"\r\n\r\n")
            documents.append(_document((old.url, ReplicaState.STOPPING), (new.url, ReplicaState.READY)))
            await until(lambda: [one.url for one in service.endpoints.ready] == [new.url])
            for _ in range(5):
                assert (await ask(service.port, completion(stream=True))).status == 200
            gate.set()
            assert await client._body({"transfer-encoding": "chunked"}) == PIECE * 2
            posts = [request for request in old.requests if request.line.startswith("POST")]
            assert len(posts) == 1
            await service.stop()


def _document(*replicas: tuple[str, ReplicaState]) -> bytes:
    (variant,) = fleet(*[state for _, state in replicas])
    entry = variant_to_json(variant)
    for item, (url, _) in zip(entry["replicas"], replicas, strict=True):
        item["url"], item["name"] = url, url
    return json.dumps({"variants": [{**entry, "model": "m"}]}).encode()


@on_loop
async def test_a_stop_waits_for_streams_and_refuses_new_connections(tmp_path):
    async with Engine(engine_script(events(*[PIECE] * 10, gap_s=0.03))) as engine:
        service = await started(engine.url, tmp_path)
        client = Client(*await asyncio.open_connection("127.0.0.1", service.port))
        port = service.port
        client.send(completion(stream=True))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        stopping = asyncio.ensure_future(service.stop())
        await asyncio.sleep(0.05)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
        assert await client._body({"transfer-encoding": "chunked"}) == PIECE * 10
        await stopping


@on_loop
async def test_a_stop_does_not_wait_for_ever(tmp_path):
    async with Engine(engine_script(events(PIECE, end=False))) as engine:
        service = await started(engine.url, tmp_path)
        client = Client(*await asyncio.open_connection("127.0.0.1", service.port))
        client.send(completion(stream=True))
        await client.reader.readuntil(b"\r\n\r\n")
        await service.stop()
        assert len(service.gateway.director.ledger) == 0


@on_loop
async def test_the_index_remembers_no_more_than_an_engine_can_cache(tmp_path):
    body = b'vllm:num_requests_waiting 0\nvllm:cache_config_info{block_size="16",num_gpu_blocks="40"} 1\n'
    script = pages(metrics=page(body), models=models("m"), completions=events(PIECE))
    async with Engine(script) as engine:
        service = await started(engine.url, tmp_path)
        await until(lambda: service.endpoints.ready[0].sample)
        await ask(service.port, completion(prompt="word " * 4000))
        assert service.gateway.director.known.prefix.sizes()[engine.url] == 640 // 64
        await service.stop()


def _start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fleet.cli", "router", "serve", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((), "one source of engines", id="no engines"),
        pytest.param(("--engines", "nonsense"), "no engine URL", id="engines that are no URLs"),
        pytest.param(("--engines", "http://a:1", "--config", "/no/such/file.yaml"), "/no/such", id="no such config"),
        pytest.param(
            ("--engines", "http://a:1", "--history-url", "sqlite:////proc/none/h.sqlite3"), "/proc/none", id="history"
        ),
        pytest.param(
            ("--engines", "http://a:1", "--slo", "/no/such/slos.yaml"), "/no/such/slos.yaml", id="no SLO file"
        ),
        pytest.param(("--engines", "http://a:1", "--scrape-s", "-1"), "ROUTER_SCRAPE_S", id="a negative interval"),
        pytest.param(("--engines", "http://a:1", "--port", "99999"), "ROUTER_PORT", id="no such port"),
    ],
)
def test_bad_input_gives_one_line_and_2(arguments, message, tmp_path):
    process = _start("--home", str(tmp_path), *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    lines = [line for line in errors.splitlines() if " INFO " not in line]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_taken_port_gives_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = _start("--home", str(tmp_path), "--engines", "http://a:1", "--port", port, "--admin-port", "0")
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"port {port} cannot be used" in errors.splitlines()[-1]


@pytest.mark.integration
def test_the_process_serves_records_and_stops_cleanly(tmp_path, free_port):
    log = tmp_path / "log"
    command = [sys.executable, "-m", "fleet.cli", "router", "serve", "--engines", "http://127.0.0.1:9", "--home",
               str(tmp_path), "--port", str(free_port), "--admin-port", "0"]  # fmt: skip
    with log.open("w") as errors, subprocess.Popen(command, stderr=errors) as process:
        try:
            waiting.until(lambda: _answers(f"http://127.0.0.1:{free_port}/healthz"), "healthy")
            request = urllib.request.Request(
                f"http://127.0.0.1:{free_port}/v1/completions", data=b'{"model":"m","prompt":"x"}'
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=60)
            assert refused.value.code == 503
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(waiting.ENDS_WITHIN_S) == 0
    rows = History(f"sqlite:///{tmp_path / 'history.sqlite3'}").read("requests")
    assert [(row["outcome"], row["status"]) for row in rows] == [("error", 503)]
    assert "Traceback" not in log.read_text()


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.status == 200
