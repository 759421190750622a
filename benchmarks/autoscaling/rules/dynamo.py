"""A planner after NVIDIA Dynamo's: a forecast is the floor, latency estimates move one worker at a time. Pure.

Facts: the planner's source and defaults (2026): forecast each 180 s, load each 5 s, scale-down sensitivity 80 %,
nothing moves while a change is under way. Its default predictor is ARIMA, which gives the last value until it has five;
here the order is fixed at (1,1,0) instead of searched for. What Dynamo fits online (latency over queued tokens and KV)
is given by the engine's step times, and the rate of a replica by measurement: better than any regression of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

FEW: Final = 5
"""Intervals before a model is fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerConfig:
    """Defaults."""

    forecast_s: float = 180.0
    load_s: float = 5.0
    sensitivity: float = 0.8


def forecast(history: Sequence[float]) -> float:
    """The next interval's number of requests: the last one, and from :data:`FEW` on an ARIMA(1,1,0) of them.

    >>> forecast([360.0, 720.0]), forecast([100.0, 200.0, 300.0, 400.0, 500.0])
    (720.0, 600.0)
    """
    if len(history) < FEW:
        return history[-1]
    steps = [after - before for before, after in pairwise(history)]
    squares = sum(step * step for step in steps[:-1])
    slope = sum(before * after for before, after in pairwise(steps)) / squares if squares else 0.0
    return max(history[-1] + min(max(slope, -1.0), 1.0) * steps[-1], 0.0)


def throughput_replicas(requests: float, interval_s: float, replica_rps: float) -> int:
    """Replicas for the forecast number of requests of an interval.

    >>> throughput_replicas(1440.0, 180.0, 1.45)
    6
    """
    return max(math.ceil(requests / interval_s / replica_rps - 1e-9), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One engine's scheduler: tokens of prompts that wait, tokens in the KV cache."""

    queued_tokens: float
    kv_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Estimates, seconds, and the limits."""

    ttft_s: Callable[[float, float], float]
    """Of a new request, by queued prompt tokens and KV tokens."""
    itl_s: Callable[[float], float]
    """By KV tokens."""
    ttft_slo_s: float
    itl_slo_s: float
    max_kv_tokens: float


def load_replicas(workers: Sequence[Worker], latency: Latency, config: PlannerConfig) -> int:
    """One more where all workers break a limit, one fewer where the others could take over the load, else the same.

    A worker fewer is refused when a survivor's queueing part of TTFT, or its ITL, would pass ``sensitivity`` of what is
    allowed, or when its KV cache could not hold the load.
    """
    count = len(workers)
    prefill = _prefill(workers, latency, config)
    decode = _decode(workers, latency, config)
    if prefill > 0 or decode > 0:
        return count + 1
    return count - 1 if prefill < 0 and decode < 0 and count > 1 else count


def _prefill(workers: Sequence[Worker], latency: Latency, config: PlannerConfig) -> int:
    if all(latency.ttft_s(one.queued_tokens, one.kv_tokens) > latency.ttft_slo_s for one in workers):
        return 1
    grown = len(workers) / max(len(workers) - 1, 1)
    for one in workers:
        own = latency.ttft_s(0.0, one.kv_tokens * grown)
        budget = (latency.ttft_slo_s - own) * config.sensitivity
        if latency.ttft_s(one.queued_tokens * grown, one.kv_tokens * grown) - own >= budget:
            return 0
    return -1


def _decode(workers: Sequence[Worker], latency: Latency, config: PlannerConfig) -> int:
    if all(latency.itl_s(one.kv_tokens) > latency.itl_slo_s for one in workers):
        return 1
    grown = len(workers) / max(len(workers) - 1, 1)
    for one in workers:
        kept = (one.kv_tokens + one.queued_tokens) * grown
        if kept >= latency.max_kv_tokens or latency.itl_s(kept) >= latency.itl_slo_s * config.sensitivity:
            return 0
    return -1
