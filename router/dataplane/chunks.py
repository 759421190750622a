"""Chunked bodies as engines write them: sizes in hex, no extensions, no trailers. Pure.

What is anything else is left to the parser proper (:mod:`router.dataplane.response`), which also says what is wrong.
"""

from __future__ import annotations

from typing import Final

_RETURN: Final = 13
_FEED: Final = 10
_ZERO: Final = 48
_UPPER_A: Final = 65
_LOWER_A: Final = 97
_MAX_DIGITS: Final = 7


class Chunks:
    """One body at a time."""

    __slots__ = ("_size", "done", "left")

    def __init__(self) -> None:
        self._size = 0
        self.reset()

    def reset(self) -> None:
        """Expect another body."""
        self.left = 0
        """Bytes of the chunk under way that are yet to come; 0: there is none."""
        self.done = False

    def read(self, data: bytes, at: int, body: list[bytes]) -> int:
        """Put what is in the chunks of ``data`` from ``at`` on into ``body``; returns how far it was understood.

        Short of the end of ``data`` that is the beginning of a chunk, or where it was called to go on with one.
        """
        end, size = len(data), self.left
        while at < end:
            start = at
            if not size:
                start = self._begin(data, at, end)
                if start < 0:
                    return at
                size = self._size
                if not size:
                    if end - start != 2 or not _line_ends(data, start, end):  # trailers, or bytes behind the end
                        return at
                    self.done = True
                    return end
            stop = start + size
            if stop > end:
                if start < end:
                    body.append(data[start:])
                self.left = stop - end
                return end
            if not _line_ends(data, stop, end):
                return at
            body.append(data[start:stop])
            at, size, self.left = stop + 2, 0, 0
        return end

    def _begin(self, data: bytes, at: int, end: int) -> int:
        """Read a chunk's size; returns where its bytes begin; below 0: it is not plain, or not all of it is there."""
        start, size = at, 0
        while start < end and start - at <= _MAX_DIGITS:
            digit = data[start] - _ZERO
            if not 0 <= digit <= 9:
                digit = _digit(data[start])
                if digit < 0:
                    break
            size = 16 * size + digit
            start += 1
        self._size = size
        return start + 2 if 0 < start - at <= _MAX_DIGITS and _line_ends(data, start, end) else -1


def _line_ends(data: bytes, at: int, end: int) -> bool:
    return at + 1 < end and data[at] == _RETURN and data[at + 1] == _FEED


def _digit(character: int) -> int:
    """The value of a hex digit that is a letter; below 0: it is none."""
    if 0 <= character - _LOWER_A < 6:
        return character - _LOWER_A + 10
    if 0 <= character - _UPPER_A < 6:
        return character - _UPPER_A + 10
    return -1
