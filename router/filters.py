"""Filters: which endpoints may serve a request at all. Pure functions with their parameters bound.

A filter whose ``overload`` is true turns busy endpoints away; when these turn all away, the scheduler falls back to
round robin. What is unknown passes: a filter drops only what it knows to be unfit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from fleet.types import Role
from router.parameters import Plugin, choice, flag, number, structured, whole, word, word_list, word_map
from router.types import EndpointView, InferenceRequest


class Filtered(NamedTuple):
    """Endpoints kept and dropped, each in the order given."""

    kept: Sequence[EndpointView]
    dropped: Sequence[EndpointView]


class Filter(Protocol):
    """Keeps the endpoints that may serve the request."""

    overload: ClassVar[bool]
    """It drops for load, not for fitness."""
    steady: ClassVar[bool]
    """It asks only which model is wanted, and of the endpoints nothing that changes with a request."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Split ``endpoints``."""
        ...


class ByRequest:
    """Asks what the request is, beside its model."""

    __slots__ = ()
    overload: ClassVar[bool] = False
    steady: ClassVar[bool] = False


class Steady(ByRequest):
    """Asks nothing that changes with a request."""

    __slots__ = ()
    steady: ClassVar[bool] = True


class Load(ByRequest):
    """Asks for load as it is now."""

    __slots__ = ()
    overload: ClassVar[bool] = True


class SteadyLoad(Load):
    """Asks for load as it was scraped."""

    __slots__ = ()
    steady: ClassVar[bool] = True


