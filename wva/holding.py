"""Proposals that change nothing, and why: shared by the optimizer and the analyzer ``slo``. Pure."""

from __future__ import annotations

from fleet.types import Reason
from wva.types import Proposal, VariantView


def hold(view: VariantView, reason: Reason, detail: str) -> Proposal:
    """The variant stays at what is requested."""
    return Proposal(replicas=view.requested, reason=reason, detail=detail)


def blind(view: VariantView) -> tuple[Reason, str]:
    """Why nothing is known of a variant's replicas."""
    if view.pending and not view.ready:
        return Reason.PENDING, f"{view.pending} replica(s) still start"
    if view.stale:
        return Reason.STALE, f"the newest sample is {view.age_s or 0.0:.0f} s old"
    return Reason.NO_SIGNAL, f"none of {view.ready} ready replica(s) reports"
