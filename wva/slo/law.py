"""How one variant answers under load: the physics of its mix, corrected by what it was seen to do. Pure.

Seconds of a request at ``r`` in flight are those of :func:`wva.slo.mix.stay_s` times a correction: ``a`` for the part
that a lone request takes, ``b`` for the part that the others add. Both start at 1 and follow the observations (a Kalman
filter of two coefficients, so that a load seen only once moves their sum and not each of them). Little's law gives both
the observation (running over finished a second) and the rate at a level. Requests beyond what the KV memory or the
engine's setting lets run wait.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from wva.slo.mix import Cost, Mix, stay_s

MAX_RUNNING: Final = 256.0
"""vLLM's default ``max_num_seqs``."""
KV_FULL: Final = 0.97
"""KV utilisation at which an engine stops admitting, roughly: the rest is what running ones still need."""
DRIFT_PER_S: Final = 1e-6
"""Variance that the corrections gain in a second: software, clocks and mixes change."""
NOISE: Final = 0.06
"""Relative error of one observation beside its counting noise."""
LIMITS: Final = (0.1, 10.0)
SPREAD_KV: Final = 0.2
"""Spread of ln(level at 1 % misses) where memory is the limit: it is a fact of the replica."""
SPREAD_LATENCY: Final = 0.6
"""Where latency is: lengths vary in ways that means do not tell."""
SPREAD_UNKNOWN: Final = 0.9
"""Without calibrated coefficients."""
TPOT_SHARE: Final = 0.7
"""Mean time per output token at which 1 % of the requests are expected above the target, as a share of it."""
BUSY_SHARE: Final = 0.8
"""Utilisation at which queues are expected to grow long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What observations made of the physics."""

    lone: float = 1.0
    work: float = 1.0
    var_lone: float = 0.04
    var_work: float = 0.04
    cov: float = 0.0
    kv_per_request: float | None = None
    """Share of a replica's KV memory that a running request holds."""
    at_s: float = 0.0


def first(known: bool, error: float = 0.0) -> Correction:
    """Before any observation; wide where the coefficients are guessed, or fitted with such a relative ``error``."""
    spread = max(0.04, error**2) if known else 1.0
    return Correction(var_lone=spread, var_work=spread)


def updated(
    before: Correction, cost: Cost, *, running: float, rps: float, samples: float, now_s: float, kv: float | None = None
) -> Correction:
    """After seeing ``running`` requests per replica while ``rps`` finish on each.

    Args:
        samples: finished requests behind ``rps``.
        kv: what is known now of the KV memory that a request holds; ``None``: as before.
    """
    kv = before.kv_per_request if kv is None else kv
    if rps <= 0 or running <= 0 or samples < 1:
        return replace(before, kv_per_request=kv)
    nominal_s = stay_s(cost, running)
    x = lone_share(cost, running)
    y = 1.0 - x
    grown = DRIFT_PER_S * min(max(now_s - before.at_s, 0.0), 3600.0) if before.at_s else 0.0
    vl, vw, cov = before.var_lone + grown, before.var_work + grown, before.cov
    gain_l, gain_w = vl * x + cov * y, cov * x + vw * y
    noise = NOISE**2 + 1.0 / samples
    total = x * gain_l + y * gain_w + noise
    error = running / rps / nominal_s - (before.lone * x + before.work * y)
    bound = 3.0 * math.sqrt(total)
    error = min(max(error, -bound), bound)
    return Correction(
        lone=_limited(before.lone + gain_l / total * error), work=_limited(before.work + gain_w / total * error),
        var_lone=vl - gain_l**2 / total, var_work=vw - gain_w**2 / total, cov=cov - gain_l * gain_w / total,
        kv_per_request=kv, at_s=now_s,
    )  # fmt: skip


def lone_share(cost: Cost, running: float) -> float:
    """Part of a request's time that it would take alone."""
    return cost.lone_s / (cost.lone_s + cost.work_s * running)


