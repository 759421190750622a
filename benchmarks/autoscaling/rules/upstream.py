"""The two saturation analyzers of the upstream Workload Variant Autoscaler (0.9), for one variant. Pure.

V1 looks at KV utilisation and queue length and moves one replica at a time, frozen while a change is under way. V2
counts tokens: demand against the capacity of each replica, several replicas at once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.autoscaling.hpa import DOUBLE_15S, Behavior, Direction

HPA_BEHAVIOR: Final = Behavior(
    up=Direction(window_s=120, rates=(DOUBLE_15S,)), down=Direction(window_s=120, rates=(DOUBLE_15S,))
)
"""Of the HPA that the guide ships beside it (``AverageValue`` 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Config:
    """Thresholds and spare triggers."""

    kv: float = 0.80
    queue: float = 5.0
    kv_spare: float = 0.10
    queue_spare: float = 3.0


def v1_replicas(loads: Sequence[tuple[float, float]], *, current: int, desired: int, pending: int, config: V1Config
                ) -> int:  # fmt: skip
    """Target of one variant.

    Args:
        loads: (KV utilisation, queue) of each ready replica, peaks of the last minute.
        current: replicas now.
        desired: what was asked for in the last pass; 0: nothing yet.
        pending: replicas that start.

    >>> v1_replicas([(0.75, 0), (0.76, 0)], current=2, desired=2, pending=0, config=V1Config())
    3
    """
    if pending or (desired and desired != current):
        return desired or current
    calm = [(kv, queue) for kv, queue in loads if kv < config.kv and queue < config.queue]
    spare_kv = sum(config.kv - kv for kv, _ in calm) / len(calm) if calm else 0.0
    spare_queue = sum(config.queue - queue for _, queue in calm) / len(calm) if calm else 0.0
    if spare_kv < config.kv_spare or spare_queue < config.queue_spare:
        return current + 1
    if len(calm) >= 2 and current > 1:
        grown = len(calm) / (len(calm) - 1)
        left_kv = config.kv - (config.kv - spare_kv) * grown
        left_queue = config.queue - (config.queue - spare_queue) * grown
        if left_kv >= config.kv_spare and left_queue >= config.queue_spare:
            return current - 1
    return current


@dataclass(frozen=True, slots=True, kw_only=True)
class V2Config:
    """Thresholds and the engine arguments that the derived capacity uses."""

    kv: float = 0.80
    queue: float = 5.0
    up: float = 0.85
    down: float = 0.70
    max_batched_tokens: float = 8192.0
    max_seqs: float = 256.0
    history: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class V2Replica:
    """One ready replica, peaks of the last minute."""

    kv_usage: float
    kv_tokens: float
    queue: float


@dataclass(frozen=True, slots=True, kw_only=True)
class V2State:
    """Capacities seen while queues were full, by bucket of answer length."""

    seen: dict[str, tuple[float, ...]] = field(default_factory=dict)


def bucket(mean_output: float) -> str:
    """Answer-length class of the capacity history."""
    return "short" if mean_output < 100 else "medium" if mean_output < 500 else "long"


def v2_capacity(replica: V2Replica, mean_in: float, mean_out: float, state: V2State, config: V2Config) -> float:
    """Tokens that a replica can hold: the memory bound, or the compute bound where it is lower.

    >>> full = V2Replica(kv_usage=0.5, kv_tokens=300_000, queue=0)
    >>> v2_capacity(full, 4000, 1000, V2State(), V2Config())
    240000.0
    """
    memory = replica.kv_tokens * config.kv
    if replica.queue >= config.queue:
        return min(memory, replica.kv_usage * replica.kv_tokens)
    if history := state.seen.get(bucket(mean_out)):
        return min(memory, statistics.fmean(history))
    if mean_in + mean_out <= 0:
        return memory
    sequences = min(config.max_batched_tokens * mean_out / (mean_in + mean_out), config.max_seqs)
    return min(memory, sequences * (mean_in + mean_out / 2))


def v2_replicas(
    replicas: Sequence[V2Replica], *, current: int, pending: int, mean_in: float, mean_out: float, low: int,
    state: V2State, config: V2Config,
) -> tuple[int, V2State]:  # fmt: skip
    """Target of one variant, and the state for the next pass."""
    if not replicas:
        return current, state
    demand = sum(one.kv_usage * one.kv_tokens + one.queue * (mean_in + mean_out) for one in replicas)
    each = statistics.median(v2_capacity(one, mean_in, mean_out, state, config) for one in replicas)
    state = _learned(replicas, mean_out, state, config)
    if each <= 0:
        return current, state
    supply = len(replicas) * each
    missing = max(0.0, demand / config.up - (supply + pending * each))
    spare = max(0.0, supply - demand / config.down)
    if missing:
        return current + math.ceil(missing / each - 1e-9), state
    return current - min(math.floor(spare / each + 1e-9), max(current - low, 0)), state


def _learned(replicas: Sequence[V2Replica], mean_out: float, state: V2State, config: V2Config) -> V2State:
    full = tuple(one.kv_usage * one.kv_tokens for one in replicas if one.queue >= config.queue)
    if not full:
        return state
    name = bucket(mean_out)
    return V2State(seen={**state.seen, name: (*state.seen.get(name, ()), *full)[-config.history :]})
