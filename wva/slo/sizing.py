"""Which number of replicas costs least when a missed request has its price. Pure; all groups at once.

For each candidate number the in-flight requests are followed as a fluid in two stretches: from now until a replica
asked for now would serve (with what serves and starts already), and from there for as long as it would take to
correct the decision (a reaction and another lead time), under each part of the forecast. Requests that arrive at a
level of load miss at the share of that level, averaged over what chance and an unsure law make of the level; those that
find a queue longer than the TTFT target all miss; what still waits at the end has missed too. The expected cost of a
candidate is its replicas plus the price of its misses; among the candidates that are expected to keep the objective the
cheapest wins, otherwise the cheapest of all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wva.slo.forecast import SHARES
from wva.slo.misses import LIFE_AT_LEAST_S, LOG_FIRST, LOG_STEP

Array = NDArray[np.float64]
LEAD_STEPS: Final = 4
FORGETS: Final = 0.5
"""Cache misses grow as the caches shrink, to this power: the square-root rule of caches."""
CALM: Final = 0.7
"""Of the misses that the objective allows, what a decrease may expect."""
STEPS: Final = 6
_NODES: Final = ((0.0, 2 / 3), (-math.sqrt(3.0), 1 / 6), (math.sqrt(3.0), 1 / 6))
"""A normal distribution by three values, in standard deviations, and their weights (Gauss and Hermite)."""
_PARTS: Final = np.array(SHARES)
_SETTLES: Final = 1e-3
"""Of what is too many in flight, the share that leaves in a stay at least: nothing, but for a division."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Groups to size, one row each; a *replica* is one of the group's reference variant."""

    stay_s: Array
    """Seconds of a request by level, (groups, levels)."""
    full: Array
    level: Array
    """In flight of level 1 in the tables of misses."""
    misses: Array
    """Expected share by level, (groups, levels)."""
    demand: Array
    """Now, requests a second."""
    ahead: Array
    """When a replica could be ready: requests a second by part of the forecast, (groups, parts)."""
    in_flight: Array
    serving: Array
    """Replicas that serve now."""
    standing: Array
    """Replicas asked for."""
    coming: Array
    """Replicas that start, and the seconds until they serve."""
    coming_s: Array
    lead_s: Array
    react_s: Array
    ttft_s: Array
    budget: Array
    """Share of requests that may miss."""
    price: Array
    """Replica-seconds that a missed request costs."""
    warm: Array
    """Work that prefix caches save, over the work that is left; 0: nothing is lost with a cache."""
    hit_ratio: Array
    refill_s: Array
    """In which a cache takes in as much as it holds; infinite where its size is not known."""
    dispersion: Array
    """Variance over mean of the requests that arrive in a stretch: 0 where they come evenly, 1 where by chance."""
    unsure: Array
    """Relative standard deviation of what is known of a request's time."""
    shown: Array
    """Share of that one's variance which goes as the present load is seen on what serves now, again and again."""
    noise: Array
    """Sights of it until half of that share is gone."""
    sight_s: Array
    """Seconds until the first sight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What each candidate comes to, (groups, candidates)."""

    cost: Array
    """Replica-seconds a second, the price of misses included."""
    missed: Array
    """Expected share of misses."""


def outlook(batch: Batch, candidates: Array) -> Outlook:
    """Expected cost of each candidate.

    Args:
        candidates: replicas asked for, (groups, candidates); at least a small positive number.
    """
    colder = _Colder(batch, candidates)
    start = _until_ready(batch, candidates, colder)
    count = candidates[:, :, None]
    rate = batch.ahead[:, None, :] * np.ones_like(count)
    exposed_s = (batch.lead_s + batch.react_s)[:, None, None]
    flight = start
    missed, flow = np.zeros_like(flight), _Flow(batch, flight, count)
    for index in range(STEPS):
        from_s = batch.lead_s[:, None, None] + index / STEPS * exposed_s
        missed += rate * _share(batch, flight, count, from_s) * exposed_s / STEPS
        flight = flow.after(flight, rate * colder.factor(from_s, exposed_s / STEPS), exposed_s / STEPS)
    missed += np.maximum(flight - count * batch.full[:, None, None] - _patience(batch) * count, 0.0)
    arrived = np.maximum(rate * exposed_s, 1e-9)
    per_part = np.minimum(missed / arrived, 1.0)
    share = (per_part * _PARTS).sum(axis=2)
    lost_rps = (per_part * rate * _PARTS).sum(axis=2)
    return Outlook(cost=candidates + batch.price[:, None] * lost_rps, missed=share)


def lost_share(batch: Batch, candidates: Array) -> Array:
    """Share of the warm caches that goes with a decrease to each candidate, (groups, candidates)."""
    serving = batch.serving[:, None]
    return np.asarray(np.clip(serving - candidates, 0.0, None) / np.maximum(serving, 1e-9), dtype=np.float64)


