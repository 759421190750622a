"""What the workers of one router tell each other, in memory that they share: requests in flight, and prompts placed.

Every worker has a row of totals by engine that only it writes, and a ring of the prompts that it placed. The others
read both before each pick: nothing is locked, and what is in flight at another worker is known as soon as it is written
there. An engine has the same number in every worker, claimed once under a file lock. A ring that was not read for too
long is skipped to its end: prompts then go unknown, counts never do.
"""

from __future__ import annotations

import fcntl
import mmap
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import xxhash

from router.ledger import Total

ENGINES: Final = 8192
"""Engines numbered at most over the life of a router; those beyond are not shared."""
RING: Final = 1 << 18
"""Numbers in one worker's ring: at least 120 prompts of the greatest length, or 80 000 short ones."""
_TOTALS: Final = 3
_HEAD: Final = 16
"""Numbers before the table: write positions of the rings, by worker."""
MAX_WORKERS: Final = _HEAD


def size_bytes(workers: int) -> int:
    """Of the shared memory for ``workers``."""
    return 8 * (_HEAD + ENGINES + workers * (ENGINES * _TOTALS + RING))


class Board:
    """One worker's hold on the shared memory.

    Args:
        path: the file, all zeros at the start, of :func:`size_bytes`.
        worker: this one's number.
        workers: how many there are.
    """

    def __init__(self, path: Path, *, worker: int, workers: int) -> None:
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), size_bytes(workers))
        self.cells = memoryview(self._map).cast("Q")
        """The memory, as numbers."""
        self._worker = worker
        self._rows = [_HEAD + ENGINES + index * (ENGINES * _TOTALS) for index in range(workers)]
        rings = _HEAD + ENGINES + workers * ENGINES * _TOTALS
        self._rings = [rings + index * RING for index in range(workers)]
        self._peers = [index for index in range(workers) if index != worker]
        self._read = [self.cells[index] for index in range(workers)]
        self._numbers: dict[str, int] = {}
        self._urls: dict[int, str] = {}
        own = self._rows[worker]
        for cell in range(own, own + ENGINES * _TOTALS):  # what a worker before it left
            self.cells[cell] = 0

    def close(self) -> None:
        """Let go of the memory."""
        self.cells.release()
        self._map.close()
        self._file.close()

    # Requests in flight.

    def put(self, url: str, total: Total) -> None:
        """This worker's total at ``url`` is now that."""
        number = self._number(url)
        if number >= 0:
            at, cells = self._rows[self._worker] + number * _TOTALS, self.cells
            cells[at], cells[at + 1], cells[at + 2] = total.requests, total.prefill, total.context

    def peers(self, url: str) -> tuple[int, int, int]:
        """Requests, uncached prompt tokens and context tokens in flight at ``url`` through the other workers."""
        requests = prefill = context = 0
        cells = self.cells
        for at in self.places(url):
            requests += cells[at]
            prefill += cells[at + 1]
            context += cells[at + 2]
        return requests, prefill, context

    def places(self, url: str) -> tuple[int, ...]:
        """Where in :attr:`cells` each other worker's three numbers for ``url`` are (:meth:`peers`)."""
        number = self._number(url)
        return tuple(self._rows[peer] + number * _TOTALS for peer in self._peers) if number >= 0 else ()

    def _number(self, url: str) -> int:
        number = self._numbers.get(url)
        if number is None:
            number = self._numbers[url] = self._claim(xxhash.xxh3_64_intdigest(url.encode()) or 1)
            self._urls[number] = url
        return number

    def _claim(self, name: int) -> int:
        """The number of an engine, the same in all workers; -1 when there are too many."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            for step in range(ENGINES):
                number = (name + step) % ENGINES
                known = self.cells[_HEAD + number]
                if known == name:
                    return number
                if known == 0:
                    self.cells[_HEAD + number] = name
                    return number
            return -1
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    # Prompts placed.

    def placed(self, url: str, hashes: Sequence[int]) -> None:
        """This worker sent a prompt with ``hashes`` to ``url``."""
        number, count = self._number(url), len(hashes)
        if number < 0 or not count or count + 2 > RING // 4:
            return
        cells, ring, at = self.cells, self._rings[self._worker], self.cells[self._worker]
        first = at % RING
        if first + count + 2 <= RING:
            cells[ring + first : ring + first + count + 2] = array("Q", (number, count, *hashes))
        else:
            for offset, value in enumerate((number, count, *hashes)):
                cells[ring + (at + offset) % RING] = value
        cells[self._worker] = at + count + 2  # last: a reader that sees it sees all before it

    def news(self) -> Iterator[tuple[str, list[int]]]:
        """Prompts that the other workers placed since the last call, at engines that this one knows."""
        for peer in self._peers:
            if self.cells[peer] != self._read[peer]:
                yield from self._news(peer)

    def _news(self, peer: int) -> Iterator[tuple[str, list[int]]]:
        cells, ring, end = self.cells, self._rings[peer], self.cells[peer]
        at = self._read[peer]
        while at < end:
            if cells[peer] - at > RING // 2:  # it runs ahead of us: what we would read is being written over
                at = cells[peer]
                break
            number, count = cells[ring + at % RING], cells[ring + (at + 1) % RING]
            first = (at + 2) % RING
            if first + count <= RING:
                hashes = cells[ring + first : ring + first + count].tolist()
            else:
                hashes = [cells[ring + (at + 2 + offset) % RING] for offset in range(count)]
            at += count + 2
            if (url := self._urls.get(number)) is not None:
                self._read[peer] = at
                yield url, hashes
        self._read[peer] = at
