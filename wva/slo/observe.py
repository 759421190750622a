"""What one look at a group teaches: readings, mix, start-up times, corrections of the law, misses by level. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.types import FleetSnapshot, ModelTraffic, ReplicaState, VariantObservation
from wva.saturation import usable
from wva.slo import misses, prior
from wva.slo.demand import Passage, Reading, Weights, level, passage, remembered, steady, within
from wva.slo.heard import Heard, hear
from wva.slo.law import Correction, Law, first, updated
from wva.slo.mix import Cost, Mix
from wva.slo.prior import adopted, law_of
from wva.slo.state import GroupMemory, Tally, VariantMemory
from wva.types import Policy, VariantView

MIX_S: Final = 120.0
"""Mean prompts are over so long; answers over all readings that are kept."""
MIX_FIRST: Final = Mix(prompt=1000.0, output=200.0)
"""Before any request was counted."""
MIX_MIN: Final = 8.0
"""Requests that a mean needs."""
RATES: Final = "rates"
"""Source of totals that are added up here from the engines' rates."""
LEADS: Final = 24
TOLD: Final = 1.0
"""Starts that the platform's word on them counts for."""
GUESSED: Final = 0.25
"""Starts that the setting counts for where the platform says nothing: the first one seen all but replaces it."""
LEAD_SPREAD: Final = 0.1
"""Relative spread of start-up times before it was seen, with the weight of :data:`LEAD_SPREAD_WEIGHT` starts."""
LEAD_SPREAD_WEIGHT: Final = 2.0
LEAD_Z: Final = 0.84
"""What is planned with lies so many standard deviations above the mean: four of five starts take no longer."""
LEAD_LEAST_S: Final = 0.5
NEVER_S: Final = 0.0
FRESH_START_S: Final = 60.0
"""A replica that is older than this when it is first seen to start was there before: its age is no start-up time."""
TALLY_HALF_LIFE_S: Final = 3600.0
BUDGET_HALF_LIFE_S: Final = 6 * 3600.0
"""The error budget is kept over about so long."""
WAITS: Final = 0.02
"""Requests that wait in engines, as a share of the running ones, up to which none counts as waiting."""
SMOOTH: Final = 0.3
"""Weight of a new look at what a request holds of the KV memory and finds in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A group after a look: everything that sizing needs."""

    memory: GroupMemory
    mix: Mix
    costs: Mapping[str, Cost]
    laws: Mapping[str, Law]
    in_flight: float
    """Requests of the model in flight now; 0 when blind."""
    demand_rps: float | None
    """Arrivals, averaged over a steady window; ``None`` before two readings."""
    lead_s: float
    heard: Mapping[str, Heard]
    """By variant."""
    blind: bool = False
    """Replicas are asked for, none reports and nobody counted requests of late: nothing was learned in this look."""


def reference(views: Sequence[VariantView]) -> VariantView:
    """The variant in whose replicas a group is counted: the first by name, so that it does not change."""
    return min(views, key=lambda view: view.spec.name)


