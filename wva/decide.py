"""The decision: one frozen snapshot in, one decision a variant out. Pure; loop and benchmarks run this function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fleet.types import Decision, Direction, FleetSnapshot, Reason, Role, VariantObservation, VariantSpec
from wva import capacity, optimizer, policy, saturation
from wva.analyzers import upstream
from wva.inventory import Wish, granted
from wva.recorded import spec_inputs
from wva.slo import decide as slo
from wva.types import (
    GroupView,
    Learned,
    Policy,
    Proposal,
    Signals,
    VariantState,
    VariantView,
    WvaState,
    group_key,
    key_of,
)
from wva.view import remembered, view_variant


def decide(
    snapshot: FleetSnapshot, specs: Sequence[VariantSpec], state: WvaState, now_s: float, rules: Policy
) -> tuple[tuple[Decision, ...], WvaState]:
    """Replicas that each variant should have.

    Args:
        snapshot: what was observed.
        specs: the variants to decide for; a spec here wins over the snapshot's of the same name. Variants that the
            snapshot lacks get no decision: what runs of them is not known.
        state: from the previous pass; ``WvaState()`` at first.
        now_s: Unix time. Ages grow by ``now_s - snapshot.at_s``: an old snapshot is stale data.
        rules: how changes are damped.
    Returns: decisions in the order of ``specs``, and the state for the next pass.
    """
    observed = {key_of(entry.spec): entry for entry in snapshot.variants}
    groups: dict[str, list[VariantObservation]] = {}
    for spec in specs:
        if (entry := observed.get(key_of(spec))) is not None:
            groups.setdefault(group_key(spec), []).append(entry if entry.spec is spec else replace(entry, spec=spec))
    if rules.analyzer == "slo":
        found, memories = slo.decide_groups(groups, snapshot, state, now_s, rules)
    else:
        found, memories = {}, dict(state.groups)
        for members in groups.values():
            found |= _decide_group(members, snapshot, state, now_s, rules)
    chosen = {key_of(spec): spec for spec in specs if key_of(spec) in found}
    allowed = _granted({key: found[key][0] for key in chosen}, chosen, snapshot)
    decisions = tuple(allowed[key] for key in chosen)
    return decisions, WvaState(variants={key: new for key, (_, new) in found.items()}, groups=memories)


def _granted(
    wanted: Mapping[str, Decision], specs: Mapping[str, VariantSpec], snapshot: FleetSnapshot
) -> dict[str, Decision]:  # fmt: skip
    """Decisions inside the GPU inventory and the quotas."""
    if snapshot.inventory is None:
        return dict(wanted)
    wishes = [
        Wish(key=key, namespace=one.namespace, model=one.model, accelerator=one.accelerator,
             gpus=max(specs[key].accelerator_count, 1), requested=int(one.signals["requested"] or 0),
             wanted=one.desired, priority=specs[key].priority)
        for key, one in wanted.items()
    ]  # fmt: skip
    counts = granted(wishes, snapshot.inventory)
    return {key: one if counts[key] == one.desired else _short(one, counts[key]) for key, one in wanted.items()}


def _short(decision: Decision, count: int) -> Decision:
    held = int(decision.signals["requested"] or 0)
    detail = f"{decision.detail}; GPUs, quota or the model's share allow {count} of {decision.desired}"
    return replace(decision, desired=count, reason=Reason.NO_GPU, detail=detail,
                   direction=Direction.UP if count > held else Direction.HOLD)  # fmt: skip


def _decide_group(
    members: Sequence[VariantObservation], snapshot: FleetSnapshot, state: WvaState, now_s: float, rules: Policy
) -> dict[str, tuple[Decision, VariantState]]:
    extra_age_s = max(now_s - snapshot.at_s, 0.0)
    before = {entry.spec.name: remembered(entry, state, now_s) for entry in members}
    views = tuple(
        view_variant(entry, before[entry.spec.name], now_s=now_s, extra_age_s=extra_age_s, rules=rules)
        for entry in members
    )
    learned = {
        view.spec.name: capacity.learn(view.spec, before[view.spec.name].learned, view.fresh, now_s=now_s, policy=rules)
        for view in views
    }
    group = _group(views, before, learned, snapshot, extra_age_s=extra_age_s, rules=rules)
    memories = {name: old.upstream for name, old in before.items()}
    if rules.analyzer in ("v1", "v2"):
        output = upstream.lengths(views)[1]
        memories = {
            view.spec.name: upstream.remembered(view, memories[view.spec.name], output, now_s) for view in views
        }
        queued = saturation.usable(snapshot.router_queue.get(views[0].spec.model)) or 0.0
        plan = upstream.propose(rules.analyzer, views, memories, queued=queued, router_stale=group.router_stale)
    else:
        plan = optimizer.plan(group, rules)
    found = {}
    for view in views:
        name = view.spec.name
        damped = policy.damp(view.spec, before[name], plan[name], now_s=now_s, policy=rules)
        new = replace(before[name], recommendations=damped.recommendations, turns_s=damped.turns_s,
                      learned=learned[name], upstream=memories[name])  # fmt: skip
        found[key_of(view.spec)] = _decision(view, group, damped.proposal, new, now_s), new
    return found


def _group(
    views: tuple[VariantView, ...], before: Mapping[str, VariantState], learned: Mapping[str, Learned],
    snapshot: FleetSnapshot, *, extra_age_s: float, rules: Policy,
) -> GroupView:  # fmt: skip
    """The model's signals. Capacities are those of the pass before: what this pass sees does not reorder variants."""
    first = views[0].spec
    fresh = sum(len(view.fresh) for view in views)
    queued = 0.0 if first.role is Role.DECODE else saturation.usable(snapshot.router_queue.get(first.model)) or 0.0
    by_variant: dict[str, Signals] = {}
    for view in views:
        degradation = capacity.degradation(learned[view.spec.name], view.fresh)
        signals = saturation.analyse(
            view.fresh, router_waiting=queued / max(fresh, 1), degradation=degradation, queue_full=rules.queue_full
        )
        if signals is not None:
            by_variant[view.spec.name] = signals
    router_age_s = snapshot.router_age_of(first.model)
    router_age_s = None if router_age_s is None else router_age_s + extra_age_s
    return GroupView(
        variants=views,
        by_variant=by_variant,
        signals=saturation.combine(tuple(by_variant.values()), queue_full=rules.queue_full),
        capacity=capacity.comparable(
            [view.spec for view in views], {name: old.learned for name, old in before.items()}
        ),
        queued=queued,
        router_stale=router_age_s is not None and router_age_s > rules.stale_after_s,
        router_age_s=router_age_s,
    )


