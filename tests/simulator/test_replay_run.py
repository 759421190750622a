"""The load client against a small server of our own: open loop, honest counts, clean ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from fleet.errors import ConfigError
from simulator.replay import Replay, ReplayOptions
from simulator.traces import read_requests
from simulator.traffic_cli import COMMANDS, replay, workload
from simulator.workload import TimedRequest
from tests.waiting import ENDS_WITHIN_S, until

EVENT = b'data: {"id":"c","choices":[{"index":0,"text":" sim","finish_reason":null}]}\n\n'
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def stream(request: web.Request, pause_s: float, cut_after: int | None) -> web.StreamResponse:
    """Stream ``max_tokens`` events, usage and [DONE]; or drop the connection after ``cut_after`` events."""
    asked = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(asked["max_tokens"]):
        if number == cut_after:
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(EVENT)
        await asyncio.sleep(pause_s)
    usage = {"prompt_tokens": len(asked["prompt"]) // 4, "completion_tokens": asked["max_tokens"]}
    await response.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode())
    return response


def tokens(*, pause_s: float = 0.0, cut_after: int | None = None) -> Handler:
    """A handler that streams tokens."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream(request, pause_s, cut_after)

    return handler


def answers(status: int) -> Handler:
    """A handler that answers ``status`` with text."""

    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="no endpoint left")

    return handler


@asynccontextmanager
async def server(handler: Handler) -> Any:
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def due(count: int, *, every_s: float = 0.0, tokens: int = 5) -> Iterator[TimedRequest]:
    for index in range(count):
        yield TimedRequest(arrival_s=index * every_s, input_tokens=20, output_tokens=tokens, model="recorded")


def replayed(handler: Handler, schedule: Iterator[TimedRequest], **options: Any) -> dict[str, Any]:
    async def scenario() -> dict[str, Any]:
        async with server(handler) as url:
            return await Replay(ReplayOptions(target=url, **({"model": "m"} | options)), schedule).run()

    return asyncio.run(scenario())


def test_every_request_is_sent_measured_and_counted() -> None:
    report = replayed(tokens(pause_s=0.002), due(30))
    assert (report["requests"], report["ok"], report["failed"], report["success_rate"]) == (30, 30, 0, 1.0)
    assert (report["input_tokens"], report["output_tokens"]) == (600, 150)
    assert 0 < report["ttft_s"]["p50"] <= report["e2e_s"]["p50"]
    assert report["tpot_s"]["p50"] >= 0.0015


@pytest.mark.parametrize(("options", "asked"), [
    pytest.param({"model": "chosen"}, "chosen", id="the-chosen-model-wins"),
    pytest.param({"model": ""}, "recorded", id="else-the-recorded-one"),
])  # fmt: skip
def test_the_model_that_is_asked_for(options: dict[str, str], asked: str) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((await request.json())["model"])
        return await stream(request, 0.0, None)

    replayed(handler, due(1), **options)
    assert seen == [asked]


