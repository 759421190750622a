"""Ten thousand streams at once through the proxy, held, and what memory they take.

    python -m benchmarks.proxy.streams --streams 10000 --hold-s 20

A client in this process opens the streams, four engines in another send each of them an event every two seconds, the
router runs as users start it. When all are open they are held, memory is read, then the engines end them. Every stream
must come whole, and nothing may be left in flight. Each stream takes two descriptors in the router, one in the client
and one in the engines: where the limit is low, several workers share them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import re
import resource
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from benchmarks.proxy.tools import free_ports, rss_mb, running

ENGINES: Final = 4
EVENT_S: Final = 2.0
_SPARE: Final = 500
"""Descriptors that a process needs beside its streams."""
_AT_ONCE: Final = 200
"""Streams opened before the last ones must have begun."""
_LIMIT_S: Final = 300.0
_PROMPT = "word " * 120
EVENT = b'data: {"id":"c","object":"text_completion","model":"m","choices":[{"index":0,"text":" word"}]}\n\n'
DONE = b"data: [DONE]\n\n"
_PAGES: Final = {
    b"/metrics": b'vllm:num_requests_running{model_name="m"} 0\nvllm:num_requests_waiting{model_name="m"} 0\n',
    b"/v1/models": b'{"object":"list","data":[{"id":"m","object":"model"}]}',
}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST: Final = _chunk(EVENT) + _chunk(DONE) + b"0\r\n\r\n"


class Engine(asyncio.Protocol):
    """One connection of an engine whose streams go on until they are all ended at once."""

    def __init__(self, streams: set[Engine]) -> None:
        self._streams, self._read = streams, b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The router connects."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The router left."""
        self._streams.discard(self)

    def data_received(self, data: bytes) -> None:
        """A request, whole or in part."""
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if not found or self.transport is None or (length is not None and len(body) < int(length[1])):
            return
        self._read = b""
        if head.startswith(b"POST"):
            self._streams.add(self)
            self.transport.write(HEAD + _chunk(EVENT))
            return
        page = _PAGES.get(head.split(b" ", 2)[1], b"{}")
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(page), page))


async def engines(ports: list[int]) -> None:
    """Serve on all ports until SIGUSR1; then end every stream, also those that come later."""
    streams: set[Engine] = set()
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, ending.set)
    for port in ports:
        await loop.create_server(lambda: Engine(streams), "127.0.0.1", port, backlog=4096)
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), EVENT_S if not ending.is_set() else 0.1)
        for one in tuple(streams):
            if one.transport is not None:
                one.transport.write(LAST if ending.is_set() else _chunk(EVENT))
        if ending.is_set():
            streams.clear()
            await asyncio.sleep(0.1)


class Stream(asyncio.Protocol):
    """One client: asks once, counts events, knows whether its answer came whole."""

    def __init__(self) -> None:
        self.events = 0
        self.status = b""
        self.whole = False
        self.lost = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a stream."""
        body = json.dumps({"model": "m", "prompt": _PROMPT, "stream": True}).encode()
        cast(asyncio.Transport, transport).write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        """A piece of the answer."""
        self.status = self.status or data[9:12]
        self.events += data.count(b"\ndata: {")
        self._tail = (self._tail + data)[-64:]
        self.whole = self._tail.endswith(DONE + b"\r\n0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """The router closed it."""
        self.lost = True


async def _until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    end_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what} within {within_s:g} s")
        await asyncio.sleep(0.05)


def _begun(streams: Sequence[Stream]) -> bool:
    return all(one.events or one.lost for one in streams)


def _listeners(port: int) -> int:
    """Sockets that listen on ``port``: one for each worker that is up."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)


async def _open(port: int, count: int) -> list[Stream]:
    """Open so many streams, a few at a time, each with its first event."""
    loop = asyncio.get_running_loop()
    streams: list[Stream] = []
    while len(streams) < count:
        made = await asyncio.gather(*(
            loop.create_connection(Stream, "127.0.0.1", port) for _ in range(min(_AT_ONCE, count - len(streams)))
        ))  # fmt: skip
        new = [protocol for _, protocol in made]
        await _until(partial(_begun, new), _LIMIT_S, f"first events of {len(streams)} streams and more")
        streams += new
    return streams


def workers_for(streams: int, limit: int) -> int:
    """Workers that it takes, at two descriptors a stream and some to spare.

    >>> workers_for(10_000, 20_000), workers_for(10_000, 65_536)
    (2, 1)
    """
    uneven = 1.1  # connections are spread by a hash
    return math.ceil(2 * streams * (1.0 if 2 * streams + _SPARE <= limit else uneven) / max(1, limit - _SPARE))


def _running(admin: int) -> float:
    """Requests in flight, as the router's metrics say."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=30) as page:
        found = re.findall(rb"^llm_d_epp_request_running\{[^}]*\} (\S+)", page.read(), re.MULTILINE)
    return sum(map(float, found))


async def hold(streams: int, hold_s: float, workers: int) -> dict[str, Any]:
    """The run; what was seen."""
    ports, (port, admin) = free_ports(ENGINES), free_ports(2)
    fleet = [sys.executable, "-m", "fleet.cli", "router", "serve", "--port", str(port), "--admin-port", str(admin)]
    urls = ",".join(f"http://127.0.0.1:{one}" for one in ports)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.proxy.streams", "--engines", *map(str, ports)]
        backend = stack.enter_context(running(command, log=folder / "engines.log"))
        command = [*fleet, "--engines", urls, "--home", name, "--workers", str(workers)]
        router = stack.enter_context(running(command, log=folder / "router.log"))
        await _until(lambda: _ready(admin), 120.0, "the router serves")
        await _until(lambda: _listeners(port) == workers, 120.0, f"{workers} workers serve")
        (warm,) = await _open(port, 1)
        before_mb = rss_mb(router)
        started_s = time.monotonic()
        held = [warm, *await _open(port, streams - 1)]
        opened_s = time.monotonic() - started_s
        events = [one.events for one in held]
        await asyncio.sleep(hold_s)
        in_flight, full_mb = await asyncio.to_thread(_running, admin), rss_mb(router)
        silent = sum(one.events <= count for one, count in zip(held, events, strict=True))
        os.kill(backend, signal.SIGUSR1)
        await _until(lambda: all(one.whole or one.lost for one in held), _LIMIT_S, "all streams end")
        await asyncio.sleep(1.0)
        left = await asyncio.to_thread(_running, admin)
    return {
        "streams": streams, "workers": workers, "opened_s": round(opened_s, 1), "held_s": hold_s,
        "in_flight_at_once": in_flight, "whole": sum(one.whole for one in held),
        "refused": sum(one.status != b"200" for one in held), "silent_while_held": silent,
        "events": sum(one.events for one in held), "left_in_flight": left,
        "router_mb_before": round(before_mb, 1), "router_mb_held": round(full_mb, 1),
        "kb_per_stream": round((full_mb - before_mb) * 1e3 / streams, 1),
    }  # fmt: skip


def _ready(admin: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=5) as page:
        return bool(page.status == 200)
    return False


def main() -> None:
    """Run it, and print what was seen as JSON; exit code 1 where a stream was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--hold-s", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=0, help="router's workers (default: as descriptors allow)")
    parser.add_argument("--engines", type=int, nargs="+", metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if given.engines:
            runner.run(engines(given.engines))
            return
        workers = given.workers or workers_for(given.streams, hard)
        seen = runner.run(hold(given.streams, given.hold_s, workers))
    sys.stdout.write(json.dumps(seen, indent=1) + "\n")
    if seen["whole"] != given.streams or seen["left_in_flight"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
