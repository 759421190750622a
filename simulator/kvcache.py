"""The KV cache of one engine: blocks, shared prefixes, eviction. Pure.

Blocks are counted, not numbered. Full blocks whose content is known have chained hashes and form a tree of *runs*: a
run is a stretch of blocks of one prompt that are always used together, so that work is per run and not per block. A
block counts once however many sequences share it; it is pinned while one of them runs and stays findable afterwards
until the space is needed (least recently used first; of what was freed together, the deepest block first, as vLLM
frees them). Blocks without a hash are private.

Hashes are chained: a hash stands for its block and all before it, so equal hashes at one depth mean equal prefixes,
and where two prompts part is found by bisection. Callers do not change a list of hashes after they passed it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol


class Run:
    """Blocks ``start`` to ``end`` (exclusive) of a prompt with hashes ``source``; a sequence holds its last one."""

    __slots__ = ("children", "end", "parent", "source", "start", "users")

    def __init__(self, parent: Run | None, source: Sequence[int], start: int, end: int, users: int) -> None:
        self.parent, self.source, self.start, self.end = parent, source, start, end
        self.users = users
        """Sequences that hold this run; those that hold a deeper one hold it too."""
        self.children: dict[int, Run] = {}
        """By the hash of their first block."""


class Listener(Protocol):
    """Told of every change of what can be found, as ranges of a prompt's hashes."""

    def stored(self, hashes: Sequence[int], start: int, end: int) -> None:
        """Blocks ``start`` to ``end`` can be found."""

    def removed(self, hashes: Sequence[int], start: int, end: int) -> None:
        """Blocks ``start`` to ``end`` were evicted."""


