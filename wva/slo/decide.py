"""Decisions with the analyzer ``slo``: views, needs, proposals, policy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fleet.types import Decision, Direction, FleetSnapshot, VariantObservation
from wva import policy
from wva.recorded import spec_inputs
from wva.saturation import usable
from wva.slo import prior
from wva.slo.mix import calibrated
from wva.slo.observe import reference
from wva.slo.plan import Assessment, GroupInput, assess
from wva.slo.propose import Circumstances, propose
from wva.slo.state import GroupMemory
from wva.types import Policy, Proposal, VariantState, VariantView, WvaState, key_of
from wva.view import remembered, view_variant

Found = dict[str, tuple[Decision, VariantState]]


def decide_groups(
    groups: Mapping[str, Sequence[VariantObservation]], snapshot: FleetSnapshot, state: WvaState, now_s: float,
    rules: Policy,
) -> tuple[Found, dict[str, GroupMemory]]:  # fmt: skip
    """Decisions and states by variant, and what to remember by group."""
    extra_age_s = max(now_s - snapshot.at_s, 0.0)
    before = {key_of(entry.spec): remembered(entry, state, now_s) for entries in groups.values() for entry in entries}
    inputs = []
    for key, entries in groups.items():
        views = tuple(
            view_variant(entry, before[key_of(entry.spec)], now_s=now_s, extra_age_s=extra_age_s, rules=rules)
            for entry in entries
        )
        memory = state.groups.get(key) or GroupMemory()
        inputs.append(GroupInput(views=views, entries=tuple(entries), memory=memory))
    found: Found = {}
    memories: dict[str, GroupMemory] = {}
    assessed = assess(inputs, snapshot, now_s=now_s, rules=rules)
    for (key, _), group, result in zip(groups.items(), inputs, assessed, strict=True):
        memories[key] = result.seen.memory
        around = _around(group.views[0], snapshot, extra_age_s, now_s, rules)
        plan = propose(group.views, result, around, rules)
        base, shared, load = reference(group.views), _shared(result, around), _load(group.views, result)
        for view in group.views:
            own = key_of(view.spec)
            damped = policy.damp(view.spec, before[own], plan[view.spec.name], now_s=now_s, policy=rules)
            new = replace(before[own], recommendations=damped.recommendations, turns_s=damped.turns_s)
            signals = _inputs(view, base, result, shared)
            found[own] = _decision(view, damped.proposal, load, signals, now_s), new
    return found, memories


def _around(
    view: VariantView, snapshot: FleetSnapshot, extra_age_s: float, now_s: float, rules: Policy
) -> Circumstances:  # fmt: skip
    told, traffic_age_s = snapshot.router_age_of(view.spec.model), snapshot.traffic_age_of(view.spec.model, now_s)
    router_age_s = None if told is None else told + extra_age_s
    stale = any(age_s is not None and age_s > rules.stale_after_s for age_s in (router_age_s, traffic_age_s))
    queued = usable(snapshot.router_queue.get(view.spec.model)) or 0.0
    return Circumstances(now_s=now_s, queued=queued, router_stale=stale, router_age_s=router_age_s,
                         traffic_age_s=traffic_age_s)  # fmt: skip


def _decision(
    view: VariantView, proposal: Proposal, load: float | None, signals: Mapping[str, float | None], now_s: float
) -> Decision:  # fmt: skip
    change = proposal.replicas - view.requested
    return Decision(
        at_s=now_s, variant=view.spec.name, namespace=view.spec.namespace, model=view.spec.model,
        accelerator=view.spec.accelerator, current=view.ready, desired=proposal.replicas,
        direction=Direction.UP if change > 0 else Direction.DOWN if change < 0 else Direction.HOLD,
        reason=proposal.reason, detail=proposal.detail, saturation=load, signals=signals,
    )  # fmt: skip


def _load(views: Sequence[VariantView], found: Assessment) -> float | None:
    """Demand over what the ready replicas bear within the objective, 0..1."""
    borne = sum(view.ready * found.capacity[view.spec.name] for view in views)
    return min(found.need.demand_rps / borne, 1.0) if found.need and borne > 0 else None


def _shared(found: Assessment, around: Circumstances) -> dict[str, float | None]:
    """What the decisions of a group's variants rest on together."""
    seen, need = found.seen, found.need
    told = need.forecast if need else None
    return {
        "demand_rps": seen.demand_rps, "in_flight": None if seen.blind else seen.in_flight,
        "prompt_tokens_mean": seen.mix.prompt,
        "output_tokens_mean": seen.mix.output, "prefix_hit_ratio": seen.mix.hit_ratio, "lead_s": seen.lead_s,
        "forecast_rps": told.point if told else None, "forecast_p90_rps": told.quantile(0.9) if told else None,
        "forecast_error": told.error if told else None, "needed_now": need.present if need else None,
        "needed": need.replicas if need else None, "expected_misses": need.missed if need else None,
        "expected_misses_as_is": need.missed_as_is if need else None,
        "warm_cache_loss": need.warm_loss if need else None, "router_age_s": around.router_age_s,
        "traffic_age_s": around.traffic_age_s,
    }  # fmt: skip


def _inputs(
    view: VariantView, base: VariantView, found: Assessment, shared: Mapping[str, float | None]
) -> dict[str, float | None]:  # fmt: skip
    """Everything the decision rests on, by name, for explain and the console."""
    name = view.spec.name
    own, correction = found.seen.laws[name], found.seen.memory.variants[name].correction
    heard = found.seen.heard[name]
    return {
        "kv_utilisation": heard.kv_utilisation / heard.samples if heard.samples else None,
        "waiting_per_replica": heard.waiting / heard.samples if heard.samples else None,
        "requested": view.requested, "ready": view.ready, "pending": view.pending, "overdue": view.overdue,
        "fresh": len(view.fresh), "stale": view.stale, "missing": view.missing, "stuck": view.stuck,
        "age_s": view.age_s, **shared,
        "capacity_rps": found.capacity[name], "lone_s": own.cost.lone_s * own.lone,
        "work_s": own.cost.work_s * own.work,
        "full_in_flight": own.full, "law_error": (correction.var_lone + correction.var_work) ** 0.5,
        **_prior(view, found), "cost_per_capacity": view.spec.cost_per_hour / found.capacity[name],
        "reference": float(view is base), **spec_inputs(view.spec),
    }  # fmt: skip


def _prior(view: VariantView, found: Assessment) -> dict[str, float | None]:
    """Which prior the law started from; an estimate where both are 0."""
    held = prior.held(found.seen.memory, view.spec.name)
    table = calibrated(view.spec) is not None
    return {"prior_calibrated": float(table), "prior_fitted": float(held is not None and not table),
            "prior_fitted_rows": held.rows if held and not table else None}  # fmt: skip
