"""Heads that were parsed before. Pure.

On one connection, and between clients of one library, heads differ in nothing but the length of the body. A head that
was parsed and found good is remembered by its bytes without the digits of its ``Content-Length``, and not parsed again:
the same bytes mean the same. What is looked up is a whole message with a body of exactly that length, or nothing; and
what is remembered holds at most :data:`MAX_HEADS` heads of :data:`MAX_BYTES`.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

MAX_HEADS: Final = 1024
MAX_BYTES: Final = 2048
_LENGTH, _LENGTH_LOW = b"\r\nContent-Length: ", b"\r\ncontent-length: "
_SKIP: Final = len(_LENGTH)
_MAX_DIGITS: Final = 9

T = TypeVar("T")


def split(data: bytes) -> tuple[bytes, int] | None:
    """The head without the digits of its length, and where the body begins, of a message that is whole and alone.

    >>> split(b"POST / HTTP/1.1\\r\\nContent-Length: 2\\r\\nA: b\\r\\n\\r\\nhi")
    (b'POST / HTTP/1.1\\r\\nContent-Length: \\r\\nA: b', 46)
    >>> split(b"POST / HTTP/1.1\\r\\nContent-Length: 3\\r\\n\\r\\nhi") is None
    True
    """
    end = data.find(b"\r\n\r\n", 0, MAX_BYTES)
    if end < 0:
        return None
    at = data.find(_LENGTH, 0, end)
    if at < 0:
        at = data.find(_LENGTH_LOW, 0, end)
        if at < 0:
            return None
    at += _SKIP
    stop = data.find(b"\r", at, end + 1)
    digits = data[at:stop]
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or len(data) - end - 4 != int(digits):
        return None
    return data[:at] + data[stop:end], end + 4


class Heads(Generic[T]):
    """What good heads mean, by their bytes.

    Args:
        limit: heads remembered; 0: none.
    """

    __slots__ = ("_limit", "known")

    def __init__(self, limit: int = MAX_HEADS) -> None:
        self._limit = limit
        self.known: dict[bytes, T] = {}
        """What each head means; for reading only."""

    def put(self, head: bytes, meaning: T) -> None:
        """Remember a head; when there are too many, start afresh."""
        if len(self.known) >= self._limit:
            self.known.clear()
        if self._limit:
            self.known[head] = meaning
