"""Engines and clients for the data plane's tests: real sockets, scripted behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import uvloop

from fleet.discovery import static_fleet
from router.dataplane.gateway import Gateway
from router.director import Director
from router.endpoints import EndpointSet
from router.metrics import RouterMetrics
from router.parts import Parts
from router.profile import Scheduler
from router.settings import RouterSettings

MODEL = "m"


def on_loop(function):
    """Run an async test on uvloop, as the router runs."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(asyncio.wait_for(function(*args, **kwargs), 120))

    return run


async def until(condition: Callable[[], object]) -> None:
    """Wait for something another task brings about."""
    while not condition():  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0.005)


@dataclass
class Received:
    """A request as an engine got it."""

    line: str
    headers: dict[str, str]
    raw_head: bytes
    body: bytes
    connection: int


@dataclass
class Answer:
    """A response as the client got it."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    @property
    def error(self) -> dict:
        return json.loads(self.body)["error"]


Script = Callable[["Engine", Received, asyncio.StreamWriter], Awaitable[None]]


async def plain(_engine: Engine, _request: Received, writer: asyncio.StreamWriter) -> None:
    """A completion with usage."""
    body = b'{"choices":[{"text":"hi"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    writer.write(head + body)


def events(*pieces: bytes, gap_s: float = 0.0, end: bool = True) -> Script:
    """A chunked event stream of ``pieces``; without ``end`` it hangs after the last."""

    async def script(engine: Engine, _request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(gap_s)
        if end:
            writer.write(b"0\r\n\r\n")
        else:
            await engine.hang()

    return script


async def hang(engine: Engine, _request: Received, _writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await engine.hang()


async def die(_engine: Engine, _request: Received, writer: asyncio.StreamWriter) -> None:
    """Break the connection."""
    writer.transport.abort()


def raw(*data: bytes, close: bool = False) -> Script:
    """Send bytes as they are."""

    async def script(_engine: Engine, _request: Received, writer: asyncio.StreamWriter) -> None:
        for piece in data:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return script


class Engine:
    """A scripted server: one script for all requests, or one for each in order."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts) or [plain]
        self.requests: list[Received] = []
        self.connections = 0
        self.closed = 0
        """Connections that the router closed."""
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def __aenter__(self) -> Engine:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def hang(self) -> None:
        await asyncio.sleep(3600)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                received = await self._read(reader, number)
                self.requests.append(received)
                script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
                await self._play(script, received, reader, writer)
        self.closed += 1
        writer.close()

    async def _play(self, script, received, reader, writer) -> None:
        """Run the script; notice when the router closes meanwhile."""
        job = asyncio.ensure_future(script(self, received, writer))
        gone = asyncio.ensure_future(_closed(reader))
        try:
            await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                raise ConnectionResetError
            await job
        finally:
            job.cancel()
            gone.cancel()
            await asyncio.gather(job, gone, return_exceptions=True)

    @staticmethod
    async def _read(reader: asyncio.StreamReader, connection: int) -> Received:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Received(line, headers, head, body, connection)


async def _closed(reader: asyncio.StreamReader) -> None:
    """Wait for the end of a stream without taking from it."""
    await until(lambda: reader.at_eof() or reader.exception() is not None)


@dataclass
class Router:
    """A gateway on a port, with what it recorded."""

    gateway: Gateway
    port: int
    records: list = field(default_factory=list)

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    @property
    def outcomes(self) -> list[str]:
        return [str(ticket.outcome) for ticket, _ in self.records]

    async def settled(self) -> None:
        """Wait until nothing is in flight."""
        await until(lambda: not len(self.gateway.director.ledger))
        await until(lambda: not any(m.running for m in self.gateway.director.metrics.models().values()))


@contextlib.asynccontextmanager
async def routed(*engines: Engine | str, tracing=None, **settings) -> AsyncIterator[Router]:
    """A router before ``engines``; at the end nothing may be left in its books."""
    options = RouterSettings(**settings)
    clock = time.monotonic
    endpoints = EndpointSet(clock=clock)
    records: list = []
    urls = [engine if isinstance(engine, str) else engine.url for engine in engines]
    if urls:
        endpoints.update(static_fleet(urls, model=MODEL))
    parts = Parts(settings=options, scheduler=Scheduler(), endpoints=endpoints, metrics=RouterMetrics(),
                  rng=random.Random(1), record=lambda *row: records.append(row))  # fmt: skip
    if tracing is not None:
        parts.record = lambda *row: (records.append(row), tracing(*row))
    gateway = Gateway(Director(parts))
    gateway.tracing = tracing
    server = await asyncio.get_running_loop().create_server(gateway.client, "127.0.0.1", 0)
    ticks = asyncio.ensure_future(_tick(gateway))
    try:
        yield Router(gateway, server.sockets[0].getsockname()[1], records)
    finally:
        server.close()
        gateway.abort()
        ticks.cancel()
        with contextlib.suppress(TimeoutError):  # what is left then is named below
            async with asyncio.timeout(10):
                await until(lambda: not (len(gateway.director.ledger) or gateway.buffered or gateway.outbox.busy
                                         or gateway.clients))  # fmt: skip
    assert len(gateway.director.ledger) == 0, "requests left in the ledger"
    assert gateway.buffered == 0, "body bytes left in the books"
    assert gateway.outbox.busy == 0, "requests left under way"
    assert not gateway.clients
    for meters in gateway.director.metrics.models().values():
        assert meters.running == 0
    assert len({ticket.key for ticket, _ in records}) == len(records), "a request was accounted twice"


async def _tick(gateway: Gateway) -> None:
    while True:
        gateway.tick(time.monotonic())
        await asyncio.sleep(0.02)


class Client:
    """A raw HTTP client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, request: bytes, *, head: bool = False) -> Answer:
        self.send(request)
        return await self.answer(head=head)

    async def answer(self, *, head: bool = False) -> Answer:
        """One response; ``complete`` is False where it breaks off."""
        try:
            block = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as cut:
            return Answer(0, {}, cut.partial, complete=False)
        line, *lines = block.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in lines)}
        status = int(re.match(r"HTTP/1\.1 (\d{3})", line)[1])
        if head or status in (100, 204, 304):
            return Answer(status, headers, b"")
        try:
            return Answer(status, headers, await self._body(headers))
        except asyncio.IncompleteReadError as cut:
            return Answer(status, headers, cut.partial, complete=False)
        except ConnectionResetError:
            return Answer(status, headers, b"", complete=False)

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.read(-1)
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return body

    async def ended(self) -> bool:
        """Wait until the router closes."""
        with contextlib.suppress(ConnectionResetError):
            return await self.reader.read(1) == b""
        return True

    def close(self) -> None:
        self.writer.transport.abort()


def completion(
    *extra: bytes, prompt: str = "hello", stream: bool = False, path: bytes = b"/v1/completions", model: str = MODEL,
    body: bytes | None = None,
) -> bytes:  # fmt: skip
    """A request with a Content-Length."""
    if body is None:
        body = json.dumps({"model": model, "prompt": prompt, "stream": stream}).encode()
    lines = b"".join(line + b"\r\n" for line in extra)
    return b"POST %b HTTP/1.1\r\nHost: router\r\n%bContent-Length: %d\r\n\r\n%b" % (path, lines, len(body), body)


def get(path: bytes, *, method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return b"%b %b HTTP/1.1\r\nHost: router\r\n\r\n" % (method, path)
