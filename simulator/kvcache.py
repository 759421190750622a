"""The KV cache of one engine: blocks, shared prefixes, eviction. Pure.

Blocks are counted, not numbered. A full block whose content is known has a chained hash and counts once however many
sequences share it; it is pinned while one of them runs and stays findable afterwards until the space is needed
(oldest first; of one sequence the deepest block first, as vLLM frees them). Blocks without a hash are private.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class KVCache:
    """Block book-keeping; every method keeps ``pinned + private + cached <= capacity``."""

    __slots__ = ("_cached", "_refs", "capacity", "evictions", "private", "version")

    def __init__(self, capacity: int) -> None:
        """An empty cache of ``capacity`` blocks."""
        if capacity < 1:
            raise ValueError(f"a KV cache needs at least one block, not {capacity}")
        self.capacity = capacity
        self.private = 0
        """Blocks without a hash, in use."""
        self.evictions = 0
        self.version = 0
        """Moves whenever something may fit that did not before."""
        self._refs: dict[int, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def pinned(self) -> int:
        """Hashed blocks in use, shared ones once."""
        return len(self._refs)

    @property
    def cached(self) -> int:
        """Hashed blocks that nothing uses: free, but still findable."""
        return len(self._cached)

    @property
    def free(self) -> int:
        """Blocks that an allocation may take."""
        return self.capacity - self.private - len(self._refs)

    @property
    def usage(self) -> float:
        """Blocks in use, 0..1; cached free blocks do not count (as ``vllm:kv_cache_usage_perc``)."""
        return (self.private + len(self._refs)) / self.capacity

    def match(self, hashes: Sequence[int], limit: int) -> int:
        """How many leading blocks of ``hashes`` are here, at most ``limit``."""
        found = 0
        for value in hashes[:limit]:
            if value not in self._refs and value not in self._cached:
                break
            found += 1
        return found

    def unpinned(self, hashes: Iterable[int]) -> int:
        """How many of ``hashes`` are free now: pinning them takes that much from :attr:`free`."""
        return sum(value in self._cached for value in hashes)

    def pin(self, hashes: Iterable[int]) -> None:
        """Hold blocks that :meth:`match` found."""
        for value in hashes:
            if value in self._refs:
                self._refs[value] += 1
            else:
                del self._cached[value]
                self._refs[value] = 1

    def allocate(self, blocks: int) -> None:
        """Take ``blocks`` private blocks, evicting the oldest cached ones as needed.

        Raises: ValueError when fewer are free; the caller checks :attr:`free` first.
        """
        if blocks > self.free:
            raise ValueError(f"{blocks} blocks asked for, {self.free} free")
        self.private += blocks
        for _ in range(self.private + len(self._refs) + len(self._cached) - self.capacity):
            self._cached.popitem(last=False)
            self.evictions += 1

    def commit(self, value: int) -> bool:
        """A private block is full: make it findable and pinned. False (it stays private) if the content is here."""
        if value in self._refs or value in self._cached:
            return False
        self.private -= 1
        self._refs[value] = 1
        self.version += 1
        return True

    def release(self, hashes: Sequence[int], private: int) -> None:
        """Give back a sequence's pinned blocks (first block first) and ``private`` private ones."""
        self.private -= private
        self.version += 1
        for value in reversed(hashes):
            left = self._refs[value] - 1
            if left:
                self._refs[value] = left
            else:
                del self._refs[value]
                self._cached[value] = None
