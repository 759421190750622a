"""The index: what each pod's engine said that it stored, removed and cleared. Pure: no I/O, no clock.

Measured on one core with a million blocks on 100 pods: ``fleet bench index``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from router.kvindex.keys import MASK, Tier, chain, extra_bytes, pack, root_key
from router.kvindex.podsets import BITS, PodSets, pods_of
from router.kvindex.table import Keys, Table

DEFAULT_CAPACITY: Final = 8_000_000
"""Blocks of all pods together; about 600 MB at most."""
WEIGHTS: Final[Mapping[Tier, float]] = MappingProxyType({Tier.GPU: 1.0, Tier.CPU: 0.8, Tier.FS: 0.5})
"""What a block is worth by its best tier: one that must be loaded first saves less than one that is there."""
MAX_PODS: Final = 4096
_root = lru_cache(maxsize=1024)(root_key)


class Match(NamedTuple):
    """How much of a prompt's beginning a pod holds."""

    blocks: int
    """That follow each other from the first one, in whichever tier."""
    weighted: float
    """The same, each counted with its best tier's weight."""


@dataclass(slots=True)
class Counts:
    """What happened so far."""

    stored: int = 0
    removed: int = 0
    cleared: int = 0
    unresolved: int = 0
    """Blocks that could not be named: their parent is unknown, or neither tokens nor handle were there."""
    refused: int = 0
    """Blocks not taken for want of capacity."""
    lookups: int = 0
    hits: int = 0
    """Look-ups in which some pod held the first block."""


class _Pod:
    __slots__ = ("base", "block_tokens", "handles", "name")

    def __init__(self, name: str, number: int) -> None:
        self.name, self.base = name, number * BITS
        self.handles = Table("Q")
        """The engine's hash -> our key."""
        self.block_tokens = 0


