"""The prefill leg of a request: sent, awaited, told of. Its failure is never the client's: decode goes on alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from router.dataplane.response import ResponseReader
from router.dataplane.upstream import Pool, UpstreamConnection

_LIMIT = 8 << 20
OnDone = Callable[["Mapping[str, Any] | None", str], None]
"""The prefill engine's answer, or ``None`` and why not."""


class PrefillLeg:
    """One request to one prefill engine, or to its bootstrap server (a :class:`router.dataplane.upstream.Carrier`)."""

    __slots__ = ("_body", "_connection", "_done", "_fresh", "_on_done", "_pool", "_wire")

    def __init__(self, pool: Pool, wire: bytes, on_done: OnDone) -> None:
        self._pool, self._wire, self._on_done = pool, wire, on_done
        self._body: list[bytes] = []
        self._connection: UpstreamConnection | None = None
        self._done = self._fresh = False

    def start(self) -> None:
        """Send it."""
        if (connection := self._pool.take()) is not None:
            self.on_connected(connection)
        else:
            self._fresh = True
            self._pool.connect(self)

    def cancel(self) -> None:
        """Nobody wants it any more: the engine learns that from its connection."""
        self._done = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def give_up(self, why: str) -> None:
        """It took too long."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._finish(None, why)

    def _finish(self, answer: Mapping[str, Any] | None, why: str) -> None:
        if not self._done:
            self._done = True
            self._connection = None
            self._on_done(answer, why)

    def on_connected(self, connection: UpstreamConnection) -> None:
        """See :class:`router.dataplane.upstream.Carrier`."""
        if self._done:
            connection.pool.give(connection, keep=True)
            return
        self._connection = connection
        connection.send(self, self._wire)

    def on_connect_failed(self, reason: str, *, ours: bool) -> None:
        """See :class:`router.dataplane.upstream.Carrier`."""
        self._finish(None, f"no connection: {reason}" if not ours else reason)

    def on_failed(self, reason: str, *, answered: bool, reused: bool) -> None:
        """See :class:`router.dataplane.upstream.Carrier`."""
        self._connection = None
        if self._done:
            return
        if reused and not answered and not self._fresh:
            self._fresh = True
            self._pool.connect(self)
        else:
            self._finish(None, reason)

    def on_response(self, reader: ResponseReader) -> None:
        """See :class:`router.dataplane.upstream.Carrier`."""
        if self._done or not reader.status:
            return
        if data := reader.take():
            self._body.append(data)
        if reader.done:
            self._answered(reader.status)
        elif sum(map(len, self._body)) > _LIMIT:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.abort()
            self._finish(None, "its answer is too large")

    def _answered(self, status: int) -> None:
        if status != 200:
            self._finish(None, f"status {status}")
            return
        try:
            answer = msgspec.json.decode(b"".join(self._body), type=dict[str, Any])
        except msgspec.DecodeError as error:
            self._finish(None, f"its answer is no JSON object: {error}")
            return
        self._finish(answer, "")
