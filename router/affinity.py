"""Scorers for what ties a request to an endpoint beside its load: adapter, session, cold placement, distance. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Final

import xxhash

from router.parameters import number, structured, word_map
from router.scoring import UNKNOWN, Candidates, Plain, Steady
from router.types import EndpointView


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraAware(Plain):
    """1 where the request's LoRA adapter is loaded, ``room`` where a slot is free, 0 where one would be swapped out.

    Range 0..1; a request for a base model scores all 1, an endpoint whose slots are not known :data:`UNKNOWN` of the
    ``room`` score. Against a stampede that loads one adapter everywhere, the score of a free slot is divided by the
    number of endpoints that have the adapter already, and where none has it, only the endpoint that the adapter's
    name chooses by rendezvous hashing keeps all of it, the others half: the first requests meet at one place.
    """

    room: float = number(0.5, "roomScore", high=1.0)
    """Score of a free slot."""
    swap: float = number(0.0, "swapScore", high=1.0)
    """Score where all slots are taken."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Loaded, room, or neither."""
        adapter, endpoints = candidates.request.adapter, candidates.endpoints
        if not adapter:
            return [1.0] * len(endpoints)
        memo, key = candidates.memo, ("lora-aware", adapter, self.room, self.swap)
        scores: list[float] | None = memo.get(key)
        if scores is None:
            holders = sum([adapter in one.adapters for one in endpoints])
            home = "" if holders else max(endpoints, key=lambda one: _weight(adapter, one.url)).url
            scores = memo[key] = [self._score(one, adapter, holders, home) for one in endpoints]
        return scores

    def _score(self, one: EndpointView, adapter: str, holders: int, home: str) -> float:
        if adapter in one.adapters:
            return 1.0
        if one.adapter_slots is not None and len(one.adapters) >= one.adapter_slots:
            return self.swap
        score = self.room if one.adapter_slots is not None else self.room * UNKNOWN
        return score / holders if holders else score if one.url == home else 0.5 * score


def _weight(adapter: str, url: str) -> int:
    """Highest-random-weight hashing: every adapter orders the endpoints, and joins and leaves hardly change that."""
    return int(xxhash.xxh3_64_intdigest(f"{adapter}\n{url}".encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAffinity(Plain):
    """1 for the endpoint that served the session's last request, 0 for the others. A request without a session, or with
    a new one, scores all 0, which changes nothing between them."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Where the session is."""
        url = candidates.request.session_url
        if not url:
            return [0.0] * len(candidates.endpoints)
        return [1.0 if one.url == url else 0.0 for one in candidates.endpoints]


_MATCHED: Final = attrgetter("matched_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoHitLru(Plain):
    """For a prompt that no candidate has cached: the endpoint that has waited longest for such a prompt scores 1, the
    one that had the last 0; endpoints that never had one come first, and equals share their score.

    Range 0..1; a prompt of which something is cached scores all :data:`UNKNOWN`. So new prefixes spread evenly.
    """

    def __call__(self, candidates: Candidates) -> list[float]:
        """Rank by the turn of the last cold request."""
        endpoints = candidates.endpoints
        if any(map(_MATCHED, endpoints)):
            return [UNKNOWN] * len(endpoints)
        turns = sorted([one.last_cold for one in endpoints])
        last = max(1, len(turns) - 1)
        rank = {turn: place for place, turn in reversed(list(enumerate(turns)))}
        return [1.0 - rank[one.last_cold] / last for one in endpoints]


_TOPOLOGY: Final[Mapping[str, float]] = MappingProxyType(
    {
        "kubernetes.io/hostname": 1.0,
        "topology.kubernetes.io/rack": 0.2,
        "topology.kubernetes.io/zone": 0.05,
        "topology.kubernetes.io/region": 0.02,
    }
)
"""Upstream's score of sharing a place, nearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDistance(Steady):
    """1 / network latency against the nearest candidate: least / distance.

    Range 0..1. The distance is the least time that a scrape took lately, counted in steps of ``floor_ms`` so that noise
    makes no difference. Never scraped: :data:`UNKNOWN`.
    """

    floor_ms: float = number(2.0, "floorMs", low=0.01)
    """Distances below this count as this."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Nearest / distance."""
        floor = self.floor_ms / 1000.0
        found = [one.distance_s for one in candidates.endpoints]
        distances = [None if took is None else took if took > floor else floor for took in found]
        nearest = min([distance for distance in distances if distance is not None], default=floor)
        return [UNKNOWN if distance is None else nearest / distance for distance in distances]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology(Steady):
    """How near an endpoint's labels say it is: same host 1, rack 0.2, zone 0.05, region 0.02, else 0. Range 0..1."""

    own: Mapping[str, str] = structured(MappingProxyType({}), "ownLabels", read=word_map)
    """The router's own place, by the same labels."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """The nearest place that is shared."""
        places = [(name, self.own[name], score) for name, score in _TOPOLOGY.items() if name in self.own]
        if not places:
            return [0.0] * len(candidates.endpoints)
        return [_shared(one.labels, places) for one in candidates.endpoints]


def _shared(labels: Mapping[str, str], places: Sequence[tuple[str, str, float]]) -> float:
    return next((score for name, value, score in places if labels.get(name) == value), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLength(Plain):
    """1 where the prompt and its answer fit the endpoint's label ``"min-max"`` of context lengths in tokens, 0 where
    they do not; without such a label :data:`UNKNOWN`."""

    label: str = structured("llm-d.ai/context-length-range", "label", read=str)

    def __call__(self, candidates: Candidates) -> list[float]:
        """Fits or not."""
        memo, key = candidates.memo, ("context-length", self.label)
        ranges: list[tuple[int, int] | None] | None = memo.get(key)
        if ranges is None:
            ranges = memo[key] = [_range(one.labels.get(self.label)) for one in candidates.endpoints]
        request = candidates.request
        size = request.input_tokens + (request.max_tokens or int(request.expected_output_tokens))
        return [UNKNOWN if fits is None else float(fits[0] <= size <= fits[1]) for fits in ranges]


def _range(label: str | None) -> tuple[int, int] | None:
    """Least and most tokens; ``None``: it does not say."""
    low, dash, high = (label or "").partition("-")
    return (int(low), int(high)) if dash and low.isdigit() and high.isdigit() else None
