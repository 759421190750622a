"""Scorers: how well each candidate would serve the request, 0 (worst) to 1 (best). Pure functions, parameters bound.

The scheduler clamps what comes back and weighs it. An endpoint that was never scraped is unknown, not idle: where a
score needs its metrics it gets :data:`UNKNOWN`, and less when the router's own book-keeping already shows load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from fleet.types import EngineSample
from router.affinity import ContextLength, LoraAware, NetworkDistance, NoHitLru, SessionAffinity, Topology
from router.delay import LeastDelay
from router.filters import SESSION_OURS
from router.latency import BothLatencies, PredictedLatency
from router.parameters import Plugin, number, whole
from router.prefix import AUTO_BLOCK, DEFAULT_BLOCK_TOKENS, DEFAULT_CAPACITY_BLOCKS, DEFAULT_MAX_BLOCKS, auto_block
from router.scoring import UNKNOWN, Candidates, Plain, Scorer, Steady

__all__ = ["SCORERS", "UNKNOWN", "ActiveRequests", "BothLatencies", "Candidates", "ContextLength", "KvUtilisation",
           "LeastDelay", "LoadAware", "LoraAware", "NetworkDistance", "NoHitLru", "PredictedLatency", "PrefixAware",
           "Queue", "QueueThreshold", "RunningRequests", "Scorer", "SessionAffinity", "TokenLoad",
           "Topology"]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAware(Plain):
    """Share of the prompt's blocks that the endpoint has probably cached: matched / total.

    Range 0..1, 0 when nothing matches or the prompt is shorter than a block. The parameters shape the hashes and the
    index (:mod:`router.prefix`), which the caller keeps.
    """

    block_tokens: int = whole(
        DEFAULT_BLOCK_TOKENS, "hashBlockSize", "blockSizeTokens", "blockSize", words={"auto": AUTO_BLOCK}
    )
    """Tokens of a block; smaller finds shorter matches and costs more hashes. ``auto``: max(3, min(20, mean prompt
    length / 200)), the sizing rule of the source documents, as prompts have been at the start of the profile."""
    max_blocks: int = whole(DEFAULT_MAX_BLOCKS, "maxPrefixBlocksToMatch")
    """Blocks of a prompt that are hashed."""
    max_tokens: int = whole(DEFAULT_MAX_BLOCKS * DEFAULT_BLOCK_TOKENS, "maxPrefixTokensToMatch")
    """The same limit in tokens; the tighter one holds."""
    capacity_blocks: int = whole(DEFAULT_CAPACITY_BLOCKS, "lruCapacityPerServer")
    """Blocks remembered for an endpoint whose cache size is not known."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Matched / total."""
        request = candidates.request
        total = len(request.block_hashes) * request.block_tokens or request.input_tokens
        if total <= 0:
            return [0.0] * len(candidates.endpoints)
        return [
            matched / total if (matched := endpoint.matched_tokens) < total else 1.0
            for endpoint in candidates.endpoints
        ]

    def sized(self, mean_prompt_tokens: float) -> PrefixAware:
        """The same with the block size worked out (:func:`router.prefix.auto_block`)."""
        return replace(self, block_tokens=auto_block(mean_prompt_tokens))

    @property
    def hashed_blocks(self) -> int:
        """Blocks of a prompt to hash, at least 1: the tighter of the two limits."""
        return max(1, min(self.max_blocks, self.max_tokens // self.block_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadAware(Plain):
    """Queue and active requests: 0.7 * (1 - queue / maxQueue) + 0.3 * (1 - active / maxActive).

    Range 0..1. The queue is the scraped one plus what this router has sent since. Never scraped: :data:`UNKNOWN`, or
    less when this router's own requests alone say less.
    """

    queue_weight: float = number(0.7, "queueWeightFactor")
    active_weight: float = number(0.3, "activeRequestsWeight")
    """The two weights are taken relative to their sum."""
    max_queue_length: int = whole(50, "maxQueueLength")
    """Waiting requests at which the queue's part is 0."""
    max_active_requests: int = whole(128, "maxActiveRequests")
    """Requests queued and running at which the active part is 0 (half of vLLM's usual max_num_seqs)."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """1 for an idle engine, 0 for a full one."""
        weights = self.queue_weight + self.active_weight
        if weights <= 0.0:
            return [UNKNOWN] * len(candidates.endpoints)
        most, limit = self.max_queue_length, self.max_active_requests
        by_queue, by_active = self.queue_weight / weights / most, self.active_weight / weights / limit
        scores = [
            -1.0 if load is None
            else 1.0 - by_queue * (queue if (queue := load[0]) < most else most)
            - by_active * (active if (active := load[1]) < limit else limit)
            for load in candidates.loads
        ]  # fmt: skip
        if -1.0 in scores:
            for index, one in enumerate(candidates.endpoints):
                if scores[index] == -1.0:
                    own = one.requests_in_flight
                    scores[index] = min(UNKNOWN, 1.0 - by_queue * min(own, most) - by_active * min(own, limit))
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueThreshold(Plain):
    """0.5 for an empty queue, falling to 0 at ``threshold`` waiting requests. Range 0..0.5. Never scraped: 0.25."""

    threshold: int = whole(128, "threshold")
    """Waiting requests."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Half of the room left in the queue."""
        limit = self.threshold
        return [
            UNKNOWN / 2 if load is None else 0.5 * (1.0 - load[0] / limit) if load[0] < limit else 0.0
            for load in candidates.loads
        ]


def _least_first(values: Sequence[float | None]) -> list[float]:
    """The least scores 1 and the most 0; all alike score 1; unknown scores :data:`UNKNOWN`."""
    known = [value for value in values if value is not None]
    most = max(known, default=0.0)
    spread = most - min(known, default=0.0)
    if spread <= 0:
        return [UNKNOWN if value is None else 1.0 for value in values]
    return [UNKNOWN if value is None else (most - value) / spread for value in values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(Plain):
    """Shortest queue among the candidates 1, longest 0, all alike 1. Never scraped: :data:`UNKNOWN`."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """(max - queue) / (max - min)."""
        return _least_first([None if load is None else load[0] for load in candidates.loads])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRequests(Plain):
    """Smallest running batch among the candidates 1, largest 0, all alike 1. Never scraped: :data:`UNKNOWN`."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """(max - running) / (max - min)."""
        return _least_first([None if load is None else load[1] - load[0] for load in candidates.loads])


def _kv_free(sample: EngineSample | None) -> float:
    return UNKNOWN if sample is None or sample.kv_utilisation is None else 1.0 - sample.kv_utilisation


@dataclass(frozen=True, slots=True, kw_only=True)
class KvUtilisation(Steady):
    """Free share of the KV cache: 1 - utilisation. Range 0..1. Never scraped: :data:`UNKNOWN`."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """1 for an empty cache, 0 for a full one."""
        return [_kv_free(endpoint.sample) for endpoint in candidates.endpoints]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoad(Plain):
    """Room for prompt tokens: 1 - uncached tokens in flight / ``threshold``. Range 0..1.

    The tokens are this router's own: uncached prompt tokens whose first output token has not come back.
    """

    threshold: int = whole(4_194_304, "queueThresholdTokens")
    """Tokens at which the score is 0."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """1 for none in flight."""
        limit = self.threshold
        return [
            1.0 - tokens / limit if (tokens := one.prefill_tokens_in_flight) < limit else 0.0
            for one in candidates.endpoints
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequests(Plain):
    """This router's requests in flight: (most - own) / most * ``max_busy_score``, and 1 up to ``idle_threshold``.
    Range 0..1."""

    idle_threshold: int = whole(0, "idleThreshold", low=0)
    """Requests up to which an endpoint counts as idle."""
    max_busy_score: float = number(1.0, "maxBusyScore", high=1.0)
    """Best score of an endpoint that is not idle."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """1 for idle, 0 for the most."""
        counts = [one.requests_in_flight for one in candidates.endpoints]
        most, idle = max(counts), self.idle_threshold
        return [1.0 if count <= idle else self.max_busy_score * (most - count) / most for count in counts]


_INDEX_IS_OURS: Final = {
    "prefixMatchInfoProducerName": "the router's own index tells what is cached",
    "matchLengthWeight": "the share that matches is the score",
    "matchLengthScaleTokens": "the share that matches is the score",
    "cacheIndexerURL": "the router keeps its own approximate prefix index",
    "autoTune": "an engine that reports the size of its cache sets its own capacity",
}

_EVENTS_ARE_SET: Final = dict.fromkeys(
    ("tokenProcessorConfig", "indexerConfig", "kvEventsConfig", "kvCacheIndexerConfig", "speculativeIndexing",
     "speculativeTTL", "hashAlgorithm", "tokenizersPoolConfig"),
    "the router's own settings say how caches are followed",
)  # fmt: skip

SCORERS: Final[Mapping[str, Plugin[Scorer]]] = MappingProxyType(
    {
        "prefix-aware": Plugin(kind=PrefixAware, idle=_INDEX_IS_OURS),
        "prefix-cache-scorer": Plugin(kind=PrefixAware, idle=_INDEX_IS_OURS),
        "prefix-cache": Plugin(kind=PrefixAware, idle=_INDEX_IS_OURS),
        "precise-prefix-cache-scorer": Plugin(kind=PrefixAware, idle={**_INDEX_IS_OURS, **_EVENTS_ARE_SET}),
        "load-aware": Plugin(kind=LoadAware),
        "load-aware-scorer": Plugin(kind=QueueThreshold),
        "predicted-latency": Plugin(kind=PredictedLatency),
        "latency-scorer": Plugin(kind=BothLatencies),
        "least-delay": Plugin(kind=LeastDelay),
        "queue": Plugin(kind=Queue),
        "queue-scorer": Plugin(kind=Queue),
        "token-load": Plugin(kind=TokenLoad),
        "token-load-scorer": Plugin(kind=TokenLoad),
        "active-requests": Plugin(kind=ActiveRequests),
        "active-request-scorer": Plugin(kind=ActiveRequests, idle={"requestTimeout": "a request counts until it ends"}),
        "lora-aware": Plugin(kind=LoraAware),
        "lora-affinity-scorer": Plugin(kind=LoraAware, preset={"room": 0.8}),
        "session-affinity": Plugin(kind=SessionAffinity),
        "session-affinity-scorer": Plugin(kind=SessionAffinity, idle=SESSION_OURS),
        "no-hit-lru": Plugin(kind=NoHitLru),
        "no-hit-lru-scorer": Plugin(kind=NoHitLru, idle={"lruSize": "every endpoint is remembered"}),
        "network-distance": Plugin(kind=NetworkDistance),
        "topology-affinity-scorer": Plugin(kind=Topology),
        "context-length-aware": Plugin(kind=ContextLength),
        "running-requests": Plugin(kind=RunningRequests),
        "running-requests-size-scorer": Plugin(kind=RunningRequests),
        "kv-utilisation": Plugin(kind=KvUtilisation),
        "kv-utilization": Plugin(kind=KvUtilisation),
        "kv-cache-scorer": Plugin(kind=KvUtilisation),
        "kv-cache-utilization-scorer": Plugin(kind=KvUtilisation),
    }
)
"""Scorers by the names they have in configuration."""
