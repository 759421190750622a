"""The ``slo`` analyzer: look at every group, size all of them at once in replicas of their reference variants. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.types import FleetSnapshot, VariantObservation
from wva.slo import forecast, misses, sizing
from wva.slo.law import Law, shown, unsure
from wva.slo.mix import stay_table
from wva.slo.observe import Seen, look, reference
from wva.slo.state import GroupMemory
from wva.types import Policy, VariantView

Array = NDArray[np.float64]
BUDGET_AIM: Final = 0.8
"""Of the misses that the objective allows, what is aimed at: the rest is for what nobody foresees."""
DEARER: Final = 3.0
DEARNESS_LIMITS: Final = (1.0, 3.0)
BUDGET_START: Final = 1.0
"""What a plan expects of them when as many missed as aimed at."""
BUDGET_LIMITS: Final = (0.5, 1.3)
"""What a plan may expect of them, however much or little was spent."""
BUDGET_PRIOR: Final = 2000.0
"""Requests at the aim that the budget's account begins with."""

TRIED: Final = 25.0
"""Requests (tempered) seen at a level that make it a tried one."""
BOLD: Final = 1.25
"""A decrease may raise the load to so many times the highest that was tried."""
TESTED: Final = 1
"""Forecasts that must have come due before anything is taken away: what is new here knows no change of the load yet."""
STEP_FROM: Final = 1.1
"""The present load counts as tried up to so many times the highest tried one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInput:
    """One group before the look."""

    views: tuple[VariantView, ...]
    entries: tuple[VariantObservation, ...]
    memory: GroupMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a group needs, in replicas of its reference variant."""

    replicas: float
    """That cost least under the forecast, misses included: a whole number, or what stands already."""
    present: int
    """Fewest that bear the present demand within the objective."""
    standing: float
    """What was asked for, in the same unit."""
    demand_rps: float
    forecast: forecast.Forecast
    """In requests a second."""
    missed: float
    """Share of misses expected with ``replicas``."""
    missed_as_is: float
    """With what was asked for."""
    patience: float
    """Share of the scale-down window that a decrease must be wanted for; 0..1."""
    warm_loss: float
    """Work that the warm caches of the replicas that go, or of one that would, add at first, as a share of all work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """A group after the look."""

    seen: Seen
    capacity: Mapping[str, float]
    """Requests a second that a replica of each variant bears within the objective."""
    need: Need | None
    """``None`` before arrivals were seen for long enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One group that can be sized, told in its reference variant."""

    group: GroupInput
    seen: Seen
    told: forecast.Forecast
    table: Array
    """Expected misses of the reference by level."""
    capacity: Mapping[str, float]
    budget: float
    base: VariantView
    law: Law
    """Of the reference."""

    def replicas(self, what: str) -> float:
        """``ready``, ``requested`` or ``pending`` of all variants, in replicas of the reference."""
        own = self.capacity[self.base.spec.name]
        return math.fsum(getattr(view, what) * self.capacity[view.spec.name] for view in self.group.views) / own


def assess(groups: Sequence[GroupInput], snapshot: FleetSnapshot, *, now_s: float, rules: Policy) -> list[Assessment]:
    """What each group needs, in order; what to remember is in ``seen.memory``."""
    looked = [look(one.views, one.entries, snapshot, one.memory, now_s=now_s, rules=rules) for one in groups]
    rows: dict[int, _Row] = {}
    capacities = []
    for index, (group, table) in enumerate(zip(groups, _tables(groups, looked), strict=True)):
        share = budget(looked[index].memory, objective(group.views, rules))
        capacities.append(_capacities(group, looked[index], table, share))
        if looked[index].demand_rps is not None:
            looked[index], told = _foretold(group, looked[index], now_s, rules)
            base = reference(group.views)
            rows[index] = _Row(group=group, seen=looked[index], told=told, capacity=capacities[-1], budget=share,
                               base=base, law=looked[index].laws[base.spec.name],
                               table=table[base.spec.name])  # fmt: skip
    needs = dict(zip(rows, _sized(list(rows.values()), rules), strict=True))
    return [Assessment(seen=seen, capacity=capacity, need=needs.get(index))
            for index, (seen, capacity) in enumerate(zip(looked, capacities, strict=True))]  # fmt: skip


def objective(views: Sequence[VariantView], rules: Policy) -> float:
    """Share of a model's requests that are to meet their targets: the strictest of its variants'."""
    return max(view.spec.slo_objective or rules.slo_objective for view in views)


def budget(memory: GroupMemory, aim: float) -> float:
    """Share of requests that a plan may expect to miss: less while too many missed of late, more while few did."""
    allowed = 1.0 - aim
    return allowed * min(max(BUDGET_START + BUDGET_AIM - _spent(memory, aim), BUDGET_LIMITS[0]), BUDGET_LIMITS[1])


def dearness(memory: GroupMemory, aim: float) -> float:
    """What a miss costs more than usual: much more while the error budget is overspent, less while it is not used."""
    return min(max(math.exp(DEARER * (_spent(memory, aim) / BUDGET_AIM - 1.0)), DEARNESS_LIMITS[0]), DEARNESS_LIMITS[1])


def _spent(memory: GroupMemory, aim: float) -> float:
    """Misses of late over those that the objective allows; the account begins at the aim."""
    allowed = 1.0 - aim
    return (memory.missed + BUDGET_PRIOR * BUDGET_AIM * allowed) / (memory.answered + BUDGET_PRIOR) / allowed


def _foretold(group: GroupInput, seen: Seen, now_s: float, rules: Policy) -> tuple[Seen, forecast.Forecast]:
    """The forecast in requests a second, and the group with its memory of forecasts."""
    unit = seen.costs[reference(group.views).spec.name].work_s
    work = seen.memory.level.work if seen.memory.level else 0.0
    told, memory = forecast.step(seen.memory.forecast, work, now_s=now_s, horizon_s=seen.lead_s + rules.react_s / 2)
    seen = replace(seen, memory=replace(seen.memory, forecast=memory))
    if not rules.forecast:
        told = replace(told, point=work, parts=(work,) * len(told.parts), method="off")
    return seen, replace(told, point=told.point / unit, parts=tuple(part / unit for part in told.parts))


# ---- tables of misses


def _tables(groups: Sequence[GroupInput], looked: Sequence[Seen]) -> list[dict[str, Array]]:
    """Expected misses by level of each variant of each group, all worked out together."""
    keys = [(index, view.spec.name) for index, group in enumerate(groups) for view in group.views]
    if not keys:
        return []
    good, missed = np.zeros((len(keys), len(misses.LEVELS))), np.zeros((len(keys), len(misses.LEVELS)))
    for row, (index, name) in enumerate(keys):
        for tally in looked[index].memory.variants[name].tallies:
            good[row, tally.column], missed[row, tally.column] = tally.good, tally.missed
    priors: dict[float, Array] = {}
    for index, name in keys:
        spread = looked[index].laws[name].spread
        if spread not in priors:
            priors[spread] = misses.prior(spread)
    before = np.stack([priors[looked[index].laws[name].spread] for index, name in keys])
    table = misses.expected(before + misses.evidence(good, missed))
    found: list[dict[str, Array]] = [{} for _ in groups]
    for row, (index, name) in enumerate(keys):
        found[index][name] = table[row]
    return found


def _capacities(group: GroupInput, seen: Seen, table: Mapping[str, Array], share: float) -> dict[str, float]:
    found = {}
    for view in group.views:
        law = seen.laws[view.spec.name]
        found[view.spec.name] = max(law.rate(law.level * misses.bearable(table[view.spec.name], share)), 1e-6)
    return found


# ---- sizing


def _sized(rows: Sequence[_Row], rules: Policy) -> list[Need]:
    if not rows:
        return []
    batch = _batch(rows, rules)
    standing = np.array([row.replicas("requested") for row in rows])
    capacity = np.array([row.capacity[row.base.spec.name] for row in rows])
    present = np.maximum(np.ceil(batch.demand / capacity - 1e-9), 0.0)
    ahead = batch.ahead.max(axis=1)
    high = np.ceil(1.3 * np.maximum(ahead, batch.demand) / capacity + batch.in_flight / batch.full) + 2
    low = np.maximum(np.floor(0.5 * batch.ahead.min(axis=1) / capacity), 1.0)
    cheapest, _, _ = sizing.search(batch, low, high)
    chosen = _surviving(batch, cheapest.astype(float), standing, rules.hpa_tolerance)
    chosen = np.maximum(chosen, [_explored(row, count, rules) for row, count in zip(rows, standing, strict=True)])
    both = sizing.outlook(batch, np.maximum(np.stack([standing, chosen], axis=1), 0.05)).missed
    fewer = np.where(chosen < standing - 1e-6, chosen, np.maximum(batch.serving - 1.0, 0.0))
    loss = batch.warm * sizing.lost_share(batch, fewer[:, None])[:, 0]
    return [
        Need(replicas=float(n), present=int(p), standing=float(s), demand_rps=float(d), forecast=row.told,
             missed=float(m), missed_as_is=float(a), patience=_patience(row, float(n), float(m)), warm_loss=float(w))
        for row, n, p, s, d, w, m, a in zip(rows, chosen, present, standing, batch.demand, loss, *both.T[::-1],
                                            strict=True)
    ]  # fmt: skip


def _tried_rps(row: _Row, factor: float) -> float:
    """Rate of one replica at so many times the highest level of load that enough requests were seen at."""
    tallies = row.seen.memory.variants[row.base.spec.name].tallies
    tried = [one.column for one in tallies if one.good + one.missed >= TRIED]
    level = row.law.level * float(misses.LEVELS[max(tried)]) if tried else 0.0
    return row.law.rate(max(factor * level, 1e-3))


def _explored(row: _Row, standing: float, rules: Policy) -> float:
    """Fewest replicas whose load is not far beyond any that was seen: what nobody tried is tried in steps.

    A single step (one that the HPA's tolerance does not swallow) may always be tried from a load that was.
    """
    if row.told.trials < TESTED:
        return standing
    if not row.seen.memory.variants[row.base.spec.name].tallies:
        return 0.0
    demand = row.seen.demand_rps or 0.0
    least = math.ceil(demand / _tried_rps(row, BOLD) - 1e-9)
    tried_now = demand <= max(standing, 1.0) * _tried_rps(row, STEP_FROM)
    step = math.floor(round(standing) * rules.hpa_tolerance + 1e-9) + 1.0
    return min(least, standing - step if tried_now else standing)


def _patience(row: _Row, count: float, missed: float) -> float:
    """Share of the window that a decrease to ``count`` must be wanted for.

    Where the load of those that stay was tried before, so much of it as the expected misses are of what a decrease may
    expect; all of it where nobody knows.
    """
    if (row.seen.demand_rps or 0.0) > count * _tried_rps(row, 1.0):
        return 1.0
    return min(missed / (sizing.CALM * row.budget), 1.0)


def _surviving(batch: sizing.Batch, chosen: Array, standing: Array, tolerance: float) -> Array:
    """Where an HPA's tolerance would swallow the step: a larger one, or none, whichever costs less."""
    least = np.floor(np.round(standing) * tolerance + 1e-9) + 1.0
    step = chosen - standing
    lost = (np.abs(step) < least) & (np.abs(step) > 1e-6)
    bigger = np.maximum(np.where(step > 0, np.ceil(standing + least - 1e-9), np.floor(standing - least + 1e-9)), 1.0)
    grid = np.maximum(
        np.stack([chosen, np.where(lost, standing, chosen), np.where(lost, bigger, chosen)], axis=1), 0.05
    )
    found = sizing.outlook(batch, grid)
    allowed = np.where(lost[:, None], np.array([[False, True, True]]), True)
    order = np.argsort(grid, axis=1, kind="stable")
    cost = np.where(allowed, sizing.weighed(found, grid, batch), np.inf)
    cost = np.where(np.isfinite(cost).any(axis=1, keepdims=True), cost, np.where(allowed, found.cost, np.inf))
    index = np.take_along_axis(order, np.argmin(np.take_along_axis(cost, order, axis=1), axis=1)[:, None], axis=1)
    return np.asarray(np.take_along_axis(grid, index, axis=1)[:, 0])


def _stays(laws: Sequence[Law]) -> Array:
    """Seconds of a request by tabulated level."""
    running = np.minimum(np.array([law.level for law in laws])[:, None] * misses.LEVELS[None, :],
                         np.array([law.full for law in laws])[:, None])  # fmt: skip
    lone = np.array([law.cost.lone_s for law in laws])[:, None]
    share = lone / (lone + np.array([law.cost.work_s for law in laws])[:, None] * running)
    by_lone, by_work = (np.array([getattr(law, name) for law in laws])[:, None] for name in ("lone", "work"))
    return np.asarray(stay_table([law.cost for law in laws], running) * (by_lone * share + by_work * (1.0 - share)))


def _refill_s(row: _Row) -> float:
    """Seconds in which the prompts that a replica gets fill its KV cache."""
    held, tokens_s = row.seen.heard[row.base.spec.name].kv_tokens, (row.seen.demand_rps or 0.0) * row.seen.mix.prompt
    return row.replicas("ready") * held / tokens_s if held and tokens_s > 0 else math.inf


def _batch(rows: Sequence[_Row], rules: Policy) -> sizing.Batch:
    def column(values: Iterable[float]) -> Array:
        return np.array(list(values), dtype=float)

    leads = column(row.seen.lead_s for row in rows)
    specs = [row.base.spec for row in rows]
    stays = _stays([row.law for row in rows])
    sights = [_sight(row, stay_s, rules) for row, stay_s in zip(rows, stays, strict=True)]
    return sizing.Batch(
        stay_s=stays, full=column(row.law.full for row in rows),
        level=column(row.law.level for row in rows), misses=np.stack([row.table for row in rows]),
        demand=column(row.seen.demand_rps or 0.0 for row in rows), ahead=np.array([row.told.parts for row in rows]),
        in_flight=column(row.seen.in_flight for row in rows), serving=column(row.replicas("ready") for row in rows),
        standing=column(row.replicas("requested") for row in rows),
        coming=column(row.replicas("pending") for row in rows), coming_s=0.5 * leads, lead_s=leads,
        react_s=np.full(len(rows), rules.react_s), ttft_s=column(s.slo_ttft_s or rules.slo_ttft_s for s in specs),
        budget=column(row.budget for row in rows),
        price=column(rules.miss_cost * dearness(row.seen.memory, objective(row.group.views, rules))
                     / row.capacity[row.base.spec.name] for row in rows),
        warm=column(row.law.cost.saved_s / row.law.cost.work_s for row in rows),
        hit_ratio=column(row.seen.mix.hit_ratio for row in rows),
        refill_s=column(_refill_s(row) for row in rows),
        dispersion=column(row.seen.memory.level.dispersion if row.seen.memory.level else 0.0 for row in rows),
        unsure=column(unsure(row.seen.memory.variants[row.base.spec.name].correction, row.law) for row in rows),
        shown=column(one[0] for one in sights), noise=column(one[1] for one in sights),
        sight_s=column(one[2] for one in sights),
    )  # fmt: skip


def _sight(row: _Row, stays_s: Array, rules: Policy) -> tuple[float, float, float]:
    """How the present load on what serves now shows the law: what :func:`shown` says, and the seconds of a stay.

    Args:
        stays_s: of a request, by tabulated level.
    """
    running = np.minimum(row.law.level * misses.LEVELS, row.law.full)
    demand, serving = row.seen.demand_rps or 0.0, max(row.replicas("ready"), 1e-3)
    level = float(np.interp(demand / serving, running / stays_s, running))
    correction = row.seen.memory.variants[row.base.spec.name].correction
    share, noise = shown(correction, row.law, running=level, samples=demand * rules.react_s)
    return share, noise, float(np.interp(level, running, stays_s))
