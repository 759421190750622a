"""Generated traffic whose prompts share beginnings, in waves that make replicas come and go. Pure by seed.

``documents``: questions on 300 documents of 2 000 to 12 000 tokens, some asked about much more often than others.
``sessions``: conversations whose prompts grow turn by turn, about 45 s apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from benchmarks.autoscaling.case import Case, Fleet, Slo
from benchmarks.autoscaling.pool import Bounds
from simulator.workload import HASH_BLOCK_TOKENS, TimedRequest

Rng = np.random.Generator
SPAN_S: Final = 4500.0
PERIOD_S: Final = 1800.0
"""Of the waves: from a quarter of the top rate to all of it."""
DOCUMENTS: Final = 300
_STRIDE: Final = 100_000
"""Block ids of one document or session."""


def _times(rng: Rng, top_rps: float) -> list[float]:
    """Poisson arrivals along the waves."""
    found, now_s = [], 0.0
    while (now_s := now_s + rng.exponential(1 / top_rps)) < SPAN_S:
        if rng.random() < 0.25 + 0.375 * (1 + math.sin(2 * math.pi * now_s / PERIOD_S)):
            found.append(now_s)
    return found


def _length(rng: Rng, median: float, spread: float, low: int, high: int) -> int:
    return int(np.clip(median * math.exp(rng.standard_normal() * spread), low, high))


def _blocks(owner: int, count: int) -> tuple[int, ...]:
    return tuple(owner * _STRIDE + index for index in range(count))


def documents(rng: Rng, top_rps: float) -> Iterator[TimedRequest]:
    """In order of time."""
    popularity = 1.0 / np.arange(1, DOCUMENTS + 1) ** 0.8
    popularity /= popularity.sum()
    sizes = rng.integers(4, 24, DOCUMENTS)
    for at_s in _times(rng, top_rps):
        number = int(rng.choice(DOCUMENTS, p=popularity))
        own, answer = _length(rng, 400, 0.8, 32, 4000), _length(rng, 200, 0.7, 8, 1500)
        blocks = int(sizes[number])
        yield TimedRequest(arrival_s=at_s, input_tokens=blocks * HASH_BLOCK_TOKENS + own, output_tokens=answer,
                           hash_ids=_blocks(number + 1, blocks))  # fmt: skip


def sessions(rng: Rng, top_rps: float) -> Iterator[TimedRequest]:
    """Session by session."""
    for number, begun_s in enumerate(_times(rng, top_rps), 1):
        length, at_s = 1500, begun_s
        for _ in range(int(rng.geometric(0.2))):
            own, answer = _length(rng, 500, 0.8, 32, 4000), _length(rng, 250, 0.7, 8, 1500)
            length += own
            if at_s < SPAN_S and length < 30_000:
                yield TimedRequest(arrival_s=at_s, input_tokens=length, output_tokens=answer,
                                   hash_ids=_blocks(number, length // HASH_BLOCK_TOKENS))  # fmt: skip
            length += answer
            at_s += 0.03 * answer + rng.exponential(45.0)


MAKERS: Final = {"documents": (documents, 11, 14.0), "sessions": (sessions, 12, 2.2)}
"""By name: the generator, its stream of random numbers, its top rate (of sessions: new ones a second)."""


def case(name: str, seed: int, *, scale: float = 1.0) -> Case:
    """One of :data:`MAKERS`; bounds are set once the need is known."""
    make, stream, top_rps = MAKERS[name]
    requests = sorted(make(np.random.default_rng([seed, stream]), scale * top_rps), key=lambda one: one.arrival_s)
    return Case(
        name=name, what=f"prompts that share beginnings ({name}), {len(requests)} in {SPAN_S:.0f} s",
        fleet=Fleet(bounds=Bounds(low=1, high=1), initial=1), slo=Slo(), span_s=SPAN_S, bin_s=60.0, settle_s=60.0,
        requests=requests, router="prefix_affine",
    )  # fmt: skip
