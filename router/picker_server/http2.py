"""A gRPC server over HTTP/2 (RFC 9113), as much as Envoy needs: streams of messages both ways, flow control, health.

One protocol object a connection, no task a stream: frames are read where they come in, answers written where they are
made and sent together at the end of the read. A generated server spends ten times as long on each message.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

from router.picker_server.header_blocks import Decoder, HeaderBlockError, Headers, literal

log = logging.getLogger(__name__)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY, ACK = 1, 4, 8, 32, 1
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR = 0, 1, 3, 6, 9
CANCEL: Final = 8
_FRAME: Final = 1 << 20
"""Largest frame taken."""
_WINDOW: Final = (1 << 31) - 1
_HEADER_BLOCK: Final = 64 << 10
_STREAMS: Final = 100_000
_DEFAULT_WINDOW: Final = 65_535
_DEFAULT_FRAME: Final = 16_384
_PAUSE_BYTES: Final = 16 << 20
"""A peer that lets this much wait for it is cut off."""

OK, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 0, 12, 13, 14
"""gRPC status."""
_OPEN = b"\x88" + b"\x0f\x10" + bytes((16,)) + b"application/grpc"  # :status 200, content-type


class Call(Protocol):
    """One gRPC call, as the connection drives it."""

    def message(self, data: bytes) -> None:
        """A message came."""

    def half_closed(self) -> None:
        """The peer sends no more; the call should end with :meth:`Stream.finish`."""

    def gone(self) -> None:
        """The call is over, or its connection is; called once, also after :meth:`Stream.finish`."""


Open = Callable[[str, Headers, "Stream"], "Call | None"]
"""Begins a call: path, headers, where to answer. ``None``: no such method."""


class Stream:
    """Where a call answers."""

    __slots__ = ("_connection", "_opened", "_parts", "call", "closed", "number", "queue", "queued", "window")

    def __init__(self, connection: Connection, number: int, window: int) -> None:
        self._connection, self.number, self.window = connection, number, window
        self.call: Call | None = None
        self.closed = self._opened = False
        self._parts = bytearray()
        """Of a message that has not come whole."""
        self.queue: deque[tuple[bytes, bool]] = deque()
        """What waits for the peer's window: frames' payloads, and whether they are trailers."""
        self.queued = 0

    def send(self, message: bytes) -> None:
        """Answer with a message."""
        if self.closed:
            return
        if not self._opened:
            self._opened = True
            self._connection.frame(HEADERS, END_HEADERS, self.number, _OPEN)
        self._connection.data(self, b"\0" + len(message).to_bytes(4, "big") + message)

    def finish(self, status: int = OK, text: str = "") -> None:
        """End the call."""
        if self.closed:
            return
        block = b"" if self._opened else _OPEN
        block += literal(b"grpc-status", str(status).encode())
        if text:
            block += literal(b"grpc-message", text.encode("ascii", "replace")[:120])
        self._connection.trailers(self, block)

    def feed(self, data: bytes) -> None:
        """Bytes of messages came."""
        parts = self._parts
        if not parts and len(data) >= 5 and len(data) == 5 + int.from_bytes(data[1:5], "big"):
            self._deliver(data[0], data[5:])
            return
        parts += data
        while len(parts) >= 5 and not self.closed:
            end = 5 + int.from_bytes(parts[1:5], "big")
            if end > self._connection.message_limit:
                self._connection.reset(self, CANCEL)
                return
            if len(parts) < end:
                return
            flag, body = parts[0], bytes(parts[5:end])
            del parts[:end]
            self._deliver(flag, body)

    def _deliver(self, compressed: int, body: bytes) -> None:
        if compressed:
            self.finish(UNIMPLEMENTED, "compressed messages are not taken")
        elif self.call is not None and not self.closed:
            self.call.message(body)


class Connection(asyncio.Protocol):
    """One peer.

    Args:
        open_call: begins calls.
        registry: where the connection is entered while it lasts.
        message_limit: bytes of one message.
    """

    def __init__(self, open_call: Open, registry: set[Connection], *, message_limit: int = 8 << 20) -> None:
        self._open_call, self._registry, self.message_limit = open_call, registry, message_limit
        self._buffer = bytearray()
        self._preface = False
        self._streams: dict[int, Stream] = {}
        self._decoder = Decoder(limit=_HEADER_BLOCK)
        self._block: tuple[int, int, bytearray] | None = None
        self._last = 0
        self._out: list[bytes] = []
        self._reading = self.draining = False
        self._window = _DEFAULT_WINDOW
        self._first_window, self._max_frame = _DEFAULT_WINDOW, _DEFAULT_FRAME
        self._taken = 0
        self._waiting: dict[int, Stream] = {}
        self._transport: asyncio.Transport | None = None

    # ---- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        self._registry.add(self)
        settings = ((1, 0), (3, _STREAMS), (4, _WINDOW), (5, _FRAME), (6, _HEADER_BLOCK))
        body = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in settings)
        self.frame(SETTINGS, 0, 0, body)
        self.frame(WINDOW_UPDATE, 0, 0, (_WINDOW - _DEFAULT_WINDOW).to_bytes(4, "big"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self._registry.discard(self)
        self._transport = None
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            self._gone(stream)

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        self._reading = True
        try:
            self._read(data)
        except (HeaderBlockError, UnicodeDecodeError) as error:
            self._lose(COMPRESSION_ERROR, str(error))
        finally:
            self._reading = False
            self._flush()

    def _read(self, data: bytes) -> None:
        buffer = self._buffer
        if buffer:
            buffer += data
            data = bytes(buffer)
            buffer.clear()
        at, size = 0, len(data)
        if not self._preface:
            if size < len(PREFACE) and PREFACE.startswith(data):
                buffer += data
                return
            if not data.startswith(PREFACE):
                self._lose(PROTOCOL_ERROR, "no HTTP/2 preface")
                return
            self._preface, at = True, len(PREFACE)
        while size - at >= 9 and self._transport is not None:
            length = int.from_bytes(data[at : at + 3], "big")
            if length > _FRAME:
                self._lose(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                return
            end = at + 9 + length
            if end > size:
                break
            number = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFF_FFFF
            self._frame_came(data[at + 3], data[at + 4], number, data[at + 9 : end])
            at = end
        if at < size:
            buffer += data[at:]

    # ---- frames that come

    def _frame_came(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == DATA:
            self._data_came(flags, number, payload)
        elif kind in (HEADERS, CONTINUATION):
            self._block_came(kind, flags, number, payload)
        elif kind == RST_STREAM:
            if (stream := self._streams.pop(number, None)) is not None:
                self._gone(stream)
        elif kind == SETTINGS:
            self._settings_came(flags, payload)
        elif kind == WINDOW_UPDATE:
            self._window_came(number, payload)
        elif kind == PING and not flags & ACK:
            self.frame(PING, ACK, 0, payload)

    def _unpadded(self, flags: int, payload: bytes) -> bytes | None:
        """The payload without padding and priority; ``None`` when that cannot be."""
        start, end = 0, len(payload)
        if flags & PADDED:
            if not payload:
                return None
            start, end = 1, end - payload[0]
        return payload[start:end] if start <= end else None

    def _data_came(self, flags: int, number: int, payload: bytes) -> None:
        self._taken += len(payload)
        if self._taken > _WINDOW // 2:
            self.frame(WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big"))
            self._taken = 0
        stream = self._streams.get(number)
        if stream is None:
            return
        body = self._unpadded(flags, payload) if flags & PADDED else payload
        if body is None:
            self._lose(PROTOCOL_ERROR, "more padding than payload")
            return
        if body:
            stream.feed(body)
        if flags & END_STREAM and stream.call is not None and not stream.closed:
            stream.call.half_closed()

    def _block_came(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == CONTINUATION:
            self._continued(flags, number, payload)
        elif self._block is None:
            self._headers_came(flags, number, payload)
        else:
            self._lose(PROTOCOL_ERROR, "a header block was interrupted")

    def _headers_came(self, flags: int, number: int, payload: bytes) -> None:
        block = self._unpadded(flags, payload)
        if block is None or not number % 2:
            self._lose(PROTOCOL_ERROR, "a bad HEADERS frame")
            return
        if flags & PRIORITY:
            block = block[5:]
        if flags & END_HEADERS:
            self._opened(flags, number, block)
        else:
            self._block = flags, number, bytearray(block)

    def _continued(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[1] != number or len(self._block[2]) + len(payload) > _HEADER_BLOCK:
            self._lose(PROTOCOL_ERROR, "a bad CONTINUATION frame")
            return
        first, _, block = self._block
        block += payload
        if flags & END_HEADERS:
            self._block = None
            self._opened(first, number, bytes(block))

    def _opened(self, flags: int, number: int, block: bytes) -> None:
        headers = self._decoder.decode(block)
        known = self._streams.get(number)
        if known is not None:  # trailers
            if known.call is not None:
                known.call.half_closed()
            return
        if number <= self._last:
            return  # it was reset or has ended
        self._last = number
        stream = Stream(self, number, self._first_window)
        if self.draining:
            stream.finish(UNAVAILABLE, "shutting down")
            return
        self._streams[number] = stream
        stream.call = self._open_call(headers.get(b":path", b"").decode("latin-1"), headers, stream)
        if stream.call is None:
            stream.finish(UNIMPLEMENTED, "no such method")
        elif flags & END_STREAM:
            stream.call.half_closed()

    def _settings_came(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        for at in range(0, len(payload) - 5, 6):
            name, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if name == 4:
                for stream in self._streams.values():
                    stream.window += value - self._first_window
                self._first_window = value
            elif name == 5:
                self._max_frame = max(_DEFAULT_FRAME, value)
        self.frame(SETTINGS, ACK, 0, b"")
        self._send_waiting()

    def _window_came(self, number: int, payload: bytes) -> None:
        more = int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF
        if not number:
            self._window += more
            if self._window > _WINDOW:
                self._lose(FLOW_CONTROL_ERROR, "a window above 2^31-1")
                return
        elif (stream := self._streams.get(number)) is not None:
            stream.window += more
        if self._waiting:
            self._send_waiting()

    # ---- frames that go

    def frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Send a frame, together with others made in the same turn."""
        self._out.append(len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + payload)
        if not self._reading and len(self._out) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            if self._transport.get_write_buffer_size() > _PAUSE_BYTES:
                log.warning("a proxy reads nothing: %d MiB wait for it; closing", _PAUSE_BYTES >> 20)
                self._transport.abort()
        self._out.clear()

    def data(self, stream: Stream, payload: bytes) -> None:
        """Send a message, as far as the peer's windows allow."""
        size = len(payload)
        if not stream.queue and size <= self._window and size <= stream.window and size <= self._max_frame:
            self._window -= size
            stream.window -= size
            self.frame(DATA, 0, stream.number, payload)
            return
        stream.queue.append((payload, False))
        self._waiting[stream.number] = stream
        self._send_waiting()

    def trailers(self, stream: Stream, block: bytes) -> None:
        """End a call, after what waits of it."""
        stream.closed = True
        if stream.queue:
            stream.queue.append((block, True))
        else:
            self._end(stream, block)

    def _end(self, stream: Stream, block: bytes) -> None:
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream.number, block)
        self._streams.pop(stream.number, None)
        self._gone(stream)

    def _send_waiting(self) -> None:
        for stream in tuple(self._waiting.values()):
            while stream.queue:
                payload, last = stream.queue[0]
                if last:
                    stream.queue.popleft()
                    self._end(stream, payload)
                    break
                size = min(len(payload), self._window, stream.window, self._max_frame)
                if size <= 0:
                    break
                self._window -= size
                stream.window -= size
                self.frame(DATA, 0, stream.number, payload[:size])
                if size == len(payload):
                    stream.queue.popleft()
                else:
                    stream.queue[0] = payload[size:], False
            if not stream.queue:
                self._waiting.pop(stream.number, None)

    def reset(self, stream: Stream, code: int) -> None:
        """Break a call off."""
        self.frame(RST_STREAM, 0, stream.number, code.to_bytes(4, "big"))
        self._streams.pop(stream.number, None)
        self._gone(stream)

    def _gone(self, stream: Stream) -> None:
        stream.closed = True
        stream.queue.clear()
        self._waiting.pop(stream.number, None)
        call, stream.call = stream.call, None
        if call is not None:
            call.gone()

    def _lose(self, code: int, why: str) -> None:
        log.warning("HTTP/2 connection closed: %s", why)
        self.frame(GOAWAY, 0, 0, self._last.to_bytes(4, "big") + code.to_bytes(4, "big"))
        self._flush()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    # ---- a stop

    def drain(self) -> None:
        """Take no more calls."""
        self.draining = True
        self.frame(GOAWAY, 0, 0, self._last.to_bytes(4, "big") + NO_ERROR.to_bytes(4, "big"))

    @property
    def calls(self) -> int:
        """Calls under way."""
        return len(self._streams)

    def close(self) -> None:
        """Close now."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