def look(
    views: Sequence[VariantView], entries: Sequence[VariantObservation], snapshot: FleetSnapshot, memory: GroupMemory,
    *, now_s: float, rules: Policy,
) -> Seen:  # fmt: skip
    """The group as of this pass."""
    traffic = _fresh_traffic(snapshot, views[0].spec.model, now_s, rules)
    if traffic is None and not any(view.fresh for view in views) and any(view.requested for view in views):
        return _unlit(views, entries, memory, now_s=now_s, rules=rules)
    heard = {view.spec.name: hear(view.fresh) for view in views}
    ahead_s = snapshot.traffic_ahead_s.get(views[0].spec.model, 0.0)
    reading = _reading(traffic, views, heard, memory, now_s=now_s, rules=rules)
    readings = remembered(memory.readings, reading)
    mix = _mix(readings, memory.mix, heard.values())
    base = reference(views)
    memory = adopted(views, base.spec, heard, memory, snapshot.fitted, mix=mix, now_s=now_s, rules=rules)
    costs = prior.costs(views, memory, mix)
    known = _learned(heard, costs, memory, readings, now_s, counted_s=now_s + (ahead_s if traffic else 0.0))
    laws = _laws(views, heard, costs, known, mix=mix, rules=rules)
    known = _tallied(known, laws, readings, memory.readings, now_s)
    own = costs[base.spec.name]
    token_s = own.prefill_s / mix.prompt if mix.prompt > 0 else 0.0
    weights = Weights(request_s=own.work_s - own.prefill_s, token_s=token_s)
    now = level(readings, weights, own.work_s, memory.level, lead_s=lead_s(base, memory, rules))
    answered, missed = _spent(memory, readings)
    starting, leads = _starts(entries, memory, now_s, rules.startup_timeout_s)
    memory = replace(
        memory, readings=readings, level=now or memory.level, mix=mix, variants=known, starting=starting, leads_s=leads,
        answered=answered, missed=missed,
        busy_s=now_s if reading.in_flight > 0 or _moved(memory.readings, reading) else memory.busy_s or now_s,
    )  # fmt: skip
    return Seen(
        memory=memory, mix=mix, costs=costs, laws=laws, in_flight=reading.in_flight,
        demand_rps=now.work / own.work_s if now else None, lead_s=lead_s(base, memory, rules), heard=heard,
    )  # fmt: skip


def _unlit(
    views: Sequence[VariantView], entries: Sequence[VariantObservation], memory: GroupMemory, *, now_s: float,
    rules: Policy,
) -> Seen:  # fmt: skip
    """A look in the dark: silence is no load of 0. What was learned stays; readings begin anew, for across the gap they
    would book what nobody watched."""
    mix = memory.mix or MIX_FIRST
    costs = prior.costs(views, memory, mix)
    known = {view.spec.name: memory.variants.get(view.spec.name)
             or VariantMemory(correction=first(costs[view.spec.name].known)) for view in views}  # fmt: skip
    heard = {view.spec.name: hear(view.fresh) for view in views}
    laws = _laws(views, heard, costs, known, mix=mix, rules=rules)
    starting, leads = _starts(entries, memory, now_s, rules.startup_timeout_s)
    memory = replace(memory, readings=(), variants=known, starting=starting, leads_s=leads,
                     busy_s=memory.busy_s or now_s)  # fmt: skip
    return Seen(memory=memory, mix=mix, costs=costs, laws=laws, in_flight=0.0, demand_rps=None,
                lead_s=lead_s(reference(views), memory, rules), heard=heard, blind=True)  # fmt: skip


def _moved(readings: Sequence[Reading], new: Reading) -> bool:
    return bool(readings) and new.arrived > readings[-1].arrived


def lead_s(base: VariantView, memory: GroupMemory, rules: Policy) -> float:
    """Start-up time to plan with: what was known beforehand, drawn towards the starts that were seen; a high quantile.

    Means are of logarithms: a prior of two minutes and one start of 8 s make 14 s, and two of them 11 s.
    """
    told = base.spec.startup_s
    prior_s, weight = (rules.lead_time_s, GUESSED) if told is None else (told, TOLD)
    seen = [math.log(max(lead, LEAD_LEAST_S)) for lead in memory.leads_s]
    mean = (weight * math.log(max(prior_s, LEAD_LEAST_S)) + math.fsum(seen)) / (weight + len(seen))
    middle = math.fsum(seen) / len(seen) if seen else mean
    spread = LEAD_SPREAD_WEIGHT * LEAD_SPREAD**2 + math.fsum((one - middle) ** 2 for one in seen)
    return math.exp(mean + LEAD_Z * math.sqrt(spread / (LEAD_SPREAD_WEIGHT + len(seen))))


# ---- readings