class _Colder:
    """Work that lost caches add.

    At first whoever found its prefix there computes it again. Where that happens it is kept, so that the loss is
    forgotten in about a cache's time to fill; what stays is that all caches together hold less.
    """

    def __init__(self, batch: Batch, candidates: Array) -> None:
        self._refill_s = batch.refill_s[:, None, None]
        self._none = not batch.warm.any()
        if not self._none:
            warm, hit = batch.warm[:, None, None], batch.hit_ratio[:, None, None]
            lost = lost_share(batch, candidates)[:, :, None]
            missed_more = (1.0 - hit) / np.maximum(hit, 1e-9) * (np.maximum(1.0 - lost, 1e-9) ** -FORGETS - 1.0)
            self._for_good = warm * np.minimum(missed_more, lost)
            self._at_first = warm * lost - self._for_good

    def factor(self, from_s: Array, step_s: Array) -> Array | float:
        """All work in a stretch of time over what it would be with these caches."""
        if self._none:
            return 1.0
        spent = np.maximum(step_s / self._refill_s, 1e-12)
        fresh = np.exp(-from_s / self._refill_s) * -np.expm1(-spent) / spent
        return np.asarray(1.0 + self._for_good + self._at_first * fresh)


def _until_ready(batch: Batch, candidates: Array, colder: _Colder) -> Array:
    """In flight when a replica asked for now serves, (groups, candidates, parts).

    Until then what serves and starts already bears the load; what a candidate gives up, it gives up now.
    """
    asked, ahead = candidates[:, :, None], batch.ahead[:, None, :]
    demand, serving = batch.demand[:, None, None], batch.serving[:, None, None]
    flight = batch.in_flight[:, None, None] * np.ones_like(asked * ahead)
    flow = _Flow(batch, flight, np.maximum(np.minimum(serving, asked), 1e-3))
    step_s = (batch.lead_s / LEAD_STEPS)[:, None, None]
    for index in range(LEAD_STEPS):
        middle = (index + 0.5) / LEAD_STEPS
        coming = np.where(batch.coming_s <= middle * batch.lead_s, batch.coming, 0.0)[:, None, None]
        flow.count = np.maximum(np.minimum(serving + coming, asked), 1e-3)
        rate = (demand + (ahead - demand) * middle) * colder.factor(index * step_s, step_s)
        flight = flow.after(flight, rate, step_s)
    return flight


class _Flow:
    """In flight over time; whoever arrived before the beginning leaves as they came, the slower the fuller it gets.

    Until those are through, a pool that fills gives fewer answers than before, not more.
    """

    def __init__(self, batch: Batch, flight: Array, count: Array) -> None:
        self._batch, self.count = batch, count
        self._full = batch.full[(slice(None),) + (None,) * (flight.ndim - 1)]
        running = np.minimum(flight, count * self._full)
        self._first_s = _looked_up(batch, batch.stay_s, running / count)
        self._first_rps = running / self._first_s
        self._done: Array = np.zeros_like(flight)
        """Part of a stay that has passed since."""

    def after(self, flight: Array, rate: Array, step_s: Array) -> Array:
        """In flight after a step: what arrives less what leaves at this level, and less of that at first."""
        running = np.minimum(flight, self.count * self._full)
        stay_s = _looked_up(self._batch, self._batch.stay_s, running / self.count)
        # a constant stay is followed exactly, so that long steps do not overshoot
        settling = running + (rate * stay_s - running) * -np.expm1(-step_s / stay_s)
        leaving = np.where(flight > running, running / stay_s, rate - (settling - running) / step_s)
        early = np.clip((1.0 - self._done) * stay_s / step_s, 0.0, 1.0)
        first_rps = self._first_rps * np.minimum(self._first_s / stay_s, 1.0)
        leaving = leaving + early * (np.minimum(leaving, first_rps) - leaving)
        self._done = self._done + step_s / stay_s
        return np.asarray(np.maximum(flight + (rate - leaving) * step_s, 0.0), dtype=np.float64)


def _looked_up(batch: Batch, table: Array, in_flight: Array) -> Array:
    """A table's values at so many in flight per replica, between its levels."""
    shape = (slice(None),) + (None,) * (in_flight.ndim - 1)
    place = (np.log(np.maximum(in_flight / batch.level[shape], 1e-9)) - LOG_FIRST) / LOG_STEP
    place = np.clip(place, 0.0, table.shape[1] - 1 - 1e-6)
    low = place.astype(np.int64)
    rows = np.arange(len(table))[shape]
    first = table[rows, low]
    return np.asarray(first + (table[rows, low + 1] - first) * (place - low), dtype=np.float64)


