"""One client's connection: requests in order, one at a time, each answered once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, Protocol, cast

from router.dataplane.hub import Hub
from router.dataplane.reader import ClientRequest, RequestReader
from router.dataplane.replies import Refusal

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_HELD_LIMIT: Final = 64 << 10
"""Bytes a client may send ahead while a request of its own is being served; then it is not read any more (and that it
left is noticed by writing to it only)."""
_WRITE_HIGH: Final = 128 << 10
_LINGER_S: Final = 2.0
"""After a refusal, what the client still sends is read and dropped for so long: closing at once would reset the
connection and take the refusal with it."""


class Work(Protocol):
    """A request being served."""

    def cancel(self) -> None:
        """The client is gone."""

    def pause(self) -> None:
        """The client is slow: hold the answer back."""

    def resume(self) -> None:
        """The client caught up."""

    def tick(self, now_s: float) -> None:
        """Look at the time."""


class ClientConnection(asyncio.Protocol):
    """Bytes in, requests to ``serve``, answers out."""

    __slots__ = (
        "_advancing",
        "_closing",
        "_counted",
        "_deadline_s",
        "_held",
        "_hub",
        "_outbox",
        "_paused_s",
        "_reader",
        "_serve",
        "_transport",
        "_was_head",
        "_work",
    )  # fmt: skip

    def __init__(self, hub: Hub, serve: Callable[[ClientConnection, ClientRequest], Work | None]) -> None:
        self._hub, self._serve, self._outbox = hub, serve, hub.outbox
        self._reader = RequestReader(hub.settings, hub.heads)
        self._transport: asyncio.Transport | None = None
        self._work: Work | None = None
        self._held = b""
        self._counted = 0
        self._closing = self._advancing = self._was_head = False
        self._deadline_s = hub.now_s + hub.settings.idle_s
        self._paused_s = math.inf

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connects."""
        self._transport = cast(asyncio.Transport, transport)
        if not self._hub.admit(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; those that come while a request is served wait."""
        if self._closing:
            return
        if self._work is not None:
            self._held += data
            if len(self._held) >= _HELD_LIMIT:
                self._read_on(False)
            return
        self._reader.feed(data)
        self._advance()

    def eof_received(self) -> None:
        """The client closed its side, which we take as gone (asyncio closes ours)."""
        if self._work is not None:
            self._work.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whomever."""
        self._closing = True
        self._transport = None
        self._count(0)
        self._hub.clients.discard(self)
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
        self._reader.release()

    def pause_writing(self) -> None:
        """Too much is unsent."""
        self._paused_s = self._hub.now_s
        if self._work is not None:
            self._work.pause()

    def resume_writing(self) -> None:
        """Most has been sent."""
        self._paused_s = math.inf
        if self._work is not None:
            self._work.resume()
        elif not self._closing:
            self._advance()

    # What a request being served calls.

    @property
    def paused(self) -> bool:
        """More is unsent than should be."""
        return self._paused_s != math.inf

    def write(self, data: bytes) -> None:
        """Send a part of an answer."""
        if self._transport is not None and not self._transport.is_closing():
            self._outbox.write(self._transport, data)

    def finish(self, *, keep_alive: bool) -> None:
        """The answer is whole: on with the next request, or close."""
        self._work = None
        if self._counted:
            self._count(0)
        if not keep_alive or self._hub.draining:
            self.close()
        elif not self._advancing:
            self._advance()

    def close(self) -> None:
        """Close once everything written has been sent."""
        self._closing = True
        self._work = None
        self._deadline_s = self._hub.now_s + self._hub.settings.stall_s
        if self._transport is not None:
            self._outbox.flush()
            self._transport.close()

    def abort(self) -> None:
        """Close at once: the client sees a broken connection, not the end of an answer."""
        self._closing = True
        self._work = None
        if self._transport is not None:
            self._outbox.flush()
            self._transport.abort()

    # The course of requests.

    def _advance(self) -> None:
        """Serve what has been read, until a request is being served, nothing is left, or the client is slow."""
        self._advancing = True
        reader = self._reader
        while self._work is None and not self._closing and not self.paused:
            if reader.requests:
                self._begin(reader.requests.popleft())
            elif reader.refusal is not None:
                self._refuse(reader.refusal)
            elif self._held:
                self._feed_held()
            else:
                self._wait()
                break
        self._advancing = False

    def _begin(self, request: ClientRequest) -> None:
        if not request.keep_alive and self._reader.requests:
            self._reader.requests.clear()
        self._work = self._serve(self, request)

    def _feed_held(self) -> None:
        held, self._held = self._held, b""
        if len(held) >= _HELD_LIMIT:
            self._read_on(True)
        self._reader.feed(held)

    def _read_on(self, on: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _wait(self) -> None:
        """Nothing to serve: set the time until which more must come."""
        reader, now_s = self._reader, self._hub.now_s
        if reader.wants_continue:
            reader.wants_continue = False
            self.write(_CONTINUE)
        if reader.idle:
            self._deadline_s, self._was_head = now_s + self._hub.idle_s, False
        elif reader.in_head:
            if not self._was_head:
                self._deadline_s, self._was_head = now_s + self._hub.settings.header_s, True
        else:
            if not self._counted:
                self._deadline_s, self._was_head = now_s + self._hub.settings.body_s, False
            if not self._count(max(1, reader.held_bytes)):
                self._refuse(self._hub.overfull())

    def _count(self, held: int) -> bool:
        """Account for the body held; False when all bodies together are too large."""
        if held == self._counted:
            return True
        self._hub.buffered += held - self._counted
        self._counted = held
        return self._hub.buffered <= self._hub.settings.buffered_bytes

    def _refuse(self, refusal: Refusal) -> None:
        self._hub.director.refused(refusal.status)
        self._count(0)
        self._closing = True
        self._deadline_s = self._hub.now_s + _LINGER_S
        if self._transport is not None:
            self._outbox.flush()
            self._transport.write(refusal.reply(close=True))
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def tick(self, now_s: float) -> None:
        """Look at the time: idle, slow to send, slow to read, or an engine that is silent."""
        if now_s - self._paused_s > self._hub.settings.stall_s:
            self.abort_stalled()
        elif self._work is not None:
            self._work.tick(now_s)
        elif now_s > self._deadline_s and self._transport is not None:
            if self._closing or self._reader.idle:
                self._transport.abort() if self._closing else self.close()
            else:
                self._refuse(Refusal(408, "the request did not arrive in time", code="request_timeout"))

    def abort_stalled(self) -> None:
        """The client reads nothing: let it go."""
        if self._work is not None:
            self._work.cancel()
        self.abort()

    def drain(self) -> None:
        """The router stops: close unless a request is being served."""
        if self._work is None and not self._closing:
            self.close()