def _split(endpoints: Sequence[EndpointView], unfit: Sequence[EndpointView]) -> Filtered:
    if not unfit:
        return Filtered(endpoints, ())
    out = {id(endpoint) for endpoint in unfit}
    return Filtered([endpoint for endpoint in endpoints if id(endpoint) not in out], unfit)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth(SteadyLoad):
    """Keeps endpoints whose engine has fewer than ``max_queue_length`` requests waiting."""

    max_queue_length: int = whole(50, "maxQueueLength", "threshold")
    """Requests."""
    max_num_seqs: int = whole(0, "maxNumSeqs", low=0)
    """The engine's max_num_seqs: the limit is then 80 % of it; 0: ``max_queue_length`` holds."""

    @property
    def limit(self) -> int:
        """Waiting requests at which an endpoint is out."""
        return max(1, int(0.8 * self.max_num_seqs)) if self.max_num_seqs else self.max_queue_length

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop the long queues."""
        limit = self.limit
        return _split(
            endpoints,
            [
                endpoint
                for endpoint in endpoints
                if (sample := endpoint.sample) is not None and sample.waiting is not None and sample.waiting >= limit
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPressure(SteadyLoad):
    """Drops endpoints whose KV cache is fuller than ``max_kv_utilization``, and marks down those close to it."""

    max_kv_utilization: float = number(0.95, "maxKVUtilization", high=1.0)
    """Ratio 0..1; above it an engine preempts."""
    penalised_kv_utilization: float = number(0.85, "penalisedKVUtilization", high=1.0)
    """Ratio 0..1 above which the score is lowered; at or above the maximum: no penalty."""
    penalty: float = number(0.5, "penalty", high=1.0)
    """Share of its score that an endpoint has lost when it reaches the maximum; 0 switches the penalty off."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop the full caches."""
        limit = self.max_kv_utilization
        return _split(
            endpoints,
            [
                endpoint
                for endpoint in endpoints
                if (sample := endpoint.sample) is not None
                and sample.kv_utilisation is not None
                and sample.kv_utilisation > limit
            ],
        )

    def factors(self, endpoints: Sequence[EndpointView]) -> list[float] | None:
        """What their total scores are multiplied by; ``None`` where no endpoint is penalised.

        1 up to the soft limit, then linearly down to 1 - penalty at the maximum.

        >>> from fleet.types import EngineSample
        >>> filling = EndpointView(url="u", variant="v", sample=EngineSample(at_s=0, kv_utilisation=0.9))
        >>> MemoryPressure(penalised_kv_utilization=0.8, max_kv_utilization=1.0).factors([filling])
        [0.75]
        """
        soft, span = self.penalised_kv_utilization, self.max_kv_utilization - self.penalised_kv_utilization
        if span <= 0.0:
            return None
        used = [
            soft if (sample := endpoint.sample) is None or (kv := sample.kv_utilisation) is None else kv
            for endpoint in endpoints
        ]
        if max(used, default=0.0) <= soft:
            return None
        return [1.0 - self.penalty * min(1.0, max(0.0, kv - soft) / span) for kv in used]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCompatibility(Steady):
    """Keeps endpoints that serve the request's model, and those whose models are not known yet."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop the endpoints known to serve other models only."""
        model = request.model
        return _split(
            endpoints, [endpoint for endpoint in endpoints if endpoint.models and model not in endpoint.models]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFilter(Steady):
    """Keeps endpoints that do ``role``, alone or among others."""

    role: Role = choice(Role.DECODE, "role", among=tuple(Role))  # noqa: RUF009 - it is a dataclasses.field
    """``both`` keeps only endpoints that do the whole request."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop the other roles."""
        role = self.role
        return _split(
            endpoints,
            [endpoint for endpoint in endpoints if endpoint.role is not role and endpoint.role is not Role.BOTH],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRoom(ByRequest):
    """For a request that names a LoRA adapter: endpoints that have it loaded, else those with a free slot.

    All pass when neither can be told, and when the request names a base model.
    """

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop those that would have to swap an adapter out, while others would not."""
        adapter = request.adapter
        if not adapter:
            return Filtered(endpoints, ())
        loaded = [one for one in endpoints if adapter in one.adapters]
        kept = loaded or [
            one for one in endpoints if one.adapter_slots is None or len(one.adapters) < one.adapter_slots
        ]
        return _keep(endpoints, kept)


def _keep(endpoints: Sequence[EndpointView], kept: Sequence[EndpointView]) -> Filtered:
    """``kept`` and the rest; all, where nothing would be left."""
    if not kept or len(kept) == len(endpoints):
        return Filtered(endpoints, ())
    held = {id(endpoint) for endpoint in kept}
    return Filtered(kept, [endpoint for endpoint in endpoints if id(endpoint) not in held])


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(ByRequest):
    """Keeps the endpoint that served the session's last request, while it is a candidate; else all."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop all but the session's own."""
        url = request.session_url
        return _keep(endpoints, [one for one in endpoints if one.url == url]) if url else Filtered(endpoints, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels(Steady):
    """Keeps endpoints whose labels match, as a Kubernetes selector does."""

    match_labels: Mapping[str, str] = structured(MappingProxyType({}), "matchLabels", read=word_map)
    """Every label with this very value."""
    label: str = structured("", "label", read=word)
    """One label whose value must be among ``valid_values``."""
    valid_values: tuple[str, ...] = structured((), "validValues", read=word_list)
    allows_no_label: bool = flag(False, "allowsNoLabel")
    """An endpoint without ``label`` passes."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop those that do not match."""
        return _split(endpoints, [one for one in endpoints if not self._matches(one.labels)])

    def _matches(self, labels: Mapping[str, str]) -> bool:
        if any(labels.get(name) != value for name, value in self.match_labels.items()):
            return False
        if not self.label:
            return True
        found = labels.get(self.label)
        return self.allows_no_label if found is None else not self.valid_values or found in self.valid_values


def _conditions(value: Any) -> tuple[tuple[str, float], ...]:
    """``[{metric: running-requests, maxValue: 20}]``."""
    if not isinstance(value, list):
        raise ValueError("a list of {metric, maxValue}")
    found = []
    for entry in value:
        if not isinstance(entry, dict) or entry.keys() != {"metric", "maxValue"} or entry["metric"] not in _MEASURES:
            raise ValueError(f"entries {{metric, maxValue}} with a metric among {', '.join(_MEASURES)}")
        limit = entry["maxValue"]
        if isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 0:
            raise ValueError("a maxValue of 0 or more")
        found.append((entry["metric"], float(limit)))
    return tuple(found)


_MEASURES: Final[Mapping[str, Callable[[EndpointView], float | None]]] = MappingProxyType(
    {
        "active-requests": lambda one: float(one.requests_in_flight),
        "running-requests": lambda one: one.sample.running if one.sample else None,
        "waiting-queue": lambda one: one.sample.waiting if one.sample else None,
        "kv-cache-utilization": lambda one: one.sample.kv_utilisation if one.sample else None,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation(Load):
    """Keeps endpoints below every limit; what is not known counts as below."""

    conditions: tuple[tuple[str, float], ...] = structured((), "conditions", read=_conditions)
    """(metric, greatest value that passes)."""
    fallback_on_empty: bool = flag(False, "fallbackOnEmpty")
    """Keep all where none is below; else the request goes round robin, as with any filter for load."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop those above a limit."""
        checks = [(_MEASURES[name], limit) for name, limit in self.conditions]
        out = [
            one
            for one in endpoints
            if any((found := read(one)) is not None and found > limit for read, limit in checks)
        ]
        return (
            Filtered(endpoints, ()) if self.fallback_on_empty and len(out) == len(endpoints) else _split(endpoints, out)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAffinity(ByRequest):
    """Sticky until saturated: keeps endpoints that hold most of the prompt, unless their queue of prompts is too long.

    Too long: the best of them has more uncached prompt tokens in flight than the best of all, by more than
    ``peak_prefill_throughput`` * ``max_ttft_penalty_ms``.
    """

    affinity: float = number(0.8, "affinityThreshold", high=1.0)
    """Share of the prompt that must be cached."""
    exploration: float = number(0.0, "explorationProbability", high=1.0)
    """Share of the requests that ignore affinity."""
    max_ttft_penalty_ms: float = number(18_000.0, "maxTTFTPenaltyMs")
    peak_prefill_throughput: float = number(15_928.0, "peakPrefillThroughput")
    """Prompt tokens that an engine computes in a second."""
    ttft_source: str = choice("prefillThroughput", "ttftSource", among=("prefillThroughput",),
                              why="filters run before predictions are made")  # fmt: skip

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop those without the prefix."""
        if self.exploration and request.chance < self.exploration:
            return Filtered(endpoints, ())
        enough = self.affinity * request.input_tokens
        sticky = [one for one in endpoints if one.matched_tokens >= enough > 0]
        if not sticky:
            return Filtered(endpoints, ())
        least = min([one.prefill_tokens_in_flight for one in endpoints])
        beyond = min([one.prefill_tokens_in_flight for one in sticky]) - least
        if beyond > self.peak_prefill_throughput * self.max_ttft_penalty_ms / 1000.0:
            return Filtered(endpoints, ())
        return _keep(endpoints, sticky)


_CHECKED_ALWAYS: Final = {"checkInterval": "every decision checks the newest scrape; the scrape interval sets its age"}

SESSION_OURS: Final = {
    "strategy": "a session is what x-session-id names: a header that names an endpoint is never obeyed",
    "headerName": "a session is what x-session-id names",
    "evictionTtlSeconds": "the router's own settings say how long a session is remembered",
    "sweep": "the router's own settings say how long a session is remembered",
}

FILTERS: Final[Mapping[str, Plugin[Filter]]] = MappingProxyType(
    {
        "queue-depth": Plugin(kind=QueueDepth),
        "low-queue-filter": Plugin(kind=QueueDepth),
        "memory-pressure": Plugin(kind=MemoryPressure, idle=_CHECKED_ALWAYS),
        "model-compatibility": Plugin(kind=ModelCompatibility),
        "model": Plugin(kind=ModelCompatibility),
        "role": Plugin(kind=RoleFilter),
        "decode-filter": Plugin(kind=RoleFilter, preset={"role": Role.DECODE}),
        "prefill-filter": Plugin(kind=RoleFilter, preset={"role": Role.PREFILL}),
        "lora": Plugin(kind=AdapterRoom),
        "lora-affinity-filter": Plugin(kind=AdapterRoom, idle={"threshold": "an adapter that is loaded always wins"}),
        "session": Plugin(kind=Session),
        "session-affinity-filter": Plugin(kind=Session, idle=SESSION_OURS),
        "label": Plugin(kind=Labels),
        "by-label": Plugin(kind=Labels),
        "label-selector-filter": Plugin(kind=Labels),
        "utilisation": Plugin(kind=Utilisation),
        "utilization-filter": Plugin(kind=Utilisation),
        "prefix-affinity": Plugin(kind=PrefixAffinity),
        "prefix-cache-affinity-filter": Plugin(kind=PrefixAffinity),
    }
)
"""Filters by the names they have in configuration."""
