"""Plans replicas across the variants of one model: the cheapest capacity grows, the dearest shrinks. Pure.

Growth is needed when the group's saturation, or one variant's, is above the threshold. The need is proportional,
``replicas * (saturation / threshold - 1)`` in units of capacity, less what is already starting, and is given to the
variants in the order of their cost per capacity, each up to its maximum. Shrinking takes replicas from one variant at a
time, the dearest above its minimum, and only if the load that the rest inherits leaves them under the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fleet.types import Reason
from wva.holding import blind, doubtful, hold
from wva.saturation import DEGRADATION_WEIGHT, KV_WEIGHT, QUEUE_WEIGHT
from wva.types import GroupView, Policy, Proposal, Signals, VariantView

Plan = Mapping[str, Proposal]
"""Proposal by variant name."""


def plan(group: GroupView, policy: Policy) -> Plan:
    """What each variant of the group should have, before stabilisation and bounds."""
    if group.queued > 0 and not any(view.requested for view in group.variants):
        return waking(group.variants, group.queued)
    if group.signals is None:
        return {view.spec.name: hold(view, *blind(view)) for view in group.variants}
    need = needed_capacity(group)
    return _grow(group, need, policy) if need > 0 else _shrink(group, group.signals, policy)


def waking(views: Sequence[VariantView], waits: float) -> Plan:
    """One replica of the cheapest variant for a model without any; one that failed to start is taken last."""
    cheapest = min(views, key=lambda view: (view.overdue > 0, view.spec.cost_per_hour, view.spec.name))
    why = f"{waits:.0f} request(s) wait for a model without replicas"
    return {view.spec.name: Proposal(replicas=1, reason=Reason.WAKE, detail=f"{why}: 0 -> 1") if view is cheapest
            else hold(view, Reason.OTHER_VARIANT, f"{why}; {cheapest.spec.name} is the cheapest")
            for view in views}  # fmt: skip


def threshold(group: GroupView) -> float:
    """The group's scale-up threshold: the most careful of its variants'."""
    return min(view.spec.saturation_threshold for view in group.variants)


def needed_capacity(group: GroupView) -> float:
    """Capacity missing for saturation to come back under the threshold; 0 when it is not above it."""
    need = 0.0
    if group.signals is not None and group.signals.saturation > threshold(group):
        need = _standing(group) * (group.signals.saturation / threshold(group) - 1.0)
    for view in group.variants:
        own, limit = group.by_variant.get(view.spec.name), view.spec.saturation_threshold
        if own is not None and own.saturation > limit:
            need = max(need, view.ready * group.capacity[view.spec.name] * (own.saturation / limit - 1.0))
    return need


def surviving_step(replicas: int, tolerance: float) -> int:
    """Smallest step that an HPA with this tolerance acts on.

    >>> surviving_step(3, 0.1), surviving_step(10, 0.1), surviving_step(10, 0.0)
    (1, 2, 1)
    """
    return math.floor(replicas * tolerance + 1e-9) + 1


def _standing(group: GroupView) -> float:
    return sum(view.ready * group.capacity[view.spec.name] for view in group.variants)


def _why(signals: Signals) -> str:
    return (
        f"saturation {signals.saturation:.3f} (KV {signals.kv_utilisation:.2f}, "
        f"{signals.waiting:.1f} waiting a replica, "
        f"degradation {signals.throughput_degradation:.2f}) over {signals.replicas} replica(s)"
    )


def _worst(group: GroupView) -> str:
    """The sentence for growth: the group's saturation, or the one variant's that is above its threshold."""
    if group.signals is not None and group.signals.saturation > threshold(group):
        return f"{_why(group.signals)} is above {threshold(group):.2f}"
    name, own = max(group.by_variant.items(), key=lambda item: item[1].saturation)
    return f"{_why(own)} of {name} is above its threshold"


def _grow(group: GroupView, need: float, policy: Policy) -> Plan:
    why = _worst(group)
    starting = [view for view in group.variants if view.pending]
    missing = need - sum(view.pending * group.capacity[view.spec.name] for view in starting)
    if starting and missing <= 0:
        names = ", ".join(f"{view.pending} of {view.spec.name}" for view in starting)
        return {
            view.spec.name: hold(view, Reason.PENDING, f"{why}; still starting: {names}") for view in group.variants
        }
    missing = min(missing, policy.max_up_fraction * _standing(group))
    steps = _spread(group, missing, policy)
    takers = ", ".join(name for name, step in steps.items() if step)
    return {view.spec.name: _grown(view, steps.get(view.spec.name), takers, why) for view in group.variants}


def _spread(group: GroupView, missing: float, policy: Policy) -> dict[str, int]:
    """Replicas to add by variant: cheapest capacity first; variants whose last start failed come after the others."""
    steps: dict[str, int] = {}
    order = sorted(group.variants, key=lambda v: (v.overdue > 0, group.cost_per_capacity(v), v.spec.name))
    for view in order:
        if view.ready and not view.fresh:
            continue  # nothing is known of it: hold
        room = max(view.spec.max_replicas - view.requested, 0)
        step = 0
        if missing > 0:
            wanted = math.ceil(missing / group.capacity[view.spec.name] - 1e-9)
            step = min(max(wanted, surviving_step(view.requested, policy.hpa_tolerance)), room)
        steps[view.spec.name] = step
        missing -= step * group.capacity[view.spec.name]
    return steps


def _grown(view: VariantView, step: int | None, takers: str, why: str) -> Proposal:
    if step is None:
        return hold(view, *blind(view))
    if step:
        wanted = view.requested + step
        return Proposal(replicas=wanted, reason=Reason.SATURATED, detail=f"{why}: {view.requested} -> {wanted}")
    if view.requested >= view.spec.max_replicas:
        return hold(view, Reason.AT_MAX, f"{why}, but {view.requested} is its maximum")
    return hold(view, Reason.OTHER_VARIANT, f"{why}; {takers} takes it at a lower cost per capacity")


def _shrink(group: GroupView, signals: Signals, policy: Policy) -> Plan:
    above_min = [view for view in group.variants if view.requested > view.spec.min_replicas]
    dearest = max(above_min, key=lambda v: (group.cost_per_capacity(v), v.spec.name), default=None)
    limit = (dearest or group.variants[0]).spec.scale_down_threshold
    why = _why(signals)
    if signals.saturation >= limit:
        return {view.spec.name: _calm(view, group) for view in group.variants}
    if dearest is None:
        return {
            view.spec.name: hold(
                view, Reason.AT_MIN, f"{why} is below {limit:.2f}, but {view.requested} is its minimum"
            )
            for view in group.variants
        }
    chosen = _shrunk(group, dearest, f"{why} is below {limit:.2f}", policy)
    return {view.spec.name: chosen if view is dearest else _spared(view, dearest, why) for view in group.variants}


def _calm(view: VariantView, group: GroupView) -> Proposal:
    own = group.by_variant.get(view.spec.name)
    if own is None:
        return hold(view, *blind(view)) if view.requested else hold(view, Reason.STEADY, "no replicas, none needed")
    low, high = view.spec.scale_down_threshold, view.spec.saturation_threshold
    return hold(view, Reason.STEADY, f"{_why(own)}; the model is between {low:.2f} and {high:.2f}")


def _spared(view: VariantView, dearest: VariantView, why: str) -> Proposal:
    if view.requested <= view.spec.min_replicas:
        return hold(view, Reason.AT_MIN, f"{why}; {view.requested} is its minimum")
    if view.ready and not view.fresh:
        return hold(view, *blind(view))
    return hold(view, Reason.OTHER_VARIANT, f"{why}; {dearest.spec.name} costs more per capacity and goes first")


def _shrunk(group: GroupView, view: VariantView, why: str, policy: Policy) -> Proposal:
    """The dearest variant's proposal; whatever speaks against shrinking holds, and never moves on to the next."""
    if blocked := _blocked(group, view):
        return hold(view, blocked[0], f"{why}, but {blocked[1]}")
    least = surviving_step(view.requested, policy.hpa_tolerance)
    room = view.requested - view.spec.min_replicas
    for step in range(min(max(least, policy.max_down_step), room), min(least, room) - 1, -1):
        saturation, utilisation = inherited(group, view, step, queue_full=policy.queue_full)
        if saturation <= threshold(group) and utilisation <= threshold(group):
            wanted = view.requested - step
            rest = f"the rest inherits saturation {saturation:.3f}, KV {utilisation:.2f}"
            return Proposal(replicas=wanted, reason=Reason.IDLE, detail=f"{why}: {view.requested} -> {wanted}; {rest}")
    if math.isinf(utilisation):
        return hold(view, Reason.NO_HEADROOM, f"{why}, but it is the last replica of its model")
    rest = f"the rest would inherit saturation {saturation:.3f}, KV {utilisation:.2f}, above {threshold(group):.2f}"
    return hold(view, Reason.NO_HEADROOM, f"{why}, but {rest}")


