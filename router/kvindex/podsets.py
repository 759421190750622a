"""Sets of pods with the tiers in which each holds a block, each distinct one stored once. Pure.

Blocks that follow each other are mostly held by the same pods, so a block stores the number of a set. A set is one
integer with four bits a pod, one a tier.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

BITS: Final = 4
"""Bits of one pod."""
_KEEP: Final = 4096
"""Sets below this many are not tidied up."""
_SET_BYTES: Final = 230
"""Of one set: the integer, its place in the list and in the dictionary, and its moves."""


def pods_of(mask: int) -> Iterator[int]:
    """Numbers of the pods whose lowest bit is set.

    >>> list(pods_of(0x1001))
    [0, 3]
    """
    while mask:
        low = mask & -mask
        yield (low.bit_length() - 1) // BITS
        mask ^= low


class PodSets:
    """Number 0 is the empty set."""

    __slots__ = ("_moves", "_numbers", "_swept", "bits")

    def __init__(self) -> None:
        self.bits: list[int] = [0]
        """By number."""
        self._numbers: dict[int, int] = {0: 0}
        self._moves: dict[int, int] = {}
        self._swept = _KEEP

    def __len__(self) -> int:
        """Distinct sets."""
        return len(self.bits)

    @property
    def nbytes(self) -> int:
        """Memory held, about."""
        return _SET_BYTES * len(self.bits)

    def with_bit(self, number: int, bit: int) -> int:
        """The number of the set with one bit more."""
        return self._move(number, bit, 1)

    def without_bit(self, number: int, bit: int) -> int:
        """The number of the set without one bit."""
        return self._move(number, bit, 0)

    def _move(self, number: int, bit: int, on: int) -> int:
        name = (number << 20 | bit) << 1 | on
        found = self._moves.get(name)
        if found is None:
            bits = self.bits[number]
            found = self.number(bits | 1 << bit if on else bits & ~(1 << bit))
            if len(self._moves) > 4 * len(self.bits) + _KEEP:
                self._moves.clear()
            self._moves[name] = found
        return found

    def number(self, bits: int) -> int:
        """The number of a set."""
        found = self._numbers.get(bits)
        if found is None:
            found = self._numbers[bits] = len(self.bits)
            self.bits.append(bits)
        return found

    @property
    def crowded(self) -> bool:
        """There are twice as many as after the last :meth:`sweep`."""
        return len(self.bits) > self._swept

    def sweep(self, used: Iterable[int]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        """Keep the numbers in ``used`` only; returns old number -> new number."""
        keep = sorted({0, *used})
        new = np.zeros(len(self.bits), dtype=np.uint32)
        new[keep] = np.arange(len(keep))
        self.bits = [self.bits[number] for number in keep]
        self._numbers = {bits: number for number, bits in enumerate(self.bits)}
        self._moves.clear()
        self._swept = max(_KEEP, 2 * len(keep))
        return new