def _fresh_traffic(snapshot: FleetSnapshot, model: str, now_s: float, rules: Policy) -> ModelTraffic | None:
    traffic = snapshot.traffic.get(model)
    age_s = snapshot.traffic_age_of(model, now_s)
    if traffic is None or traffic.arrived_total is None or age_s is None or age_s > rules.stale_after_s:
        return None
    return traffic


def _reading(
    traffic: ModelTraffic | None, views: Sequence[VariantView], heard: Mapping[str, Heard], memory: GroupMemory, *,
    now_s: float, rules: Policy,
) -> Reading:  # fmt: skip
    ready = sum(view.ready for view in views)
    engines = _in_engines(views, heard)
    last = memory.readings[-1] if memory.readings and memory.readings[-1].source == RATES else None
    if traffic is None:
        return _integrated(views, engines, last, now_s, ready)
    held = usable(traffic.in_flight)
    spec = views[0].spec
    ttft, tpot = traffic.ttft, traffic.tpot
    ttft_s, tpot_s = spec.slo_ttft_s or rules.slo_ttft_s, spec.slo_tpot_s or rules.slo_tpot_s
    return Reading(
        at_s=traffic.at_s, arrived=traffic.arrived_total or 0.0, prompt_tokens=traffic.prompt_tokens_total or 0.0,
        finished=traffic.finished_total or 0.0, generation_tokens=traffic.generation_tokens_total or 0.0,
        in_flight=engines if held is None else held, ready=ready,
        first_good=within(ttft, ttft_s) if ttft else 0.0, first_all=ttft.count if ttft else 0.0,
        paced_good=within(tpot, tpot_s) if tpot else 0.0, paced_all=tpot.count if tpot else 0.0, source=traffic.source,
    )  # fmt: skip


def _in_engines(views: Sequence[VariantView], heard: Mapping[str, Heard]) -> float:
    """Requests running and waiting in engines; replicas that do not report count as the mean of those that do."""
    total = 0.0
    for view in views:
        one = heard[view.spec.name]
        if one.samples:
            total += one.in_flight / one.samples * view.ready
    return total


def _integrated(
    views: Sequence[VariantView], in_flight: float, last: Reading | None, now_s: float, ready: int
) -> Reading:  # fmt: skip
    """Totals added up from the engines' rates, where no router counts arrivals: completions plus growth."""
    rates = [
        sum(usable(getattr(seen, field)) or 0.0 for view in views for seen in view.fresh)
        for field in ("request_rps", "prompt_tps", "generation_tps")
    ]
    if last is None:
        return Reading(at_s=now_s, arrived=in_flight, prompt_tokens=0.0, finished=0.0, generation_tokens=0.0,
                       in_flight=in_flight, ready=ready, source=RATES)  # fmt: skip
    past_s = min(max(now_s - last.at_s, 0.0), 120.0)
    done, prompt, generated = (rate * past_s for rate in rates)
    finished = last.finished + done
    arrived = max(finished + in_flight, last.arrived)
    share = (arrived - last.arrived) / done if done > 0 else 1.0
    return Reading(at_s=now_s, arrived=arrived, prompt_tokens=last.prompt_tokens + prompt * min(max(share, 0.0), 3.0),
                   finished=finished, generation_tokens=last.generation_tokens + generated, in_flight=in_flight,
                   ready=ready, source=RATES)  # fmt: skip


def _mix(readings: Sequence[Reading], before: Mix | None, heard: Iterable[Heard]) -> Mix:
    last = readings[-1]
    known = before or MIX_FIRST
    near = next((one for one in readings if last.at_s - one.at_s <= MIX_S), last)
    arrived = last.arrived - near.arrived
    prompt = (last.prompt_tokens - near.prompt_tokens) / arrived if arrived >= MIX_MIN else known.prompt
    far = readings[0]
    finished = last.finished - far.finished
    output = (last.generation_tokens - far.generation_tokens) / finished if finished >= MIX_MIN else known.output
    hits = [ratio for one in heard for ratio in one.hits]
    hit = known.hit_ratio + SMOOTH * (min(sum(hits) / len(hits), 1.0) - known.hit_ratio) if hits else known.hit_ratio
    return Mix(prompt=prompt if prompt > 0 else known.prompt, output=max(output, 1.0), hit_ratio=hit)


