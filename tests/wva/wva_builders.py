"""Snapshots in a few words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fleet.types import (
    Decision,
    EngineSample,
    FleetSnapshot,
    Replica,
    ReplicaObservation,
    ReplicaState,
    VariantObservation,
    VariantSpec,
)
from wva.decide import decide
from wva.types import Policy, WvaState

NOW = 1_000_000.0
MODEL = "toy"
AT_ONCE = Policy(scale_down_stabilisation_s=0.0)
"""No stabilisation: what is wanted shows in one pass."""


def spec(name: str = "a", **changes: Any) -> VariantSpec:
    """A variant on unknown hardware: nothing but cost orders it."""
    values = {"name": name, "model": MODEL, "accelerator": "toy", "cost_per_hour": 1.0, "max_replicas": 10, **changes}
    return VariantSpec(**values)


def seen(
    index: int, kv: float | None = 0.5, waiting: float | None = 0.0, *, variant: str = "a", age_s: float | None = 1.0,
    state: ReplicaState = ReplicaState.READY, since_s: float = NOW - 5000, running: float | None = 10.0,
    tps: float | None = 100.0, kv_tokens: float | None = None,
) -> ReplicaObservation:  # fmt: skip
    """One replica; ``age_s=None``: never scraped."""
    name = f"{variant}-{index}"
    replica = Replica(name=name, url=f"http://{name}:8000", variant=variant, state=state, since_s=since_s)
    if age_s is None:
        return ReplicaObservation(replica=replica)
    sample = EngineSample(
        at_s=NOW - age_s, kv_utilisation=kv, waiting=waiting, running=running, kv_capacity_tokens=kv_tokens
    )
    return ReplicaObservation(replica=replica, sample=sample, generation_tps=tps, age_s=age_s)


def starting(index: int, *, since_s: float = NOW - 5, variant: str = "a") -> ReplicaObservation:
    """A replica that starts."""
    return seen(index, age_s=None, state=ReplicaState.STARTING, since_s=since_s, variant=variant)


def variant(
    replicas: Sequence[ReplicaObservation], *, requested: int | None = None, name: str = "a", **changes: Any
) -> VariantObservation:
    """A variant; ``requested`` defaults to its replicas."""
    asked = len(replicas) if requested is None else requested
    return VariantObservation(spec=spec(name, **changes), requested=asked, replicas=tuple(replicas))


def several(
    count: int, kv: float | None = 0.5, waiting: float | None = 0.0, *, name: str = "a", **changes: Any
) -> VariantObservation:
    """A variant with ``count`` equal ready replicas."""
    return variant([seen(index, kv, waiting, variant=name) for index in range(count)], name=name, **changes)


def snapshot(*variants: VariantObservation, **changes: Any) -> FleetSnapshot:
    """A fleet at NOW."""
    return FleetSnapshot(at_s=changes.pop("at_s", NOW), variants=variants, **changes)


def decided(
    fleet: FleetSnapshot, *, state: WvaState | None = None, policy: Policy = AT_ONCE, now_s: float = NOW
) -> dict[str, Decision]:
    """Decisions by variant."""
    specs = [entry.spec for entry in fleet.variants]
    decisions, _ = decide(fleet, specs, state or WvaState(), now_s, policy)
    return {decision.variant: decision for decision in decisions}


SATURATED: dict[str, float] = {"kv": 1.0, "waiting": 10.0}
"""KV full, queue full: 0.8, and above it with any degradation."""
