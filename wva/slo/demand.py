"""How much work arrives: a rate over the longest recent window in which the traffic looks steady. Pure.

Work is in seconds of one replica of the group's reference variant (:mod:`wva.slo.mix`), so that longer prompts count as
more demand at once. The window starts with the newest readings and grows backwards while the older stretch agrees with
it within the counting noise of this traffic, whose dispersion is tracked; a step in the load therefore shows after one
or two readings, and a steady load is averaged over :data:`WINDOW_S`. Where the rates of the window lie on a line rather
than about a mean, the demand is the line's end: the mean of a climb is what was half a window ago.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from fleet.types import Histogram

WINDOW_S: Final = 150.0
WINDOW_LEADS: Final = 1.25
WINDOW_LEAST_S: Final = 20.0
"""The longest window is :data:`WINDOW_S`, or so many start-up times where replicas start quickly: a steadier mean of
older traffic would not be worth its lag there."""
KEEP_S: Final = 330.0
"""Readings older than this are dropped; mean lengths are over so long."""
FINE_S: Final = 60.0
"""Newer readings are all kept, older ones :data:`COARSE_S` apart."""
COARSE_S: Final = 30.0
MIN_WINDOW_S: Final = 9.0
MIN_READINGS: Final = 3
"""Where readings come more often than that, so many make the shortest window."""
PRECISION: Final = 0.04
"""A rate known to this share of itself needs no longer window: it would only lag."""
AGREES: Final = 2.5
"""Standard deviations of counting noise that two stretches may differ by and count as one."""
LINE_FREE: Final = 2
"""Stretches of a window beyond the two that make a line, at least."""
DISPERSION_FIRST: Final = 2.0
"""Variance over mean of the work in a stretch, in units of a request's work: Poisson arrivals of varying lengths."""
DISPERSION_LIMITS: Final = (0.2, 50.0)
STEADY: Final = 0.15
"""Relative change of the requests in flight up to which Little's law is applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Totals of one model at one time, and what ran then."""

    at_s: float
    arrived: float
    prompt_tokens: float
    finished: float
    generation_tokens: float
    in_flight: float
    ready: int
    first_good: float = 0.0
    """Requests whose first token came in time, and all that had one."""
    first_all: float = 0.0
    paced_good: float = 0.0
    """Requests whose time per output token was within its target, and all that were measured."""
    paced_all: float = 0.0
    source: str = ""
    """Who counted: totals of two sources cannot be set against each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Work of a request, linear in its prompt: seconds a request and seconds a prompt token."""

    request_s: float
    token_s: float

    def work(self, before: Reading, after: Reading) -> float:
        """Work that arrived between two readings."""
        return (after.arrived - before.arrived) * self.request_s + (
            after.prompt_tokens - before.prompt_tokens
        ) * self.token_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What the requests went through that end now."""

    stay_s: float
    level: float
    """In flight on each replica meanwhile."""
    ended: float
    """Requests that ended meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The demand now."""

    work: float
    """Seconds of work a second: replicas that were busy with nothing else."""
    window_s: float
    dispersion: float
    """In units of a request's work."""
    drift: float = 0.0
    """Change of ``work`` in a second, where it climbs or falls steadily; 0 where it does not."""


def remembered(readings: Sequence[Reading], new: Reading) -> tuple[Reading, ...]:
    """Readings with ``new``; begun anew when a counter fell (a restart), the clock did, or another source counts."""
    if readings:
        last = readings[-1]
        if new.source != last.source:
            return (new,)
        fell = new.arrived < last.arrived or new.finished < last.finished or new.prompt_tokens < last.prompt_tokens
        if fell or new.first_all < last.first_all or new.paced_all < last.paced_all or new.at_s < last.at_s:
            return (new,)
        if new.at_s == last.at_s:
            return tuple(readings)
    kept: list[Reading] = []
    for one in readings:
        age_s = new.at_s - one.at_s
        if age_s > KEEP_S or (kept and age_s > FINE_S and one.at_s - kept[-1].at_s < COARSE_S):
            continue
        kept.append(one)
    return (*kept, new)


def passage(readings: Sequence[Reading]) -> Passage | None:
    """How long the requests stayed that end now, and beside how many; also while the load changes.

    Those in flight came last, so who ends now came when all but those had arrived. Little's law, in flight over ended a
    second, tells too much of a pool that fills and too little of one that empties. ``None`` without any in flight,
    where the readings do not go back so far, or where the replicas changed meanwhile.
    """
    last = readings[-1]
    came = last.arrived - last.in_flight
    if last.in_flight <= 0.0 or last.ready <= 0:
        return None
    beside, right = 0.0, last
    for left in reversed(readings[:-1]):
        if left.ready != last.ready:
            return None
        part = min((right.arrived - came) / max(right.arrived - left.arrived, 1e-9), 1.0)
        length_s = part * (right.at_s - left.at_s)
        beside += length_s * (right.in_flight + 0.5 * part * (left.in_flight - right.in_flight))
        if left.arrived <= came:
            stay_s = last.at_s - right.at_s + length_s
            ended = last.finished - right.finished + part * (right.finished - left.finished)
            return Passage(stay_s=stay_s, level=beside / stay_s / last.ready, ended=ended) if stay_s > 0.0 else None
        right = left
    return None


