"""Scorers: how well each candidate would serve the request, 0 (worst) to 1 (best). Pure functions, parameters bound.

The scheduler clamps what comes back and weighs it. An endpoint that was never scraped is unknown, not idle: where a
score needs its metrics it gets :data:`UNKNOWN`, and less when the router's own book-keeping already shows load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

from fleet.types import EngineSample
from router.delay import LeastDelay
from router.parameters import Plugin, choice, number, whole
from router.prefix import DEFAULT_BLOCK_TOKENS, DEFAULT_CAPACITY_BLOCKS, DEFAULT_MAX_BLOCKS
from router.scoring import UNKNOWN, Candidates, Scorer, sane
from router.types import Prediction

__all__ = ["SCORERS", "UNKNOWN", "BothLatencies", "Candidates", "KvUtilisation", "LeastDelay", "LoadAware",
           "PredictedLatency", "PrefixAware", "Queue", "QueueThreshold", "RunningRequests", "Scorer"]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAware:
    """Share of the prompt's blocks that the endpoint has probably cached: matched / total.

    Range 0..1, 0 when nothing matches or the prompt is shorter than a block. The parameters shape the hashes and the
    index (:mod:`router.prefix`), which the caller keeps.
    """

    predicts: ClassVar[bool] = False
    block_tokens: int = whole(DEFAULT_BLOCK_TOKENS, "hashBlockSize", "blockSizeTokens")
    """Tokens of a block; smaller finds shorter matches and costs more hashes."""
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
        return [min(1.0, endpoint.matched_tokens / total) for endpoint in candidates.endpoints]

    @property
    def hashed_blocks(self) -> int:
        """Blocks of a prompt to hash, at least 1: the tighter of the two limits."""
        return max(1, min(self.max_blocks, self.max_tokens // self.block_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadAware:
    """Queue and active requests: 0.7 * (1 - queue / maxQueue) + 0.3 * (1 - active / maxActive).

    Range 0..1. The queue is the scraped one plus what this router has sent since. Never scraped: :data:`UNKNOWN`, or
    less when this router's own requests alone say less.
    """

    predicts: ClassVar[bool] = False
    queue_weight: float = number(0.7, "queueWeightFactor")
    active_weight: float = number(0.3, "activeRequestsWeight")
    """The two weights are taken relative to their sum."""
    max_queue_length: int = whole(50, "maxQueueLength")
    """Waiting requests at which the queue's part is 0."""
    max_active_requests: int = whole(128, "maxActiveRequests")
    """Requests queued and running at which the active part is 0 (half of vLLM's usual max_num_seqs)."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """1 for an idle engine, 0 for a full one."""
        scores = []
        for endpoint, load in zip(candidates.endpoints, candidates.loads, strict=True):
            if load is None:
                own = float(endpoint.requests_in_flight)
                scores.append(min(UNKNOWN, self._score(own, own)))
            else:
                scores.append(self._score(*load))
        return scores

    def _score(self, queue: float, active: float) -> float:
        busy = self.queue_weight * min(1.0, queue / self.max_queue_length)
        busy += self.active_weight * min(1.0, active / self.max_active_requests)
        weights = self.queue_weight + self.active_weight
        return 1.0 - busy / weights if weights > 0 else UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueThreshold:
    """0.5 for an empty queue, falling to 0 at ``threshold`` waiting requests. Range 0..0.5. Never scraped: 0.25."""

    predicts: ClassVar[bool] = False
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
class Queue:
    """Shortest queue among the candidates 1, longest 0, all alike 1. Never scraped: :data:`UNKNOWN`."""

    predicts: ClassVar[bool] = False

    def __call__(self, candidates: Candidates) -> list[float]:
        """(max - queue) / (max - min)."""
        return _least_first([None if load is None else load[0] for load in candidates.loads])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRequests:
    """Smallest running batch among the candidates 1, largest 0, all alike 1. Never scraped: :data:`UNKNOWN`."""

    predicts: ClassVar[bool] = False

    def __call__(self, candidates: Candidates) -> list[float]:
        """(max - running) / (max - min)."""
        return _least_first([None if load is None else load[1] - load[0] for load in candidates.loads])


def _kv_free(sample: EngineSample | None) -> float:
    return UNKNOWN if sample is None or sample.kv_utilisation is None else 1.0 - sample.kv_utilisation


@dataclass(frozen=True, slots=True, kw_only=True)
class KvUtilisation:
    """Free share of the KV cache: 1 - utilisation. Range 0..1. Never scraped: :data:`UNKNOWN`."""

    predicts: ClassVar[bool] = False

    def __call__(self, candidates: Candidates) -> list[float]:
        """1 for an empty cache, 0 for a full one."""
        return [_kv_free(endpoint.sample) for endpoint in candidates.endpoints]


def _against_best(candidates: Candidates, read: Callable[[Prediction], float]) -> list[float]:
    """Best predicted latency / predicted latency; :data:`UNKNOWN` while cold and for endpoints never scraped."""
    if candidates.predictions is None:
        return [UNKNOWN] * len(candidates.endpoints)
    latencies = [
        None if endpoint.sample is None else sane(read(prediction))
        for endpoint, prediction in zip(candidates.endpoints, candidates.predictions, strict=True)
    ]
    best = min((latency for latency in latencies if latency is not None), default=math.inf)
    if math.isinf(best):
        return [UNKNOWN] * len(latencies)
    return [UNKNOWN if latency is None else best / latency for latency in latencies]


def _ttft(prediction: Prediction) -> float:
    return prediction.ttft_s


def _tpot(prediction: Prediction) -> float:
    return prediction.tpot_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLatency:
    """Predicted latency of this request here against the best candidate's: best / predicted.

    Range 0..1: the best scores 1, one twice as slow 0.5. While the model is cold all score :data:`UNKNOWN`, which
    changes nothing between them.
    """

    predicts: ClassVar[bool] = True
    target_metric: str = choice("ttft", "targetMetric", among=("ttft", "tpot"))
    percentile: float = choice(0.5, "percentile", among=(0.5,), why="the latency model gives the median")

    def __call__(self, candidates: Candidates) -> list[float]:
        """Best / predicted."""
        return _against_best(candidates, _ttft if self.target_metric == "ttft" else _tpot)


@dataclass(frozen=True, slots=True, kw_only=True)
class BothLatencies:
    """Both predicted latencies against the best candidate's, weighed 0.8 (TTFT) to 0.2 (TPOT). Range 0..1."""

    predicts: ClassVar[bool] = True
    ttft_weight: float = number(0.8, "ttftWeight")
    tpot_weight: float = number(0.2, "tpotWeight")
    """The two weights are taken relative to their sum."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """The weighted mean of the two."""
        weights = self.ttft_weight + self.tpot_weight
        if weights <= 0:
            return [UNKNOWN] * len(candidates.endpoints)
        ttft, tpot = _against_best(candidates, _ttft), _against_best(candidates, _tpot)
        return [
            (self.ttft_weight * one + self.tpot_weight * two) / weights for one, two in zip(ttft, tpot, strict=True)
        ]


_INDEX_IS_OURS: Final = {
    "cacheIndexerURL": "the router keeps its own approximate prefix index",
    "autoTune": "an engine that reports the size of its cache sets its own capacity",
}

SCORERS: Final[Mapping[str, Plugin[Scorer]]] = MappingProxyType(
    {
        "prefix-aware": Plugin(kind=PrefixAware, idle=_INDEX_IS_OURS),
        "prefix-cache-scorer": Plugin(kind=PrefixAware, idle=_INDEX_IS_OURS),
        "load-aware": Plugin(kind=LoadAware),
        "load-aware-scorer": Plugin(kind=QueueThreshold),
        "predicted-latency": Plugin(kind=PredictedLatency),
        "latency-scorer": Plugin(kind=BothLatencies),
        "least-delay": Plugin(kind=LeastDelay),
        "queue": Plugin(kind=Queue),
        "queue-scorer": Plugin(kind=Queue),
        "running-requests": Plugin(kind=RunningRequests),
        "running-requests-size-scorer": Plugin(kind=RunningRequests),
        "kv-utilisation": Plugin(kind=KvUtilisation),
        "kv-utilization": Plugin(kind=KvUtilisation),
        "kv-cache-scorer": Plugin(kind=KvUtilisation),
        "kv-cache-utilization-scorer": Plugin(kind=KvUtilisation),
    }
)
"""Scorers by the names they have in configuration."""
