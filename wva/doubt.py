"""What is not done while the metric source does not answer: nothing shrinks on what was read before. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fleet.types import Decision, Direction, Reason


def held(decisions: Sequence[Decision], failure: str) -> tuple[Decision, ...]:
    """Decisions of a pass in which the source failed: the last readings may justify more replicas, never fewer.

    A request above the variant's own maximum is still corrected: that needs no metric.

    Args:
        decisions: as decided from readings that were not renewed.
        failure: what the source said; empty: it answered, and all decisions stand.
    """
    return tuple(_held(one, failure) for one in decisions) if failure else tuple(decisions)


def _held(decision: Decision, failure: str) -> Decision:
    if decision.direction is not Direction.DOWN or decision.reason is Reason.ABOVE_MAX:
        return decision
    requested = int(decision.signals["requested"] or 0)
    detail = f"stays at {requested}, the metric source does not answer ({failure}); would be: {decision.detail}"
    return replace(decision, desired=requested, direction=Direction.HOLD, reason=Reason.STALE, detail=detail)
