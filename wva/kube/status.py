"""What is written back to the cluster for a decision: a VariantAutoscaling's status, and events. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fleet.types import Decision, Direction, Reason
from wva.kube.world import Found

Object = dict[str, Any]

METRICS = {
    "fresh": ("True", "MetricsFound", "every ready replica reports"),
    "stale": ("False", "MetricsStale", "a ready replica's newest sample is too old"),
    "missing": ("False", "MetricsMissing", "a ready replica never reported"),
    "unavailable": ("False", "MetricsMissing", "no replica is ready"),
    "error": ("False", "PrometheusError", "the metric source does not answer"),
}
"""Condition MetricsAvailable by the freshness of a variant's metrics: status, reason, message."""

EVENT_REASONS = {Direction.UP: "ScaledUp", Direction.DOWN: "ScaledDown"}
NOTE_LIMIT = 1024
CONTROLLER = "llmd.ai/wva"


def rfc3339(at_s: float) -> str:
    """metav1.Time: whole seconds.

    >>> rfc3339(0.7)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status(found: Found, decision: Decision | None, freshness: str, *, applied: bool, now_s: float) -> Object:
    """The new status of a VariantAutoscaling; equal to the present one, times apart, when nothing changed.

    Args:
        found: the variant; its item holds the present status.
        decision: ``None`` when the variant could not be decided for: the last allocation stays.
        freshness: a key of ``METRICS``.
        applied: the workload was asked for what is desired.
        now_s: Unix time of the pass.
    """
    before: Object = found.declared.item.get("status") or {}
    generation = found.declared.item["metadata"].get("generation")
    after: Object = {**before, "observedGeneration": generation}
    if decision is not None:
        time = rfc3339(now_s)
        after["currentReplicas"] = decision.current
        after["desiredOptimizedAlloc"] = {
            "accelerator": decision.accelerator or "unresolved", "numReplicas": decision.desired, "lastRunTime": time,
        }  # fmt: skip
        after["actuation"] = {"applied": applied}
        after["lastDecision"] = {
            "direction": str(decision.direction), "reason": str(decision.reason), "detail": decision.detail[:2048],
            "time": time,
        }  # fmt: skip
    wanted = _conditions(found, decision, freshness)
    after["conditions"] = _with_times(before.get("conditions") or [], wanted, generation, rfc3339(now_s))
    return after


def differs(after: Object, before: Object) -> bool:
    """Whether ``after`` says anything new: times, and the sentences whose numbers always move, do not count."""
    return _told(after) != _told(before)


def _told(status: Object) -> Object:
    alloc = {key: value for key, value in status.get("desiredOptimizedAlloc", {}).items() if key != "lastRunTime"}
    last = {key: status.get("lastDecision", {}).get(key) for key in ("direction", "reason")}
    conditions = [
        {key: each.get(key) for key in ("type", "status", "reason", "observedGeneration")}
        for each in status.get("conditions") or ()
    ]
    rest = {key: status.get(key) for key in ("observedGeneration", "currentReplicas", "actuation")}
    return {**rest, "alloc": alloc, "last": last, "conditions": conditions}


def _conditions(found: Found, decision: Decision | None, freshness: str) -> list[Object]:
    target = ("True" if found.variant else "False", found.reason, found.message)
    metrics = METRICS[freshness] if decision else ("Unknown", "MetricsMissing", "not looked at")
    if decision is None:
        lacks_target = found.reason == "TargetNotFound"
        ready = ("False", "SkippedProcessing" if lacks_target else "InvalidConfiguration", found.message)
    elif decision.reason in (Reason.STALE, Reason.NO_SIGNAL):
        ready = ("False", "MetricsUnavailable", decision.detail)
    else:
        ready = ("True", "OptimizationSucceeded", decision.detail)
    named = (("TargetResolved", target), ("MetricsAvailable", metrics), ("OptimizationReady", ready))
    return [{"type": kind, "status": one, "reason": two, "message": three} for kind, (one, two, three) in named]


def _with_times(before: Sequence[Object], wanted: Sequence[Object], generation: Any, now: str) -> list[Object]:
    """``wanted`` with the time at which each status last changed; conditions of others are kept."""
    known = {each["type"]: each for each in before}
    ours = {each["type"] for each in wanted}
    kept = [each for each in before if each["type"] not in ours]
    result = []
    for each in wanted:
        old = known.get(each["type"], {})
        same = old.get("status") == each["status"] and "lastTransitionTime" in old
        result.append({**each, "observedGeneration": generation,
                       "lastTransitionTime": old["lastTransitionTime"] if same else now})  # fmt: skip
    return result + kept


def event(found: Found, *, reason: str, action: str, note: str, time: str, instance: str, warning: bool) -> Object:
    """An ``events.k8s.io/v1`` event about what declares the variant.

    Args:
        found: the variant.
        reason: one CamelCase word.
        action: what was done, one word.
        note: the sentence; cut to what a server takes.
        time: a MicroTime with six digits of a second.
        instance: this process.
        warning: whether someone should look.
    """
    meta: Mapping[str, Any] = found.declared.item["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
        "eventTime": time, "reportingController": CONTROLLER, "reportingInstance": instance[:128], "action": action,
        "reason": reason, "type": "Warning" if warning else "Normal", "note": note[:NOTE_LIMIT],
        "regarding": {"apiVersion": found.declared.api_version, "kind": found.declared.kind, "name": meta["name"],
                      "namespace": meta["namespace"], "uid": meta.get("uid", "")},
    }  # fmt: skip


def scaling_reason(decision: Decision) -> str:
    """Upstream's event reason for a decision that changes replicas; empty for one that holds."""
    if decision.direction is Direction.DOWN and decision.desired == 0:
        return "ScaledToZero"
    return EVENT_REASONS.get(decision.direction, "")