def _limited(value: float) -> float:
    return min(max(value, LIMITS[0]), LIMITS[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """A variant's law for the present mix."""

    cost: Cost
    lone: float
    """Correction of the lone part of a request's time, and of the part that others add."""
    work: float
    full: float
    """Requests that run at once at most."""
    level: float
    """In flight at which the physics expects 1 % of the requests to miss."""
    spread: float
    """Standard deviation of that level's logarithm."""

    def stay_s(self, in_flight: float) -> float:
        """Seconds of a request that runs beside so many."""
        running = min(in_flight, self.full)
        share = lone_share(self.cost, running)
        return stay_s(self.cost, running) * (self.lone * share + self.work * (1.0 - share))

    def rate(self, in_flight: float) -> float:
        """Requests a second that one replica finishes."""
        return min(in_flight, self.full) / self.stay_s(in_flight)

    @property
    def top_rps(self) -> float:
        """Rate of a full replica."""
        return self.rate(self.full)


def unsure(correction: Correction, known: Law) -> float:
    """Relative standard deviation of a request's time at the law's level."""
    x = lone_share(known.cost, min(known.level, known.full))
    return math.sqrt(max(_common(correction, x, x), 0.0)) / (known.lone * x + known.work * (1.0 - x))


def shown(correction: Correction, known: Law, *, running: float, samples: float) -> tuple[float, float]:
    """What seeing ``running`` requests per replica again and again does to the doubt of :func:`unsure`.

    Args:
        samples: finished requests behind each sight.

    Returns: the share of its variance that goes in the end, and the sights until half of that is gone.
    """
    there, here = lone_share(known.cost, min(known.level, known.full)), lone_share(known.cost, running)
    doubt, seen = _common(correction, there, there), max(_common(correction, here, here), 1e-12)
    share = _common(correction, there, here) ** 2 / (seen * doubt) if doubt > 0 else 0.0
    return min(share, 1.0), (NOISE**2 + 1.0 / max(samples, 1.0)) / seen


def _common(correction: Correction, one: float, other: float) -> float:
    """Covariance of the errors at two loads, told by the lone part's share of a request's time there."""
    return (correction.var_lone * one * other + correction.var_work * (1.0 - one) * (1.0 - other)
            + correction.cov * (one * (1.0 - other) + other * (1.0 - one)))  # fmt: skip


def law(
    cost: Cost, correction: Correction, mix: Mix, *, ttft_s: float, tpot_s: float, max_running: float | None,
    kv_tokens: float | None,
) -> Law:  # fmt: skip
    """The law of a mix under its targets.

    Args:
        kv_tokens: memory of one replica, tokens; used until it was seen what a running request holds.
    """
    lone_s, work_s = cost.lone_s * correction.lone, cost.work_s * correction.work
    held = correction.kv_per_request
    if held is None and kv_tokens:
        held = (mix.prompt + mix.output / 2) / kv_tokens
    memory = KV_FULL / held if held else math.inf
    full = max(min(memory, max_running or MAX_RUNNING), 1.0)
    latency = _latency_level(cost, lone_s, work_s, mix, ttft_s=ttft_s, tpot_s=tpot_s)
    level = max(min(latency, 0.95 * full), 0.5)
    sure = cost.known and level <= cost.reach
    spread = SPREAD_UNKNOWN if not sure else SPREAD_KV if latency > 0.95 * full else SPREAD_LATENCY
    return Law(cost=cost, lone=correction.lone, work=correction.work, full=full, level=level, spread=spread)


def _latency_level(cost: Cost, lone_s: float, work_s: float, mix: Mix, *, ttft_s: float, tpot_s: float) -> float:
    """Where latency alone is the limit: mean time per output token, or the queue of a busy replica."""
    busy = BUSY_SHARE / (1.0 - BUSY_SHARE) * lone_s / work_s if work_s > 0 else math.inf
    if mix.output <= 1.0:  # a prefill replica: its queue of prompts alone
        return min(busy, ttft_s / max(cost.prefill_s, 1e-6))
    decode_s = TPOT_SHARE * tpot_s * mix.output
    paced = (decode_s - lone_s + cost.prefill_s) / work_s if work_s > 0 else math.inf
    return max(min(busy, paced), 0.5)
