"""KV cache tiers below the GPU: host memory, then a file system that engines may share. Pure.

Blocks are kept in chunks of :data:`CHUNK_BLOCKS` (as LMCache's 256 tokens), each under the hash of its last block; that
hash stands for the whole prefix. A chunk is written to the first tier when the GPU evicts its deepest block
(write-back), and from there to the next tier when the first one needs the room. Reading and writing take turns on a
tier's channel, one for each direction; what is being written can be read once the write has ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.tokens import BLOCK_TOKENS

CHUNK_BLOCKS = 16
_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSpec:
    """What a tier can do, as one engine sees it."""

    name: str
    read_bytes_per_s: float
    write_bytes_per_s: float
    latency_s: float
    """Before the first byte of a read or write."""


TIERS: dict[str, TierSpec] = {
    spec.name: spec
    for spec in (
        TierSpec(name="cpu_dram", read_bytes_per_s=20 * _GB, write_bytes_per_s=20 * _GB, latency_s=1e-6),
        TierSpec(name="nvme_gen4", read_bytes_per_s=7 * _GB, write_bytes_per_s=5 * _GB, latency_s=80e-6),
        TierSpec(name="nvme_gen3", read_bytes_per_s=3.5 * _GB, write_bytes_per_s=3 * _GB, latency_s=80e-6),
        TierSpec(name="sata", read_bytes_per_s=0.55 * _GB, write_bytes_per_s=0.5 * _GB, latency_s=80e-6),
        TierSpec(name="s3", read_bytes_per_s=1 * _GB, write_bytes_per_s=1 * _GB, latency_s=30e-3),
    )
}
"""Presets: bandwidths and latencies as in inference-sim (BLIS); it gives none for gen3 and sata, taken from gen4."""


class Channel:
    """One direction of a tier's connection: one transfer after the other."""

    __slots__ = ("_bytes_per_s", "_free_s", "_latency_s")

    def __init__(self, bytes_per_s: float, latency_s: float) -> None:
        self._bytes_per_s, self._latency_s = bytes_per_s, latency_s
        self._free_s = 0.0

    def transfer(self, size: float, now_s: float) -> float:
        """When ``size`` bytes asked for at ``now_s`` are through."""
        start_s = max(now_s, self._free_s)
        self._free_s = start_s + size / self._bytes_per_s
        return self._free_s + self._latency_s


class Tier:
    """One tier's chunks, the least recently used ones making room; several engines may share it."""

    __slots__ = ("_chunks", "capacity", "hits", "reads", "spec", "writes")

    def __init__(self, spec: TierSpec, capacity_tokens: int) -> None:
        """An empty tier.

        Raises: ValueError for less than one chunk.
        """
        self.spec, self.capacity = spec, capacity_tokens // (CHUNK_BLOCKS * BLOCK_TOKENS)
        if self.capacity < 1:
            raise ValueError(f"{spec.name} holds {capacity_tokens} tokens; one chunk is {CHUNK_BLOCKS * BLOCK_TOKENS}")
        self.hits = 0
        """Chunks that were found here."""
        self.reads = Channel(spec.read_bytes_per_s, spec.latency_s)
        self.writes = Channel(spec.write_bytes_per_s, spec.latency_s)
        self._chunks: OrderedDict[int, float] = OrderedDict()  # hash of the last block -> readable from

    def __len__(self) -> int:
        """Chunks that are here."""
        return len(self._chunks)

    def ready_s(self, chunk: int) -> float | None:
        """From when on the chunk can be read; ``None`` if it is not here."""
        return self._chunks.get(chunk)

    def touch(self, chunk: int) -> bool:
        """Make the chunk young; whether it is here, readable or still being written."""
        if chunk not in self._chunks:
            return False
        self._chunks.move_to_end(chunk)
        return True

    def put(self, chunk: int, ready_s: float) -> int | None:
        """Keep a chunk that can be read from ``ready_s`` on; the one that had to go for it."""
        self._chunks[chunk] = ready_s
        return self._chunks.popitem(last=False)[0] if len(self._chunks) > self.capacity else None

    def clear(self) -> None:
        """Lose everything."""
        self._chunks.clear()


