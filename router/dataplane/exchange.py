"""One request from its dispatch to its end, accounted for exactly once.

Retries happen only before the first byte of an answer: a connection that had served before and broke is the race with
an engine that closes idle connections, so the same engine is asked again on a new one; an engine that cannot be
reached, or that dies on a new connection, is left for another one while the budget lasts.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from fleet.history import RequestOutcome
from router import explain
from router.dataplane.client import ClientConnection
from router.dataplane.hub import Hub
from router.dataplane.reader import ClientRequest
from router.dataplane.replies import Refusal, server_error, status_line
from router.dataplane.response import ResponseReader
from router.dataplane.upstream import Pool, UpstreamConnection
from router.disaggregation.legs import Legs
from router.disaggregation.protocols import clean
from router.ticket import Ticket

_NO_BODY: Final = (204, 304)
_NOT_DONE: Final = (502, 503)
"""Answers of an engine (or what stands before it) that did not take the request."""
_OK: Final = RequestOutcome.OK
_ERROR: Final = RequestOutcome.ERROR
_CLIENT_CLOSED: Final = 499
"""Status recorded where the client left before one was sent (nginx's number)."""


_LINES: Final = 1024
_lines: Final[dict[str, bytes]] = {}
"""Models whose lines are kept."""


def _model_line(model: str) -> bytes:
    """The header that names the body's model; none for a name that no header could hold."""
    found = _lines.get(model)
    if found is None:
        if len(_lines) >= _LINES:
            _lines.clear()
        plain = model.isascii() and model.isprintable()
        found = _lines[model] = b"x-gateway-model-name: %b\r\n" % model.encode() if plain else b""
    return found


class Exchange:
    """A request, the client that sent it, and the engine that answers."""

    __slots__ = (
        "_active_s", "_chunked", "_client", "_delimited", "_director", "_fresh", "_head_sent", "_hub", "_legs",
        "_paused", "_pool", "_status", "_upstream", "request", "ticket",
    )  # fmt: skip

    def __init__(self, hub: Hub, client: ClientConnection, request: ClientRequest, ticket: Ticket) -> None:
        self._hub, self._director, self._client = hub, hub.director, client
        self.request, self.ticket = request, ticket
        hub.outbox.busy += 1
        self._pool: Pool | None = None
        self._upstream: UpstreamConnection | None = None
        self._active_s = hub.now_s
        self._status = 0
        self._legs: Legs | None = None
        """Where prefill and decode are apart."""
        self._fresh = self._head_sent = self._chunked = self._delimited = self._paused = False

    @property
    def done(self) -> bool:
        """It is over and accounted for."""
        return self.ticket.outcome is not None

    # To an engine.

    def route(self) -> None:
        """Have an engine chosen, now or when one has room."""
        self._director.route(self.ticket, self._on_routed)

    def _on_routed(self, answer: str | Refusal) -> None:
        """Send the request to the engine chosen, or say that there is none."""
        if isinstance(answer, Refusal):
            self._refuse(answer, _ERROR if self.ticket.tried else RequestOutcome.REJECTED)
            return
        self._pool = self._hub.pool(answer)
        if self.ticket.prefill and self._legs is None:
            self._legs = Legs(self._hub, self.request, self.ticket, self._director.protocol, go=self._send,
                              anew=self._send_anew)  # fmt: skip
            self._legs.start()
            return
        if self._legs is None and self._director.splitter is not None:
            self.request.body = clean(self.request.body)
        self._send()

    def _send(self) -> None:
        """Send the request, as its body is now, to the engine chosen."""
        pool = self._pool
        if self.done or pool is None:
            return
        self._fresh, self._active_s = False, self._hub.now_s
        if (connection := pool.take()) is not None:
            self.on_connected(connection)
        else:
            self._fresh = True
            pool.connect(self)

    def _send_anew(self) -> None:
        """Send the request again, as its body is now, unless it is yet to be sent or its answer has begun."""
        upstream, self._upstream = self._upstream, None
        if upstream is None or self._head_sent:
            self._upstream = upstream
            return
        upstream.abort()
        self._send()

    def on_connected(self, connection: UpstreamConnection) -> None:
        """See :class:`router.dataplane.upstream.Carrier`."""
        if self.done:
            connection.pool.give(connection, keep=True)
            return
        self._upstream, self._active_s = connection, self._hub.now_s
        connection.send(self, self._wire(connection.pool))

    def _wire(self, pool: Pool) -> bytes:
        """The request as the engine gets it: our framing, the client's other headers, the body as it came."""
        request = self.request
        return b"".join((
            b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%b%bx-request-id: %b\r\ncontent-length: %d\r\n"
            % (pool.base, request.target, pool.authority, self._hub.credentials, _model_line(self.ticket.model),
               request.request_id.encode(), len(request.body)),
            request.head, self._legs.header if self._legs is not None else b"", b"\r\n", request.body,
        ))  # fmt: skip

    def on_connect_failed(self, reason: str, *, ours: bool) -> None:
        """See :class:`router.dataplane.upstream.Carrier`."""
        if self.done or self._pool is None:
            return
        self._elsewhere(reason, unreachable=not ours)

    def on_failed(self, reason: str, *, answered: bool, reused: bool) -> None:
        """See :class:`router.dataplane.upstream.Carrier`."""
        self._upstream = None
        if self.done or self._pool is None:
            return
        if answered:
            self._broken(reason)
        elif reused and not self._fresh:
            self._fresh = True
            self._pool.connect(self)
        else:
            self._elsewhere(reason)

    def _elsewhere(self, reason: str, *, unreachable: bool = False) -> None:
        """Try another engine, if any is left and the budget allows."""
        self._director.failed(self.ticket, reason, unreachable=unreachable)
        if self._director.retry(self.ticket):
            self._again()
        else:
            self._broken(reason)

    def _again(self) -> None:
        """Route it again: the first time at once, later after a moment."""
        times = len(self.ticket.tried)
        if times < 2 or not self._hub.settings.retry_jitter_s:
            self.route()
        else:
            wait_s = random.random() * self._hub.settings.retry_jitter_s * (times - 1)
            asyncio.get_running_loop().call_later(wait_s, self._still)

    def _still(self) -> None:
        """The moment has passed: does anybody wait for an answer?"""
        if not self.done:
            self.route()

    def _broken(self, reason: str) -> None:
        """The engine failed and nothing can be done about it: say so, or show it by breaking off."""
        url = self._pool.url if self._pool else "?"
        self._director.note_failure(url, reason)
        if self._head_sent:
            self._break_off(RequestOutcome.ERROR, 502)
        else:
            self._refuse(server_error(502, "the engine failed before it answered", code="engine_failed"),
                         RequestOutcome.ERROR)  # fmt: skip

    def _break_off(self, outcome: RequestOutcome, status: int) -> None:
        """End an answer that has begun so that the client can tell it from a whole one."""
        self._end(outcome, status)
        if self._delimited:
            self._client.close()
        else:
            self._client.abort()

    # Back to the client.

    def on_response(self, reader: ResponseReader) -> None:
        """See :class:`router.dataplane.upstream.Carrier`."""
        if self.done or not reader.status:
            return
        if reader.status in _NOT_DONE and not self._head_sent and self._turned_away(reader):
            return
        self._active_s = self._hub.now_s
        if (data := self._taken(reader)) is None:
            return
        parts = [] if self._head_sent else [self._head(reader)]
        if data:
            if self._legs is not None:
                data = self._legs.merged(data)
            parts.append(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if reader.done and self._chunked:
            parts.append(b"0\r\n\r\n")
        if parts:
            self._client.write(parts[0] if len(parts) == 1 else b"".join(parts))
        if data:  # it is under way: now the books
            self._observe(reader, data)
        if reader.done:
            self._complete(reader)

    def _taken(self, reader: ResponseReader) -> bytes | None:
        """The body's new part; ``None``: nothing of the answer may go to the client yet."""
        data = reader.take()
        if reader.done:
            self._upstream = None
        return data if self._legs is None or self._head_sent else self._legs.opening(reader, data)

    def _turned_away(self, reader: ResponseReader) -> bool:
        """The engine says that it did not take the request: another may. False where none is left to ask."""
        if not self._director.may_go_elsewhere(self.ticket):
            return False
        upstream, self._upstream = self._upstream, None
        if upstream is not None and not reader.done:
            upstream.abort()
        reason = f"answered {reader.status}"
        self._director.note_failure(self.ticket.url, reason)
        self._elsewhere(reason)
        return True

    def _head(self, reader: ResponseReader) -> bytes:
        """The response's head with our own framing; from here on no retry, so the body is let go."""
        self._head_sent, self._status = True, reader.status
        request = self.request
        request.body = b""
        framing = self._framing(reader)
        connection = b""
        if not request.keep_alive or self._hub.draining:
            connection = b"connection: close\r\n"
        elif request.http10:
            connection = b"connection: keep-alive\r\n"
        if request.hints.explain and self._hub.settings.explain and (told := self._decision()):
            connection += b"x-fleet-decision: %b\r\n" % told
        return b"".join((
            status_line(reader.status), reader.head, b"x-request-id: ", request.request_id.encode(), b"\r\n", framing,
            connection, b"\r\n",
        ))  # fmt: skip

    def _decision(self) -> bytes:
        """Why the request went where it went, or nowhere: the value of the header that tells it."""
        pick, seen = self.ticket.pick, self.ticket.seen
        if pick is None:
            return b""
        return explain.header(pick, seen.matched_tokens if seen else None, self.ticket.targets, self.ticket.held_s)

    def _framing(self, reader: ResponseReader) -> bytes:
        """How the client learns where the body ends."""
        if reader.status in _NO_BODY:
            return b""
        if reader.length >= 0 and (self._legs is None or not self._legs.rewrites):
            self._delimited = True
            return b"content-length: %d\r\n" % reader.length
        if self.request.http10:
            self.request.keep_alive = False
            return b""
        self._chunked = self._delimited = True
        return b"transfer-encoding: chunked\r\n"

    def _observe(self, reader: ResponseReader, data: bytes) -> None:
        if reader.events:
            self._director.stream(self.ticket, data)
        else:
            self._director.plain(self.ticket, data)

    def _complete(self, reader: ResponseReader) -> None:
        if reader.status >= 500:
            self._director.note_failure(self.ticket.url, f"answered {reader.status}")
        self._end(_OK if reader.status < 400 else _ERROR, reader.status)
        self._client.finish(keep_alive=self.request.keep_alive)

    def _refuse(self, refusal: Refusal, outcome: RequestOutcome) -> None:
        """The router's own answer."""
        if self.ticket.trace is not None:
            self.ticket.trace.refused(refusal)
        self._end(outcome, refusal.status)
        keep_alive = self.request.keep_alive and not self.request.http10 and not self._hub.draining
        told = self._decision() if self.request.hints.explain and self._hub.settings.explain else b""
        extra = {"x-fleet-decision": told.decode()} if told else None
        self._client.write(refusal.reply(request_id=self.request.request_id, close=not keep_alive, extra=extra))
        self._client.finish(keep_alive=keep_alive)

    def _end(self, outcome: RequestOutcome, status: int) -> None:
        """Account for it; a second call does nothing."""
        if not self._director.close(self.ticket, outcome, status):
            return
        self._hub.outbox.busy -= 1
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if self._legs is not None:
            self._legs.cancel()
        self.request.body = b""

    # What the client's connection calls.

    def cancel(self) -> None:
        """See :class:`router.dataplane.client.Work`."""
        self._end(RequestOutcome.ABORTED, self._status or _CLIENT_CLOSED)

    def pause(self) -> None:
        """See :class:`router.dataplane.client.Work`."""
        self._paused = True
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        """See :class:`router.dataplane.client.Work`."""
        self._paused, self._active_s = False, self._hub.now_s
        if self._upstream is not None:
            self._upstream.resume()

    def tick(self, now_s: float) -> None:
        """See :class:`router.dataplane.client.Work`."""
        if self.done or self._paused or self._pool is None or now_s - self._active_s <= self._hub.settings.response_s:
            return
        message = f"no byte from the engine for {self._hub.settings.response_s:g} s"
        if self._head_sent:
            self._break_off(RequestOutcome.TIMEOUT, 504)
        else:
            self._refuse(server_error(504, message, code="engine_timeout"), RequestOutcome.TIMEOUT)
