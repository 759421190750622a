"""Collects one frozen snapshot of the fleet; what cannot be read is old or missing in it, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fleet.errors import FleetError, SourceError
from fleet.platform import Platform
from fleet.sources import EngineReading, MetricSource, RouterQueue
from fleet.types import (
    FittedLaw,
    FleetSnapshot,
    GpuInventory,
    ModelTraffic,
    Replica,
    ReplicaObservation,
    ReplicaState,
    Variant,
    VariantObservation,
)
from wva.router_memory import RouterMemory
from wva.standstill import Standstill


class QueueReader(Protocol):
    """Gives the requests that wait at the router."""

    def __call__(self) -> RouterQueue:
        """Waiting requests by model, and how old they are.

        Raises: SourceError when the router does not answer.
        """
        ...


class TrafficReader(Protocol):
    """Gives what the router, or an aggregation over engines, counts of each model's requests."""

    def __call__(self) -> Mapping[str, ModelTraffic]:
        """Traffic by model.

        Raises: SourceError when it cannot be read.
        """
        ...


class InventoryReader(Protocol):
    """Gives the GPUs that variants may use."""

    def __call__(self) -> GpuInventory | None:
        """As of the platform's last variants; ``None``: nothing limits them.

        Raises: SourceError when it cannot be read.
        """
        ...


class LawReader(Protocol):
    """Gives what the predictor learned of the variants' engines."""

    def __call__(self) -> Mapping[str, FittedLaw]:
        """The newest laws by variant; none where there is no model yet.

        Raises: SourceError when they cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that failed in a pass: the component for ``wva_errors_total``, and the line for the log."""

    component: str
    error_type: str
    line: str
    told: bool = False
    """Who met it has logged it, once, and will log its end: it is only counted."""

    @classmethod
    def of(cls, component: str, error: FleetError, *, told: bool = False) -> Problem:
        """From an error; its type is that of the cause where there is one."""
        return cls(component=component, error_type=type(error.__cause__ or error).__name__, line=str(error), told=told)


class Collector:
    """Reads platform, engines and router; keeps the last reading of each engine so that its age can grow."""

    def __init__(
        self, platform: Platform, source: MetricSource, queue: QueueReader | None = None,
        traffic: TrafficReader | None = None, inventory: InventoryReader | None = None,
        *, laws: LawReader | None = None,
    ) -> None:  # fmt: skip
        self._platform, self._source, self._queue, self._read_traffic = platform, source, queue, traffic
        self._read_laws, self._laws = laws, dict[str, FittedLaw]()
        self._read_inventory = inventory
        self._inventory: GpuInventory | None = None
        self._traffic: Mapping[str, ModelTraffic] = {}
        self._ahead_s: Mapping[str, float] = {}
        self._readings: dict[str, EngineReading] = {}
        self._still = Standstill()
        self._router = RouterMemory()

    def collect(self, now_s: float) -> tuple[FleetSnapshot, tuple[Problem, ...]]:
        """The fleet at ``now_s``, and what could not be read.

        Raises: SourceError when the platform does not answer: then not even the replicas are known.
        """
        variants = self._platform.variants()
        problems = [*self._read_engines(variants, now_s), *self._read_router(variants, now_s),
                    *self._read_requests(now_s), *self._read_limits(), *self._read_fits()]  # fmt: skip
        snapshot = FleetSnapshot(
            at_s=now_s,
            variants=tuple(self._observe(variant, now_s) for variant in variants),
            router_queue=dict(self._router.waiting),
            router_age_s=self._router.age_s(now_s),
            router_ages_s=self._router.ages_s(now_s),
            source=self._source.name,
            traffic=dict(self._traffic),
            traffic_ahead_s=dict(self._ahead_s),
            inventory=self._inventory,
            fitted=dict(self._laws),
        )
        return snapshot, tuple(problems)

    def forget(self, jump_s: float) -> None:
        """Drop what was read before the clock jumped by ``jump_s``: its age cannot be told any more."""
        self._readings = {}
        self._still = Standstill()
        self._router.shift(jump_s)
        self._ahead_s = {model: ahead_s - jump_s for model, ahead_s in self._ahead_s.items()}

    def _read_engines(self, variants: tuple[Variant, ...], now_s: float) -> list[Problem]:
        live = [replica for variant in variants for replica in variant.replicas]
        ready = [replica for replica in live if replica.state is ReplicaState.READY]
        present = {replica.url for replica in live}
        self._readings = {url: reading for url, reading in self._readings.items() if url in present}
        self._still.keep(present)
        try:
            read = self._source.read(ready, now_s=now_s)
        except SourceError as error:
            return [Problem.of("source", error)]
        self._still.watch({url: reading.sample for url, reading in read.items()})
        self._readings.update(read)
        return []

    def _read_router(self, variants: tuple[Variant, ...], now_s: float) -> list[Problem]:
        if self._queue is None:
            return []
        self._router.keep(variant.spec.model for variant in variants)
        try:
            self._router.hear(self._queue(), now_s)
        except SourceError as error:
            self._router.miss(now_s)
            return [Problem.of("router", error)]
        return []

    def _read_requests(self, now_s: float) -> list[Problem]:
        """A reading that fails leaves the one before, whose age grows, and how far its clock was ahead of ours."""
        if self._read_traffic is None:
            return []
        try:
            self._traffic = self._read_traffic()
        except SourceError as error:
            return [Problem.of("router", error)]
        self._ahead_s = {model: one.asked_s - now_s for model, one in self._traffic.items() if one.asked_s is not None}
        return []

    def _read_limits(self) -> list[Problem]:
        """A reading that fails leaves the limits of the one before; it never makes anything smaller."""
        if self._read_inventory is None:
            return []
        try:
            self._inventory = self._read_inventory()
        except SourceError as error:
            return [Problem.of("inventory", error)]
        return []

    def _read_fits(self) -> list[Problem]:
        """A reading that fails leaves the laws of the one before, which grow old."""
        if self._read_laws is None:
            return []
        try:
            self._laws = dict(self._read_laws())
        except SourceError as error:
            return [Problem.of("predictor", error, told=True)]  # by the fetcher
        return []

    def _observe(self, variant: Variant, now_s: float) -> VariantObservation:
        return VariantObservation(
            spec=variant.spec,
            requested=variant.requested,
            replicas=tuple(self._observed(replica, now_s) for replica in variant.replicas),
        )

    def _observed(self, replica: Replica, now_s: float) -> ReplicaObservation:
        reading = self._readings.get(replica.url)
        if reading is None or reading.sample.at_s < replica.since_s - 1.0:
            return ReplicaObservation(replica=replica)  # never scraped, or only as an earlier replica at this address
        return ReplicaObservation(
            replica=replica, sample=reading.sample, generation_tps=reading.generation_tps,
            prompt_tps=reading.prompt_tps, request_rps=reading.request_rps, prefix_hit_ratio=reading.prefix_hit_ratio,
            age_s=max(now_s - reading.sample.at_s, 0.0), gpu_active=reading.gpu_active,
            still_s=self._still.of(replica.url),
        )  # fmt: skip
