"""Names of blocks that need no agreement with an engine: hashes of token ids. Pure.

An engine's block hash depends on its version, its algorithm and a seed; a block's token ids do not. So a block is
named by what it holds: its tokens, all before them (the key of the block before is the seed), its LoRA adapter, its
cache salt, and what else the engine keeps apart (images). Two engines agree on these names without being told.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import xxhash

TOKEN_BYTES: Final = 4
MASK: Final = (1 << 64) - 1
_digest = xxhash.xxh3_64_intdigest


class Tier(enum.IntEnum):
    """Where a block lies."""

    GPU = 0
    CPU = 1
    FS = 2
    """A file system or object store."""


TIERS: Final[Mapping[str, Tier]] = MappingProxyType({
    "GPU": Tier.GPU, "CPU": Tier.CPU, "CPU_PINNED": Tier.CPU, "HOST": Tier.CPU, "DISK": Tier.FS, "FS": Tier.FS,
    "OBJ": Tier.FS, "STORAGE": Tier.FS,
})  # fmt: skip
"""``medium`` of an event, in upper case, to its tier. No medium is the GPU, a strange one the slowest tier."""


def tier_of(medium: str | None) -> Tier:
    """The tier that an event means.

    >>> tier_of(None).name, tier_of("cpu").name, tier_of("TAPE").name
    ('GPU', 'CPU', 'FS')
    """
    return Tier.GPU if medium is None else TIERS.get(medium.upper(), Tier.FS)


def root_key(lora: str | None) -> int:
    """What the first block's key follows: its adapter, if any."""
    return _digest((lora or "").encode()) or 1


def pack(token_ids: Iterable[int]) -> bytes:
    """Token ids as four bytes each, in this machine's order.

    Raises: OverflowError, TypeError for what is no token id.
    """
    return array("I", token_ids).tobytes()


def extra_bytes(extra: Sequence[Any] | None, lora: str | None) -> bytes:
    """What else keeps a block apart (salt, images), without the adapter, which is in the root.

    >>> extra_bytes(["ada", "salt"], "ada"), extra_bytes(["ada"], "ada"), extra_bytes(None, None)
    (b"'salt'", b'', b'')
    """
    if not extra:
        return b""
    rest = [part for part in extra if part != lora] if lora else extra
    return "\0".join(map(repr, rest)).encode()


def chain(
    packed: bytes, *, block_tokens: int, parent: int, extras: Sequence[bytes] = (), limit: int | None = None
) -> list[int]:
    """Keys of the full blocks of packed token ids; never 0.

    Args:
        packed: :func:`pack` of the tokens.
        block_tokens: of the engine.
        parent: key of the block before, or :func:`root_key`.
        extras: :func:`extra_bytes` of the first blocks; those beyond its end have none.
        limit: no more blocks than this.
    """
    size = block_tokens * TOKEN_BYTES
    count = len(packed) // size
    if limit is not None and limit < count:
        count = limit
    digest, keys, key = _digest, [], parent
    for start in range(0, count * size, size):
        key = digest(packed[start : start + size], key) or 1
        keys.append(key)
    if any(extras):
        return _chain_apart(packed, size, count, parent, extras)
    return keys


def _chain_apart(packed: bytes, size: int, count: int, parent: int, extras: Sequence[bytes]) -> list[int]:
    keys, key = [], parent
    for index in range(count):
        extra = extras[index] if index < len(extras) else b""
        key = _digest(packed[index * size : (index + 1) * size] + extra, key) or 1
        keys.append(key)
    return keys


def prompt_keys(
    packed: bytes, *, block_tokens: int, lora: str | None = None, salt: str | None = None, limit: int | None = None
) -> list[int]:
    """Keys of a prompt's full blocks, as an engine with that block size would store them."""
    extras = [extra_bytes([salt], None)] if salt else []
    return chain(packed, block_tokens=block_tokens, parent=root_key(lora), extras=extras, limit=limit)
