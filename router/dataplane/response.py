"""HTTP responses of engines from bytes, without I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

import httptools

from router.dataplane import headers as h
from router.dataplane.chunks import Chunks
from router.dataplane.heads import Heads

_HEAD_LIMIT = 64 << 10
_HEADER_COUNT = 200


class BadResponse(Exception):  # noqa: N818
    """An engine's answer that is not HTTP, or not one answer to one request."""


class Meaning(NamedTuple):
    """What a head that was read before means; only plain ones are remembered: kept alive, one length, or chunked."""

    status: int
    head: bytes
    events: bool


class ResponseReader:
    """Feed it bytes; after each feed look at :attr:`status`, take the body's new part, ask whether it is done.

    One reader serves all responses of a connection; :meth:`reset` starts the next. Interim responses (1xx) are
    skipped; trailers are dropped.
    """

    __slots__ = (
        "_body", "_chunks", "_count", "_final", "_head_bytes", "_heads", "_lines", "_parser", "_whole", "chunked",
        "done", "events", "head", "keep_alive", "length", "status",
    )  # fmt: skip

    def __init__(self, heads: Heads[Meaning] | None = None) -> None:
        self._heads = Heads[Meaning]() if heads is None else heads
        self._parser: Any = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._chunks = Chunks()
        self.reset()

    def reset(self) -> None:
        """Expect a new response."""
        self.status = 0
        """0 until the final head has been read."""
        self.head = b""
        """Header lines that may be forwarded."""
        self._lines: list[bytes] = []
        self.length = -1
        """Content-Length; -1 when it says none."""
        self.chunked = False
        self.events = False
        """Its content type is an event stream."""
        self.keep_alive = False
        self.done = False
        self._final = False
        self._count = self._head_bytes = 0
        self._whole = b""
        """Its head, where that was read before and the body is chunked: the parser has seen nothing of it."""

    def release(self) -> None:
        """Break the cycle with the parser."""
        self._parser = None

    def feed(self, data: bytes) -> None:
        """Read on.

        Raises: BadResponse when the bytes are no HTTP response, or more than one.
        """
        if self.done:
            raise BadResponse("bytes after the end of the response")
        if self._head_bytes:
            self._parse(data)
            return
        if self._whole:
            self._walk(data, 0)
            return
        heads = self._heads
        known = heads.find_whole(data)
        if known is not None:
            self.status, self.head, self.events = known
            self.chunked = self.keep_alive = self._final = True
            self._whole = heads.whole
            self._chunks.reset()
            self._walk(data, len(self._whole))
            return
        known = heads.find(data)
        if known is not None:
            self.status, self.head, self.events = known
            body = data[heads.begin :]
            self._body.append(body)
            self.length, self.keep_alive, self.done, self._final = len(body), True, True, True
            return
        head, length = heads.head, len(data) - heads.begin
        self._parse(data)
        if head and self.done and self.keep_alive and self.length == length and self.status >= 200:
            heads.put(head, Meaning(self.status, self.head, self.events))
        elif self.status == 200 and self.chunked and self.length < 0 and self.keep_alive and data[8:13] == b" 200 ":
            heads.put_whole(data, Meaning(self.status, self.head, self.events))

    def _walk(self, data: bytes, at: int) -> None:
        """Read on in chunks behind a head that was read before; from what is unusual on the parser does."""
        chunks = self._chunks
        stopped = chunks.read(data, at, self._body)
        self.done = chunks.done
        if stopped == len(data):
            return
        left = b"%x\r\n" % chunks.left if chunks.left else b""
        head, self._whole = self._whole, b""
        self._final = self.chunked = False
        self._parse(head + left + data[stopped:])

    def _parse(self, data: bytes) -> None:
        if not self._final:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BadResponse("the engine switched protocols") from None
        except httptools.HttpParserError as error:
            raise BadResponse(str(error.__context__ or error)) from None
        if not self._final and self._head_bytes > _HEAD_LIMIT:
            raise BadResponse(f"response head above {_HEAD_LIMIT} bytes")

    def take(self) -> bytes:
        """The body's part read since the last call."""
        body = self._body
        if not body:
            return b""
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        return data

    @property
    def until_close(self) -> bool:
        """The body ends where the connection ends."""
        return self._final and not self.done and not self.chunked and self.length < 0

    # What httptools calls.

    def on_message_begin(self) -> None:
        """A response starts."""
        if self.done:
            raise BadResponse("a second response to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._count += 1
        if self._count > _HEADER_COUNT:
            raise BadResponse(f"more than {_HEADER_COUNT} headers")
        if self._final:
            return
        low = name.lower()
        if low == b"content-length":
            self.length = int(value)
        elif low == b"transfer-encoding":
            self.chunked = True
            if value.strip().lower() != b"chunked":
                raise BadResponse("a transfer coding other than chunked")
        elif h.to_client(low):
            if low == b"content-type":
                self.events = b"event-stream" in value.lower()
            self._lines.append(b"%b: %b\r\n" % (name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        status = self._parser.get_status_code()
        if status < 200:
            self._lines, self.length, self.chunked = [], -1, False
            return
        self.status, self.head = status, b"".join(self._lines)
        self.keep_alive = self._parser.should_keep_alive()
        self._final = True

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """The response is whole (an interim one only announces the next)."""
        self.done = self._final
