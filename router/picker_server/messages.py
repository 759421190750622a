"""ext_proc's messages, read into what the picker needs, and written. Pure.

Numbers are those of ``envoy.service.ext_proc.v3`` (tests compare with the generated classes).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from functools import lru_cache
from typing import Any, Final

from router.picker_server.protobuf import field, fields, number_field, varint

CHUNK_BYTES: Final = 62_000
"""Of a body in one answer: below Envoy's and gRPC's limits with room to spare."""
DESTINATION: Final = "x-gateway-destination-endpoint"
SERVED: Final = "x-gateway-destination-endpoint-served"
SCORES: Final = "x-gateway-destination-endpoint-scores"
SUBSET: Final = "x-gateway-destination-endpoint-subset"
_OVERWRITE: Final = 2  # OVERWRITE_IF_EXISTS_OR_ADD


class Phase(enum.IntEnum):
    """What a request speaks of; the value is its field's number."""

    NONE = 0
    REQUEST_HEADERS = 2
    RESPONSE_HEADERS = 3
    REQUEST_BODY = 4
    RESPONSE_BODY = 5
    REQUEST_TRAILERS = 6
    RESPONSE_TRAILERS = 7


class BodyMode(enum.IntEnum):
    """How Envoy sends bodies."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    DUPLEX = 4


_ANSWER: Final = {Phase.REQUEST_HEADERS: 1, Phase.RESPONSE_HEADERS: 2, Phase.REQUEST_BODY: 3, Phase.RESPONSE_BODY: 4,
                  Phase.REQUEST_TRAILERS: 5, Phase.RESPONSE_TRAILERS: 6}  # fmt: skip


@dataclass(slots=True)
class Message:
    """One ``ProcessingRequest``."""

    phase: Phase = Phase.NONE
    headers: dict[str, str] = default(default_factory=dict)
    body: bytes = b""
    end: bool = False
    metadata: bytes = b""
    """``metadata_context``, unread."""
    attributes: bytes = b""
    """The filter's ``attributes``, unread."""
    request_mode: int | None = None
    """Body mode of requests; ``None``: not in this message."""
    response_mode: int | None = None


def parse(data: bytes) -> Message:
    """One message.

    Raises: BadMessageError.
    """
    found = Message()
    for number, value in fields(data):
        if not isinstance(value, bytes):
            continue
        if number in (Phase.REQUEST_BODY, Phase.RESPONSE_BODY):
            found.phase = Phase(number)
            _read_body(found, value)
        elif number in (Phase.REQUEST_HEADERS, Phase.RESPONSE_HEADERS):
            found.phase = Phase(number)
            _read_headers(found, value)
        elif number in (Phase.REQUEST_TRAILERS, Phase.RESPONSE_TRAILERS):
            found.phase = Phase(number)
        elif number == 8:
            found.metadata = value
        elif number == 9:
            found.attributes = value
        elif number == 11:
            _read_modes(found, value)
    return found


def _read_body(found: Message, data: bytes) -> None:
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            found.body = value
        elif number == 2:
            found.end = bool(value)


def _read_headers(found: Message, data: bytes) -> None:
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            found.headers = header_map(value)
        elif number == 3:
            found.end = bool(value)


def header_map(data: bytes) -> dict[str, str]:
    """A ``HeaderMap``; of a header that comes twice, the last."""
    found: dict[str, str] = {}
    at, size = 0, len(data)
    while at < size:  # the common shape, read without a detour: key and raw_value, both short
        length = data[at + 1] if at + 1 < size else 0
        end = at + 2 + length
        if data[at] == 0x0A and length < 128 and end <= size and length > 2 and data[at + 2] == 0x0A:
            middle = at + 4 + data[at + 3]
            if middle + 2 <= end and data[middle] in (0x12, 0x1A) and middle + 2 + data[middle + 1] == end:
                name = data[at + 4 : middle].decode("latin-1")
                found[name] = data[middle + 2 : end].decode("latin-1")
                at = end
                continue
        return _header_map(data)
    return found


def _header_map(data: bytes) -> dict[str, str]:
    found = {}
    for _, entry in fields(data):
        parts = dict(fields(entry)) if isinstance(entry, bytes) else {}
        name, value = parts.get(1, b""), parts.get(3) or parts.get(2) or b""
        if isinstance(name, bytes) and isinstance(value, bytes):
            found[name.decode("latin-1")] = value.decode("latin-1")
    return found


def _read_modes(found: Message, data: bytes) -> None:
    found.request_mode = found.response_mode = 0
    for number, value in fields(data):
        if isinstance(value, int):
            if number == 1:
                found.request_mode = value
            elif number == 2:
                found.response_mode = value


# ---- metadata


def metadata_value(metadata: bytes, space: str, key: str) -> Any:
    """``filter_metadata[space][key]``; ``None`` where it is not set."""
    for number, entry in fields(metadata):
        if number == 1 and isinstance(entry, bytes):
            parts = dict(fields(entry))
            if parts.get(1) == space.encode() and isinstance(inside := parts.get(2, b""), bytes):
                return _struct(inside).get(key)
    return None


