"""Ports for what a test starts: no other process takes one between its choice and its use.

A port that ``bind(0)`` gave and that was closed again is anybody's: the system soon gives it to some connection. These
lie below those that it gives out by itself, in blocks that are locked against other runs and other workers of this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fleet.up.ports import PortBook, is_free

_HOST: Final = "127.0.0.1"
_ALL: Final = range(20_000, 32_000)
_BLOCK: Final = 100
_book = PortBook()
_mine: Iterator[int] = iter(())


def free_ports(count: int = 1) -> int:
    """The first of ``count`` free ports in a row, given to nobody else in this process."""
    row: list[int] = []
    while len(row) < count:
        port = _next()
        row = [*row, port] if row and port == row[-1] + 1 else [port]
        if not is_free(_HOST, port):
            row = []
    return row[0]


def _next() -> int:
    global _mine  # noqa: PLW0603 - ports are this process's, as its sockets are
    while (port := next(_mine, None)) is None:
        first = next(first for first in _ALL[::_BLOCK] if _book.take(_HOST, first))
        _mine = iter(range(first, first + _BLOCK))
    return port