def _blocked(group: GroupView, view: VariantView) -> tuple[Reason, str] | None:
    """What forbids shrinking whatever the load."""
    if silent := doubtful(group.variants):
        return silent
    if group.router_stale:
        return Reason.STALE, "the router's queue cannot be read"
    if starting := sum(other.pending for other in group.variants):
        return Reason.PENDING, f"{starting} replica(s) of the model still start"
    own = group.by_variant.get(view.spec.name)
    if own is not None and own.saturation >= view.spec.scale_down_threshold:
        return Reason.STEADY, f"its own saturation is {own.saturation:.3f}"
    return None


def inherited(group: GroupView, view: VariantView, step: int, *, queue_full: float) -> tuple[float, float]:
    """Saturation and KV utilisation of the replicas left when ``view`` loses ``step``, not clipped.

    KV is carried over by tokens where every replica says how many it holds, else by replicas. A utilisation above the
    threshold forbids shrinking on its own: the formula's KV term ends at 0.5 and cannot show an overflow.
    """
    signals = group.signals
    sizes = {other.spec.name: _kv_size(other) for other in group.variants}
    by_tokens = all(sizes[other.spec.name] is not None for other in group.variants if other.fresh)
    used = left = 0.0
    replicas_left = 0
    for other in group.variants:
        size = (sizes[other.spec.name] or 0.0) if by_tokens else 1.0
        used += sum((seen.sample.kv_utilisation or 0.0) for seen in other.fresh if seen.sample) * size
        stay = max(min(other.ready, other.requested - (step if other is view else 0)), 0)
        left, replicas_left = left + stay * size, replicas_left + stay
    if signals is None or not replicas_left or not left:
        return math.inf, math.inf
    growth = signals.replicas / replicas_left
    utilisation = used / left
    queue, degradation = signals.waiting * growth / queue_full, min(signals.throughput_degradation * growth, 1.0)
    return KV_WEIGHT * utilisation + QUEUE_WEIGHT * queue + DEGRADATION_WEIGHT * degradation, utilisation


def _kv_size(view: VariantView) -> float | None:
    """Mean KV-cache tokens of a replica; ``None`` unless all fresh ones say."""
    sizes = [seen.sample.kv_capacity_tokens for seen in view.fresh if seen.sample and seen.sample.kv_capacity_tokens]
    return sum(sizes) / len(sizes) if sizes and len(sizes) == len(view.fresh) else None