class KVIndex:
    """Blocks of all pods.

    What it says is at most what the engines said: a block that cannot be named, or for which there is no room, is
    left out and counted.

    Args:
        capacity: blocks of all pods together; more are refused.
        weights: of a block by its best tier, 0..1.
    """

    def __init__(
        self, capacity: int = DEFAULT_CAPACITY, *, weights: Mapping[Tier, float] = WEIGHTS, expected: int = 0
    ) -> None:
        self.capacity, self.weights = capacity, weights
        self.counts = Counts()
        self.blocks = Table("I", expected)
        """Our key -> number of a set of pods."""
        self._sets = PodSets()
        self._pods: dict[str, _Pod] = {}
        self._numbers: list[_Pod | None] = []
        self.pairs = 0
        """Blocks of all pods together."""

    # ---- events

    def store(
        self,
        pod: str,
        hashes: Sequence[int],
        *,
        parent: int | None,
        token_ids: Sequence[int],
        block_tokens: int,
        tier: Tier = Tier.GPU,
        lora: str | None = None,
        extra_keys: Sequence[Sequence[Any] | None] | None = None,
    ) -> None:
        """Blocks that follow each other can be found at ``pod``; saying it again changes nothing.

        Args:
            pod: whose.
            hashes: the engine's names.
            parent: the engine's name of the block before; ``None``: the first one is a prompt's first.
            token_ids: of all of them; none when the engine leaves them out (then known names are looked up).
            block_tokens: tokens of one block.
            tier: where they lie.
            lora: adapter.
            extra_keys: by block, what keeps it apart.
        """
        known = self._pods.get(pod) or self._new(pod)
        if token_ids:
            extras = [extra_bytes(one, lora) for one in extra_keys] if extra_keys and any(extra_keys) else ()
            before_first = _root(lora) if parent is None else known.handles.get(parent & MASK or 1)
            keys = _keys_of(len(hashes), before_first, token_ids, block_tokens=block_tokens, extras=extras)
        else:
            keys = [known.handles.get(name & MASK or 1) for name in hashes]
        self.counts.unresolved += len(hashes) - len(keys)
        if block_tokens:
            known.block_tokens = block_tokens
        bit = known.base + tier
        handles, blocks, with_bit, before = known.handles, self.blocks, self._sets.with_bit, known.handles.count
        for name, key in zip(hashes, keys, strict=False):
            if not key or self.pairs >= self.capacity:
                self._leave_out(key)
                continue
            handles.put(name & MASK or 1, key)
            self.pairs += handles.count - before
            before = handles.count
            number = blocks.get(key)
            moved = with_bit(number, bit)
            if moved != number:
                blocks.put(key, moved)
                self.counts.stored += 1
        if self._sets.crowded:
            self._tidy()

    def _leave_out(self, key: int) -> None:
        if key:
            self.counts.refused += 1
        else:
            self.counts.unresolved += 1

    def remove(self, pod: str, hashes: Iterable[int], *, tier: Tier = Tier.GPU) -> None:
        """Blocks are gone from one tier of ``pod``; unknown ones are passed over."""
        if (known := self._pods.get(pod)) is None:
            return
        bit, handles = known.base + tier, known.handles
        for name in hashes:
            name = name & MASK or 1  # noqa: PLW2901 - 64 bits, and 0 is no name
            if not (key := handles.get(name)):
                continue
            number = self.blocks.get(key)
            moved = self._sets.without_bit(number, bit)
            if moved != number:
                self._set(key, moved)
                self.counts.removed += 1
            if not self._sets.bits[moved] >> known.base & 15:
                handles.discard(name)
                self.pairs -= 1

    def _set(self, key: int, number: int) -> None:
        if number:
            self.blocks.put(key, number)
        else:
            self.blocks.discard(key)

    def clear(self, pod: str, *, tier: Tier | None = None) -> None:
        """``pod`` holds nothing any more, in ``tier`` or at all."""
        if (known := self._pods.get(pod)) is None:
            return
        self.counts.cleared += 1
        names, keys = known.handles.items()
        if tier is not None:
            self.remove(pod, names.tolist(), tier=tier)
            return
        gone = 15 << known.base
        for key in set(keys.tolist()):
            number = self.blocks.get(key)
            self._set(key, self._sets.number(self._sets.bits[number] & ~gone))
        self.pairs -= len(known.handles)
        known.handles = Table("Q")

    def forget(self, pod: str) -> None:
        """``pod`` is no more."""
        if (known := self._pods.get(pod)) is None:
            return
        self.clear(pod)
        del self._pods[pod]
        self._numbers[known.base // BITS] = None

    def _new(self, pod: str) -> _Pod:
        number = self._numbers.index(None) if None in self._numbers else len(self._numbers)
        if number >= MAX_PODS:
            raise ValueError(f"{MAX_PODS} pods are known, and {pod} is one more")
        made = _Pod(pod, number)
        self._numbers[number : number + 1] = [made]
        self._pods[pod] = made
        return made

    def _tidy(self) -> None:
        self.blocks.remap(self._sets.sweep(self.blocks.values_in_use()))

    # ---- the content as it is

    def holding(self, pod: str, name: int) -> tuple[int, int]:
        """Our key of a block that ``pod`` calls ``name``, and a bit for each tier where it lies; zeros: it has none."""
        known = self._pods.get(pod)
        key = known.handles.get(name) if known else 0
        return (key, self._sets.bits[self.blocks.get(key)] >> known.base & 15) if known and key else (0, 0)

    def content(self, pod: str) -> tuple[Keys, Keys, npt.NDArray[Any]]:
        """All that ``pod`` holds: its names, our keys, and the tiers of each as bits."""
        known = self._pods.get(pod)
        if known is None or not len(known.handles):
            none = np.zeros(0, dtype=np.uint64)
            return none, none, none
        names, keys = known.handles.items()
        sets, places = np.unique(self.blocks.many(keys.tolist()), return_inverse=True)
        bits = np.array([self._sets.bits[number] >> known.base & 15 for number in sets.tolist()], dtype=np.uint64)
        return names, keys, bits[places]

    def place(self, pod: str, name: int, key: int, tiers: int, *, block_tokens: int) -> bool:
        """Enter a block as :meth:`holding` told it; False where there is no room."""
        if self.pairs >= self.capacity:
            self.counts.refused += 1
            return False
        known = self._pods.get(pod) or self._new(pod)
        known.block_tokens = block_tokens
        before = known.handles.count
        known.handles.put(name, key)
        self.pairs += known.handles.count - before
        number = self.blocks.get(key)
        self._set(key, self._sets.number(self._sets.bits[number] | tiers << known.base))
        if self._sets.crowded:
            self._tidy()
        return True

    # ---- look-ups

    @property
    def block_sizes(self) -> frozenset[int]:
        """Tokens of a block, of all pods that stored something."""
        return frozenset(pod.block_tokens for pod in self._pods.values() if pod.block_tokens)

    def block_tokens(self, pod: str) -> int:
        """Tokens of a block of ``pod``; 0: not known."""
        known = self._pods.get(pod)
        return known.block_tokens if known else 0

    def match(self, keys: Sequence[int]) -> dict[str, Match]:
        """For each pod that holds the first block, how much it holds; others are left out.

        Args:
            keys: of a prompt (:func:`router.kvindex.keys.prompt_keys`), first block first.
        """
        self.counts.lookups += 1
        if not keys or not self.blocks.get(keys[0]):
            return {}
        self.counts.hits += 1
        numbers = self.blocks.many(keys)
        ends = [*(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(keys)]
        return self._walk(numbers[[0, *ends[:-1]]].tolist(), ends)

    def _walk(self, numbers: Sequence[int], ends: Sequence[int]) -> dict[str, Match]:
        """Follow runs of blocks that are held alike; a pod leaves where it holds none."""
        lost: dict[int, float] = {}
        found: dict[str, Match] = {}
        alive, start = -1, 0
        for number, end in zip(numbers, ends, strict=True):
            bits = self._sets.bits[number]
            held = (bits | bits >> 1 | bits >> 2) & self._lowest
            held, left = held & alive, alive & ~held if alive >= 0 else 0
            if left:
                self._enter(found, left, start, lost)
            if not held:
                return found
            if slow := held & ~bits:
                self._slower(lost, bits, slow, end - start)
            alive, start = held, end
        self._enter(found, alive, start, lost)
        return found

    @property
    def _lowest(self) -> int:
        """The lowest bit of every pod."""
        return _repeated(len(self._numbers))

    def _slower(self, lost: dict[int, float], bits: int, slow: int, blocks: int) -> None:
        """Note what pods lose that hold blocks in a slow tier only."""
        for number in pods_of(slow):
            tier = Tier.CPU if bits >> (number * BITS + Tier.CPU) & 1 else Tier.FS
            lost[number] = lost.get(number, 0.0) + blocks * (1.0 - self.weights[tier])

    def _enter(self, found: dict[str, Match], pods: int, blocks: int, lost: Mapping[int, float]) -> None:
        fast = blocks * self.weights[Tier.GPU]
        for number in pods_of(pods):
            if (pod := self._numbers[number]) is not None:
                found[pod.name] = Match(blocks, fast - lost[number] if number in lost else fast)

    # ---- size

    @property
    def pods(self) -> Collection[str]:
        """Pods that stored something."""
        return self._pods.keys()

    def sizes(self) -> Mapping[str, int]:
        """Blocks of each pod."""
        return {name: len(pod.handles) for name, pod in self._pods.items()}

    def __len__(self) -> int:
        """Distinct blocks."""
        return len(self.blocks)

    @property
    def nbytes(self) -> int:
        """Memory held, about."""
        return self.blocks.nbytes + self._sets.nbytes + sum(pod.handles.nbytes for pod in self._pods.values())


def _keys_of(
    count: int, parent: int, token_ids: Sequence[int], *, block_tokens: int, extras: Sequence[bytes]
) -> Sequence[int]:
    """Our names of ``count`` blocks; none when their parent is unknown (0) or tokens are missing."""
    if not parent or block_tokens < 1 or len(token_ids) < count * block_tokens:
        return ()
    return chain(pack(token_ids), block_tokens=block_tokens, parent=parent, extras=extras, limit=count)


@lru_cache(maxsize=8)
def _repeated(pods: int) -> int:
    return sum(1 << number * BITS for number in range(pods))