class Offload:
    """One engine's way down the tiers. It listens to the GPU's cache for evictions."""

    __slots__ = ("_chunk_bytes", "_now_s", "_tiers")

    def __init__(self, tiers: Sequence[Tier], *, bytes_per_token: float) -> None:
        """From the nearest tier to the farthest.

        Args:
            tiers: at least one; the last may be shared with other engines.
            bytes_per_token: of KV (:func:`fleet.hardware.kv_bytes_per_token`); divided by the GPUs if each has a
                channel of its own.
        """
        self._tiers = tuple(tiers)
        self._chunk_bytes = bytes_per_token * BLOCK_TOKENS * CHUNK_BLOCKS
        self._now_s = 0.0

    def at(self, now_s: float) -> None:
        """The time of the evictions that come next."""
        self._now_s = now_s

    def spill(self, hashes: Sequence[int], start: int, end: int) -> None:
        """The GPU gives up blocks ``start`` to ``end``: a chunk is written when its deepest block goes."""
        for last in _chunk_ends(start, end):
            self._write(0, hashes[last - 1], self._now_s)

    def reach(self, hashes: Sequence[int], blocks: int, limit: int) -> int:
        """How many leading blocks of ``hashes`` (``limit`` at most) there are, given that the GPU has ``blocks``."""
        reached = blocks
        for last in _chunk_ends(blocks, limit):
            if self._where(hashes[last - 1]) is None:
                break
            reached = last
        return reached

    def prefetch(self, hashes: Sequence[int], blocks: int, now_s: float) -> None:
        """A request came that will want more than the ``blocks`` that the GPU has: bring them to the first tier."""
        for last in _chunk_ends(blocks, len(hashes)):
            tier = self._where(hashes[last - 1])
            if tier is None:
                break
            self._raise(tier, hashes[last - 1], now_s)

    def load(self, hashes: Sequence[int], blocks: int, reached: int, now_s: float) -> float:
        """Read blocks ``blocks`` to ``reached`` (from :meth:`reach`) into the GPU; when all are there."""
        ready_s, nearest = now_s, self._tiers[0]
        for last in _chunk_ends(blocks, reached):
            tier = self._where(hashes[last - 1]) or 0
            self._tiers[tier].hits += 1
            here_s = self._raise(tier, hashes[last - 1], now_s)
            ready_s = max(ready_s, nearest.reads.transfer(self._chunk_bytes, here_s))
        return ready_s

    def crash(self) -> None:
        """The engine's process ends: its host memory is lost, farther tiers stay."""
        self._tiers[0].clear()

    def _where(self, chunk: int) -> int | None:
        return next((index for index, tier in enumerate(self._tiers) if tier.ready_s(chunk) is not None), None)

    def _raise(self, tier: int, chunk: int, now_s: float) -> float:
        """Bring a chunk to the first tier if it is not there; from when on it can be read there."""
        self._tiers[tier].touch(chunk)
        there_s = max(now_s, self._tiers[tier].ready_s(chunk) or 0.0)
        if tier:
            there_s = self._tiers[tier].reads.transfer(self._chunk_bytes, there_s)
            self._put(0, chunk, there_s, now_s)
        return there_s

    def _write(self, tier: int, chunk: int, now_s: float) -> None:
        """Write a chunk down, unless it is there."""
        if tier < len(self._tiers) and not self._tiers[tier].touch(chunk):
            self._put(tier, chunk, self._tiers[tier].writes.transfer(self._chunk_bytes, now_s), now_s)

    def _put(self, tier: int, chunk: int, ready_s: float, now_s: float) -> None:
        gone = self._tiers[tier].put(chunk, ready_s)
        if gone is not None:
            self._write(tier + 1, gone, now_s)


def _chunk_ends(start: int, end: int) -> range:
    """Ends of the chunks that end after block ``start`` and by block ``end``."""
    return range(start - start % CHUNK_BLOCKS + CHUNK_BLOCKS, end + 1, CHUNK_BLOCKS)