def _share(batch: Batch, flight: Array, count: Array, after_s: Array) -> Array:
    """Share of the requests that arrive and miss, over what may be in flight where ``flight`` is expected."""
    swing = _swing(batch, flight, count, after_s)
    shares = [weight * _share_at(batch, np.maximum(flight + z * swing, 0.0) / count) for z, weight in _NODES]
    return np.asarray(sum(shares), dtype=np.float64)


def _swing(batch: Batch, flight: Array, count: Array, after_s: Array) -> Array:
    """Standard deviation of the requests in flight about what is expected, so many seconds ahead.

    What comes by chance leaves again after its stay, and later the more a stay grows with the load: a pool near its
    limit forgets slowly, and a wrong law has as long to tell. Of chance, what the table of misses was learned over is
    in there already.
    """
    full = batch.full[:, None, None]
    running = np.minimum(flight / count, full)
    stay_s = _looked_up(batch, batch.stay_s, running)
    growth = np.log(_looked_up(batch, batch.stay_s, running * math.exp(LOG_STEP)) / stay_s) / LOG_STEP
    settles = np.where(flight < full * count, np.maximum(1.0 - growth, _SETTLES), _SETTLES)
    stays = -np.expm1(-settles * after_s / stay_s) / settles
    inside = running * count * stays
    learned = np.maximum(stay_s, LIFE_AT_LEAST_S) / np.maximum(stays * stay_s, 1e-6)
    left = 2.0 * (learned + np.expm1(-learned)) / learned**2
    chance = batch.dispersion[:, None, None] * inside * left
    return np.asarray(np.sqrt(chance + (_unsure(batch, count, after_s) * inside) ** 2), dtype=np.float64)


def _unsure(batch: Batch, count: Array, after_s: Array) -> Array:
    """Relative standard deviation of what is known of a request's time when it counts, so many seconds ahead.

    The present load shows the law meanwhile, on what serves now; what it shows until a start before then is corrected
    in time. Where replicas go at once, nothing of it is.
    """
    sights = np.maximum(after_s - (batch.lead_s + batch.sight_s)[:, None, None], 0.0) / batch.react_s[:, None, None]
    gone = batch.shown[:, None, None] * sights / (sights + batch.noise[:, None, None])
    gone = np.where(count >= batch.serving[:, None, None] - 1e-6, gone, 0.0)
    return np.asarray(batch.unsure[:, None, None] * np.sqrt(1.0 - gone), dtype=np.float64)


def _share_at(batch: Batch, in_flight: Array) -> Array:
    """Share of the requests that arrive at so many in flight per replica and miss."""
    queue = np.maximum(in_flight - batch.full[:, None, None], 0.0) / np.maximum(_patience(batch), 1e-9)
    share = _looked_up(batch, batch.misses, in_flight)
    return np.asarray(np.maximum(share, np.minimum(queue, 1.0) ** 2), dtype=np.float64)


def _patience(batch: Batch) -> Array:
    """Requests that may wait at a full replica and still have their first token in time."""
    full = batch.full[:, None]
    top = full / _looked_up(batch, batch.stay_s, full)
    return np.asarray((top * batch.ttft_s[:, None])[:, :, None], dtype=np.float64)


def weighed(found: Outlook, candidates: Array, batch: Batch) -> Array:
    """Cost of each candidate; infinite where another one keeps the objective and it does not.

    A smaller number than what is asked for must keep it by a margin, or noise alone would move replicas to and fro.
    """
    limit = np.where(candidates < batch.standing[:, None] - 1e-6, CALM, 1.0) * batch.budget[:, None]
    keeps = found.missed <= limit
    return np.where(keeps | ~keeps.any(axis=1, keepdims=True), found.cost, np.inf)


def best(found: Outlook, candidates: Array, batch: Batch) -> NDArray[np.int64]:
    """Index of the candidate to take in each row: the cheapest that keeps the objective, else the cheapest."""
    cost = weighed(found, candidates, batch)
    # of equals the first, so the smallest number of replicas
    return np.asarray(np.argmin(cost, axis=1), dtype=np.int64)


def search(batch: Batch, low: Array, high: Array, *, width: int = 12) -> tuple[NDArray[np.int64], Outlook, Array]:
    """The best whole number of replicas between two bounds: over a coarse grid, then around its best.

    Returns: replicas by group, the last grid's outlook and its candidates.
    """
    low = np.maximum(np.floor(low), 1.0)
    high = np.maximum(np.ceil(high), low)
    while True:
        stride = np.maximum(np.ceil((high - low + 1) / width), 1.0)
        grid = low[:, None] + np.arange(width)[None, :] * stride[:, None]
        found = outlook(batch, grid)
        chosen = grid[np.arange(len(grid)), best(found, grid, batch)]
        if (stride <= 1.0).all():
            return chosen.astype(np.int64), found, grid
        low = np.maximum(chosen - stride, 1.0)
        high = chosen + stride
