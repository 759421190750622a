"""Filter -> Score -> Pick over a frozen view. Pure: the randomness, the turn and the predictor are arguments.

``Scheduler(profile).pick(...)`` is the whole decision: filters drop what is unfit and what is overloaded, scorers give
0..1 and are clamped and weighed, a picker draws. When every fit endpoint is overloaded, the request goes round robin
over the fit ones; when none is fit, the pick says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import add, mul
from types import MappingProxyType
from typing import Final

from router.delay import LeastDelay
from router.filters import MemoryPressure, ModelCompatibility, PrefixAffinity, QueueDepth
from router.pickers import MaxScore, Picker, Rng, TopKRandom
from router.prefix import BYTES_PER_TOKEN
from router.scorers import (
    Candidates,
    KvUtilisation,
    LoadAware,
    NetworkDistance,
    NoHitLru,
    PredictedLatency,
    PrefixAware,
    Queue,
    Scorer,
    TokenLoad,
)
from router.sieve import NamedFilter, Sieve, Sifted
from router.types import EndpointView, InferenceRequest, Pick, Predict

PICKED: Final = "picked"
FALLBACK: Final = "fallback_round_robin"
NO_ENDPOINTS: Final = "no_endpoints"
NO_MODEL: Final = "no_model"
NO_ROLE: Final = "no_role"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedScorer:
    """A scorer under the name that explains a score, with its weight (0 or more)."""

    name: str
    weight: float
    scorer: Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveWeights:
    """Weights of the prefix and the load scorer by the recent hit rate: 100/30 where prompts are mostly cached, 20/100
    where they hardly are, else 60/60 (the source documents' rule)."""

    prefix: str = "prefix-aware"
    load: str = "load-aware"
    high: float = 0.7
    low: float = 0.2

    def weights(self, hit_rate: float) -> Mapping[str, float]:
        """By scorer's name.

        >>> AdaptiveWeights().weights(0.75)
        {'prefix-aware': 100.0, 'load-aware': 30.0}
        """
        prefix, load = (100.0, 30.0) if hit_rate > self.high else (20.0, 100.0) if hit_rate < self.low else (60.0, 60.0)
        return {self.prefix: prefix, self.load: load}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Everything that shapes a decision."""

    name: str
    filters: tuple[NamedFilter, ...]
    """Applied in this order, those for fitness before those for load."""
    scorers: tuple[WeightedScorer, ...]
    picker: Picker
    stale_after_s: float = 10.0
    """An endpoint whose sample is older counts as never scraped."""
    prefix: PrefixAware = field(default_factory=PrefixAware)
    """Block size, lengths and capacity for hashing prompts and for the index, scored or not."""
    adaptive: AdaptiveWeights | None = None
    """Moves two of the weights with the hit rate; ``None``: they stay as they are."""
    others: Mapping[str, Profile] = field(default_factory=dict)
    """Profiles beside this one in the same file, by name; ``prefill`` is for the first leg of split requests."""
    notes: tuple[str, ...] = ()
    """What its file asked for that has no effect here; to be logged once."""

    @property
    def predicts(self) -> bool:
        """Some scorer reads predictions."""
        return any(scorer.scorer.predicts for scorer in self.scorers)

    @property
    def percentile(self) -> float:
        """Of the latencies to predict: the highest that a scorer asks for."""
        return max([entry.scorer.percentile for entry in self.scorers if isinstance(entry.scorer, PredictedLatency)],
                   default=0.5)  # fmt: skip


def _scorers(**entries: tuple[float, Scorer]) -> tuple[WeightedScorer, ...]:
    """Scorers by name (with underscores for dashes), each with its weight."""
    return tuple(
        WeightedScorer(name=name.replace("_", "-"), weight=weight, scorer=scorer)
        for name, (weight, scorer) in entries.items()
    )


_FITS: Final = NamedFilter(name="model-compatibility", filter=ModelCompatibility())
_NOT_FULL: Final = (
    _FITS, NamedFilter(name="queue-depth", filter=QueueDepth()),
    NamedFilter(name="memory-pressure", filter=MemoryPressure()),
)  # fmt: skip

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "default": Profile(
            name="default",
            filters=(_FITS,),
            scorers=_scorers(least_delay=(100.0, LeastDelay())),
            picker=MaxScore(),
        ),
        "documents": Profile(
            name="documents",
            filters=_NOT_FULL,
            scorers=_scorers(
                prefix_aware=(100.0, PrefixAware()),
                load_aware=(50.0, LoadAware()),
                predicted_latency=(30.0, PredictedLatency()),
            ),
            picker=TopKRandom(top_k=3),
        ),
        "adaptive": Profile(
            name="adaptive",
            filters=_NOT_FULL,
            scorers=_scorers(prefix_aware=(60.0, PrefixAware()), load_aware=(60.0, LoadAware())),
            picker=TopKRandom(top_k=3),
            adaptive=AdaptiveWeights(),
        ),
        "weighted": Profile(
            name="weighted",
            filters=_NOT_FULL,
            scorers=_scorers(
                load_aware=(0.3, LoadAware()),
                prefix_aware=(0.4, PrefixAware()),
                network_distance=(0.2, NetworkDistance()),
                kv_utilisation=(0.1, KvUtilisation()),
            ),
            picker=MaxScore(),
        ),
        "sticky-until-saturated": Profile(
            name="sticky-until-saturated",
            filters=(_FITS, NamedFilter(name="prefix-affinity", filter=PrefixAffinity())),
            scorers=_scorers(token_load=(1.0, TokenLoad())),
            picker=MaxScore(),
        ),
        "blend": Profile(
            name="blend",
            filters=(_FITS,),
            scorers=_scorers(
                prefix_aware=(3.0, PrefixAware()),
                queue=(2.0, Queue()),
                kv_utilisation=(2.0, KvUtilisation()),
                no_hit_lru=(2.0, NoHitLru()),
            ),
            picker=MaxScore(),
        ),
    }
)
"""Profiles by name.

``documents`` is the source documents' rule: weights 100/50/30, one of the best three at random; ``adaptive`` moves its
weights with the hit rate; ``weighted`` is their formula of 0.3 load, 0.4 cache, 0.2 network, 0.1 memory.
``sticky-until-saturated`` and ``blend`` are llm-d's of 2026 and of 2025. ``default`` sends a request where it has and
causes the least delay (:class:`router.delay.LeastDelay`). It has no filter for load: a full cache or a long queue is
part of the delay, and turning requests away from the one endpoint that holds their prefix makes the next endpoint full
too. Evidence: ``docs/adr/0005-default-routing-profile.md`` and ``fleet bench routing``.
"""

DEFAULT: Final = PROFILES["default"]


class Scheduler:
    """Picks endpoints by one profile; holds nothing else, so a new profile is a new scheduler."""

    __slots__ = (
        "_adaptive",
        "_explores",
        "_level",
        "_penalties",
        "_predicts",
        "_scorers",
        "_sieve",
        "block_bytes",
        "block_tokens",
        "hashed_blocks",
        "profile",
    )

    def __init__(self, profile: Profile = DEFAULT) -> None:
        self.profile = profile
        self._sieve = Sieve(profile.filters, stale_after_s=profile.stale_after_s)
        self.block_tokens = profile.prefix.block_tokens
        self.block_bytes = self.block_tokens * BYTES_PER_TOKEN
        """Of a prompt's blocks."""
        self.hashed_blocks = profile.prefix.hashed_blocks
        self._penalties = tuple(
            (entry.name, entry.filter) for entry in profile.filters if isinstance(entry.filter, MemoryPressure)
        )
        self._explores = any(
            isinstance(entry.filter, PrefixAffinity) and entry.filter.exploration > 0.0 for entry in profile.filters
        )
        self._predicts, self._level, self._adaptive = profile.predicts, profile.percentile, profile.adaptive
        self._scorers = tuple(
            (one.name, one.weight, one.scorer, getattr(one.scorer, "steady", False)) for one in profile.scorers
        )

    def pick(
        self,
        request: InferenceRequest,
        endpoints: Sequence[EndpointView],
        *,
        rng: Rng,
        turn: int,
        predict: Predict | None = None,
        epoch: int | None = None,
    ) -> Pick:
        """One decision.

        Args:
            request: what is asked for.
            endpoints: the ready ones, with distinct URLs.
            rng: draws among the best.
            turn: the caller's counter, for round robin when all are overloaded.
            predict: latency model; ``None`` or a ``None`` answer leaves predicted latency neutral.
            epoch: while it and the list of endpoints stay the same, nothing of them changes but counts of requests and
                tokens, new prompts, and what is matched; ``None``: nothing is promised.
        Returns: never raises for want of endpoints; ``reason`` says what happened.
        """
        if not endpoints:
            return Pick(None, NO_ENDPOINTS)
        if self._explores:
            request.chance = rng.random()
        sifted = self._sieve.sift(request, endpoints, epoch)
        if not sifted.fit:
            misses = ModelCompatibility()(request, endpoints)
            return Pick(None, NO_ROLE if misses.kept else NO_MODEL, dropped=sifted.dropped)
        if not sifted.kept:
            return Pick(sifted.fit[turn % len(sifted.fit)], FALLBACK, 1.0, sifted.dropped)
        return self._choose(request, sifted, rng, predict)

    def _choose(self, request: InferenceRequest, sifted: Sifted, rng: Rng, predict: Predict | None) -> Pick:
        predicted, kept, dropped = None, sifted.kept, sifted.dropped
        if self._predicts and predict is not None:
            level = self._level
            predicted = predict(request, kept) if level == 0.5 else predict(request, kept, level)
        columns = self._columns(Candidates(request, kept, predicted, sifted.memo))
        chosen, chance = self.profile.picker.choose(columns["total"], rng)
        if predicted is None:
            return Pick(kept[chosen], PICKED, chance, dropped, self._predicts, None, kept, columns)
        return Pick(kept[chosen], PICKED, chance, dropped, False, predicted[chosen], kept, columns, predicted)

    def _columns(self, candidates: Candidates) -> dict[str, list[float]]:
        """By scorer, then the penalties where there are any, then ``total``."""
        columns: dict[str, list[float]] = {}
        weighed: list[list[float]] = []
        memo, count = candidates.memo, len(candidates.endpoints)
        moved = self._adaptive.weights(candidates.request.expected_reuse) if self._adaptive is not None else {}
        for name, fixed, scorer, steady in self._scorers:
            weight = moved.get(name, fixed) if moved else fixed
            scores = memo.get(name) if steady else None
            if scores is None:
                scores = _clamped(scorer(candidates))
                if len(scores) != count:
                    raise ValueError(f"zip: {name} gave {len(scores)} scores for {count} endpoints")
                if steady:
                    memo[name] = scores
            columns[name] = scores
            weighed.append(scores if weight == 1.0 else [weight * score for score in scores])
        totals = _sums(weighed) if weighed else [0.0] * count
        for name, pressure in self._penalties:
            key = ("penalty", name)
            if key not in memo:
                memo[key] = pressure.factors(candidates.endpoints)
            if (factors := memo[key]) is not None:
                columns[name] = factors
                totals = list(map(mul, totals, factors))
        columns["total"] = totals
        return columns


def _sums(columns: Sequence[list[float]]) -> list[float]:
    """Row by row."""
    if len(columns) == 1:
        return columns[0]
    if len(columns) == 2:
        return list(map(add, *columns))
    return list(map(sum, zip(*columns, strict=True)))


_MANY: Final = 16
"""Numbers that a loop looks at faster than three built-in functions do."""


def _clamped(scores: list[float]) -> list[float]:
    """Into 0..1; not a number counts as 0."""
    if len(scores) > _MANY:
        if min(scores) >= 0.0 and max(scores) <= 1.0 and (total := sum(scores)) == total:
            return scores
    else:
        for score in scores:
            if not 0.0 <= score <= 1.0:
                break
        else:
            return scores
    return [score if 0.0 <= score <= 1.0 else 1.0 if score > 1.0 else 0.0 for score in scores]
