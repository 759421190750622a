"""Demand by the time that a replica could be ready: three forecasters, their errors, and which one is believed. Pure.

*present* says that the demand stays, *trend* goes on with the slope of the last quarter of an hour, *season* adds the
change that this time of the week (of the day, until a week is known) brought before. Each forecast is kept until its
time has come and then held against what came: a challenger replaces *present* only while its mean error is clearly
smaller over enough forecasts. The errors of the believed one, newest weighted most, are the distribution around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

BIN_S: Final = 30.0
"""Of demand, at most; where replicas start quickly a quarter of the horizon, for the forecast follows faster there."""
BIN_SHARE: Final = 0.25
BIN_LEAST_S: Final = 2.0
HISTORY: Final = 32
"""Bins of recent demand: a quarter of an hour."""
TREND_BINS: Final = 10.0
"""The slope weighs a bin by exp(-age in bins / this)."""
ERRORS: Final = 96
"""Errors remembered, a bin apart: 48 minutes."""
HALF_LIFE_S: Final = 1800.0
SLOT_S: Final = 1800.0
DAY_SLOTS: Final = 48
WEEK_SLOTS: Final = 7 * DAY_SLOTS
TRUSTED_AFTER: Final = 20
"""Forecasts that must have come due before a challenger is believed."""
BETTER: Final = 0.9
"""It must make less than this share of the error of *present*."""
PRIOR_SPREAD: Final = 0.12
"""Spread of the error before any was seen, as a share of the demand, with the weight of :data:`PRIOR_WEIGHT` errors."""
PRIOR_WEIGHT: Final = 6.0
SHARES: Final = (0.2, 0.2, 0.2, 0.2, 0.1, 0.06, 0.04)
"""The distribution is told by its means over these parts, ascending."""
_NORMAL: Final = (-1.40, -0.53, 0.0, 0.53, 1.04, 1.45, 2.05)
"""Means of a standard normal over the parts, about."""
METHODS: Final = ("present", "trend", "season")


class Error(NamedTuple):
    """What came less what was forecast, by method; NaN-free: a method that had no forecast repeats *present*."""

    at_s: float
    present: float
    trend: float
    season: float
    demand: float = 0.0
    """When the forecast was made; 0 where that is not known."""


class Pending(NamedTuple):
    """Forecasts whose time has not come."""

    due_s: float
    present: float
    trend: float
    season: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is kept of a group's demand; work a second."""

    bins: tuple[tuple[float, float], ...] = ()
    """Time and demand, a bin apart."""
    pending: tuple[Pending, ...] = ()
    errors: tuple[Error, ...] = ()
    season: tuple[float, ...] = ()
    """Mean demand by slot of the week, -1 where not seen; empty until the first slot is complete."""
    slot: tuple[int, float, float] | None = None
    """The present slot's index, sum and count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Demand ahead, work a second."""

    point: float
    parts: tuple[float, ...]
    """Means of the parts of :data:`SHARES`."""
    method: str
    error: float | None
    """Mean absolute error of the method believed; ``None`` before any forecast came due."""
    trials: int

    def quantile(self, share: float) -> float:
        """Demand that is not exceeded with probability ``share``, to the resolution of the parts."""
        reached = 0.0
        for part, value in zip(SHARES, self.parts, strict=True):
            reached += part
            if reached >= share - 1e-9:
                return value
        return self.parts[-1]


def in_units(memory: Memory, factor: float) -> Memory:
    """The memory where a unit of work became so many of another."""
    return Memory(
        bins=tuple((at_s, demand * factor) for at_s, demand in memory.bins),
        pending=tuple(Pending(one.due_s, *(value * factor for value in one[1:])) for one in memory.pending),
        errors=tuple(Error(one.at_s, *(value * factor for value in one[1:])) for one in memory.errors),
        season=tuple(value * factor if value >= 0 else value for value in memory.season),
        slot=memory.slot and (memory.slot[0], memory.slot[1] * factor, memory.slot[2]),
    )


