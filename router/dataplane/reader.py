"""HTTP requests from bytes, strictly, without I/O.

llhttp refuses most ambiguous framing by itself (both lengths, two lengths, folded headers, bad chunks, bare line
feeds); what it lets pass and a server behind us could read otherwise is refused here. Nothing here grows without
bound: the head, the number of headers, the body, its chunk overhead and the requests read ahead all have limits.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, NamedTuple

import httptools

from router.dataplane import headers as h
from router.dataplane.heads import Heads
from router.dataplane.replies import Refusal
from router.hints import HEADERS, NO_HINTS, Hints, with_hint
from router.settings import RouterSettings

_PHASE_IDLE, _PHASE_HEAD, _PHASE_BODY = range(3)
_SPECIAL = frozenset({
    b"content-length", b"transfer-encoding", b"host", b"connection", b"upgrade", b"expect", b"x-request-id",
})  # fmt: skip
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_OVERHEAD = 64 << 10
"""Chunk sizes, extensions and trailers beyond the body's own limit."""


class _StopReading(Exception):  # noqa: N818 - it ends a parse, it is no error of ours
    """Raised in a parser callback once a refusal is set."""


class ClientRequest:
    """One request as read: the head that matters, lines that may be forwarded, the whole body."""

    __slots__ = (
        "authorization",
        "body",
        "expect_continue",
        "head",
        "hints",
        "http10",
        "keep_alive",
        "method",
        "request_id",
        "target",
    )

    def __init__(  # noqa: PLR0917 - in the order of Meaning, whose parts it is made of
        self, method: bytes = b"", target: bytes = b"", head: bytes = b"", request_id: str = "",
        hints: Hints = NO_HINTS, authorization: bytes = b"", body: bytes = b"",
    ) -> None:  # fmt: skip
        self.method = method
        self.target = target
        self.http10 = False
        self.keep_alive = True
        self.expect_continue = False
        self.head = head
        """Header lines that may be forwarded."""
        self.request_id = request_id
        self.hints = hints
        self.authorization = authorization
        """Credentials, where they are for the router: then they go no further."""
        self.body = body


class Meaning(NamedTuple):
    """What a head that was read before means; only plain ones are remembered: HTTP/1.1, kept alive, one length."""

    method: bytes
    target: bytes
    head: bytes
    request_id: str
    hints: Hints
    authorization: bytes


