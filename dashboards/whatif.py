"""What if: recorded load through the real ``wva.decide`` with other settings. Pure.

The record says what came and what the engines did with it; the model carries that load over to other replica counts:

* a replica holds at most so many requests at once as were seen (``full``), and finishes them at the recorded pace,
* what exceeds that waits, and stays until it is worked off,
* requests at so much load a replica keep the promise as often as recorded ones at that load did.

Both sides of a comparison, the settings as they are and the changed ones, go through the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd

from fleet.types import (
    EngineSample,
    FleetSnapshot,
    ModelTraffic,
    Replica,
    ReplicaObservation,
    ReplicaState,
    VariantObservation,
    VariantSpec,
)
from wva.decide import decide
from wva.types import Policy, WvaState

FEWEST_STEPS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one variant carried, step by step; arrays of one length."""

    spec: VariantSpec
    replicas: np.ndarray
    running: np.ndarray
    waiting: np.ndarray
    kv: np.ndarray
    """KV cache in use, mean of its engines, 0..1."""
    generation_tps: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was recorded of one model."""

    model: str
    at_s: np.ndarray
    step_s: float
    requests: np.ndarray
    """Requests finished in each step."""
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    kept: np.ndarray
    """Share of each step's requests that kept the promise; NaN: none finished."""
    loads: tuple[Load, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One replay."""

    replicas: pd.DataFrame
    """``bin_s``, ``variant``, ``value``."""
    attained: float | None
    """Share of requests that keep the promise."""
    cost: float
    """US dollars over the window."""
    replica_hours: float
    changes: int
    worst_wait: float
    """Most requests that waited at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """What the record says about one replica of a variant."""

    full: float
    """Requests that one replica runs at once when it is full."""
    kv_each: float
    """KV cache that a running request holds, 0..1 of a replica's."""
    rate: float
    """Requests per second that a running request's place finishes."""
    tokens: float
    """Tokens per second of one running request."""


def usable(record: Record) -> str:
    """Why a record cannot be replayed; empty: it can."""
    if len(record.at_s) < FEWEST_STEPS:
        return f"only {len(record.at_s)} steps are recorded (at least {FEWEST_STEPS} are needed)"
    if not record.loads:
        return "no variant of this model was sampled"
    if np.nansum(record.requests) < 1:
        return "no request finished"
    return ""


def physics(record: Record, load: Load) -> Physics:
    """Figures of one replica, from the steps in which it had work."""
    count = np.maximum(load.replicas, 1.0)
    each = np.nan_to_num(load.running / count)
    busy = each > 0
    if not busy.any():
        return Physics(full=8.0, kv_each=0.05, rate=0.1, tokens=30.0)
    kv_each = float(np.nanmedian(np.nan_to_num(load.kv)[busy] / each[busy]))
    queued = busy & (np.nan_to_num(load.waiting) >= count)
    seen = float(np.quantile(each[queued], 0.9)) if queued.sum() >= 3 else 0.0
    full = seen or max(float(each.max()) * 1.2, min(1 / kv_each, 512.0) if kv_each > 0 else 0.0)
    running = sum(float(np.nansum(other.running)) for other in record.loads)
    rate = float(np.nansum(record.requests)) / record.step_s / running if running > 0 else 0.1
    tokens = float(np.nansum(load.generation_tps)) / max(float(np.nansum(load.running)), 1e-9)
    return Physics(full=max(full, 1.0), kv_each=kv_each, rate=max(rate, 1e-6), tokens=max(tokens, 1e-6))


def kept_at(record: Record, full: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """(load, share of requests that kept the promise at it), never rising with load.

    Load is requests in the engines over what all ready replicas run when full.
    """
    room = sum(load.replicas * full[load.spec.name] for load in record.loads)
    inside = sum(np.nan_to_num(load.running) + np.nan_to_num(load.waiting) for load in record.loads)
    level = inside / np.maximum(room, 1e-9)
    judged = np.isfinite(record.kept) & (record.requests > 0)
    if not judged.any():
        return np.array([0.0]), np.array([np.nan])
    order = np.argsort(level[judged])
    x, y, n = level[judged][order], record.kept[judged][order], record.requests[judged][order]
    parts = np.array_split(np.arange(len(x)), min(12, max(1, len(x) // 4)))
    levels = np.array([np.average(x[part], weights=n[part]) for part in parts])
    shares = np.array([np.average(y[part], weights=n[part]) for part in parts])
    return levels, np.minimum.accumulate(shares)


def share_at(curve: tuple[np.ndarray, np.ndarray], level: float) -> float:
    """The curve's share at a load; beyond the highest recorded load it falls to nothing at twice that load.

    >>> curve = (np.array([0.5, 1.0]), np.array([1.0, 0.8]))
    >>> share_at(curve, 0.5), round(share_at(curve, 1.5), 3), share_at(curve, 3.0)
    (1.0, 0.4, 0.0)
    """
    levels, shares = curve
    top = max(float(levels[-1]), 1.0)
    if level <= levels[-1]:
        return float(np.interp(level, levels, shares))
    return float(shares[-1]) * max(0.0, 1 - (level - float(levels[-1])) / top)


@dataclass(slots=True)
class _Pool:
    """A variant while it is replayed."""

    load: Load
    spec: VariantSpec
    nature: Physics
    ready: int
    requested: int
    starting: list[float]
    """Times at which replicas that start become ready."""
    running: float = 0.0
    waiting: float = 0.0

    def settle(self, now_s: float) -> None:
        self.ready += sum(moment <= now_s for moment in self.starting)
        self.starting = [moment for moment in self.starting if moment > now_s]

    def scale(self, wanted: int, now_s: float, startup_s: float) -> bool:
        changed, self.requested = wanted != self.requested, wanted
        while self.ready + len(self.starting) < wanted:
            self.starting.append(now_s + startup_s)
        while self.ready + len(self.starting) > wanted and self.starting:
            self.starting.pop()
        self.ready = min(self.ready, wanted)
        return changed

    def observed(self, now_s: float, step_s: float) -> VariantObservation:
        each, queue = self.running / max(self.ready, 1), self.waiting / max(self.ready, 1)
        tokens = each * self.nature.tokens
        sample = EngineSample(at_s=now_s, running=each, waiting=queue, max_running=self.nature.full,
                              kv_utilisation=min(1.0, each * self.nature.kv_each))  # fmt: skip
        name = self.spec.name
        ready = [
            ReplicaObservation(
                replica=Replica(name=f"{name}-{i}", url=f"http://{name}-{i}", variant=name, since_s=now_s - 3600),
                sample=sample, generation_tps=tokens, request_rps=each * self.nature.rate, age_s=0.0,
            )
            for i in range(self.ready)
        ]  # fmt: skip
        coming = [
            ReplicaObservation(replica=Replica(name=f"{self.spec.name}-s{i}", url=f"http://{self.spec.name}-s{i}",
                                               variant=self.spec.name, state=ReplicaState.STARTING, since_s=now_s))
            for i in range(len(self.starting))
        ]  # fmt: skip
        return VariantObservation(spec=self.spec, requested=self.requested, replicas=(*ready, *coming))


def replay(record: Record, specs: Mapping[str, VariantSpec], policy: Policy, *, startup_s: float = 60.0) -> Outcome:
    """Carry a record through ``decide``.

    Args:
        specs: by variant; bounds, thresholds, targets and cost as they are to be tried.
        startup_s: time from request to ready.
    """
    pools = [
        _Pool(load=load, spec=specs[load.spec.name], nature=physics(record, load), starting=[],
              ready=int(load.replicas[0]), requested=int(load.replicas[0]))
        for load in record.loads
    ]  # fmt: skip
    curve = kept_at(record, {pool.spec.name: pool.nature.full for pool in pools})
    base = sum(np.nan_to_num(load.running) for load in record.loads)
    state, backlog, arrived, finished = WvaState(), 0.0, 0.0, 0.0
    rows: list[tuple[float, str, int]] = []
    kept = judged = cost = hours = worst = 0.0
    changes = 0
    for step, at_s in enumerate(record.at_s):
        for pool in pools:
            pool.settle(at_s)
        came = float(np.nan_to_num(record.requests[step]))
        backlog, served = _carry(pools, float(base[step]), backlog, came, record.step_s)
        arrived, finished = arrived + came, finished + served
        snapshot = _snapshot(record, pools, at_s, arrived=arrived, finished=finished, backlog=backlog, step=step)
        decisions, state = decide(snapshot, [pool.spec for pool in pools], state, at_s, policy)
        room = sum(pool.ready * pool.nature.full for pool in pools)
        level = (sum(pool.running for pool in pools) + backlog) / room if room else 9.0
        kept, judged, worst = kept + came * share_at(curve, level), judged + came, max(worst, backlog)
        for pool, decision in zip(pools, decisions, strict=True):
            rows.append((at_s, pool.spec.name, pool.ready))
            billed = max(pool.requested, pool.ready) * record.step_s / 3600
            hours, cost = hours + billed, cost + billed * pool.spec.cost_per_hour
            changes += pool.scale(decision.desired, at_s, startup_s)
    share = kept / judged if judged and np.isfinite(kept) else None
    return Outcome(replicas=pd.DataFrame(rows, columns=["bin_s", "variant", "value"]), attained=share, cost=cost,
                   replica_hours=hours, changes=changes, worst_wait=worst)  # fmt: skip


def _carry(pools: Sequence[_Pool], wanted: float, backlog: float, came: float, step_s: float) -> tuple[float, float]:
    """Spread a step's requests; gives the backlog after it and how many finished."""
    room = sum(pool.ready * pool.nature.full for pool in pools)
    rate = sum(pool.ready * pool.nature.full * pool.nature.rate for pool in pools)
    inside = min(wanted + backlog, room)
    served = min(came + backlog, rate * step_s) if inside >= room * 0.98 else came + backlog
    left = max(0.0, backlog + came - served)
    for pool in pools:
        share = pool.ready * pool.nature.full / room if room else 0.0
        pool.running, pool.waiting = inside * share, left * share
    return left, served


def _snapshot(
    record: Record, pools: Sequence[_Pool], at_s: float, *, arrived: float, finished: float, backlog: float, step: int
) -> FleetSnapshot:
    traffic = ModelTraffic(
        at_s=at_s, arrived_total=arrived, finished_total=finished,
        prompt_tokens_total=float(np.nansum(record.prompt_tokens[: step + 1])),
        generation_tokens_total=float(np.nansum(record.output_tokens[: step + 1])),
        in_flight=sum(pool.running for pool in pools) + backlog, queued=0.0,
    )  # fmt: skip
    return FleetSnapshot(at_s=at_s, variants=tuple(pool.observed(at_s, record.step_s) for pool in pools),
                         traffic={record.model: traffic}, source="what-if")  # fmt: skip


def changed(
    specs: Mapping[str, VariantSpec], *, up: float, down: float, ttft_s: float, prices: Mapping[str, float],
    bounds: Mapping[str, tuple[int, int]],
) -> dict[str, VariantSpec]:  # fmt: skip
    """Specs with other thresholds, target, prices and bounds."""
    return {
        name: replace(
            spec, saturation_threshold=up, scale_down_threshold=down, slo_ttft_s=ttft_s,
            cost_per_hour=prices.get(name, spec.cost_per_hour), min_replicas=bounds.get(name, (1, 1))[0],
            max_replicas=bounds.get(name, (spec.min_replicas, spec.max_replicas))[1],
        )
        for name, spec in specs.items()
    }  # fmt: skip
