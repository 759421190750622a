"""The Horizontal Pod Autoscaler's published algorithm: metric to replicas, tolerance, stabilisation, policies. Pure.

Facts: the Kubernetes documentation of ``autoscaling/v2`` and the replica calculator's rules. External metrics are of
type ``AverageValue``; utilisation is a resource metric, where replicas that start damp a scale-up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.autoscaling.pool import Bounds

TOLERANCE: Final = 0.1
SYNC_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One policy: at most so many pods, or so many percent, in a period."""

    value: float
    period_s: float
    percent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """Behaviour of one direction; of several policies the one that allows most counts (``selectPolicy: Max``)."""

    window_s: float
    rates: tuple[Rate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """``spec.behavior``."""

    up: Direction
    down: Direction


DOUBLE_15S: Final = Rate(value=100, period_s=15, percent=True)
DEFAULT: Final = Behavior(
    up=Direction(window_s=0, rates=(DOUBLE_15S, Rate(value=4, period_s=15))),
    down=Direction(window_s=300, rates=(DOUBLE_15S,)),
)
"""Kubernetes' own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change that was carried out."""

    at_s: float
    change: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the controller remembers: recommendations before damping, and its own changes."""

    recommended: tuple[tuple[float, int], ...] = ()
    events: tuple[Event, ...] = ()


def average_value(total: float, target: float, replicas: int, *, tolerance: float = TOLERANCE) -> int:
    """Replicas for an external metric of type ``AverageValue``.

    Args:
        total: sum of the metric's items.
        target: per replica.
        replicas: as the scale target's status says.

    >>> average_value(7.0, 1.0, 4), average_value(9.0, 1.0, 10)
    (7, 10)
    """
    if replicas and abs(total / (target * replicas) - 1.0) <= tolerance:
        return replicas
    return math.ceil(total / target - 1e-9)


def utilisation(used: Sequence[float], target: float, *, starting: int, tolerance: float = TOLERANCE) -> int:
    """Replicas for a resource metric with a target utilisation.

    Args:
        used: of each ready replica, 0..1.
        starting: replicas that are not ready: on the way up they count as using nothing.

    >>> utilisation([1.0, 1.0, 1.0], 0.8, starting=0), utilisation([1.0, 1.0, 1.0], 0.8, starting=1)
    (4, 4)
    """
    current = len(used) + starting
    if not used:
        return current
    ratio = sum(used) / len(used) / target
    if ratio > 1.0 and starting:
        damped = sum(used) / current / target
        if damped <= 1.0 or abs(damped - 1.0) <= tolerance:
            return current
        return max(math.ceil(damped * current - 1e-9), current)
    if abs(ratio - 1.0) <= tolerance:
        return current
    return math.ceil(ratio * len(used) - 1e-9)


def damp(
    state: State, wanted: int, replicas: int, *, now_s: float, behavior: Behavior, bounds: Bounds
) -> tuple[int, State]:
    """What the HPA writes to ``/scale``: stabilised, rate-limited, bounded; and what it remembers."""
    longest = max(behavior.up.window_s, behavior.down.window_s)
    past = state.recommended or ((now_s, replicas),)  # the first sight of a target counts as a recommendation
    recommended = (*(entry for entry in past if entry[0] > now_s - longest), (now_s, wanted))
    stable = _stabilised(recommended, replicas, now_s=now_s, behavior=behavior)
    allowed = bounds.clip(_limited(stable, replicas, state.events, now_s=now_s, behavior=behavior))
    periods = max(rate.period_s for way in (behavior.up, behavior.down) for rate in way.rates)
    events = tuple(event for event in state.events if event.at_s > now_s - periods)
    if allowed != replicas:
        events = (*events, Event(at_s=now_s, change=allowed - replicas))
    return allowed, State(recommended=recommended, events=events)


class Damper:
    """:func:`damp` with its memory."""

    def __init__(self, behavior: Behavior) -> None:
        self._behavior, self._state = behavior, State()

    def ask(self, wanted: int, replicas: int, *, now_s: float, bounds: Bounds) -> int:
        """Replicas to ask for."""
        allowed, self._state = damp(self._state, wanted, replicas, now_s=now_s, behavior=self._behavior, bounds=bounds)
        return allowed


def _stabilised(
    recommended: Sequence[tuple[float, int]], replicas: int, *, now_s: float, behavior: Behavior
) -> int:  # fmt: skip
    """Up no further than the lowest of its window, down no further than the highest of its own."""

    def window(length_s: float) -> list[int]:
        inside = [value for at_s, value in recommended if at_s > now_s - length_s]
        return inside or [recommended[-1][1]]

    stable = max(replicas, min(window(behavior.up.window_s)))
    return min(stable, max(window(behavior.down.window_s)))


def _limited(wanted: int, replicas: int, events: Sequence[Event], *, now_s: float, behavior: Behavior) -> int:
    if wanted > replicas:
        highest = max(_highest(rate, replicas, events, now_s) for rate in behavior.up.rates)
        return min(wanted, max(highest, replicas))
    if wanted < replicas:
        lowest = min(_lowest(rate, replicas, events, now_s) for rate in behavior.down.rates)
        return max(wanted, min(lowest, replicas))
    return replicas


def _at_period_start(rate: Rate, replicas: int, events: Sequence[Event], now_s: float) -> int:
    return replicas - sum(event.change for event in events if event.at_s > now_s - rate.period_s)


def _highest(rate: Rate, replicas: int, events: Sequence[Event], now_s: float) -> int:
    start = _at_period_start(rate, replicas, events, now_s)
    return math.ceil(start * (1 + rate.value / 100)) if rate.percent else start + int(rate.value)


def _lowest(rate: Rate, replicas: int, events: Sequence[Event], now_s: float) -> int:
    start = _at_period_start(rate, replicas, events, now_s)
    return math.floor(start * (1 - rate.value / 100)) if rate.percent else start - int(rate.value)
