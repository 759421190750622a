"""Upstream's V2 saturation analyzer (tokens), version 0.9 with its defaults, and its cost-aware optimizer. Pure.

Demand is the tokens in use and those of waiting requests; a replica's capacity is the smaller of a memory bound ``k1``
and a compute bound ``k2``: what was in use while its queue was full (remembered by length of answers), or derived from
the engine's batch. Known weaknesses are kept, since this is for compatibility: a queue at 16 % KV teaches a capacity
of 16 % (#1500), and one bad reading stays in the average (#1269). The analyzer ``slo`` has neither.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

KV_THRESHOLD: Final = 0.80
QUEUE_THRESHOLD: Final = 5.0
SCALE_UP: Final = 0.85
SCALE_DOWN: Final = 0.70
HISTORY: Final = 10
BATCHED_TOKENS: Final = 8192.0
"""vLLM V1's default ``max_num_batched_tokens``."""
MAX_SEQS: Final = 256.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One instance, peaks of the last minute."""

    kv_usage: float
    kv_tokens: float
    queue: float


def bucket(mean_output: float) -> str:
    """Class of answers in the history.

    >>> bucket(99), bucket(100), bucket(500)
    ('short', 'medium', 'long')
    """
    return "short" if mean_output < 100 else "medium" if mean_output < 500 else "long"


def derived_k2(mean_in: float, mean_out: float) -> float:
    """Compute bound from the engine's batch: ``N = min(B * O / (I + O), S)`` sequences of ``I + O / 2`` tokens.

    >>> derived_k2(1000.0, 1000.0)
    384000.0
    """
    if mean_in + mean_out <= 0:
        return math.inf
    return min(BATCHED_TOKENS * mean_out / (mean_in + mean_out), MAX_SEQS) * (mean_in + mean_out / 2)


def capacity(replica: Replica, mean_in: float, mean_out: float, history: Sequence[float]) -> float:
    """Tokens that a replica is believed to hold: ``min(k1, k2)``."""
    memory = replica.kv_tokens * KV_THRESHOLD
    if replica.queue >= QUEUE_THRESHOLD:
        return min(memory, replica.kv_usage * replica.kv_tokens)
    return min(memory, statistics.fmean(history) if history else derived_k2(mean_in, mean_out))


def learned(history: Sequence[float], replicas: Sequence[Replica]) -> tuple[float, ...]:
    """The history with what is in use where queues are full, the last :data:`HISTORY` of it."""
    full = [one.kv_usage * one.kv_tokens for one in replicas if one.queue >= QUEUE_THRESHOLD]
    return (*history, *full)[-HISTORY:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One variant as the optimizer sees it."""

    name: str
    cost: float
    current: int
    pending: int
    low: int
    high: int
    replicas: Sequence[Replica]
    history: Sequence[float]


def per_replica(one: Standing, mean_in: float, mean_out: float) -> float:
    """Capacity of a variant's replica: the median of its instances."""
    return statistics.median(capacity(each, mean_in, mean_out, one.history) for each in one.replicas)


def targets(
    variants: Sequence[Standing], *, mean_in: float, mean_out: float, queued: float, decodes: bool, prefills: bool,
    hit_ratio: float = 0.0,
) -> Mapping[str, int]:  # fmt: skip
    """Replicas of each variant of a model, before stabilisation.

    Args:
        queued: requests that wait at the router; prefill takes their prompts, decode their answers too.
    """
    found = {one.name: one.current + one.pending for one in variants}
    known = [one for one in variants if one.replicas]
    each = {one.name: per_replica(one, mean_in, mean_out) for one in known}
    if not known or min(each.values()) <= 0:
        return found
    waiting_out = mean_out if decodes else 0.0
    demand = sum(r.kv_usage * r.kv_tokens + r.queue * (mean_in + waiting_out) for one in known for r in one.replicas)
    demand += queued * ((mean_in * (1.0 - hit_ratio) if prefills or decodes else 0.0) + waiting_out)
    supply = sum(len(one.replicas) * each[one.name] for one in known)
    coming = sum(one.pending * each[one.name] for one in known)
    missing, spare = demand / SCALE_UP - supply - coming, supply - demand / SCALE_DOWN
    if missing > 0:
        _grow(found, known, each, missing)
    elif spare > 0:
        _shrink(found, known, each, spare)
    return found


def _grow(found: dict[str, int], known: Sequence[Standing], each: Mapping[str, float], missing: float) -> None:
    """Cheapest capacity first, what it cannot take spills over."""
    for one in sorted(known, key=lambda one: (one.cost / each[one.name], one.name)):
        step = min(math.ceil(missing / each[one.name] - 1e-9), max(one.high - found[one.name], 0))
        found[one.name] += max(step, 0)
        missing -= max(step, 0) * each[one.name]
        if missing <= 0:
            return


def _shrink(found: dict[str, int], known: Sequence[Standing], each: Mapping[str, float], spare: float) -> None:
    """Dearest first; the cheapest keeps one unless a dearer variant has replicas left."""
    order = sorted(known, key=lambda one: (-one.cost, each[one.name], one.name))
    for index, one in enumerate(order):
        others = any(found[other.name] > 0 for other in order if other is not one)
        least = max(one.low, 1 if index == len(order) - 1 and not others else 0)
        step = max(min(math.floor(spare / each[one.name] + 1e-9), found[one.name] - least), 0)
        found[one.name] -= step
        spare -= step * each[one.name]
