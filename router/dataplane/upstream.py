"""Connections to one engine: kept alive, pooled, never trusted."""

from __future__ import annotations

import asyncio
import errno
import ssl
from typing import Protocol, cast
from urllib.parse import urlsplit

from router.dataplane.heads import Heads
from router.dataplane.outbox import Outbox
from router.dataplane.response import BadResponse, Meaning, ResponseReader
from router.settings import RouterSettings

_OUR_LIMITS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)


class Carrier(Protocol):
    """The side of an exchange that an engine's connection talks to."""

    def on_response(self, reader: ResponseReader) -> None:
        """New bytes were read; the reader holds the head, the new part of the body, and whether it is whole."""

    def on_connected(self, connection: UpstreamConnection) -> None:
        """A connection asked for is there."""

    def on_connect_failed(self, reason: str, *, ours: bool) -> None:
        """A connection asked for cannot be had; ``ours``: for want of descriptors here, not through the engine."""

    def on_failed(self, reason: str, *, answered: bool, reused: bool) -> None:
        """The connection broke before the answer was whole.

        ``answered``: a byte of the answer had come; ``reused``: the connection had served before.
        """


class UpstreamConnection(asyncio.Protocol):
    """One connection, serving one exchange at a time."""

    __slots__ = ("_answered", "_carrier", "_reader", "_reused", "_transport", "born_s", "idle_since_s", "pool")

    def __init__(self, pool: Pool, *, now_s: float) -> None:
        self.pool = pool
        self.born_s = self.idle_since_s = now_s
        self._reader = ResponseReader(pool.heads)
        self._carrier: Carrier | None = None
        self._transport: asyncio.Transport | None = None
        self._answered = self._reused = False

    @property
    def usable(self) -> bool:
        """Open, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, carrier: Carrier, request: bytes) -> None:
        """Send ``request``; what comes of it goes to ``carrier``."""
        self._carrier, self._answered = carrier, False
        self._reader.reset()
        if self._transport is not None:
            self.pool.outbox.write(self._transport, request)

    def pause(self) -> None:
        """Read no more until :meth:`resume`: the client is slow."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once, telling nobody: this is how an engine learns that a request is cancelled."""
        self._carrier = None
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._transport = cast(asyncio.Transport, transport)
        self.pool.open.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer; bytes that nobody asked for close the connection."""
        carrier = self._carrier
        if carrier is None:
            self.abort()
            return
        self._answered = True
        reader = self._reader
        try:
            reader.feed(data)
        except BadResponse as error:
            self._carrier = None
            self.abort()
            carrier.on_failed(f"bad answer: {error}", answered=True, reused=self._reused)
            return
        if reader.done:
            self._carrier = None
            self._reused = True
            self.pool.give(self, keep=reader.keep_alive)
        carrier.on_response(reader)

    def eof_received(self) -> None:
        """The engine closed its side: the connection is of no more use (asyncio closes it)."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed: the end of an answer only where the answer says that it ends so."""
        self.pool.lost(self)
        carrier, self._carrier, reader = self._carrier, None, self._reader
        self._transport = None
        reader.release()
        if carrier is None:
            return
        if exc is None and reader.until_close:
            reader.done = True
            carrier.on_response(reader)
        else:
            reason = f"connection lost: {exc}" if exc else "connection closed by the engine"
            carrier.on_failed(reason, answered=self._answered, reused=self._reused)


class Pool:
    """Idle and busy connections to one engine."""

    def __init__(self, url: str, settings: RouterSettings, outbox: Outbox) -> None:
        parts = urlsplit(url)
        self.url, self.outbox = url, outbox
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.authority = parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii")
        self.base = parts.path.rstrip("/").encode()
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._connect_s, self._idle_s, self._age_s = settings.connect_s, settings.pool_idle_s, settings.pool_age_s
        self._most_idle = settings.pool_idle
        self._idle: list[UpstreamConnection] = []
        self.heads: Heads[Meaning] = Heads()
        """Heads of this engine's answers read before."""
        self.open: set[UpstreamConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.now_s = 0.0
        """A coarse clock, set by :meth:`sweep`."""

    def take(self) -> UpstreamConnection | None:
        """The idle connection used last, or ``None``."""
        idle, oldest_s = self._idle, self.now_s - self._idle_s
        while idle:
            connection = idle.pop()
            if connection.usable and connection.idle_since_s > oldest_s:
                return connection
            connection.abort()
        return None

    def give(self, connection: UpstreamConnection, *, keep: bool) -> None:
        """A connection whose answer is whole."""
        young = self.now_s - connection.born_s < self._age_s
        if keep and young and not self._closed and len(self._idle) < self._most_idle and connection.usable:
            connection.idle_since_s = self.now_s
            self._idle.append(connection)
        else:
            connection.abort()

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection was closed."""
        self.open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def connect(self, carrier: Carrier) -> None:
        """Open a connection for ``carrier``."""
        task = asyncio.get_running_loop().create_task(self._connect(carrier))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, carrier: Carrier) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self, now_s=self.now_s), self.host, self.port, ssl=self._ssl
                )
        except (OSError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            carrier.on_connect_failed(reason, ours=error.errno in _OUR_LIMITS)
            return
        if connection.usable:
            carrier.on_connected(connection)
        else:
            carrier.on_connect_failed("closed as soon as it was open", ours=False)

    def sweep(self, now_s: float) -> None:
        """Tell the time; close connections that were idle for too long."""
        self.now_s = now_s
        limit = now_s - self._idle_s
        while self._idle and self._idle[0].idle_since_s <= limit:
            self._idle.pop(0).abort()

    @property
    def idle(self) -> int:
        """Idle connections."""
        return len(self._idle)

    def close(self) -> None:
        """Close what is idle, and what is busy once its answer is whole."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    def abort(self) -> None:
        """Close everything now."""
        self.close()
        for task in self._connecting:
            task.cancel()
        for connection in tuple(self.open):
            connection.abort()