def steady(readings: Sequence[Reading], now_s: float) -> bool:
    """Whether as many replicas as now carried about the same load for the last minute."""
    recent = [one for one in readings if now_s - one.at_s <= 75.0]
    if len(recent) < 3 or recent[-1].at_s - recent[0].at_s < 40.0:
        return False
    held = [one.in_flight for one in recent]
    mean = sum(held) / len(held)
    same = all(one.ready == recent[-1].ready for one in recent)
    return same and mean > 0 and max(held) - min(held) <= 2 * STEADY * mean + 2 * math.sqrt(mean)


def level(
    readings: Sequence[Reading], weights: Weights, request_work: float, before: Level | None, *, lead_s: float
) -> Level | None:
    """The demand now; ``None`` without two readings :data:`MIN_WINDOW_S` apart, or :data:`MIN_READINGS` of them.

    Args:
        request_work: mean work of a request, seconds.
        before: the level of the pass before, for the dispersion.
        lead_s: start-up time that is planned with.
    """
    last = readings[-1]
    first = len(readings) - 2
    while first > len(readings) - MIN_READINGS and last.at_s - readings[first].at_s < MIN_WINDOW_S:
        first -= 1
    if first < 0:
        return None
    dispersion = before.dispersion if before else DISPERSION_FIRST
    unit = max(request_work, 1e-9)
    spent = weights.work(readings[first], last)
    length_s = last.at_s - readings[first].at_s
    newest = spent, length_s
    longest_s = min(max(WINDOW_LEADS * lead_s, WINDOW_LEAST_S), WINDOW_S)
    while first > 0 and last.at_s - readings[first - 1].at_s <= longest_s:
        if dispersion * unit <= PRECISION**2 * spent:
            break
        older = weights.work(readings[first - 1], readings[first])
        older_s = readings[first].at_s - readings[first - 1].at_s
        rate = (spent + older) / (length_s + older_s)
        noise = math.sqrt(max(dispersion * unit * rate * older_s * (1.0 + older_s / length_s), unit * unit))
        if abs(older - spent / length_s * older_s) > AGREES * noise:
            break
        spent, length_s, first = spent + older, length_s + older_s, first - 1
    drift = _drift(readings[first:], weights)
    return Level(work=max(spent / length_s + 0.5 * length_s * drift, 0.0), window_s=length_s, drift=drift,
                 dispersion=_dispersion(dispersion, newest, before, unit))  # fmt: skip


def _drift(readings: Sequence[Reading], weights: Weights) -> float:
    """Slope of the line through a window's rates; 0 where it is no clearer than stretches of one level may differ."""
    steps = [(right.at_s - left.at_s, 0.5 * (left.at_s + right.at_s), weights.work(left, right))
             for left, right in pairwise(readings)]  # fmt: skip
    free = len(steps) - 2
    if free < LINE_FREE:
        return 0.0
    total_s = math.fsum(step_s for step_s, _, _ in steps)
    middle_s = math.fsum(step_s * at_s for step_s, at_s, _ in steps) / total_s
    mean = math.fsum(work for _, _, work in steps) / total_s
    spread = math.fsum(step_s * (at_s - middle_s) ** 2 for step_s, at_s, _ in steps)
    slope = math.fsum((at_s - middle_s) * (work - mean * step_s) for step_s, at_s, work in steps) / spread
    rest = math.fsum((work / step_s - mean - slope * (at_s - middle_s)) ** 2 * step_s for step_s, at_s, work in steps)
    return slope if slope**2 > _student(AGREES, free) ** 2 * rest / free / spread else 0.0


def _student(normal: float, free: int) -> float:
    """So many standard deviations where the deviation itself is estimated from ``free`` values more than needed.

    The first terms of Cornish and Fisher's expansion.

    >>> round(_student(1.96, 10), 2)
    2.23
    """
    first = (normal**3 + normal) / 4.0
    second = (5.0 * normal**5 + 16.0 * normal**3 + 3.0 * normal) / 96.0
    return normal + first / free + second / free**2


def _dispersion(known: float, newest: tuple[float, float], before: Level | None, unit: float) -> float:
    """Follows the squared surprise of the newest stretch; one surprise moves it little, whatever its size."""
    if before is None or before.work <= 0.0:
        return known
    spent, length_s = newest
    expected = max(before.work + 0.5 * length_s * before.drift, 0.1 * before.work) * length_s
    seen = (spent - expected) ** 2 / (expected * unit) / (1.0 + length_s / max(before.window_s, length_s))
    moved = known + 0.1 * (min(seen, 6.0 * known) - known)
    return min(max(moved, DISPERSION_LIMITS[0]), DISPERSION_LIMITS[1])


def within(histogram: Histogram, limit_s: float) -> float:
    """Observations at or under a limit; linear inside the bucket that holds it, none of what is above all bounds.

    >>> within(Histogram(bounds=(1.0, 3.0), counts=(4.0, 2.0, 1.0)), 2.0)
    5.0
    """
    total, low = 0.0, 0.0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        if bound <= limit_s:
            total += count
        else:
            return total + (count * (limit_s - low) / (bound - low) if limit_s > low else 0.0)
        low = bound
    return total
