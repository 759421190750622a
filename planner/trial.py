"""A plan tried out: the simulator serves drawn requests with so many replicas. Pure and deterministic by seed.

The closed form of :mod:`planner.capacity` proposes, this disposes: real scheduling, chunked prefill, KV blocks, and
random arrivals; requests go to the replica with the least work in flight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from planner.demand import Demand, Promise
from simulator.cluster import Arrival, Cluster, Outcome
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.picks import least_request
from simulator.sequence import EngineRequest
from simulator.tokens import BLOCK_TOKENS

Rng = np.random.Generator
MOST_REQUESTS: Final = 6000
"""A trial measures at most so many requests."""
LEAST_REQUESTS: Final = 2000
"""A quantile needs as many."""
WARM_LIVES: Final = 2.0
"""The fleet fills up for so many request lives before anything is counted."""
SHORTEST_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a fleet did."""

    replicas: int
    requests: int
    ttft_s: float
    """At the promise's objective."""
    tpot_s: float
    """At the promise's objective, of the requests' means."""
    attainment: float
    """Share of the requests that met both targets, 0..1."""
    output_tps: float
    preemptions: int

    def keeps(self, promise: Promise) -> bool:
        """Both targets at the objective."""
        return self.ttft_s <= promise.ttft_s and self.tpot_s <= promise.tpot_s


def trial(config: EngineConfig, demand: Demand, promise: Promise, replicas: int, *, seed: int = 1) -> Trial:
    """Serve ``demand`` with ``replicas`` replicas, from a cold start to a steady state.

    Args:
        config: of each engine.
        demand: rate and lengths.
        promise: what to judge by.
        replicas: at least 1.
        seed: of arrivals and lengths.
    """
    life_s = 1.0 + demand.output_tokens * promise.tpot_s
    warm_s = WARM_LIVES * life_s
    measured_s = max(SHORTEST_S, 2 * life_s, LEAST_REQUESTS / demand.rps)
    measured_s = min(measured_s, max(MOST_REQUESTS / demand.rps, 5.0))
    warm_s = min(warm_s, 2 * measured_s)
    outcomes = Cluster([Engine(config) for _ in range(replicas)], least_request()).run(
        _arrivals(config, demand, warm_s + measured_s, np.random.default_rng(seed))
    )
    return _judged([one for one in outcomes if one.arrival_s >= warm_s], replicas, promise, measured_s)


def smallest(
    config: EngineConfig, demand: Demand, promise: Promise, guess: int, *, seed: int = 1, most: int = 4096,
    progress: Callable[[str], object] = lambda _what: None,
) -> Trial | None:  # fmt: skip
    """The smallest fleet whose trial keeps the promise, searched outwards from ``guess``; ``None`` beyond ``most``."""
    tried: dict[int, Trial] = {}

    def run(count: int) -> Trial:
        if count not in tried:
            progress(f"{count} replica(s)")
            tried[count] = trial(config, demand, promise, count, seed=seed)
        return tried[count]

    low, high = 0, min(max(guess, 1), most)
    step = max(1, high // 8)
    while not run(high).keeps(promise):
        if high >= most or (high > 8 and high > 8 * max(guess, 1)):
            return None
        low, high, step = high, min(high + step, most), step * 2
    step = max(1, high // 8)
    while high - low > 1:
        middle = max(high - step, low + 1) if low == 0 else (low + high) // 2
        if run(middle).keeps(promise):
            high, step = middle, step * 2
        else:
            low = middle
    return run(high)


def _arrivals(config: EngineConfig, demand: Demand, span_s: float, rng: Rng) -> Iterator[Arrival]:
    longest = config.max_model_len
    now_s, index = 0.0, 0
    while (now_s := now_s + rng.exponential(1 / demand.rps)) < span_s:
        prompt, output = _lengths(demand, longest, rng)
        blocks = min(int(prompt * demand.cached_ratio), prompt - 1) // BLOCK_TOKENS
        tail = range(_OWN + index * _OWN, _OWN + index * _OWN + prompt // BLOCK_TOKENS - blocks)
        yield Arrival(at_s=now_s, request=EngineRequest(
            request_id=str(index), prompt_tokens=prompt, output_tokens=output,
            block_hashes=[*range(1, blocks + 1), *tail]))  # fmt: skip
        index += 1


_OWN: Final = 1 << 20
"""Block numbers of a request's own text; far more than any prompt has blocks."""


def _lengths(demand: Demand, longest: int, rng: Rng) -> tuple[int, int]:
    sigma = demand.length_sigma
    draws = np.exp(rng.normal(-(sigma**2) / 2, sigma, 2)) if sigma else (1.0, 1.0)
    output = max(1, min(round(demand.output_tokens * draws[1]), longest // 2))
    return max(1, min(round(demand.input_tokens * draws[0]), longest - output)), output


def _judged(outcomes: Sequence[Outcome], replicas: int, promise: Promise, measured_s: float) -> Trial:
    ttft = np.array([one.ttft_s if one.ok else math.inf for one in outcomes] or [math.inf])
    tpot = np.array([_tpot(one) for one in outcomes] or [math.inf])
    good = (ttft <= promise.ttft_s) & (tpot <= promise.tpot_s)
    quantile = promise.objective
    return Trial(
        replicas=replicas, requests=len(outcomes), attainment=float(good.mean()),
        ttft_s=float(np.quantile(ttft, quantile, method="higher")),
        tpot_s=float(np.quantile(tpot, quantile, method="higher")),
        output_tps=sum(one.output_tokens for one in outcomes) / measured_s,
        preemptions=sum(one.preemptions for one in outcomes),
    )  # fmt: skip


def _tpot(one: Outcome) -> float:
    return (one.e2e_s - one.ttft_s) / max(one.output_tokens - 1, 1) if one.ok else math.inf
