"""Sorts a variant's replicas by what can be said of them: fresh, stale, missing, pending, overdue. Pure."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from fleet.types import ReplicaObservation, ReplicaState, VariantObservation
from wva.standstill import hangs
from wva.types import Policy, VariantState, VariantView, WvaState, key_of


def remembered(entry: VariantObservation, state: WvaState, now_s: float) -> VariantState:
    """The variant's state, with the time at which its request last changed."""
    old = state.variants.get(key_of(entry.spec))
    if old is None:
        return VariantState(requested=entry.requested, requested_at_s=now_s)
    if old.requested != entry.requested:
        rising = entry.requested > old.requested
        turns = (*old.turns_s, now_s) if old.rising is not None and rising is not old.rising else old.turns_s
        return replace(old, requested=entry.requested, requested_at_s=now_s, turns_s=turns, rising=rising)
    return old


def view_variant(
    entry: VariantObservation, state: VariantState, *, now_s: float, extra_age_s: float, rules: Policy
) -> VariantView:
    """The variant as a decision sees it; stopping and failed replicas are left out.

    Args:
        entry: the variant in the snapshot.
        state: what is remembered of it, with ``requested`` as in ``entry``.
        now_s: Unix time of the decision.
        extra_age_s: age of the snapshot itself.
        rules: ``stale_after_s``, ``stuck_after_s`` and ``startup_timeout_s``.
    """
    fresh: list[ReplicaObservation] = []
    ready, stale, stuck, oldest_s = 0, 0, 0, None
    serves, limit_s = ReplicaState.READY, rules.stale_after_s
    for seen in entry.replicas:  # one pass: this is the loop over all replicas of a large fleet
        if seen.replica.state is not serves:
            continue
        ready += 1
        if seen.age_s is None:
            continue
        if seen.still_s and hangs(seen, rules):
            stuck += 1
        age_s = seen.age_s + extra_age_s
        oldest_s = age_s if oldest_s is None or age_s > oldest_s else oldest_s
        if age_s > limit_s:
            stale += 1
        elif (sample := seen.sample) is not None:
            kv, waiting = sample.kv_utilisation, sample.waiting
            # what saturation needs, both usable (see there), without two calls a replica
            if kv is not None and waiting is not None and 0.0 <= kv < inf and 0.0 <= waiting < inf:
                fresh.append(seen)
    pending, overdue = _starting(entry, state, ready, now_s, rules.startup_timeout_s)
    return VariantView(
        spec=entry.spec, requested=entry.requested, ready=ready, pending=pending, overdue=overdue, fresh=tuple(fresh),
        stale=stale, missing=ready - len(fresh) - stale, age_s=oldest_s,
        stuck=stuck,
    )  # fmt: skip


def _starting(
    entry: VariantObservation, state: VariantState, ready: int, now_s: float, timeout_s: float
) -> tuple[int, int]:
    """Replicas that start, and those that took too long; ones that do not exist yet count from the request."""
    if ready == len(entry.replicas) >= entry.requested:
        return 0, 0
    starting = [seen.replica for seen in entry.replicas if seen.replica.state is ReplicaState.STARTING]
    late = sum(now_s - (replica.since_s or state.requested_at_s) > timeout_s for replica in starting)
    absent = max(entry.requested - ready - len(starting), 0)
    absent_late = now_s - state.requested_at_s > timeout_s
    pending = len(starting) - late + (0 if absent_late else absent)
    return pending, late + (absent if absent_late else 0)
