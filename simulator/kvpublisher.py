"""KV events over ZeroMQ, as vLLM sends them: a PUB socket, and a ROUTER that plays back what was missed.

Imported only by engines that are told to publish; ``pyzmq`` is in the ``sim`` extra.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio

from fleet.errors import ConfigError
from simulator.kvevents import Encoding, Journal, to_wire

log = logging.getLogger(__name__)
END_SEQ = (-1).to_bytes(8, "big", signed=True)
_OWN = ("*", "::", "ipc://", "inproc://")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOptions:
    """Where and how to publish."""

    endpoint: str
    """Bound when it is a wildcard, ``ipc`` or ``inproc``; otherwise connected to, and the subscriber binds."""
    replay_endpoint: str | None = None
    """Bound; ``tcp://127.0.0.1:*`` takes any free port."""
    topic: str = ""
    encoding: Encoding = Encoding.MAP
    rank: int = 0
    """Data-parallel rank; each has ports of its own."""
    buffer_steps: int = 10_000
    """Batches that can be played back."""
    hwm: int = 100_000
    """Messages that wait for a slow subscriber before they are dropped."""


def offset_port(endpoint: str, offset: int) -> str:
    """The endpoint whose port is ``offset`` higher; one without a port number as it is.

    >>> offset_port("tcp://*:5557", 2)
    'tcp://*:5559'
    """
    head, _, port = endpoint.rpartition(":")
    return f"{head}:{int(port) + offset}" if port.isdigit() and int(port) else endpoint


class Publisher:
    """Publishes what a journal noted, batch by batch."""

    def __init__(self, journal: Journal, options: EventOptions) -> None:
        """Sockets are made at once.

        Raises: ConfigError, one line, when an endpoint cannot be used.
        """
        self._journal, self._options = journal, options
        self._topic = options.topic.encode()
        self._seq = 0
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=options.buffer_steps)
        self._context = zmq.Context()
        self._pub = self._context.socket(zmq.PUB)
        self._pub.set_hwm(options.hwm)
        self._router: zmq.asyncio.Socket | None = None
        self._task: asyncio.Task[None] | None = None
        self.endpoint = offset_port(options.endpoint, options.rank)
        self.replay_endpoint = options.replay_endpoint and offset_port(options.replay_endpoint, options.rank)
        try:
            self._open()
        except zmq.ZMQError as error:
            self._close_sockets(linger_ms=0)
            raise ConfigError(f"cannot publish KV events: {error.strerror}", where=str(options.endpoint),
                              next_step="Give a free tcp:// or ipc:// endpoint.") from None  # fmt: skip

    def _open(self) -> None:
        if any(mark in self.endpoint for mark in _OWN):
            self._pub.bind(self.endpoint)
        else:
            self._pub.connect(self.endpoint)
        if self.replay_endpoint is not None:
            self._router = zmq.asyncio.Socket(self._context, zmq.ROUTER)
            self._router.bind(self.replay_endpoint)
            self.replay_endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    def sources(self) -> dict[str, Any]:
        """What ``GET /kv_event_sources`` tells."""
        return {str(self._options.rank): {
            "enable_kv_cache_events": True, "publisher": "zmq", "endpoint": self.endpoint,
            "replay_endpoint": self.replay_endpoint, "buffer_steps": self._options.buffer_steps,
            "hwm": self._options.hwm, "max_queue_size": self._options.hwm, "topic": self._options.topic,
        }}  # fmt: skip

    def start(self) -> None:
        """Answer requests to play back."""
        if self._router is not None:
            self._task = asyncio.ensure_future(self._serve_replay(self._router))

    async def close(self) -> None:
        """Close the sockets; what waits for subscribers gets a moment."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._close_sockets(linger_ms=100)

    def _close_sockets(self, *, linger_ms: int) -> None:
        self._pub.close(linger=linger_ms)
        if self._router is not None:
            self._router.close(linger=0)
        self._context.term()

    def flush(self) -> None:
        """Send what happened since the last call, if anything did."""
        events = self._journal.take()
        if not events:
            return
        payload = to_wire(events, now_s=time.time(), rank=self._options.rank, encoding=self._options.encoding)
        number = self._seq.to_bytes(8, "big")
        self._seq += 1
        self._buffer.append((number, payload))
        self._pub.send_multipart((self._topic, number, payload), flags=zmq.NOBLOCK)

    async def _serve_replay(self, router: zmq.asyncio.Socket) -> None:
        while True:
            frames = await router.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                log.warning("a replay request of %d frames was not understood", len(frames))
                continue
            await self._replay(router, frames[0], frames[2])

    async def _replay(self, router: zmq.asyncio.Socket, client: bytes, first: bytes) -> None:
        for number, payload in list(self._buffer):
            if number >= first:  # eight bytes each, so they order like the numbers
                await router.send_multipart((client, b"", self._topic, number, payload))
        await router.send_multipart((client, b"", b"", END_SEQ, b""))
