"""Proposals that change nothing, and why: shared by the optimizer and the analyzer ``slo``. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.types import Reason
from wva.types import Proposal, VariantView


def hold(view: VariantView, reason: Reason, detail: str) -> Proposal:
    """The variant stays at what is requested."""
    return Proposal(replicas=view.requested, reason=reason, detail=detail)


def doubtful(views: Sequence[VariantView]) -> tuple[Reason, str] | None:
    """Ready replicas of a model that nobody knows to serve, for which none of it shrinks; ``None``: there are none."""
    for view in views:
        if view.unseen:
            reason = Reason.STALE if view.stale else Reason.NO_SIGNAL
            return reason, f"{view.unseen} of {view.ready} ready replica(s) of {view.spec.name} do not report"
        if view.stuck:
            which = f"{view.stuck} of {view.ready} ready replica(s) of {view.spec.name}"
            return Reason.NO_SIGNAL, f"{which} have requests under way and compute no token"
    return None


def blind(view: VariantView) -> tuple[Reason, str]:
    """Why nothing is known of a variant's replicas."""
    if view.pending and not view.ready:
        return Reason.PENDING, f"{view.pending} replica(s) still start"
    if view.stale:
        return Reason.STALE, f"the newest sample is {view.age_s or 0.0:.0f} s old"
    return Reason.NO_SIGNAL, f"none of {view.ready} ready replica(s) reports"
