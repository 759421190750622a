"""A finished request as a line of a recorded workload (:mod:`fleet.workload`). Pure: the file is :mod:`router.tape`."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from fleet import workload

_ID_BITS = 48
"""An id is a keyed hash of so many bits: two of a million blocks are mistaken for each other with a chance of 0.2 %."""


def hash_ids(hashes: Sequence[int], *, block_tokens: float, input_tokens: int, seed: int) -> list[int]:
    """Ids of the prompt's full 512-token blocks.

    A chained hash stands for everything up to its block's end, so the hash at every 512th token is the hash of a longer
    block; where the router's blocks do not divide 512, the last one before it is taken. The key makes an id useless
    for guessing at a prompt.

    Args:
        hashes: of the prompt's blocks, in order.
        block_tokens: tokens of one of these.
        input_tokens: of the prompt.
        seed: of this recording.
    """
    found = []
    for end in range(workload.BLOCK_TOKENS, input_tokens + 1, workload.BLOCK_TOKENS):
        index = int(end / block_tokens) - 1
        if not 0 <= index < len(hashes):
            break
        digest = xxhash.xxh3_64_intdigest(hashes[index].to_bytes(8, "little"), seed)
        found.append(digest >> (64 - _ID_BITS))
    return found