class RequestReader:
    """Feed it bytes; take requests from :attr:`requests`; stop at a :attr:`refusal`."""

    __slots__ = (
        "_body", "_connection", "_count", "_head_bytes", "_heads", "_hosts", "_keeps_credentials", "_length", "_lines",
        "_most", "_parser", "_phase", "_raw", "_request", "_settings", "_url", "refusal", "requests", "wants_continue",
    )  # fmt: skip

    def __init__(self, settings: RouterSettings, heads: Heads[Meaning] | None = None) -> None:
        self._settings, self._most = settings, settings.body_bytes
        self._parser: Any = httptools.HttpRequestParser(self)
        self._keeps_credentials = settings.tenants is not None or bool(settings.engine_api_key.get_secret_value())
        self._phase = _PHASE_IDLE
        self._raw = 0
        self._heads = Heads[Meaning]() if heads is None else heads
        self.requests: deque[ClientRequest] = deque()
        self.refusal: Refusal | None = None
        self.wants_continue = False
        """The head of a request with ``Expect: 100-continue`` was read, its body not yet."""

    @property
    def idle(self) -> bool:
        """Between two requests."""
        return self._phase == _PHASE_IDLE

    @property
    def in_head(self) -> bool:
        """Inside a request's head."""
        return self._phase == _PHASE_HEAD

    @property
    def held_bytes(self) -> int:
        """Bytes of the body read so far."""
        return len(self._body) if self._phase == _PHASE_BODY else 0

    def release(self) -> None:
        """Break the cycle with the parser."""
        self._parser = None

    def feed(self, data: bytes) -> None:
        """Read on; never raises: look at :attr:`refusal` afterwards."""
        if self._phase != _PHASE_IDLE or self.requests:
            self._parse(data)
            return
        heads = self._heads
        known = heads.find(data)
        if known is not None and len(data) - heads.begin <= self._most:
            self.requests.append(ClientRequest(*known, data[heads.begin :]))
            return
        head = heads.head if known is None else b""
        self._parse(data)
        if head:
            self._remember(head)

    def _remember(self, head: bytes) -> None:
        """The message with ``head`` was read: need it be parsed again? Not if there was nothing special about it."""
        if self.refusal is not None or self._phase != _PHASE_IDLE or len(self.requests) != 1 or self._connection:
            return
        one = self.requests[0]
        if self._length == len(one.body) and one.keep_alive and not (one.http10 or one.expect_continue):
            self._heads.put(head, Meaning(*(getattr(one, name) for name in Meaning._fields)))

    def _parse(self, data: bytes) -> None:
        self._raw += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(501, "neither CONNECT nor protocol upgrades are served here")
        except httptools.HttpParserError as error:
            self._refuse(400, f"this is no valid HTTP/1.1 request: {error}")
        if self.refusal is None:
            self._check_raw()

    def _check_raw(self) -> None:
        if self._phase == _PHASE_HEAD and self._raw > self._settings.header_bytes:
            self._refuse(431, f"request head above {self._settings.header_bytes} bytes")
        elif self._phase == _PHASE_BODY and self._raw > self._settings.body_bytes + _OVERHEAD:
            self._refuse(413, f"request body above {self._settings.body_bytes} bytes")

    def _refuse(self, status: int, message: str) -> None:
        if self.refusal is None:
            self.refusal = Refusal(status, message)
            self.wants_continue = False

    def _stop(self, status: int, message: str) -> None:
        self._refuse(status, message)
        raise _StopReading

    # What httptools calls.

    def on_message_begin(self) -> None:
        """A request starts."""
        if len(self.requests) >= self._settings.pipelined:
            self._stop(429, f"more than {self._settings.pipelined} requests sent ahead of their answers")
        self._phase = _PHASE_HEAD
        self._request = ClientRequest()
        self._url = b""
        self._lines: list[bytes] = []
        self._connection: list[bytes] = []
        self._body: bytes | bytearray = b""
        self._length = -1
        self._hosts = self._count = self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url
        if len(self._url) > self._settings.header_bytes:
            self._stop(431, f"request head above {self._settings.header_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header (or, after the body, a trailer: dropped, it cannot change what was decided)."""
        self._count += 1
        self._head_bytes += len(name) + len(value) + 4
        limit = self._settings
        if self._count > limit.header_count:
            self._stop(431, f"more than {limit.header_count} headers")
        if self._head_bytes + len(self._url) > limit.header_bytes:
            self._stop(431, f"request head above {limit.header_bytes} bytes")
        if self._phase != _PHASE_HEAD:
            return
        low = name.lower()
        if low in _SPECIAL:
            self._special(low, value.strip())
        elif low == b"authorization" and self._keeps_credentials:
            if self._request.authorization:
                self._stop(400, "more than one Authorization header")
            self._request.authorization = value.strip()
        else:
            if low in HEADERS:
                self._request.hints = with_hint(self._request.hints, HEADERS[low], value.strip())
            if h.to_engine(low):
                self._lines.append(b"%b: %b\r\n" % (name, value))

    def _special(self, name: bytes, value: bytes) -> None:
        request = self._request
        if name == b"content-length":
            self._length = int(value)
        elif name == b"host":
            self._hosts += 1
        elif name == b"connection":
            self._connection += h.tokens(value)
        elif name == b"x-request-id":
            if _REQUEST_ID.fullmatch(value):
                request.request_id = value.decode("ascii")
        elif name == b"expect":
            if value.lower() != b"100-continue":
                self._stop(417, "the only expectation understood is 100-continue")
            request.expect_continue = True
        elif name == b"upgrade":
            self._stop(501, "protocol upgrades are not served here")
        elif value.lower() != b"chunked":
            self._stop(501, "the only transfer coding understood is chunked")
        else:
            self._length = -2

    def on_headers_complete(self) -> None:
        """The head is whole: refuse what is ambiguous or too large before any of the body is read."""
        request = self._request
        request.method, request.target = self._parser.get_method(), self._url
        self._check_head(request)
        request.keep_alive = self._parser.should_keep_alive()
        hop = [token for token in self._connection if token not in (b"keep-alive", b"close")]
        if hop:
            self._lines = h.without(self._lines, hop)
        request.head = b"".join(self._lines)
        self._phase, self._raw = _PHASE_BODY, 0
        self.wants_continue = request.expect_continue and not request.http10

    def _check_head(self, request: ClientRequest) -> None:
        version = self._parser.get_http_version()
        request.http10 = version == "1.0"
        if request.method == b"CONNECT":
            self._stop(501, "CONNECT is not served here")
        if version not in ("1.1", "1.0"):
            self._stop(505, f"HTTP/{version} is not served here")
        if self._hosts != 1 and not (request.http10 and not self._hosts):
            self._stop(400, "exactly one Host header is needed")
        if self._length == -2 and request.http10:
            self._stop(400, "HTTP/1.0 has no transfer codings")
        if self._length > self._settings.body_bytes:
            self._stop(413, f"request body of {self._length} bytes (limit {self._settings.body_bytes})")

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self.wants_continue = False
        if not self._body:
            self._body = data
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        if len(self._body) > self._settings.body_bytes:
            self._stop(413, f"request body above {self._settings.body_bytes} bytes")

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.wants_continue = False
        self._request.body = bytes(self._body)
        self._body = b""
        self.requests.append(self._request)
        self._phase, self._raw = _PHASE_IDLE, 0
