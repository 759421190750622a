"""Filters: which endpoints may serve a request at all. Pure functions with their parameters bound.

A filter whose ``overload`` is true turns busy endpoints away; when these turn all away, the scheduler falls back to
round robin. What is unknown passes: a filter drops only what it knows to be unfit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple, Protocol

from fleet.types import Role
from router.parameters import Plugin, choice, number, whole
from router.types import EndpointView, InferenceRequest


class Filtered(NamedTuple):
    """Endpoints kept and dropped, each in the order given."""

    kept: Sequence[EndpointView]
    dropped: Sequence[EndpointView]


class Filter(Protocol):
    """Keeps the endpoints that may serve the request."""

    overload: ClassVar[bool]
    """It drops for load, not for fitness."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Split ``endpoints``."""
        ...


def _split(endpoints: Sequence[EndpointView], unfit: Sequence[EndpointView]) -> Filtered:
    if not unfit:
        return Filtered(endpoints, ())
    out = {id(endpoint) for endpoint in unfit}
    return Filtered([endpoint for endpoint in endpoints if id(endpoint) not in out], unfit)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """Keeps endpoints whose engine has fewer than ``max_queue_length`` requests waiting."""

    overload: ClassVar[bool] = True
    max_queue_length: int = whole(50, "maxQueueLength")
    """Requests; about 80 % of the engine's max_num_seqs is a good value."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop the long queues."""
        limit = self.max_queue_length
        return _split(
            endpoints,
            [
                endpoint
                for endpoint in endpoints
                if (sample := endpoint.sample) is not None and sample.waiting is not None and sample.waiting >= limit
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPressure:
    """Drops endpoints whose KV cache is fuller than ``max_kv_utilization``, and marks down those close to it."""

    overload: ClassVar[bool] = True
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
class ModelCompatibility:
    """Keeps endpoints that serve the request's model, and those whose models are not known yet."""

    overload: ClassVar[bool] = False

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop the endpoints known to serve other models only."""
        model = request.model
        return _split(
            endpoints, [endpoint for endpoint in endpoints if endpoint.models and model not in endpoint.models]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFilter:
    """Keeps endpoints that do ``role``, alone or among others."""

    overload: ClassVar[bool] = False
    role: Role = choice(Role.DECODE, "role", among=tuple(Role))  # noqa: RUF009 - it is a dataclasses.field
    """``both`` keeps only endpoints that do the whole request."""

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Filtered:
        """Drop the other roles."""
        role = self.role
        return _split(
            endpoints,
            [endpoint for endpoint in endpoints if endpoint.role is not role and endpoint.role is not Role.BOTH],
        )


_CHECKED_ALWAYS: Final = {"checkInterval": "every decision checks the newest scrape; the scrape interval sets its age"}

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
    }
)
"""Filters by the names they have in configuration."""
