"""From a group's need to a proposal for each of its variants: composition, guards, zero and back, reasons. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleet.types import Reason
from wva import optimizer
from wva.composition import Option, compose
from wva.holding import blind, doubtful, hold
from wva.plain import number
from wva.slo.observe import reference
from wva.slo.plan import Assessment, Need
from wva.types import Policy, Proposal, VariantView

Plan = Mapping[str, Proposal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is known of the data beside the numbers."""

    now_s: float
    queued: float
    """Requests that wait at the router."""
    router_stale: bool
    router_age_s: float | None = None
    """Age of the model's queue at the router."""
    traffic_age_s: float | None = None
    """Age of what was counted of the model's requests."""


def propose(views: Sequence[VariantView], found: Assessment, around: Circumstances, rules: Policy) -> Plan:
    """What each variant should have, before stabilisation and bounds."""
    if zero := _zero(views, found, around, rules):
        return zero
    if found.seen.blind:
        return {view.spec.name: _unseen(view, around, rules) for view in views}
    if found.need is None:
        return {view.spec.name: hold(view, Reason.NO_SIGNAL, "arrivals were not seen for long enough yet")
                for view in views}  # fmt: skip
    return _planned(views, found, found.need, around)


# ---- zero


def _zero(views: Sequence[VariantView], found: Assessment, around: Circumstances, rules: Policy) -> Plan | None:
    """To zero after the retention period, and the cheapest back when requests wait."""
    standing = sum(view.requested for view in views)
    if standing == 0:
        waits = around.queued + found.seen.in_flight
        if waits <= 0:
            return {view.spec.name: hold(view, Reason.UNUSED, "no request waits") for view in views}
        return optimizer.waking(views, waits)
    if any(view.spec.min_replicas for view in views) or found.seen.in_flight > 0 or around.queued > 0:
        return None
    retention_s = max(rules.retention_s if view.spec.retention_s is None else view.spec.retention_s for view in views)
    quiet_s = around.now_s - (found.seen.memory.busy_s or around.now_s)
    if quiet_s < retention_s or any(view.unseen or view.pending for view in views) or around.router_stale:
        return None
    why = f"no request for {quiet_s:.0f} s (limit {retention_s:.0f} s)"
    return {view.spec.name: Proposal(replicas=0, reason=Reason.UNUSED, detail=f"{why}: {view.requested} -> 0")
            for view in views}  # fmt: skip


# ---- replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is wanted of all variants together."""

    views: Sequence[VariantView]
    found: Assessment
    need: Need
    around: Circumstances
    spare: float
    """Capacity that serves beyond what is wanted."""
    why: str


def _planned(views: Sequence[VariantView], found: Assessment, need: Need, around: Circumstances) -> Plan:
    base = reference(views).spec.name
    wanted = max(need.replicas, 1.0) * found.capacity[base]
    options = [
        Option(name=view.spec.name, capacity=found.capacity[view.spec.name], cost=max(view.spec.cost_per_hour, 1e-6),
               low=_least(view), high=_most(view)) for view in views
    ]  # fmt: skip
    counts = compose(options, wanted - 1e-6) if len(views) > 1 else {base: max(math.ceil(need.replicas - 1e-6), 1)}
    serving = sum(min(view.ready, view.requested) * found.capacity[view.spec.name] for view in views)
    plan = _Plan(views=views, found=found, need=need, around=around, spare=serving - wanted,
                 why=_why(need, found, base))  # fmt: skip
    return {view.spec.name: _changed(plan, view, counts[view.spec.name]) for view in views}


def _least(view: VariantView) -> int:
    return min(view.spec.min_replicas, view.spec.max_replicas)


def _most(view: VariantView) -> int:
    """A variant that nothing is known of, or whose last start failed, takes no more than it has."""
    blind, failed = view.ready > 0 and not view.fresh, view.overdue > 0
    return max(view.requested if blind or failed else view.spec.max_replicas, _least(view))


def _changed(plan: _Plan, view: VariantView, count: int) -> Proposal:
    held, why = view.requested, plan.why
    if count > held:
        reason = Reason.DEMAND if plan.need.present > plan.need.standing + 1e-6 else Reason.FORECAST
        return Proposal(replicas=count, reason=reason, detail=f"{why}: {held} -> {count}")
    if count < held:
        if blocked := _blocked(plan.views, plan.around):
            return hold(view, blocked[0], f"{why}, but {blocked[1]}")
        if len(plan.views) > 1:  # another variant takes over: not before it serves
            removable = int(max(plan.spare, 0.0) / plan.found.capacity[view.spec.name] + 1e-6)
            count = max(count, held - removable)
        if count < held:
            if plan.need.warm_loss > 0:
                why += f"; the warm caches that go add {100 * plan.need.warm_loss:.2g} % of work at first"
            return Proposal(replicas=count, reason=Reason.IDLE, detail=f"{why}: {held} -> {count}",
                            patience=plan.need.patience, start_s=plan.found.seen.lead_s)  # fmt: skip
        return hold(view, Reason.NO_HEADROOM, f"{why}; replicas that take over do not serve yet")
    if view.pending:
        return hold(view, Reason.PENDING, f"{why}; {view.pending} still start(s)")
    return hold(view, Reason.STEADY, why)


def _blocked(views: Sequence[VariantView], around: Circumstances) -> tuple[Reason, str] | None:
    """What forbids shrinking whatever the load."""
    if silent := doubtful(views):
        return silent
    if around.router_stale:
        return Reason.STALE, "the router cannot be read"
    return None


def _why(need: Need, found: Assessment, base: str) -> str:
    told, as_is, then = need.forecast, number(100 * need.missed_as_is, 2), number(100 * need.missed, 2)
    return (
        f"{number(need.demand_rps)} requests/s, {number(told.quantile(0.9))} at 90 % in {found.seen.lead_s:.0f} s "
        f"({told.method}); a replica of {base} bears {number(found.capacity[base])}; expected misses "
        f"{as_is} % as it is, {then} % with {number(need.replicas)}"
    )


def _unseen(view: VariantView, around: Circumstances, rules: Policy) -> Proposal:
    """Held for want of signals: what of its own is missing or stale, and what of the model's request counts."""
    reason, why = blind(view)
    age_s = around.traffic_age_s
    counted = "nobody counts its requests" if age_s is None else f"its requests were last counted {age_s:.0f} s ago"
    return hold(
        view, reason, f"holds {view.requested}: {why}, {counted}; older than {rules.stale_after_s:.0f} s is stale"
    )
