"""Heads that were parsed before. Pure.

On one connection, and between clients of one library, heads differ in nothing but the length of the body. A head that
was parsed and found good is remembered by its bytes without the digits of its ``Content-Length``, and not parsed again:
the same bytes mean the same. What is looked up is a whole message with a body of exactly that length, or nothing; and
what is remembered holds at most :data:`MAX_HEADS` heads of :data:`MAX_BYTES`. Heads of chunked messages are remembered
as they are.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

MAX_HEADS: Final = 1024
MAX_BYTES: Final = 2048
_LENGTH, _LENGTH_LOW = b"\r\nContent-Length: ", b"\r\ncontent-length: "
_SKIP: Final = len(_LENGTH)
_MAX_DIGITS: Final = 9
_ZERO: Final = 48

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
    at = _digits_at(data, end)
    if at < 0:
        return None
    stop = data.find(b"\r", at, end + 1)
    digits = data[at:stop]
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or len(data) - end - 4 != int(digits):
        return None
    return data[:at] + data[stop:end], end + 4


def _digits_at(data: bytes, end: int) -> int:
    """Where the length's digits are, in a head that ends at ``end``; below 0: nowhere."""
    at = data.find(_LENGTH, 0, end)
    if at < 0:
        at = data.find(_LENGTH_LOW, 0, end)
    return at + _SKIP if at >= 0 else -1


class Heads(Generic[T]):
    """What good heads mean, by their bytes.

    Args:
        limit: heads remembered; 0: none.
    """

    __slots__ = ("_limit", "_meaning", "_start", "_stop", "_whole_meaning", "begin", "head", "known", "whole", "wholes")

    def __init__(self, limit: int = MAX_HEADS) -> None:
        self._limit = limit
        self.known: dict[bytes, T] = {}
        """What each head means; for reading only."""
        self._start = self._stop = b""
        self._meaning: T | None = None
        """The head found last, up to the digits of its length, the rest of it, and what it means."""
        self.head = b""
        """Of a message that :meth:`find` did not know; empty: it is none that could be remembered."""
        self.begin = 0
        """Where the body of the message begins."""
        self.wholes: dict[bytes, T] = {}
        """The same as :attr:`known` for heads of chunked messages, with all their bytes."""
        self.whole = b""
        """The one found last."""
        self._whole_meaning: T | None = None

    def find(self, data: bytes) -> T | None:
        """What the head of ``data`` means, if it is a message that is whole and alone (:func:`split`) and its head is
        known."""
        start, stop = self._start, self._stop
        if start and data.startswith(start):  # most often it is the last one again
            at, size, length = len(start), len(data), 0
            end = at
            while end < size and end - at < _MAX_DIGITS and 0 <= (digit := data[end] - _ZERO) <= 9:
                length = 10 * length + digit
                end += 1
            begin = end + len(stop)
            if end > at and size - begin == length and data.startswith(stop, end):
                self.begin = begin
                return self._meaning
        found = split(data)
        if found is None:
            self.head = b""
            return None
        self.head, self.begin = found
        meaning = self.known.get(self.head)
        if meaning is None:
            return None
        begin = self.begin
        digits_at = _digits_at(data, begin - 4)
        self._start, self._stop = data[:digits_at], data[data.find(b"\r", digits_at) : begin]
        self._meaning = meaning
        return meaning

    def put(self, head: bytes, meaning: T) -> None:
        """Remember a head; when there are too many, start afresh."""
        if len(self.known) >= self._limit:
            self.known.clear()
        if self._limit:
            self.known[head] = meaning

    def find_whole(self, data: bytes) -> T | None:
        """What the head that ``data`` begins with means, if :meth:`put_whole` knows it; it is :attr:`whole` then."""
        if self.whole and data.startswith(self.whole):
            return self._whole_meaning
        if not self.wholes:
            return None
        end = data.find(b"\r\n\r\n", 0, MAX_BYTES)
        head = data[: end + 4]
        meaning = self.wholes.get(head)
        if meaning is not None:
            self.whole, self._whole_meaning = head, meaning
        return meaning

    def put_whole(self, data: bytes, meaning: T) -> None:
        """Remember the head that ``data`` begins with, all of it."""
        end = data.find(b"\r\n\r\n", 0, MAX_BYTES)
        if end < 0 or not self._limit:
            return
        if len(self.wholes) >= self._limit:
            self.wholes.clear()
        self.wholes[data[: end + 4]] = meaning