def test_arrivals_never_wait_for_answers() -> None:
    async def silent(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    report = replayed(silent, due(50, every_s=0.002), drain_s=0.2)
    assert report["requests"] == 50
    assert report["failures"] == {"unfinished": 50}


@pytest.mark.parametrize(("handler", "failures"), [
    pytest.param(answers(503), {"http_503": 3}, id="unavailable"),
    pytest.param(answers(200), {"broken_stream": 3}, id="an-answer-that-is-no-stream"),
    pytest.param(tokens(cut_after=2), {"broken_stream": 3}, id="cut-in-the-middle"),
    pytest.param(tokens(pause_s=30.0), {"timeout": 3}, id="stuck"),
])  # fmt: skip
def test_failures_are_told_apart(handler: Handler, failures: dict[str, int]) -> None:
    report = replayed(handler, due(3), timeout_s=1.0)
    assert report["failures"] == failures
    assert report["success_rate"] == 0.0


def test_a_target_that_is_down_counts_as_failures(free_port: int) -> None:
    options = ReplayOptions(target=f"http://127.0.0.1:{free_port}", model="m")
    report = asyncio.run(Replay(options, due(4)).run())
    assert report["failures"] == {"connection": 4}


def test_requests_beyond_the_limit_are_counted_not_sent() -> None:
    arrived = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        return await stream(request, 0.05, None)

    report = replayed(handler, due(10), max_in_flight=4)
    assert (report["ok"], report["failures"], arrived) == (4, {"client_limit": 6}, 4)


def test_a_stop_ends_sending_and_what_is_open_is_interrupted_not_failed() -> None:
    async def scenario() -> dict[str, Any]:
        async with server(tokens(pause_s=30.0)) as url:
            run = Replay(ReplayOptions(target=url, model="m", stop_drain_s=0.1), due(10_000, every_s=0.01))
            asyncio.get_running_loop().call_later(0.3, run.stop)
            return await run.run()

    report = asyncio.run(scenario())
    assert 0 < report["requests"] < 10_000
    assert report["interrupted"] == report["requests"]
    assert (report["failed"], report["success_rate"]) == (0, None)


def test_status_and_report_files_are_written(tmp_path: Path) -> None:
    status, report = tmp_path / "run" / "status.json", tmp_path / "report.json"
    returned = replayed(tokens(), due(5), status=status, report=report, traffic={"used": "profile", "seed": 3})
    final = json.loads(status.read_text())
    assert (final["state"], final["sent"], final["ok"], final["in_flight"]) == ("finished", 5, 5, 0)
    assert set(final) >= {"failures", "ttft_s", "output_tps", "success_rate", "elapsed_s"}
    assert json.loads(report.read_text()) == json.loads(json.dumps(returned))
    assert (returned["traffic"]["used"], returned["seed"]) == ("profile", 3)


def test_a_status_file_that_cannot_be_written_ends_the_replay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        replayed(tokens(), due(1000, every_s=0.01), status=tmp_path / "file" / "status.json")


@contextmanager
def server_thread() -> Iterator[str]:
    """The token server in a thread of its own, for tests that run the client as a process."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    urls: list[str] = []

    async def main(stop: asyncio.Event) -> None:
        async with server(tokens(pause_s=0.001)) as url:
            urls.append(url)
            ready.set()
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(stop),))
    thread.start()
    assert ready.wait(60)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


SCRIPT = (
    "import click, sys; from simulator.traffic_cli import COMMANDS; click.Group(commands=list(COMMANDS))(sys.argv[1:])"
)


def started(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, "replay", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FLEET_HOME": str(tmp_path)},
    )


@pytest.mark.integration
def test_sigterm_reports_and_exits_with_zero(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    with server_thread() as url:
        process = started(tmp_path, "--target", url, "--json", "--status", str(status), "--mean-rps", "50")
        until(lambda: json.loads(status.read_text())["ok"], "an answer")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["ok"] > 0 and report["failed"] == 0
    assert "profile azure2023_conv" in err


@pytest.mark.integration
def test_a_finite_replay_of_a_recorded_workload_sends_it_once(tmp_path: Path) -> None:
    recorded = tmp_path / "recorded.jsonl"
    made = CliRunner().invoke(workload, ["--period-s", "3", "--mean-rps", "20", "--out", str(recorded)])
    assert made.exit_code == 0
    count = len(read_requests(recorded))
    with server_thread() as url:
        process = started(tmp_path, "--target", url, "--trace", str(recorded), "--warp", "1", "--rate-scale", "1",
                          "--duration", "3", "--json")  # fmt: skip
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["traffic"]["used"] == "trace"
    assert abs(report["requests"] - count) <= 1, "the joint of the loop may fall just inside the third second"
    assert report["success_rate"] == 1.0


def test_workload_prints_what_replay_would_send() -> None:
    runs = [CliRunner().invoke(workload, ["--duration", "2", "--model", "m", "--seed", "4"]).stdout for _ in range(2)]
    assert runs[0] == runs[1]
    rows = [json.loads(line) for line in runs[0].splitlines()]
    fields = {"arrival_s", "input_tokens", "output_tokens", "prefix_id", "prefix_tokens", "model"}
    assert rows and all(set(row) == fields for row in rows)
    assert all(row["arrival_s"] < 2 and row["model"] == "m" for row in rows)


@pytest.mark.parametrize(("arguments", "what"), [
    pytest.param(["--target", "nonsense"], "--target", id="malformed-target"),
    pytest.param(["--target", "http://h", "--trace", "azure2099"], "azure2099", id="unknown-trace"),
    pytest.param(["--target", "http://h", "--traces", "/no/such"], "no such folder", id="no-such-folder"),
    pytest.param(["--target", "http://h", "--warp", "1", "--period-s", "9"], "say the same", id="twice-the-time"),
    pytest.param(["--target", "http://h", "--rate-scale", "1", "--mean-rps", "9"], "say the same", id="twice-the-rate"),
    pytest.param(["--target", "http://h", "--mean-input", "9"], "--mean-output", id="half-the-lengths"),
    pytest.param(["--target", "http://h", "--mean-rps", "1e9"], "would hold", id="a-rate-beyond-memory"),
])  # fmt: skip
def test_bad_arguments_are_one_clear_line(arguments: list[str], what: str) -> None:
    result = CliRunner().invoke(replay, arguments)
    assert isinstance(result.exception, ConfigError)
    assert what in str(result.exception) and "\n" not in str(result.exception)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_every_command_has_help_with_examples(command: Any) -> None:
    assert "Examples:" in CliRunner().invoke(command, ["--help"]).stdout
