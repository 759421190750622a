"""Damps what the optimizer proposes: stabilisation over past recommendations, then bounds. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.types import Reason, VariantSpec
from wva.types import Policy, Proposal, Recommendation, VariantState


@dataclass(frozen=True, slots=True, kw_only=True)
class Damped:
    """A proposal after the policy, with the recommendations to remember."""

    proposal: Proposal
    recommendations: tuple[Recommendation, ...]
    turns_s: tuple[float, ...] = ()
    """Changes of direction that still count."""


LOOKS: Final = 2
"""Passes that must want a decrease for which the window is cut short."""
FLAP_FACTOR: Final = 4.0
"""A variant that flaps must want a decrease for so many times its window, or, where a start takes a known time, for no
longer than that: a replica that stands idle for so long has cost what starting it again does."""


def damp(spec: VariantSpec, state: VariantState, proposal: Proposal, *, now_s: float, policy: Policy) -> Damped:
    """What to ask for: a request outside its bounds is corrected at once, another change must be wanted long enough."""
    turns = tuple(at_s for at_s in state.turns_s if now_s - policy.flap_window_s <= at_s <= now_s)
    flaps = len(turns) > policy.flap_limit
    if flaps:
        policy = replace(
            policy, scale_down_stabilisation_s=_calm_s(policy.scale_down_stabilisation_s, proposal.start_s)
        )
    past = recent(state, now_s=now_s, policy=policy)
    recommendations = (*past, Recommendation(at_s=now_s, replicas=proposal.replicas))
    if outside := _outside(spec, state.requested, proposal):
        return Damped(proposal=outside, recommendations=recommendations, turns_s=turns)
    patience = 1.0 if flaps else proposal.patience
    down_s = patience * policy.scale_down_stabilisation_s
    looks = LOOKS if patience < 1.0 and policy.scale_down_stabilisation_s > 0 else 1
    stable = stabilise(
        state.requested, recommendations, now_s=now_s, up_s=policy.scale_up_stabilisation_s, down_s=down_s, looks=looks
    )
    if stable != proposal.replicas:
        proposal = _stabilised(state.requested, proposal, stable, _since(
            recommendations, now_s=now_s, looks=looks if proposal.replicas < state.requested else 1,
            window_s=down_s if proposal.replicas < state.requested else policy.scale_up_stabilisation_s))  # fmt: skip
        if flaps and proposal.reason is Reason.STABILISING:
            detail = f"{proposal.detail}; {len(turns)} changes of direction in {policy.flap_window_s:.0f} s"
            proposal = replace(proposal, reason=Reason.FLAPPING, detail=detail)
    return Damped(proposal=bounded(spec, proposal), recommendations=recommendations, turns_s=turns)


def _calm_s(window_s: float, start_s: float | None) -> float:
    """How long a decrease must be wanted for where a variant flaps."""
    return max(window_s, min(FLAP_FACTOR * window_s, math.inf if start_s is None else start_s))


def recent(state: VariantState, *, now_s: float, policy: Policy) -> tuple[Recommendation, ...]:
    """Recommendations that still count.

    Where there is nothing to look back on (the first pass, after a pause longer than the window, or when the clock went
    back), the present request counts as the recommendation: a window always starts full.
    """
    window_s = max(policy.scale_up_stabilisation_s, policy.scale_down_stabilisation_s)
    past = tuple(entry for entry in state.recommendations if now_s - window_s <= entry.at_s <= now_s)
    return past or (Recommendation(at_s=now_s, replicas=state.requested),)


def stabilise(
    requested: int, recommendations: tuple[Recommendation, ...], *, now_s: float, up_s: float, down_s: float,
    looks: int = 1,
) -> int:  # fmt: skip
    """As the HPA does: no higher than the lowest of the scale-up window, no lower than the highest of the other.

    The last of ``recommendations`` is this pass's. A window of 0 s takes it as it is.

    Args:
        up_s, down_s: the windows.
        looks: recommendations that count for a decrease at least, however short its window.
    """

    def window(length_s: float, least: int) -> list[int]:
        since = [entry.replicas for entry in recommendations if entry.at_s >= now_s - length_s] if length_s > 0 else []
        return max(since, [entry.replicas for entry in recommendations[-least:]], key=len)

    stable = requested
    stable = max(stable, min(window(up_s, 1)))
    return min(stable, max(window(down_s, looks)))


def bounded(spec: VariantSpec, proposal: Proposal) -> Proposal:
    """``proposal`` inside the variant's minimum and maximum, with the reason where that changes it."""
    if proposal.replicas > spec.max_replicas:
        return replace(proposal, replicas=spec.max_replicas, reason=Reason.AT_MAX)
    if proposal.replicas < spec.min_replicas:
        return replace(proposal, replicas=spec.min_replicas, reason=Reason.AT_MIN)
    return proposal


def _outside(spec: VariantSpec, requested: int, proposal: Proposal) -> Proposal | None:
    """The correction of a request that is outside the bounds, signals or not."""
    low, high = spec.min_replicas, spec.max_replicas
    if requested < low:
        wanted = min(max(proposal.replicas, low), high)
        return Proposal(replicas=wanted, reason=Reason.BELOW_MIN, detail=f"{requested} requested, the minimum is {low}")
    if requested > high:
        return Proposal(replicas=high, reason=Reason.ABOVE_MAX, detail=f"{requested} requested, the maximum is {high}")
    return None


def _since(recommendations: Sequence[Recommendation], *, now_s: float, looks: int, window_s: float) -> str:
    """How long a change must be wanted for, in words: in passes where the window has fewer than count at least."""
    within = sum(now_s - entry.at_s <= window_s for entry in recommendations)
    return f"in all of the last {looks} passes" if within < looks else f"for all of the last {window_s:.0f} s"


def _stabilised(requested: int, proposal: Proposal, stable: int, since: str) -> Proposal:
    """The change that remains of ``proposal``, with why."""
    waits = f"; not {since}, so {stable} for now"
    reason = Reason.STABILISING if stable == requested else proposal.reason
    return Proposal(replicas=stable, reason=reason, detail=proposal.detail + waits)
