"""Contents of synthetic prompts as chained block hashes: what is shared is equal, all else is unique. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from simulator import tokens
from simulator.workload import HASH_BLOCK_TOKENS, TimedRequest

ROUTER_BLOCK_TOKENS: Final = 64
"""Tokens of a block in the router's index: four of the engine's blocks."""
_STRIDE: Final = ROUTER_BLOCK_TOKENS // tokens.BLOCK_TOKENS
_PER_ID: Final = HASH_BLOCK_TOKENS // tokens.BLOCK_TOKENS
_PREFIX_IDS: Final = 1 << 48
"""Hashes of assumed system prompts start here, apart from those of recorded blocks."""


def router_hashes(engine_hashes: Sequence[int]) -> Sequence[int]:
    """The router's view of a prompt whose engine blocks are ``engine_hashes``.

    A hash stands for everything up to its block's end, so every fourth is the hash of a block four times as long.
    """
    return engine_hashes[_STRIDE - 1 :: _STRIDE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Tokens so far, hashed as far as blocks are full."""

    count: int = 0
    hashes: tuple[int, ...] = ()
    tail: bytes = b""
    """Packed tokens after the last full block."""

    def then(self, packed: bytes) -> Text:
        """This text followed by packed tokens."""
        data = self.tail + packed
        parent = self.hashes[-1] if self.hashes else 0
        fresh = tokens.chain(data, parent=parent)
        return Text(count=self.count + tokens.count(packed), hashes=(*self.hashes, *fresh), tail=tokens.tail(data))

    def answered(self, output_tokens: int) -> Text:
        """This text followed by an answer of the simulated engine."""
        return self.then(tokens.output(output_tokens))


def words(count: int, rng: np.random.Generator) -> bytes:
    """``count`` packed tokens that occur nowhere else."""
    return rng.bytes(count * tokens.BYTES_PER_TOKEN)


def recorded_hashes(request: TimedRequest) -> list[int]:
    """Engine block hashes of a recorded request, as far as it says what it shares.

    A recorded 512-token block becomes 32 blocks of the engine; only full ones of the prompt count. A request that
    names neither blocks nor a system prompt shares nothing and has no hashes.
    """
    full = request.input_tokens // tokens.BLOCK_TOKENS
    if request.hash_ids:
        return [1 + block * _PER_ID + part for block in request.hash_ids for part in range(_PER_ID)][:full]
    if request.prefix_id is not None:
        start = _PREFIX_IDS + request.prefix_id * (1 << 20)
        return [start + part for part in range(request.prefix_tokens // tokens.BLOCK_TOKENS)]
    return []
