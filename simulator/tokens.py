"""The simulator's tokenizer and the chained hashes of KV blocks. Pure.

Four bytes of UTF-8 are one token (the router estimates prompts the same way): no vocabulary to load, the same ids on
any machine, and a text and its token ids give the same blocks. Block hashes are chained, so that a hash stands for
the whole prefix up to its block.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

BLOCK_TOKENS = 16
BYTES_PER_TOKEN = 4
BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN
OUTPUT_TOKENS: tuple[str, ...] = (
    " The", " old", " man", " and", " his", " dog", " sat", " out", ". He", " had", " one", " big", " red", " cup",
    " and", " two", " tea", " pot", ". It", " was", " dry", " and", " hot", " all", " day", ". So", " she", " ran",
    " for", " her", " hat", " and", " got", " ice", ".\n\nA", " few", " men", " who", " cut", " the", " low", " oak",
    " saw", " you", " and", " now", " ask", ": by", " how", " far", " can", " any", " fox", " run", "? No", " one",
    " may", " say", ", so", " let", " it ", "be. ", "End.", " \n\n ",
)  # fmt: skip
"""What generated tokens say, over and over: four bytes each, so that an answer sent back as a prompt is the same
tokens; with full stops and empty lines, so that ``stop`` strings have something to meet."""
_OUTPUT_CYCLE = "".join(OUTPUT_TOKENS).encode()
_MAX_ID = 2**32 - 1


def encode(text: str) -> bytes:
    """A text as packed token ids, four bytes each, the last one padded with zeros.

    >>> encode("hello").hex()
    '68656c6c6f000000'
    """
    data = text.encode("utf-8", "surrogatepass")
    return data + bytes(-len(data) % BYTES_PER_TOKEN)


def pack(ids: Sequence[int]) -> bytes:
    """Token ids as packed bytes.

    Raises: ValueError for an id outside 0..2**32-1 or of another type.
    """
    try:
        return b"".join([number.to_bytes(BYTES_PER_TOKEN, "little") for number in ids])
    except (OverflowError, AttributeError, TypeError):
        raise ValueError(f"token ids are integers from 0 to {_MAX_ID}") from None


def unpack(packed: bytes) -> list[int]:
    """Token ids of packed bytes.

    >>> pack(unpack(encode("two words"))) == encode("two words")
    True
    """
    return [int.from_bytes(packed[at : at + BYTES_PER_TOKEN], "little") for at in range(0, len(packed), 4)]


def decode(packed: bytes) -> str:
    """The text of packed tokens, without padding; what is no UTF-8 is replaced.

    >>> decode(encode("hello"))
    'hello'
    """
    return packed.rstrip(b"\0").decode("utf-8", "replace")


def count(packed: bytes) -> int:
    """Tokens in packed bytes."""
    return len(packed) // BYTES_PER_TOKEN


def chain(packed: bytes, *, parent: int = 0) -> list[int]:
    """Chained hashes of the full blocks of ``packed`` that follow the block ``parent`` (0: the start)."""
    hashes: list[int] = []
    for at in range(0, len(packed) - BLOCK_BYTES + 1, BLOCK_BYTES):
        parent = xxhash.xxh64_intdigest(packed[at : at + BLOCK_BYTES], parent)
        hashes.append(parent)
    return hashes


def salted(name: str, *, parent: int = 0) -> int:
    """A parent for blocks that are to be found by those alone who know ``name`` (an adapter's, or a cache salt)."""
    return xxhash.xxh64_intdigest(name.encode("utf-8", "surrogatepass"), parent)


def tail(packed: bytes) -> bytes:
    """The tokens after the last full block."""
    return packed[len(packed) - len(packed) % BLOCK_BYTES :]


def output(count: int) -> bytes:
    """The packed tokens of an answer of ``count`` tokens: a longer answer begins with a shorter one.

    >>> output(3)
    b' The old man'
    """
    size = count * BYTES_PER_TOKEN
    return (_OUTPUT_CYCLE * -(-size // len(_OUTPUT_CYCLE)))[:size]


def chain_output(tail_bytes: bytes, output_tokens: int, *, parent: int) -> list[int]:
    """Hashes of the full blocks that a prompt's ``tail_bytes`` and ``output_tokens`` generated tokens fill."""
    return chain(tail_bytes + output(output_tokens), parent=parent)