def _decision(view: VariantView, group: GroupView, proposal: Proposal, state: VariantState, now_s: float) -> Decision:
    own = group.by_variant.get(view.spec.name)
    change = proposal.replicas - view.requested
    return Decision(
        at_s=now_s,
        variant=view.spec.name,
        namespace=view.spec.namespace,
        model=view.spec.model,
        accelerator=view.spec.accelerator,
        current=view.ready,
        desired=proposal.replicas,
        direction=Direction.UP if change > 0 else Direction.DOWN if change < 0 else Direction.HOLD,
        reason=proposal.reason,
        detail=proposal.detail,
        saturation=own.saturation if own else None,
        signals=_inputs(view, group, own, state),
    )


def _inputs(view: VariantView, group: GroupView, own: Signals | None, state: VariantState) -> dict[str, float | None]:
    """Everything the decision rests on, by name, for explain and the console."""
    whole = group.signals
    return {
        "kv_utilisation": own.kv_utilisation if own else None,
        "queue_ratio": own.queue_ratio if own else None,
        "throughput_degradation": own.throughput_degradation if own else None,
        "waiting_per_replica": own.waiting if own else None,
        "model_saturation": whole.saturation if whole else None,
        "requested": view.requested,
        "ready": view.ready,
        "pending": view.pending,
        "overdue": view.overdue,
        "fresh": len(view.fresh),
        "stale": view.stale,
        "missing": view.missing,
        "stuck": view.stuck,
        "age_s": view.age_s,
        "running_per_replica": capacity.running_mean(state.learned.running),
        "best_speed_tps": state.learned.best_speed_tps,
        "capacity_tps": state.learned.capacity_tps,
        "cost_per_capacity": group.cost_per_capacity(view),
        "router_age_s": group.router_age_s,
        **spec_inputs(view.spec),
    }
