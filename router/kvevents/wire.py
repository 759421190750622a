"""KV events as engines write them, read into one shape. Pure.

vLLM since 0.23 writes maps with a ``type``; vLLM before that and SGLang write arrays by position. Fields that are not
known are passed over, and so are events of an unknown kind (counted). Hashes come as 64-bit integers, signed ones too,
or as bytes, of which the last eight count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from router.kvindex.index import KVIndex
from router.kvindex.keys import tier_of

Hash = int | bytes
APART: Final = frozenset({"sliding_window", "chunked_local_attention", "mamba", "sliding_window_mla"})
"""Kinds of cache whose blocks go while the prompt is still found by the others: no news of its beginning."""


class _Stored(msgspec.Struct, kw_only=True, tag="BlockStored"):
    block_hashes: list[Hash]
    parent_block_hash: Hash | None = None
    token_ids: list[int] | None = None
    block_size: int = 0
    medium: str | None = None
    lora_id: int | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    kv_cache_spec_kind: str | None = None


class _Removed(msgspec.Struct, kw_only=True, tag="BlockRemoved"):
    block_hashes: list[Hash]
    medium: str | None = None
    kv_cache_spec_kind: str | None = None


class _Cleared(msgspec.Struct, kw_only=True, tag="AllBlocksCleared"):
    medium: str | None = None


class _StoredRow(msgspec.Struct, tag="BlockStored", array_like=True):
    block_hashes: list[Hash]
    parent_block_hash: Hash | None = None
    token_ids: list[int] | None = None
    block_size: int = 0
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class _RemovedRow(msgspec.Struct, tag="BlockRemoved", array_like=True):
    block_hashes: list[Hash]
    medium: str | None = None


class _ClearedRow(msgspec.Struct, tag="AllBlocksCleared", array_like=True):
    medium: str | None = None


_Map = _Stored | _Removed | _Cleared
_Row = _StoredRow | _RemovedRow | _ClearedRow


class _Maps(msgspec.Struct, array_like=True):
    at_s: float
    events: list[_Map]
    rank: int | None = None


class _Rows(msgspec.Struct, array_like=True):
    at_s: float
    events: list[_Row]
    rank: int | None = None


class _Raws(msgspec.Struct, array_like=True):
    at_s: float
    events: list[msgspec.Raw]
    rank: int | None = None


_maps, _rows, _raws = msgspec.msgpack.Decoder(_Maps), msgspec.msgpack.Decoder(_Rows), msgspec.msgpack.Decoder(_Raws)
_map, _row = msgspec.msgpack.Decoder(_Map), msgspec.msgpack.Decoder(_Row)


class BadBatchError(ValueError):
    """A payload that is no batch of events."""


@dataclass(slots=True)
class Batch:
    """One payload."""

    at_s: float
    """When the engine sent it, on its clock (Unix time)."""
    rank: int
    """Data-parallel rank."""
    events: Sequence[Any]
    unknown: int = 0
    """Events of kinds that are not known."""
    reasons: list[str] = field(default_factory=list)


def decode(payload: bytes) -> Batch:
    """One payload, in whichever encoding.

    Raises: BadBatchError when it is no batch at all.
    """
    found: _Maps | _Rows
    try:
        found = _maps.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            found = _rows.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _one_by_one(payload)
    return Batch(found.at_s, found.rank or 0, found.events)


def _one_by_one(payload: bytes) -> Batch:
    """A batch in which some event is strange: the others count."""
    try:
        found = _raws.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBatchError(f"no batch of KV events: {error}") from error
    batch, events = Batch(found.at_s, found.rank or 0, ()), []
    for raw in found.events:
        try:
            events.append(_map.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError):
            try:
                events.append(_row.decode(raw))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                batch.unknown += 1
                batch.reasons.append(str(error))
    batch.events = events
    return batch


def _int(name: Hash) -> int:
    return name if isinstance(name, int) else int.from_bytes(name[-8:], "big")


def _ints(names: list[Hash]) -> list[int]:
    return names if not names or isinstance(names[0], int) else [_int(name) for name in names]  # type: ignore[return-value]


def apply(index: KVIndex, pod: str, batch: Batch) -> None:
    """Enter a batch into the index, event by event."""
    for event in batch.events:
        if isinstance(event, _Stored | _StoredRow):
            if event.kv_cache_spec_kind not in APART:
                _store(index, pod, event)
        elif isinstance(event, _Removed | _RemovedRow):
            index.remove(pod, _ints(event.block_hashes), tier=tier_of(event.medium))
        else:
            index.clear(pod, tier=None if event.medium is None else tier_of(event.medium))


def touched(batch: Batch) -> tuple[set[int], bool]:
    """Names of the blocks that a batch stores or removes, and whether it clears more than those."""
    names: set[int] = set()
    clears = False
    for event in batch.events:
        if isinstance(event, _Cleared | _ClearedRow):
            clears = True
        else:
            names.update(_ints(event.block_hashes))
    return names, clears


def _store(index: KVIndex, pod: str, event: _Stored | _StoredRow) -> None:
    parent = event.parent_block_hash
    lora = event.lora_name or (f"#{event.lora_id}" if event.lora_id is not None else None)
    index.store(
        pod, _ints(event.block_hashes), parent=None if parent is None else _int(parent),
        token_ids=event.token_ids or (), block_tokens=event.block_size, tier=tier_of(event.medium), lora=lora,
        extra_keys=event.extra_keys,
    )  # fmt: skip
