"""Metrics pages of many worlds on one port, as Prometheus finds and reads them, and the webhooks that it ends in."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alerts.ingest import Target
from fleet.sources.exposition import Point


def text(points: Iterable[Point]) -> bytes:
    """A page in Prometheus's text format."""
    lines = []
    for point in points:
        labels = ",".join(f'{name}="{value}"' for name, value in point.labels.items())
        lines.append(f"{point.name}{{{labels}}} {point.value!r}\n")
    return "".join(lines).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One call of a webhook: a group of alerts that fire."""

    at_s: float
    receiver: str
    group: str
    alerts: tuple[Mapping[str, str], ...]
    """Labels of those that fire."""


@dataclass(slots=True)
class Pages:
    """Serves what it was last given, in a thread of its own.

    ``GET /sd/WORLD`` names a world's targets (HTTP service discovery), ``GET /WORLD/NUMBER`` is a target's page, 503
    while it does not answer; ``POST /hook/RECEIVER`` takes Alertmanager's notifications.
    """

    port: int = 0
    told: list[Notification] = field(default_factory=list)
    _bodies: dict[str, bytes | None] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Pages:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join(5)

    def show(self, world: str, targets: Iterable[tuple[Target, list[Point] | None]]) -> None:
        """Replace what a world shows."""
        found, bodies = [], {}
        for target, points in targets:
            path = f"/{world}/{target.instance.replace(':', '-')}"
            labels = {**target.own_labels, "__metrics_path__": path}
            found.append({"targets": [f"127.0.0.1:{self.port}"], "labels": labels})
            bodies[path] = None if points is None else text(points)
        self._bodies |= {**bodies, f"/sd/{world}": json.dumps(found).encode()}

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**22))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
                path = head.split(" ", 2)[1]
                length = next((int(line.split(":")[1]) for line in head.lower().split("\r\n")
                               if line.startswith("content-length:")), 0)  # fmt: skip
                sent = await reader.readexactly(length) if length else b""
                writer.write(self._answer(path, sent))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, path: str, sent: bytes) -> bytes:
        if path.startswith("/hook/"):
            self._take(path.rsplit("/", 1)[1], json.loads(sent))
            body: bytes | None = b"ok"
        else:
            body = self._bodies.get(path)
        kind = "application/json" if path.startswith("/sd/") else "text/plain; version=0.0.4"
        status, body = ("503 Service Unavailable", b"") if body is None else ("200 OK", body)
        return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def _take(self, receiver: str, document: Mapping[str, Any]) -> None:
        firing = tuple(alert["labels"] for alert in document["alerts"] if alert["status"] == "firing")
        if firing:
            self.told.append(Notification(at_s=time.time(), receiver=receiver, group=document["groupKey"],
                                          alerts=firing))  # fmt: skip
