"""KEDA's two published rules for an inference pool. Pure.

Facts: llm-d's guides ``workload-autoscaling/keda-epp-queue`` and ``README.slo-aware`` with its benchmark (2026).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.autoscaling.hpa import DOUBLE_15S, Behavior, Direction, Rate, average_value

QUEUE_BEHAVIOR: Final = Behavior(
    up=Direction(window_s=0, rates=(DOUBLE_15S,)), down=Direction(window_s=300, rates=(DOUBLE_15S,))
)
SLO_BEHAVIOR: Final = Behavior(
    up=Direction(window_s=30, rates=(Rate(value=100, period_s=60, percent=True), Rate(value=4, period_s=60))),
    down=Direction(window_s=180, rates=(Rate(value=1, period_s=120),)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRule:
    """Thresholds of the queue guide's ScaledObject, per replica."""

    queued: float = 1.0
    in_flight: float = 16.0


def queue_replicas(queued: float, in_flight: float, replicas: int, rule: QueueRule) -> int:
    """The larger demand of the two triggers, each an ``AverageValue`` metric.

    >>> queue_replicas(0.0, 70.0, 3, QueueRule()), queue_replicas(6.0, 70.0, 3, QueueRule())
    (5, 6)
    """
    return max(average_value(queued, rule.queued, replicas), average_value(in_flight, rule.in_flight, replicas))


@dataclass(frozen=True, slots=True, kw_only=True)
class SloLaw:
    """Constants of the SLO-aware guide as it benchmarked them."""

    up: float = 0.55
    down: float = 0.40
    clamp: float = 2.0
    quantile: float = 0.9
    rate_window_s: float = 60.0
    smooth_s: float = 45.0


def slo_signal(ttft_s: float | None, tpot_s: float | None, *, ttft_slo_s: float, tpot_slo_s: float, clamp: float
               ) -> float:  # fmt: skip
    """The worse of both latencies over its target, clamped; 0 without traffic.

    >>> slo_signal(1.5, 0.04, ttft_slo_s=3.0, tpot_slo_s=0.1, clamp=2.0)
    0.5
    """
    return min(max((ttft_s or 0.0) / ttft_slo_s, (tpot_s or 0.0) / tpot_slo_s), clamp)


def smoothed(signals: Sequence[tuple[float, float]], now_s: float, window_s: float) -> float:
    """``avg_over_time`` of (time, value) pairs."""
    inside = [value for at_s, value in signals if at_s > now_s - window_s]
    return sum(inside) / len(inside) if inside else 0.0


def slo_replicas(signal: float, provisioned: int, ready: int, law: SloLaw) -> int:
    """Replicas that the law asks for.

    Args:
        signal: the smoothed signal.
        provisioned: replicas that the Deployment has, starting ones included.
        ready: of them, those that serve: while others start, the signal is discounted on the way up.

    >>> slo_replicas(1.1, 4, 4, SloLaw()), slo_replicas(0.2, 4, 4, SloLaw()), slo_replicas(0.5, 4, 4, SloLaw())
    (8, 2, 4)
    """
    if signal > law.up:
        credit = ready / provisioned if 0 < ready < provisioned else 1.0
        return provisioned + math.ceil(provisioned * (signal * credit / law.up - 1.0) - 1e-9)
    if signal < law.down:
        return provisioned - math.floor(provisioned * (1.0 - signal / law.down) + 1e-9)
    return provisioned