def attribute(attributes: bytes, key: str) -> Any:
    """One attribute that the filter was told to send; ``None`` where it is not set."""
    inside = dict(fields(attributes)).get(2, b"")
    return _struct(inside).get(key) if isinstance(inside, bytes) else None


def _struct(data: bytes) -> dict[str, Any]:
    found = {}
    for number, entry in fields(data):
        if number == 1 and isinstance(entry, bytes):
            parts = dict(fields(entry))
            name, value = parts.get(1, b""), parts.get(2, b"")
            if isinstance(name, bytes) and isinstance(value, bytes):
                found[name.decode()] = _value(value)
    return found


def _value(data: bytes) -> Any:
    for number, value in fields(data):
        if number == 2 and isinstance(value, bytes):
            return struct.unpack("<d", value)[0]
        if number == 3 and isinstance(value, bytes):
            return value.decode()
        if number == 4:
            return bool(value)
        if number == 5 and isinstance(value, bytes):
            return _struct(value)
        if number == 6 and isinstance(value, bytes):
            return [_value(one) for place, one in fields(value) if place == 1 and isinstance(one, bytes)]
    return None


def _to_struct(values: Mapping[str, Any]) -> bytes:
    return b"".join(field(1, field(1, name.encode()) + field(2, _to_value(value))) for name, value in values.items())


def _to_value(value: Any) -> bytes:
    if isinstance(value, float | int):
        return b"\x11" + struct.pack("<d", value)
    if isinstance(value, Mapping):
        return field(5, _to_struct(value))
    return field(3, str(value).encode())


# ---- answers


def _set_headers(headers: Iterable[tuple[str, str]]) -> bytes:
    action = number_field(3, _OVERWRITE)
    return b"".join(
        field(1, field(1, field(1, name.encode()) + field(3, value.encode("latin-1", "replace"))) + action)
        for name, value in headers
    )


def _mutation(headers: Iterable[tuple[str, str]], remove: Iterable[str]) -> bytes:
    return _set_headers(headers) + b"".join(field(2, name.encode()) for name in remove)


def answer(
    phase: Phase, *, headers: Sequence[tuple[str, str]] = (), remove: Sequence[str] = (), clear_route: bool = False,
    body: bytes | None = None, dynamic: Mapping[str, Mapping[str, Any]] | None = None,
) -> bytes:  # fmt: skip
    """The answer to headers, or to a body that came whole.

    Args:
        phase: what is answered.
        headers: set, instead of any there are.
        remove: taken away.
        clear_route: the route is to be chosen again.
        body: a whole new body, in buffered mode.
        dynamic: metadata for the filters that follow, by name space.
    """
    common = field(2, _mutation(headers, remove)) if headers or remove else b""
    if body is not None:
        common += field(3, field(1, body))
    common += number_field(5, clear_route)
    message = field(_ANSWER[phase], field(1, common) if common else b"")
    if dynamic:
        message += field(8, _to_struct(dynamic))
    return message


def streamed(phase: Phase, body: bytes, *, end: bool) -> list[bytes]:
    """A body in duplex mode, as one answer or several."""
    if len(body) <= CHUNK_BYTES:
        return [_chunk(phase, body, end=end)]
    starts = range(0, len(body), CHUNK_BYTES)
    return [
        _chunk(phase, body[start : start + CHUNK_BYTES], end=end and start + CHUNK_BYTES >= len(body))
        for start in starts
    ]


def _chunk(phase: Phase, body: bytes, *, end: bool) -> bytes:
    head = b"\x0a" + varint(len(body)) if body else b""
    tail = b"\x10\x01" if end else b""
    size = len(head) + len(body) + len(tail)
    for tag in (0x1A, 0x1A, 0x0A, _ANSWER[phase] << 3 | 2):  # from the inside: streamed, mutation, common, the answer
        length = varint(size)
        head = bytes((tag,)) + length + head
        size += 1 + len(length)
    return head + body + tail


@lru_cache(maxsize=4096)
def _picked_parts(named: str) -> tuple[bytes, bytes]:
    """The header entry and the metadata that name an endpoint: always the same bytes."""
    return _set_headers(((DESTINATION, named),)), field(8, _to_struct({"envoy.lb": {DESTINATION: named}}))


def picked(phase: Phase, named: str, length: int | None) -> bytes:
    """The answer that names an endpoint and says nothing else; ``length`` of the body that follows, if known."""
    header, metadata = _picked_parts(named)
    if length is not None:
        header += _set_headers((("content-length", str(length)),))
    return field(_ANSWER[phase], field(1, field(2, header) + b"\x28\x01")) + metadata


@lru_cache(maxsize=16)
def passed(phase: Phase) -> bytes:
    """The answer to headers that changes nothing."""
    return answer(phase)


def trailers(phase: Phase) -> bytes:
    """Trailers pass as they are."""
    return field(_ANSWER[phase], b"")


def immediate(status: int, body: bytes, headers: Sequence[tuple[str, str]], *, details: str) -> bytes:
    """An answer for the client, instead of an engine's."""
    parts = field(1, number_field(1, status)) + field(2, _set_headers(headers)) + field(3, body)
    return field(7, parts + field(5, details.encode()))
