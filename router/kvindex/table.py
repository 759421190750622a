"""A compact hash table from 64-bit keys to small numbers, read many keys at once. Pure.

Buckets of eight keys, one cache line each, filled from the left; what does not fit goes into a dictionary (about 1 %
of the keys where the table is fullest). A look-up of many keys is a handful of array operations, whatever is missing;
a removal leaves nothing behind. Memory: 8 bytes of key and 4 or 8 of value a slot, of which a third to 0.55 are used.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

WIDTH: Final = 8
_FULL: Final = 0.55
_GROWTH: Final = 1.5
_SMALLEST: Final = 8
_OVERFLOW_BYTES: Final = 200
"""Of one key and value in a dictionary."""
Keys = npt.NDArray[np.uint64]


class Table:
    """Keys and values are positive; 0 means nothing.

    Args:
        code: ``I`` for values of 4 bytes, ``Q`` for 8.
        expected: keys to make room for at once.
    """

    __slots__ = ("_buckets", "_code", "_counts", "_keys", "_limit", "_np_keys", "_np_values", "_values", "count",
                 "overflow")  # fmt: skip

    def __init__(self, code: Literal["I", "Q"], expected: int = 0) -> None:
        self._code = code
        self.count = 0
        """Keys in it."""
        self.overflow: dict[int, int] = {}
        self._allocate(max(_SMALLEST, round(expected / _FULL / WIDTH) + 1))

    def _allocate(self, buckets: int) -> None:
        self._buckets, self._limit = buckets, int(buckets * WIDTH * _FULL)
        self._counts = array("B", bytes(buckets))
        self._keys = array("Q", bytes(8 * WIDTH * buckets))
        values = array(self._code)
        self._values = array(self._code, bytes(values.itemsize * WIDTH * buckets))
        self._np_keys: Keys = np.frombuffer(self._keys, dtype=np.uint64).reshape(buckets, WIDTH)
        self._np_values: npt.NDArray[Any] = np.frombuffer(
            self._values, dtype=np.uint32 if self._code == "I" else np.uint64
        )

    def __len__(self) -> int:
        """Keys in it."""
        return self.count

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        slots = self._buckets * WIDTH
        return slots * (8 + self._values.itemsize) + self._buckets + _OVERFLOW_BYTES * len(self.overflow)

    def get(self, key: int) -> int:
        """The value of ``key``, or 0."""
        bucket = (key >> 32) * self._buckets >> 32
        base = bucket * WIDTH
        row = self._keys[base : base + self._counts[bucket]]
        if key in row:
            return self._values[base + row.index(key)]
        return self.overflow.get(key, 0) if self.overflow else 0

    def put(self, key: int, value: int) -> None:
        """Set ``key`` to ``value``, both above 0."""
        bucket = (key >> 32) * self._buckets >> 32
        base, used = bucket * WIDTH, self._counts[bucket]
        row = self._keys[base : base + used]
        if key in row:
            self._values[base + row.index(key)] = value
            return
        if key in self.overflow:
            self.overflow[key] = value
            return
        self.count += 1
        if used < WIDTH:
            self._keys[base + used], self._values[base + used] = key, value
            self._counts[bucket] = used + 1
        else:
            self.overflow[key] = value
        if self.count > self._limit:
            self._grow()

    def discard(self, key: int) -> None:
        """Remove ``key`` if it is there; the last of its bucket takes its place."""
        bucket = (key >> 32) * self._buckets >> 32
        base, used = bucket * WIDTH, self._counts[bucket]
        row = self._keys[base : base + used]
        if key in row:
            place, last = base + row.index(key), base + used - 1
            self._keys[place], self._values[place] = self._keys[last], self._values[last]
            self._keys[last] = self._values[last] = 0
            self._counts[bucket] = used - 1
            self.count -= 1
        elif self.overflow.pop(key, 0):
            self.count -= 1

    def _grow(self) -> None:
        keys, values = self.items()
        self.overflow = {}
        self._allocate(int(self._buckets * _GROWTH) + 1)
        self._fill(keys, values)

    def _fill(self, keys: Keys, values: npt.NDArray[Any]) -> None:
        """Enter distinct keys into an empty table, all at once."""
        buckets = self._bucket_of(keys).astype(np.int64)
        order = np.argsort(buckets, kind="stable")
        buckets, keys, values = buckets[order], keys[order], values[order]
        counts = np.bincount(buckets, minlength=self._buckets)
        rank = np.arange(len(buckets)) - np.repeat(np.cumsum(counts) - counts, counts)
        fits = rank < WIDTH
        place = buckets[fits] * WIDTH + rank[fits]
        self._np_keys.reshape(-1)[place], self._np_values[place] = keys[fits], values[fits]
        np.frombuffer(self._counts, dtype=np.uint8)[:] = np.minimum(counts, WIDTH)
        self.overflow = dict(zip(keys[~fits].tolist(), values[~fits].tolist(), strict=True))

    def _bucket_of(self, keys: Keys) -> Keys:
        return ((keys >> np.uint64(32)) * np.uint64(self._buckets)) >> np.uint64(32)

    def items(self) -> tuple[Keys, npt.NDArray[Any]]:
        """All keys, and their values."""
        flat = self._np_keys.reshape(-1)
        used = np.flatnonzero(flat)
        more = np.fromiter(self.overflow.keys(), dtype=np.uint64, count=len(self.overflow))
        also = np.fromiter(self.overflow.values(), dtype=self._np_values.dtype, count=len(self.overflow))
        return np.concatenate([flat[used], more]), np.concatenate([self._np_values[used], also])

    def many(self, keys: Sequence[int]) -> npt.NDArray[Any]:
        """The values of ``keys`` as far as they are all there, then 0 (where one is missing, the rest may be 0)."""
        wanted: Keys = np.frombuffer(array("Q", keys), dtype=np.uint64)
        buckets = self._bucket_of(wanted).astype(np.intp)
        places = (self._np_keys.take(buckets, axis=0) == wanted[:, None]).argmax(axis=1)
        places += buckets * WIDTH
        values: npt.NDArray[Any] = self._np_values.take(places)
        values[self._np_keys.reshape(-1).take(places) != wanted] = 0
        if self.overflow:
            self._from_overflow(keys, values)
        return values

    def _from_overflow(self, keys: Sequence[int], values: npt.NDArray[Any]) -> None:
        """Fill gaps from the dictionary until the first key that is nowhere."""
        for index in np.flatnonzero(values == 0).tolist():
            value = self.overflow.get(keys[index], 0)
            if not value:
                return
            values[index] = value

    def remap(self, new: npt.NDArray[Any]) -> None:
        """Replace every value by ``new[value]``; none of them may become 0."""
        self._np_values[:] = new[self._np_values]
        self.overflow = {key: int(new[value]) for key, value in self.overflow.items()}

    def values_in_use(self) -> Iterable[int]:
        """Distinct values, 0 among them or not."""
        return {*np.unique(self._np_values).tolist(), *self.overflow.values()}
