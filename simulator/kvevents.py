"""KV cache events as vLLM puts them on the wire: shapes, and a journal of what a cache did. Pure.

Two encodings: maps with a ``type`` (vLLM since 0.23), and arrays by position (before that; SGLang). The hashes are
the simulator's own chained ones, 64 bits, as vLLM sends the low 64 bits of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from simulator import tokens
from simulator.tokens import BLOCK_BYTES, BLOCK_TOKENS

MEDIUM = "GPU"
KIND = "full_attention"


class Encoding(enum.StrEnum):
    """How events are written."""

    MAP = "map"
    ARRAY = "array"


class BlockStored(msgspec.Struct, kw_only=True, tag="BlockStored", omit_defaults=True):
    """Blocks that can be found from now on; they follow each other."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[list[str] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(msgspec.Struct, kw_only=True, tag="BlockRemoved", omit_defaults=True):
    """Blocks that are gone."""

    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag="AllBlocksCleared"):
    """Nothing can be found any more."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


@dataclass(frozen=True, slots=True)
class Content:
    """What a request's blocks hold."""

    packed: bytes
    """Packed tokens of the prompt and of what may be generated."""
    root: int
    """What its first hash follows."""
    adapter: str | None = None
    salt: str | None = None


class Journal:
    """Listens to a :class:`simulator.kvcache.KVCache` and keeps what it said until it is taken.

    A cache knows hashes alone. Which tokens a block holds is looked up among the requests that are in the engine,
    for only they can store something; they are told with :meth:`enter` and :meth:`leave`.
    """

    def __init__(self, adapter_ids: dict[str, int]) -> None:
        """Empty; ``adapter_ids`` are looked up when a block is stored for an adapter."""
        self._adapter_ids = adapter_ids
        self._events: list[Event] = []
        self._contents: dict[int, list[Content]] = {}

    def enter(self, first_hash: int, content: Content) -> None:
        """A request whose first full block has ``first_hash``."""
        self._contents.setdefault(first_hash, []).append(content)

    def leave(self, first_hash: int, content: Content) -> None:
        """It can store nothing any more."""
        entered = self._contents[first_hash]
        entered.remove(content)
        if not entered:
            del self._contents[first_hash]

    def take(self) -> list[Event]:
        """What happened since the last call."""
        taken, self._events = self._events, []
        return taken

    # ---- the cache's listener

    def stored(self, hashes: Sequence[int], start: int, end: int) -> None:
        """Blocks ``start`` to ``end`` of a content with these hashes can be found."""
        content = self._content(hashes, end)
        ids = tokens.unpack(content.packed[start * BLOCK_BYTES : end * BLOCK_BYTES])
        name = content.adapter
        keys: list[list[str] | None] = [[name] if name else None for _ in range(start, end)]
        if content.salt is not None and not start:
            keys[0] = [*(keys[0] or []), content.salt]
        self._events.append(BlockStored(
            block_hashes=list(hashes[start:end]), parent_block_hash=hashes[start - 1] if start else None,
            token_ids=ids, block_size=BLOCK_TOKENS, lora_id=self._adapter_ids.get(name) if name else None,
            medium=MEDIUM, lora_name=name, extra_keys=keys, group_idx=0, kv_cache_spec_kind=KIND,
        ))  # fmt: skip

    def removed(self, hashes: Sequence[int], start: int, end: int) -> None:
        """Blocks ``start`` to ``end`` were evicted, the deepest first; vLLM says it block by block."""
        self._events.extend(
            BlockRemoved(block_hashes=[value], medium=MEDIUM, group_idx=0) for value in reversed(hashes[start:end])
        )

    def cleared(self) -> None:
        """All at once: what was to be said before matters no more."""
        self._events = [AllBlocksCleared()]

    def _content(self, hashes: Sequence[int], end: int) -> Content:
        """The content with these hashes, among the few that share the first one."""
        entered = self._contents[hashes[0]]
        if len(entered) == 1:
            return entered[0]
        wanted = hashes[end - 1]
        for content in entered:
            if tokens.chain(content.packed[: end * BLOCK_BYTES], parent=content.root)[-1:] == [wanted]:
                return content
        raise LookupError(f"no request in the engine has a block {wanted} at {end - 1}")


def to_wire(batch: Sequence[Event], *, now_s: float, rank: int, encoding: Encoding) -> bytes:
    """One batch as a payload: time, events, data-parallel rank."""
    events = list(batch) if encoding is Encoding.MAP else [_positions(event) for event in batch]
    return msgspec.msgpack.encode([now_s, events, rank])


def _positions(event: Event) -> list[Any]:
    """An event as vLLM wrote it before it wrote maps."""
    if isinstance(event, AllBlocksCleared):
        return ["AllBlocksCleared"]
    if isinstance(event, BlockRemoved):
        return ["BlockRemoved", event.block_hashes, event.medium, event.group_idx]
    return ["BlockStored", event.block_hashes, event.parent_block_hash, event.token_ids, event.block_size,
            event.lora_id, event.medium, event.lora_name, event.extra_keys, event.group_idx,
            event.kv_cache_spec_kind, None]  # fmt: skip
