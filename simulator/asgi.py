"""The little of ASGI that an engine needs: bodies in, messages out, connections broken on purpose."""

from __future__ import annotations

import os
import socket
import struct
from asyncio import Transport
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from simulator.api_types import ApiError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY_BYTES = 32 * 1024 * 1024
JSON: Headers = [(b"content-type", b"application/json")]
SSE: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
METRICS: Headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
PLAIN: Headers = []
TRANSPORT = "transport"
"""Under this name a connection's transport is in the request's ``state``."""


class Disconnected(Exception):  # noqa: N818  # an event, not an error
    """The connection is gone: the client closed it, or a fault did."""


async def read(receive: Receive) -> bytes:
    """A request's body.

    Raises: Disconnected; ApiError 413 when it is too large.
    """
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes", kind="RequestEntityTooLarge")
        more = message.get("more_body", False)
    return b"".join(parts)


async def reply(send: Send, status: int, body: bytes, headers: Headers = JSON) -> None:
    """A whole answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def begin_stream(send: Send) -> None:
    """The head of an answer of server-sent events."""
    await send({"type": "http.response.start", "status": 200, "headers": SSE})


async def send_part(send: Send, body: bytes, *, last: bool = False) -> None:
    """A part of a streamed answer."""
    await send({"type": "http.response.body", "body": body, "more_body": not last})


def header(scope: Message, name: bytes) -> str:
    """The value of a header, lower-case name; empty when absent."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def break_connection(scope: Message) -> None:
    """Reset the connection of a request, as a network that fails does.

    Raises: Disconnected, always.
    """
    transport = scope.get("state", {}).get(TRANSPORT)
    if transport is not None:
        reset(transport)
    raise Disconnected


def reset(transport: Transport) -> None:
    """Close with RST instead of FIN."""
    number = transport.get_extra_info("socket").fileno()
    if number >= 0:
        with socket.socket(fileno=os.dup(number)) as twin:  # options belong to the connection, not to the descriptor
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