# ---- start-up times


def _starts(
    entries: Sequence[VariantObservation], memory: GroupMemory, now_s: float, longest_s: float
) -> tuple[dict[str, float], tuple[float, ...]]:
    """Replicas that start now, and the start-up times seen so far.

    Only what was seen to start from its beginning counts, or a replica that falls out of readiness for a moment would
    teach its age. Before any start was seen, the middle of those that the platform tells of replicas that serve.
    """
    starting: dict[str, float] = {}
    leads, told = list(memory.leads_s), list[float]()
    began, ready = memory.starting, ReplicaState.READY
    for entry in entries:
        for seen in entry.replicas:
            one = seen.replica
            if not began and one.state is ready and (leads or not one.created_s):
                continue  # nearly all of a large fleet
            begun = began.get(one.name)
            if one.state is ReplicaState.STARTING:
                asked_s = one.created_s or one.since_s or now_s
                fresh_s = asked_s if now_s - asked_s <= FRESH_START_S else NEVER_S
                starting[one.name] = fresh_s if begun is None else begun
            elif one.state is ReplicaState.READY and begun:
                leads += _plausible((one.since_s or now_s) - begun, longest_s)
            elif one.state is ReplicaState.READY and begun is None and not leads and one.created_s:
                told += _plausible(one.since_s - one.created_s, longest_s)
    if not leads and told:
        leads = [sorted(told)[len(told) // 2]]
    return starting, tuple(leads[-LEADS:])


def _plausible(lead: float, longest_s: float) -> tuple[float, ...]:
    """The start-up time, unless it is none: what takes longer than a start may has failed, or was ready before."""
    return (lead,) if 0.0 < lead <= longest_s else ()


# ---- what the variants teach


def _laws(
    views: Sequence[VariantView], heard: Mapping[str, Heard], costs: Mapping[str, Cost],
    known: Mapping[str, VariantMemory], *, mix: Mix, rules: Policy,
) -> dict[str, Law]:  # fmt: skip
    found = {}
    for view in views:
        name = view.spec.name
        found[name] = law_of(view.spec, heard[name], costs[name], known[name].correction, mix=mix, rules=rules)
    return found


def _learned(
    heard: Mapping[str, Heard], costs: Mapping[str, Cost], memory: GroupMemory, readings: Sequence[Reading],
    now_s: float, *, counted_s: float,
) -> dict[str, VariantMemory]:  # fmt: skip
    """Corrections of each variant's law by what its requests went through, and what a request holds of its memory.

    Of several variants nobody counts which requests went where: of each the rate, by Little's law while all is steady.

    Args:
        readings: those of the memory, and this look's.
        counted_s: now by the clock of the readings.
    """
    calm = steady(memory.readings, counted_s)
    passed = passage(readings) if len(heard) == 1 else None
    if passed is not None and memory.readings and memory.readings[-1].at_s == readings[-1].at_s:
        passed = replace(passed, ended=0.0)  # learned from before
    found = {}
    for name, said in heard.items():
        own = costs[name]
        known = memory.variants.get(name) or VariantMemory(correction=first(own.known))
        correction = _corrected(said, own, known.correction, passed, calm=calm, now_s=now_s)
        found[name] = replace(known, correction=correction)
    return found


def _corrected(
    heard: Heard, own: Cost, before: Correction, passed: Passage | None, *, calm: bool, now_s: float
) -> Correction:  # fmt: skip
    running, rates = heard.running, heard.rates
    kv = before.kv_per_request
    if running >= max(heard.samples, 1):
        held = heard.kv_utilisation / running
        old = before.kv_per_request
        kv = held if old is None else old + SMOOTH * (held - old)
    if passed is not None and heard.waiting <= WAITS * running:
        return updated(before, own, running=passed.level, rps=passed.level / passed.stay_s, samples=passed.ended,
                       now_s=now_s, kv=kv)  # fmt: skip
    if not rates or len(rates) != heard.replicas or not calm:
        return before if kv == before.kv_per_request else replace(before, kv_per_request=kv)
    total = sum(rates)
    return updated(before, own, running=running / heard.samples, rps=total / len(rates), samples=total * 30.0,
                   now_s=now_s, kv=kv)  # fmt: skip


def _tallied(
    known: Mapping[str, VariantMemory], laws: Mapping[str, Law], readings: Sequence[Reading],
    before: Sequence[Reading], now_s: float,
) -> dict[str, VariantMemory]:  # fmt: skip
    """Requests that met and missed their targets since the last look, booked at the level that they lived at."""
    last = readings[-1]
    previous = before[-1] if before and len(readings) > 1 else None
    if previous is None or last.at_s <= previous.at_s:
        return dict(known)
    late_s = {name: one.stay_s(one.level) for name, one in laws.items()}
    found, seen = {}, outcome(previous, last)
    for name, variant in known.items():
        keep = 0.5 ** (max(now_s - variant.tallied_s, 0.0) / TALLY_HALF_LIFE_S) if variant.tallied_s else 1.0
        lived = _lived_level(readings, late_s[name], laws[name].full)
        counts = {one.column: (one.good * keep, one.missed * keep) for one in variant.tallies}
        if lived is not None:
            _count(counts, misses.column(lived / laws[name].level), seen)
        tallies = tuple(Tally(column=column, good=good, missed=missed)
                        for column, (good, missed) in sorted(counts.items()) if good + missed > 0.01)  # fmt: skip
        found[name] = replace(variant, tallies=tallies, tallied_s=now_s)
    return found


def _spent(memory: GroupMemory, readings: Sequence[Reading]) -> tuple[float, float]:
    """Requests measured, and those that missed, over the last hours."""
    if not memory.readings or len(readings) < 2:
        return memory.answered, memory.missed
    previous, last = memory.readings[-1], readings[-1]
    keep = 0.5 ** (max(last.at_s - previous.at_s, 0.0) / BUDGET_HALF_LIFE_S)
    total, missed = outcome(previous, last)
    return memory.answered * keep + total, memory.missed * keep + missed


def outcome(previous: Reading, last: Reading) -> tuple[float, float]:
    """Requests measured between two readings, and those that missed a target."""
    paced, first_tokens = last.paced_all - previous.paced_all, last.first_all - previous.first_all
    total = max(paced, first_tokens, 0.0)
    late = first_tokens - (last.first_good - previous.first_good)
    slow = paced - (last.paced_good - previous.paced_good)
    return total, min(max(late, 0.0) + max(slow, 0.0), total)


def _count(counts: dict[int, tuple[float, float]], column: int, seen: tuple[float, float]) -> None:
    total, missed = seen
    if total <= 0.0:
        return
    scale = misses.tempered(total)
    good, bad = counts.get(column, (0.0, 0.0))
    counts[column] = good + scale * (total - missed), bad + scale * missed


def _lived_level(readings: Sequence[Reading], life_s: float, full: float) -> float | None:
    """In flight per replica over a request's life; ``None`` while the number of replicas changed in it.

    The mean, unless requests waited meanwhile: who has an answer after a queue lived at the queue's height, whatever is
    left of it.
    """
    last = readings[-1]
    if not last.ready:
        return None
    held = []
    for one in reversed(readings):
        if last.at_s - one.at_s > max(life_s, misses.LIFE_AT_LEAST_S):
            break
        if one.ready != last.ready:
            return None
        held.append(one.in_flight / last.ready)
    top = max(held)
    return top if top > full else sum(held) / len(held)