def step(memory: Memory, demand: float, *, now_s: float, horizon_s: float) -> tuple[Forecast, Memory]:
    """The forecast for ``horizon_s`` ahead, and what to remember.

    Args:
        demand: work a second now.
        now_s: Unix time (the slots of a week are counted in UTC).
    """
    bin_s = min(max(BIN_SHARE * horizon_s, BIN_LEAST_S), BIN_S)
    memory = _settled(memory, demand, now_s, bin_s)
    raw = _forecasts(memory, demand, now_s, horizon_s, bin_s)
    last_s = memory.bins[-1][0] if memory.bins else -math.inf
    if now_s - last_s >= bin_s or now_s < last_s:
        memory = _remembered(memory, demand, raw, now_s, horizon_s)
    method, error = _believed(memory.errors, now_s)
    point = raw[method]
    parts = _parts(memory.errors, method, now_s, point, demand, independent=bin_s / horizon_s if horizon_s > 0 else 1.0)
    return Forecast(point=point, parts=parts, method=METHODS[method], error=error, trials=len(memory.errors)), memory


def _settled(memory: Memory, demand: float, now_s: float, bin_s: float) -> Memory:
    """Errors of the forecasts whose time has come."""
    due = [one for one in memory.pending if one.due_s <= now_s]
    if not due:
        return memory
    fresh = [one for one in due if now_s - one.due_s <= 2 * bin_s]  # after a pause nothing can be compared
    came = [Error(now_s, demand - one.present, demand - one.trend, demand - one.season, one.present) for one in fresh]
    errors = (*memory.errors, *came)[-ERRORS:]
    pending = tuple(one for one in memory.pending if one.due_s > now_s)
    return Memory(bins=memory.bins, pending=pending, errors=errors, season=memory.season, slot=memory.slot)


def _forecasts(
    memory: Memory, demand: float, now_s: float, horizon_s: float, bin_s: float
) -> tuple[float, float, float]:
    ahead = demand + _slope(memory.bins, now_s, TREND_BINS * bin_s) * horizon_s
    trend = min(max(ahead, 0.5 * demand), 2.0 * demand)
    return demand, trend, max(demand + _seasonal_change(memory.season, now_s, horizon_s, demand), 0.0)


def _slope(bins: Sequence[tuple[float, float]], now_s: float, fade_s: float) -> float:
    """Weighted least squares over recent bins; 0 with fewer than four."""
    if len(bins) < 4:
        return 0.0
    weights = [math.exp((at_s - now_s) / fade_s) for at_s, _ in bins]
    total = sum(weights)
    mean_t = sum(w * at_s for w, (at_s, _) in zip(weights, bins, strict=True)) / total
    mean_d = sum(w * value for w, (_, value) in zip(weights, bins, strict=True)) / total
    spread = sum(w * (at_s - mean_t) ** 2 for w, (at_s, _) in zip(weights, bins, strict=True))
    if spread <= 0.0:
        return 0.0
    return sum(w * (at_s - mean_t) * (value - mean_d) for w, (at_s, value) in zip(weights, bins, strict=True)) / spread


def _remembered(
    memory: Memory, demand: float, raw: tuple[float, float, float], now_s: float, horizon_s: float
) -> Memory:
    bins = (*(one for one in memory.bins if one[0] < now_s), (now_s, demand))[-HISTORY:]
    season, slot = _season(memory, demand, now_s)
    pending = (*memory.pending, Pending(now_s + horizon_s, *raw))
    return Memory(bins=bins, pending=pending, errors=memory.errors, season=season, slot=slot)


# ---- season


