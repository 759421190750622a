"""What is not done on doubt: nothing shrinks on what was read before, or while metrics contradict each other. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from fleet.types import Decision, Direction, FleetSnapshot, Reason, ReplicaObservation, ReplicaState

READY: Final = ReplicaState.READY
BUSY: Final = 0.5
"""A GPU that is active so much serves somebody."""
HUNG: Final = 0.05
"""A GPU that is active less than this serves nobody (the limit of the alert for hung engines)."""


def held(decisions: Sequence[Decision], failure: str) -> tuple[Decision, ...]:
    """Decisions of a pass in which the source failed: the last readings may justify more replicas, never fewer.

    A request above the variant's own maximum is still corrected: that needs no metric.

    Args:
        decisions: as decided from readings that were not renewed.
        failure: what the source said; empty: it answered, and all decisions stand.
    """
    return tuple(_held(one, failure) for one in decisions) if failure else tuple(decisions)


def uncontradicted(decisions: Sequence[Decision], snapshot: FleetSnapshot) -> tuple[Decision, ...]:
    """Decisions where GPUs and engines agree: a model whose GPUs say otherwise than its engines does not shrink."""
    doubts: dict[tuple[str, str], str] = {}
    for entry in snapshot.variants:
        for seen in entry.replicas:
            if seen.gpu_active is not None and (why := _contradiction(seen)):
                doubts[entry.spec.namespace, entry.spec.model] = why
    if not doubts:
        return tuple(decisions)
    return tuple(_kept(one, doubts.get((one.namespace, one.model), ""), Reason.NO_SIGNAL) for one in decisions)


def _contradiction(seen: ReplicaObservation) -> str:
    """What speaks against an engine's own word; empty: nothing."""
    sample, busy = seen.sample, seen.gpu_active or 0.0
    if sample is None or sample.running is None or sample.waiting is None or seen.replica.state is not READY:
        return ""
    if sample.running == 0 and sample.waiting == 0 and busy >= BUSY:
        return f"{seen.replica.name} claims to idle, but its GPU is {100 * busy:.0f} % active"
    if sample.waiting > 0 and busy < HUNG:
        return f"requests wait at {seen.replica.name}, but its GPU is {100 * busy:.0f} % active"
    return ""


def _held(decision: Decision, failure: str) -> Decision:
    return _kept(decision, f"the metric source does not answer ({failure})", Reason.STALE)


def _kept(decision: Decision, why: str, reason: Reason) -> Decision:
    """Where it is, unless it grows, or is above its maximum."""
    if not why or decision.direction is not Direction.DOWN or decision.reason is Reason.ABOVE_MAX:
        return decision
    requested = int(decision.signals["requested"] or 0)
    detail = f"stays at {requested}, {why}; would be: {decision.detail}"
    return replace(decision, desired=requested, direction=Direction.HOLD, reason=reason, detail=detail)
