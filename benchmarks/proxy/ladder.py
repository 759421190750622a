"""What each part of the hot path costs: CPU time of one request, without sockets, part by part.

    python -m benchmarks.proxy.ladder

The real client connections, exchanges and engine connections run on transports that only count, so the figures are
Python alone: no system call, no network. Each step adds a part to the step before; each figure is the least of many
batches, which other load on the machine can only raise.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import uvloop

from benchmarks.proxy.tools import PROMPT_BYTES
from fleet.discovery import static_fleet
from fleet.types import EngineSample
from router import compiled
from router.dataplane.body import parse
from router.dataplane.gateway import Gateway
from router.dataplane.heads import Heads
from router.dataplane.reader import RequestReader
from router.dataplane.response import ResponseReader
from router.dataplane.upstream import UpstreamConnection
from router.director import Director
from router.endpoints import EndpointSet
from router.metrics import RouterMetrics
from router.parts import Parts
from router.profile import PROFILES, Scheduler
from router.recorder import Recorder
from router.settings import RouterSettings

BATCH: Final = 1600
BATCHES: Final = 12
CLIENTS: Final = 16
_USAGE = b'"usage":{"prompt_tokens":150,"completion_tokens":16,"total_tokens":166}'
_BODY = (
    b'{"id":"c","object":"text_completion","model":"m","choices":[{"index":0,"text":" a b c d e f g h"}],%b}' % _USAGE
)
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
_EVENT = b'data: {"id":"c","object":"text_completion","model":"m","choices":[{"index":0,"text":" word"}]}\n\n'


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


FIRST = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + _chunk(_EVENT)
REST = _chunk(_EVENT) * 15 + _chunk(b"data: {%b}\n\n" % _USAGE) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class _Transport:
    """Takes what is written."""

    def __init__(self, on_write: Callable[[], None] = lambda: None) -> None:
        self._on_write = on_write

    def write(self, _data: bytes) -> None:
        self._on_write()

    def is_closing(self) -> bool:
        return False

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None


class _Rows:
    def put(self, _row: object) -> None:
        """Take a row."""


def requests(*, stream: bool) -> list[bytes]:
    """The bench's requests: 64 prompts that share their first half."""
    rng, shared = random.Random(1), "word " * (PROMPT_BYTES // 10)
    made = []
    for _ in range(64):
        own = "".join(rng.choices("abcdefghij ", k=PROMPT_BYTES // 2))
        body = json.dumps({"model": "m", "prompt": shared + own, "max_tokens": 16, "stream": stream}).encode()
        made.append(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip
    return made


def least_us(batch: Callable[[], None]) -> float:
    """CPU time of one of a batch's requests, microseconds: the least of many batches."""
    batch()
    gc.collect()
    best = float("inf")
    for _ in range(BATCHES):
        start_s = time.thread_time()
        batch()
        best = min(best, time.thread_time() - start_s)
    return best / BATCH * 1e6


def parts() -> dict[str, float]:
    """Single parts: reading a request (parsed, and remembered), its body, reading an answer."""
    made, settings = requests(stream=False), RouterSettings()
    bodies = [wire.partition(b"\r\n\r\n")[2] for wire in made]

    def read(heads: bool) -> Callable[[], None]:
        def batch() -> None:
            reader = RequestReader(settings, Heads() if heads else Heads(0))
            for number in range(BATCH):
                reader.feed(made[number % 64])
                reader.requests.popleft()

        return batch

    def bodies_parsed() -> None:
        for number in range(BATCH):
            parse(bodies[number % 64])

    def answers() -> None:
        reader = ResponseReader()
        for _ in range(BATCH):
            reader.reset()
            reader.feed(PLAIN)
            reader.take()

    return {
        "request read, head parsed": least_us(read(False)), "request read, head remembered": least_us(read(True)),
        "body's fields": least_us(bodies_parsed), "answer read": least_us(answers),
    }  # fmt: skip


class _Router:
    """A router on transports that only count, and four idle engines."""

    def __init__(self, profile: str, *, record: bool, tracing: Any = None) -> None:
        self.endpoints = EndpointSet(clock=time.monotonic)
        self.endpoints.update(static_fleet([f"http://127.0.0.1:{9100 + number}" for number in range(4)], model="m"))
        settings = RouterSettings(pool_idle_s=1e6, pool_age_s=1e6)
        made = Parts(settings=settings, scheduler=Scheduler(PROFILES[profile]), endpoints=self.endpoints,
                     metrics=RouterMetrics(), rng=random.Random(1))  # fmt: skip
        if record:
            made.record = Recorder(_Rows(), rate_rps=500)
        if tracing is not None:
            made.record = tracing
        self.director = Director(made)
        self.gateway = Gateway(self.director)
        self.gateway.tracing = tracing
        self.asked: list[UpstreamConnection] = []
        for one in self.endpoints.all:
            one.sample = EngineSample(at_s=time.time(), waiting=0.0, running=0.0, kv_utilisation=0.1)
            self._connect(one.url)
        self.clients = [self.gateway.client() for _ in range(CLIENTS)]
        for client in self.clients:
            client.connection_made(_Transport())  # type: ignore[arg-type]

    def _connect(self, url: str) -> None:
        pool = self.gateway.pool(url)
        for _ in range(CLIENTS):
            connection = UpstreamConnection(pool, now_s=self.gateway.now_s)
            connection.connection_made(_asking(self.asked, connection))
            pool.give(connection, keep=True)

    def batch(self, wires: list[bytes], pieces: tuple[bytes, ...]) -> None:
        """As many requests as a batch has, each answered in these pieces; on a running loop."""
        self.gateway.tick(time.monotonic())
        for one in self.endpoints.all:
            one.sampled_s = time.monotonic()
        for start in range(0, BATCH, CLIENTS):
            for offset, client in enumerate(self.clients):
                client.data_received(wires[(start + offset) % 64])
            self.gateway.outbox.flush()
            answering = self.asked[:]
            self.asked.clear()
            for piece in pieces:
                for connection in answering:
                    connection.data_received(piece)
                self.gateway.outbox.flush()


async def whole(profile: str, *, stream: bool = False, record: bool = True, tracing: Any = None) -> float:
    """A request from the client's bytes to the end of its accounting; on a running loop."""
    router, wires = _Router(profile, record=record, tracing=tracing), requests(stream=stream)
    pieces = (FIRST, REST) if stream else (PLAIN,)
    found = least_us(lambda: router.batch(wires, pieces))
    if router.director.metrics.models()["m"].requests < BATCH * BATCHES or len(router.director.ledger):
        raise RuntimeError("some requests were not served: the figures mean nothing")
    return found


def _asking(asked: list[UpstreamConnection], connection: UpstreamConnection) -> Any:
    return _Transport(lambda: asked.append(connection))


async def ladder() -> dict[str, float]:
    """All steps."""
    return {
        **parts(),
        "whole request, blend profile, no history": await whole("blend", record=False),
        "whole request, default profile, no history": await whole("default", record=False),
        "whole request, default profile": await whole("default"),
        "whole request, documents profile": await whole("documents"),
        "whole stream of 16 events, default profile": await whole("default", stream=True),
        **await traced(),
    }


async def traced() -> dict[str, float]:
    """With spans, which a thread of the same process takes and drops; none without the extra ``otel``."""
    try:
        from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult  # noqa: PLC0415 - optional package

        from router.tracing.otlp import OtlpTracing  # noqa: PLC0415
    except ImportError:
        return {}

    class Nowhere(SpanExporter):
        def export(self, _spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    found = {}
    for ratio, name in ((0.0, "sampled out"), (1.0, "its span recorded")):
        tracing = OtlpTracing(Nowhere(), ratio=ratio)
        found[f"whole request, default profile, no history, {name}"] = await whole(
            "default", record=False, tracing=tracing
        )
        await tracing.close()
    return found


def main() -> None:
    """Print the ladder."""
    gc.set_threshold(10_000, 20, 50)
    sys.stdout.write("native code\n" if compiled.check() else "plain Python\n")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for name, cost_us in runner.run(ladder()).items():
            sys.stdout.write(f"{cost_us:7.1f} us  {name}\n")


if __name__ == "__main__":
    main()