class KVCache:
    """Block book-keeping; every method keeps ``pinned + private + cached <= capacity``."""

    __slots__ = (
        "_idle", "cached", "capacity", "evictions", "listener", "pinned", "private", "repeated", "root", "spill",
        "version",
    )  # fmt: skip

    def __init__(self, capacity: int) -> None:
        """An empty cache of ``capacity`` blocks."""
        if capacity < 1:
            raise ValueError(f"a KV cache needs at least one block, not {capacity}")
        self.capacity = capacity
        self.private = 0
        """Blocks without a hash, in use."""
        self.pinned = 0
        """Hashed blocks in use, shared ones once."""
        self.cached = 0
        """Hashed blocks that nothing uses: free, but still findable."""
        self.repeated = 0
        """Blocks that holders have in common, each as often as it has holders beyond the first."""
        self.evictions = 0
        self.version = 0
        """Moves whenever something may fit that did not before."""
        self.listener: Listener | None = None
        self.spill: Callable[[Sequence[int], int, int], None] | None = None
        """Where evicted blocks go: hashes, start, end."""
        self.root = Run(None, (), 0, 0, 1)
        """Where all prompts begin."""
        self._idle: OrderedDict[Run, None] = OrderedDict()  # runs without users, the oldest first

    @property
    def free(self) -> int:
        """Blocks that an allocation may take."""
        return self.capacity - self.private - self.pinned

    @property
    def empty(self) -> int:
        """Blocks that an allocation may take without an eviction."""
        return self.capacity - self.private - self.pinned - self.cached

    @property
    def usage(self) -> float:
        """Blocks in use, 0..1; cached free blocks do not count (as ``vllm:kv_cache_usage_perc``)."""
        return (self.private + self.pinned) / self.capacity

    def match(self, hashes: Sequence[int], limit: int) -> int:
        """How many leading blocks of ``hashes`` are here, at most ``limit``."""
        return self.find(hashes, min(limit, len(hashes)), self.root)[1]

    def find(self, hashes: Sequence[int], limit: int, run: Run) -> tuple[Run, int, int]:
        """The longest prefix of ``hashes`` that is here, at most ``limit`` blocks, on from the end of ``run``.

        Returns: the run it ends in, its length in blocks, and how many of the blocks after ``run`` nothing uses now:
            pinning them takes that much from :attr:`free`.
        """
        depth, unused = run.end, 0
        while depth < limit:
            child = run.children.get(hashes[depth])
            if child is None:
                break
            end = child.end if child.end < limit else limit
            if hashes[end - 1] != child.source[end - 1]:
                end = _parting(hashes, child.source, depth + 1, end - 1)
            if not child.users:
                unused += end - depth
            run, depth = child, end
            if end < child.end:
                break
        return run, depth, unused

    def pin(self, run: Run, depth: int, held: Run | None = None) -> Run:
        """Hold what :meth:`find` found, as far as the caller does not hold it (``held`` and all above) already.

        Returns: the run to hold, which ends at ``depth``.
        """
        if depth < run.end:
            run = self._split(run, depth)
        above: Run | None = run
        while above is not held and above is not None and above.parent is not None:
            if above.users:
                self.repeated += above.end - above.start
            else:
                del self._idle[above]
                self._use(above.end - above.start)
            above.users += 1
            above = above.parent
        return run

    def allocate(self, blocks: int) -> None:
        """Take ``blocks`` private blocks, evicting the oldest unused ones as needed.

        Raises: ValueError when fewer are free; the caller checks :attr:`free` first.
        """
        left = self.capacity - self.private - self.pinned - blocks
        if left < 0:
            raise ValueError(f"{blocks} blocks asked for, {self.free} free")
        self.private += blocks
        if self.cached > left:
            self._evict(self.cached - left)

    def commit(self, run: Run, hashes: Sequence[int], end: int) -> tuple[Run, int]:
        """Private blocks after the held ``run`` are full: make them findable, up to block ``end`` of ``hashes``.

        Content that is here already is pinned as well, and the copy stays private: vLLM keeps both.

        Returns: the run to hold now, and how many of the blocks are no longer private.
        """
        found, depth, _ = self.find(hashes, end, run)
        if depth > run.end:
            run = self.pin(found, depth, run)
        if depth < end:
            run = self._append(run, hashes, end)
        return run, end - depth

    def release(self, run: Run, private: int) -> None:
        """Give back a sequence's run (with all above it) and its ``private`` blocks."""
        self.private -= private
        self.version += 1
        above: Run | None = run
        while above is not None and above.parent is not None:
            above.users -= 1
            if above.users:
                self.repeated -= above.end - above.start
            else:
                self._idle[above] = None
                self._use(above.start - above.end)
            above = above.parent

    def forget(self) -> int:
        """Drop all that nothing uses (vLLM's reset of its prefix cache), spilling nothing; the number of blocks."""
        blocks, spill, self.spill = self.cached, self.spill, None
        self._evict(blocks)
        self.spill = spill
        return blocks

    def _use(self, blocks: int) -> None:
        self.pinned += blocks
        self.cached -= blocks

    def _append(self, run: Run, hashes: Sequence[int], end: int) -> Run:
        """New content after ``run``: in the run itself while it is one sequence's alone."""
        start = run.end
        if run.users == 1 and not run.children and run.parent is not None:
            run.source, run.end = hashes, end
        else:
            run.children[hashes[start]] = run = Run(run, hashes, start, end, 1)
        self.private -= end - start
        self.pinned += end - start
        self.version += 1
        if self.listener is not None:
            self.listener.stored(hashes, start, end)
        return run

    def _split(self, run: Run, depth: int) -> Run:
        """Cut ``run`` at ``depth``; the new upper part. The lower one keeps its holders and its age."""
        parent = run.parent
        if parent is None:
            raise ValueError("a root cannot be split")
        upper = Run(parent, run.source, run.start, depth, run.users)
        parent.children[run.source[run.start]] = upper
        upper.children[run.source[depth]] = run
        run.parent, run.start = upper, depth
        if not upper.users:
            self._idle[upper] = None
        return upper

    def _evict(self, blocks: int) -> None:
        self.cached -= blocks
        self.evictions += blocks
        while blocks:
            run = next(iter(self._idle))  # without users, so without children that are younger
            end = run.end
            run.end = max(run.start, end - blocks)
            blocks -= end - run.end
            if self.listener is not None:
                self.listener.removed(run.source, run.end, end)
            if self.spill is not None:
                self.spill(run.source, run.end, end)
            if run.end == run.start and run.parent is not None:
                del self._idle[run]
                del run.parent.children[run.source[run.start]]


def _parting(one: Sequence[int], other: Sequence[int], low: int, high: int) -> int:
    """First index of ``low..high`` at which the two differ; they do at ``high``, and from the parting on."""
    while low < high:
        middle = (low + high) // 2
        if one[middle] == other[middle]:
            low = middle + 1
        else:
            high = middle
    return low