def _season(memory: Memory, demand: float, now_s: float) -> tuple[tuple[float, ...], tuple[int, float, float]]:
    index = int(now_s // SLOT_S) % WEEK_SLOTS
    if memory.slot is None or memory.slot[0] == index:
        total, count = (memory.slot[1], memory.slot[2]) if memory.slot else (0.0, 0.0)
        return memory.season, (index, total + demand, count + 1)
    season = list(memory.season) or [-1.0] * WEEK_SLOTS
    done, total, count = memory.slot
    mean, old = total / count, season[done]
    season[done] = round(mean if old < 0 else 0.5 * (old + mean), 6)
    return tuple(season), (index, demand, 1.0)


def _seasonal_change(season: Sequence[float], now_s: float, horizon_s: float, demand: float) -> float:
    """Change over the horizon at this time of the week, or of the days known; 0 where neither is known."""
    if not season:
        return 0.0
    before, after = (_at(season, at_s) for at_s in (now_s, now_s + horizon_s))
    if before is None or after is None or before <= 0.0:
        return 0.0
    return min(max(after / before - 1.0, -0.5), 1.0) * demand


def _at(season: Sequence[float], at_s: float) -> float | None:
    """Demand at a time, between the middles of two slots."""
    place = at_s / SLOT_S - 0.5
    low = math.floor(place)
    first, second = _slot(season, low % WEEK_SLOTS), _slot(season, (low + 1) % WEEK_SLOTS)
    return None if first is None or second is None else first + (second - first) * (place - low)


def _slot(season: Sequence[float], index: int) -> float | None:
    if season[index] >= 0.0:
        return season[index]
    known = [value for value in season[index % DAY_SLOTS :: DAY_SLOTS] if value >= 0.0]
    return sum(known) / len(known) if known else None


# ---- trust and spread


def _believed(errors: Sequence[Error], now_s: float) -> tuple[int, float | None]:
    """Index of the method to believe, and its mean absolute error."""
    if not errors:
        return 0, None
    sums, total = [0.0, 0.0, 0.0], 0.0
    for error in errors:
        weight = 0.5 ** (max(now_s - error.at_s, 0.0) / HALF_LIFE_S)
        total += weight
        for index in range(3):
            sums[index] += weight * abs(error[index + 1])
    means = [one / total for one in sums]
    best = min(range(3), key=means.__getitem__)
    if len(errors) < TRUSTED_AFTER or means[best] > BETTER * means[0]:
        best = 0
    return best, means[best]


def _parts(
    errors: Sequence[Error], method: int, now_s: float, point: float, demand: float, *, independent: float
) -> tuple[float, ...]:
    """Means of the parts of the distribution: recent errors around the point, mixed with a prior spread.

    Args:
        independent: of the errors, the share that tells something new: those a bin apart overlap for a horizon.
    """
    known = sorted((error[method + 1] * _scaled(error.demand, demand),
                    0.5 ** (max(now_s - error.at_s, 0.0) / HALF_LIFE_S)) for error in errors)  # fmt: skip
    total = sum(weight for _, weight in known)
    trust = total / (total + PRIOR_WEIGHT)
    seen = _chunks(known, total) if known else [0.0] * len(SHARES)
    spread = PRIOR_SPREAD * demand
    mixed = [trust * one + (1.0 - trust) * spread * z for one, z in zip(seen, _NORMAL, strict=True)]
    middle = math.fsum(share * one for share, one in zip(SHARES, mixed, strict=True))
    wider = _wider(total * min(independent, 1.0) + PRIOR_WEIGHT)
    return tuple(max(point + middle + wider * (one - middle), 0.0) for one in mixed)


def _wider(count: float) -> float:
    """What so many independent errors understate the spread of the next one by: that of Student's distribution."""
    return math.sqrt((1.0 + 1.0 / count) * count / (count - 2.0))


def _scaled(then: float, now: float) -> float:
    """What an error that was made at a demand counts for at another: less at a smaller one, in proportion.

    A step up from a small demand is no promise of larger ones: it counts as it was.
    """
    return min(now / then, 1.0) if then > 0.0 else 1.0


def _chunks(known: Sequence[tuple[float, float]], total: float) -> list[float]:
    """Weighted means of consecutive parts of sorted values."""
    means, index, left = [], 0, known[0][1]
    for share in SHARES:
        wanted, value, taken = share * total, 0.0, 0.0
        while taken < wanted - 1e-12 and index < len(known):
            take = min(left, wanted - taken)
            value, taken, left = value + take * known[index][0], taken + take, left - take
            if left <= 1e-12:
                index += 1
                left = known[index][1] if index < len(known) else 0.0
        means.append(value / taken if taken > 0 else known[-1][0])
    return means
