"""What each way of serving would do to the user's own workload: simulated side by side. Pure, deterministic by seed.

Same GPUs, same requests, same engine; what differs is who picks the engine, whether prefixes are kept, and whether
prompts and answers are computed apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

import numpy as np

from fleet.hardware import MODELS, kv_bytes_per_token
from planner.advisor import prefill_per_decode
from planner.capacity import config_for, replicas_for
from planner.demand import Promise, demand_of
from planner.memory import Hardware, memory
from simulator.cluster import Arrival, Cluster, Outcome, Placement, SplitPick, round_robin
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.link import LINKS, LinkSpec
from simulator.picks import least_request, prefix_affine
from simulator.sequence import EngineRequest
from simulator.tokens import BLOCK_TOKENS
from simulator.workload import HASH_BLOCK_TOKENS, TimedRequest

MOST: Final = 4000
"""Requests of the workload that are served in each way."""
FLEET: Final = 16
"""Replicas at most: a larger demand is thinned, for the picture is the same."""
_OWN: Final = 1 << 40
"""Block numbers of a text that nobody shares begin here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one way of serving did."""

    name: str
    gpus: int
    ttft_s: float
    """At the promise's objective."""
    tpot_s: float
    """At the promise's objective."""
    attainment: float
    hit_ratio: float
    """Prompt tokens found in caches, of all."""


def expected_effects(
    model: str, gpu: str, parallel: int, requests: Sequence[TimedRequest], promise: Promise, *, seed: int = 1,
    progress: Callable[[str], object] = lambda _what: None,
) -> tuple[Effect, ...]:  # fmt: skip
    """Round robin without caches, then one means more at a time, then P/D apart; on as many GPUs as the
    closed form asks.

    Raises: ConfigError when the model does not fit.
    """
    hardware = Hardware(model=model, gpu=gpu, tensor_parallel=parallel or _smallest(model, gpu))
    config = config_for(hardware)
    fitting = [one for one in requests if one.input_tokens + one.output_tokens <= config.max_model_len]
    replicas = replicas_for(config, demand_of(fitting), promise) or FLEET
    chosen = _thinned(fitting, min(1.0, FLEET / replicas), seed)
    size = max(2, min(replicas, FLEET))
    ratio = prefill_per_decode(demand_of(chosen).ratio)
    prefill = max(1, min(size - 1, round(size * ratio / (ratio + 1))))
    ways: dict[str, tuple[SplitPick, bool]] = {
        "round robin, no prefix cache": (round_robin(), False),
        "round robin, prefix cache": (round_robin(), True),
        "cache-aware routing": (prefix_affine(), True),
        f"P/D apart, {prefill}P{size - prefill}D": (_apart(prefill), True),
    }
    found = []
    for name, (pick, cached) in ways.items():
        progress(name)
        arrivals = [*_arrivals(chosen, cached=cached)]
        found.append(_serve(name, config, hardware, pick=pick, arrivals=arrivals, size=size, promise=promise))
    return tuple(found)


def _smallest(model: str, gpu: str) -> int:
    """The smallest tensor parallelism that leaves room for KV."""
    for parallel in (1, 2, 4, 8):
        if MODELS[model].heads % parallel == 0:
            room = memory(Hardware(model=model, gpu=gpu, tensor_parallel=parallel))
            if room.kv_capacity_tokens >= 65_536:
                return parallel
    return 8


def _thinned(requests: Sequence[TimedRequest], share: float, seed: int) -> list[TimedRequest]:
    """A random share of the requests; then the first of them."""
    rng = np.random.default_rng(seed)
    kept = [one for one in requests if share >= 1.0 or rng.random() < share]
    return kept[:MOST]


def _arrivals(requests: Sequence[TimedRequest], *, cached: bool) -> Iterator[Arrival]:
    own = count(_OWN, 1 << 20)
    for index, one in enumerate(requests):
        hashes = (
            _blocks(one, next(own))
            if cached
            else [*range(start := next(own), start + one.input_tokens // BLOCK_TOKENS)]
        )
        yield Arrival(at_s=one.arrival_s, request=EngineRequest(
            request_id=str(index), prompt_tokens=one.input_tokens, output_tokens=max(one.output_tokens, 1),
            block_hashes=hashes))  # fmt: skip


def _blocks(one: TimedRequest, own: int) -> list[int]:
    """Engine blocks: shared where the workload says so, else the request's own."""
    full, each = one.input_tokens // BLOCK_TOKENS, HASH_BLOCK_TOKENS // BLOCK_TOKENS
    if one.hash_ids:
        return [hash_id * each + part for hash_id in one.hash_ids for part in range(each)][:full]
    shared = one.prefix_tokens // BLOCK_TOKENS if one.prefix_id is not None else 0
    start = 0 if one.prefix_id is None else (one.prefix_id + 1) << 20
    return [*range(start, start + shared), *range(own, own + full - shared)]


def _apart(prefill: int) -> SplitPick:
    """Prompts on the first ``prefill`` engines, answers on the others."""
    prompts, answers = prefix_affine(), least_request()

    def pick(request: EngineRequest, engines: Sequence[Engine], now_s: float) -> Placement:
        return Placement(prefill=prompts(request, engines[:prefill], now_s),
                         decode=prefill + answers(request, engines[prefill:], now_s))  # fmt: skip

    return pick


def _serve(
    name: str, config: EngineConfig, hardware: Hardware, *, pick: SplitPick, arrivals: Sequence[Arrival], size: int,
    promise: Promise,
) -> Effect:  # fmt: skip
    per_token = kv_bytes_per_token(MODELS[hardware.model], bytes_per_value=hardware.kv_bytes_per_value)
    cluster = Cluster([Engine(config) for _ in range(size)], pick, link=_links(size), kv_bytes_per_token=per_token)
    outcomes = cluster.run(arrivals)
    ttft = np.array([one.ttft_s if one.ok else math.inf for one in outcomes])
    tpot = np.array([_tpot(one) for one in outcomes])
    prompts = sum(one.request.prompt_tokens for one in arrivals)
    return Effect(
        name=name, gpus=size * hardware.tensor_parallel,
        ttft_s=float(np.quantile(ttft, promise.objective, method="higher")),
        tpot_s=float(np.quantile(tpot, promise.objective, method="higher")),
        attainment=float(((ttft <= promise.ttft_s) & (tpot <= promise.tpot_s)).mean()),
        hit_ratio=sum(one.cached_tokens for one in outcomes) / max(prompts, 1),
    )  # fmt: skip


def _links(size: int) -> LinkSpec:
    """Each engine has a network card of its own; half of them send while the other half receives."""
    card = LINKS["ucx"]
    return replace(card, bytes_per_s=card.bytes_per_s * max(size // 2, 1), flow_bytes_per_s=card.bytes_per_s)


def _tpot(one: Outcome) -> float:
    return (one.e2e_s - one.ttft_s) / max(one.output_tokens - 1, 1) if one.ok else math.inf
