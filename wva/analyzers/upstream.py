"""Upstream's analyzers over one group: what they remember, and a proposal for each variant. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleet.types import Reason, Role
from wva.analyzers import peaks, v1, v2
from wva.saturation import usable
from wva.types import Memory, Proposal, VariantView


def remembered(view: VariantView, before: Memory, mean_output: float, now_s: float) -> Memory:
    """A variant's gauges of the last minute, and V2's history of full queues."""
    gauges = peaks.remembered(before.gauges, view.fresh, now_s)
    name = v2.bucket(mean_output)
    history = v2.learned(before.full.get(name, ()), _replicas(view, gauges))
    return Memory(gauges=gauges, full={**before.full, name: history} if history else before.full)


def lengths(views: Sequence[VariantView]) -> tuple[float, float]:
    """Mean prompt and answer tokens of finished requests, over the collection window; 0, 0 where none finished."""
    seen = [one for view in views for one in view.fresh]
    rps = sum(usable(one.request_rps) or 0.0 for one in seen)
    if rps <= 0:
        return 0.0, 0.0
    return (sum(usable(one.prompt_tps) or 0.0 for one in seen) / rps,
            sum(usable(one.generation_tps) or 0.0 for one in seen) / rps)  # fmt: skip


def propose(
    name: str, views: Sequence[VariantView], memories: Mapping[str, Memory], *, queued: float,
    router_stale: bool,
) -> Mapping[str, Proposal]:  # fmt: skip
    """Proposals of ``v1`` or ``v2``; held when a ready replica is silent; none shrinks while the router is silent."""
    unseen = sum(view.unseen for view in views)
    if unseen or not any(view.fresh for view in views):
        stale = any(view.stale for view in views)
        why = f"{unseen} ready replica(s) do not report" if unseen else "no replica reports"
        return {view.spec.name: Proposal(replicas=view.requested, reason=Reason.STALE if stale else Reason.NO_SIGNAL,
                                         detail=why) for view in views}  # fmt: skip
    found, why = (_v1 if name == "v1" else _v2)(views, memories, queued)
    return {view.spec.name: _proposal(view, found[view.spec.name], why, router_stale=router_stale) for view in views}


def _v1(views: Sequence[VariantView], memories: Mapping[str, Memory], _queued: float) -> tuple[Mapping[str, int], str]:
    loads = [peaks.of(gauges) for view in views for gauges in memories[view.spec.name].gauges.values()]
    standings = [v1.Standing(name=view.spec.name, cost=view.spec.cost_per_hour, current=view.ready,
                             desired=view.requested, pending=view.pending) for view in views]  # fmt: skip
    left = v1.spare(loads)
    why = f"upstream V1: spare KV {left.kv:.2f}, spare queue {left.queue:.1f} over {left.replicas} replica(s)"
    return v1.targets(standings, loads), why


def _v2(views: Sequence[VariantView], memories: Mapping[str, Memory], queued: float) -> tuple[Mapping[str, int], str]:
    mean_in, mean_out = lengths(views)
    name, role = v2.bucket(mean_out), views[0].spec.role
    standings = [
        v2.Standing(
            name=view.spec.name, cost=view.spec.cost_per_hour, current=view.ready, pending=view.pending,
            low=view.spec.min_replicas, high=view.spec.max_replicas,
            replicas=_replicas(view, memories[view.spec.name].gauges),
            history=memories[view.spec.name].full.get(name, ()),
        )
        for view in views
    ]  # fmt: skip
    found = v2.targets(standings, mean_in=mean_in, mean_out=mean_out, queued=queued, decodes=role is not Role.PREFILL,
                       prefills=role is not Role.DECODE)  # fmt: skip
    return found, f"upstream V2: {mean_in:.0f} tokens in, {mean_out:.0f} out"


def _replicas(view: VariantView, gauges: peaks.Peaks) -> list[v2.Replica]:
    sizes = {seen.replica.name: seen.sample.kv_capacity_tokens for seen in view.fresh if seen.sample}
    found = []
    for name, past in gauges.items():
        if tokens := sizes.get(name):
            kv, queue = peaks.of(past)
            found.append(v2.Replica(kv_usage=kv, kv_tokens=tokens, queue=queue))
    return found


def _proposal(view: VariantView, replicas: int, why: str, *, router_stale: bool) -> Proposal:
    if replicas < view.requested and router_stale:
        return Proposal(replicas=view.requested, reason=Reason.STALE, detail=f"{why}, but the router cannot be read")
    if replicas == view.requested:
        return Proposal(replicas=replicas, reason=Reason.PENDING if view.pending else Reason.STEADY, detail=why)
    reason = Reason.SATURATED if replicas > view.requested else Reason.IDLE
    return Proposal(replicas=replicas, reason=reason, detail=f"{why}: {view.requested} -> {replicas}")
