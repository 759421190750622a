"""Deterministic prompt text of an exact length: 4 bytes of UTF-8 a token, as the simulated engines count. Pure.

Equal prefixes are equal text and everything else differs from its first bytes on, so that an engine's prefix cache
and the router's prefix index see exactly the sharing that the workload states.
"""

from __future__ import annotations

import functools
import zlib

from simulator.tokens import BYTES_PER_TOKEN
from simulator.workload import HASH_BLOCK_TOKENS, TimedRequest

_WORDS = """the fleet serves each request from a warm cache while queues stay short and every replica answers in
time so that people read without waiting and nobody pays for idle silicon""".split()  # noqa: SIM905 - prose, not a list


@functools.cache
def _base() -> str:
    """64 KiB of words in a fixed, aperiodic order (a linear congruential generator)."""
    state, words, size = 1, [], 0
    while size < 65_536:
        state = (state * 1_103_515_245 + 12_345) % 2**31
        words.append(_WORDS[(state >> 16) % len(_WORDS)])
        size += len(words[-1]) + 1
    return " ".join(words)


def text(label: str, tokens: int) -> str:
    """``tokens * 4`` bytes of ASCII that begin with ``label``; a shorter text is the beginning of a longer one.

    >>> text("a", 2), text("a", 3).startswith(text("a", 2))
    ('a: that ', True)
    """
    size = tokens * BYTES_PER_TOKEN
    head = f"{label}: "
    start = zlib.crc32(label.encode()) % len(_base())
    body = _base()[start : start + max(0, size - len(head))]
    while len(head) + len(body) < size:
        body += _base()[: size - len(head) - len(body)]
    return (head + body)[:size]


def parts(request: TimedRequest, label: str) -> tuple[str, str]:
    """Shared prefix (may be empty) and the rest; together exactly ``input_tokens * 4`` bytes.

    ``label`` names the request: texts of different labels share nothing beyond the stated prefix.
    """
    if request.hash_ids:
        return "", _blocks(request, label)
    prefix = text(f"system prompt {request.prefix_id}", request.prefix_tokens) if request.prefix_tokens else ""
    return prefix, text(label, request.input_tokens - request.prefix_tokens)


def _blocks(request: TimedRequest, label: str) -> str:
    size = request.input_tokens * BYTES_PER_TOKEN
    joined = "".join(text(f"block {block}", HASH_BLOCK_TOKENS) for block in request.hash_ids)[:size]
    return joined + text(label, -(-(size - len(joined)) // BYTES_PER_TOKEN)) if len(joined) < size else joined
