"""Layer 4: pods, nodes, scaling, and what stopped reporting. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from alerts.algebra import Absent, Agg, Expr, Over, Select, both
from alerts.model import Alert, Severity
from alerts.recording import MODEL, OWN, now_of, spelled
from fleet import signals as s
from fleet.signals import Layer

ROUTER_JOBS: Final = "~inference-scheduler|fleet-router|.*epp.*|.*endpoint-picker.*"
"""Scrape jobs of endpoint pickers: the source documents' name, ours, and llm-d's."""


def _alert(name: str, expr: Expr, for_s: float, severity: Severity, **words: Any) -> Alert:
    return Alert(name=name, expr=expr, for_s=for_s, severity=severity, layer=Layer.INFRASTRUCTURE,
                 group="l4_infrastructure", **words)  # fmt: skip


def alerts() -> Iterator[Alert]:
    """All alerts of layer 4."""
    yield from (_router_down(), _target_down(), _model_vanished(), _no_engines())
    yield from (_crash_loop(), _unschedulable(), _not_ready(), _node_not_ready(), _node_without_gpus())
    yield from (_hpa_at_max(), _hpa_behind())


def _router_down() -> Alert:
    return _alert(
        "EPPPodDown", Select(s.UP, (("job", ROUTER_JOBS),)).matching("==", 0.0), 60, Severity.CRITICAL,
        tree="routing_failed",
        summary="Router <instance> does not answer",
        description="The endpoint picker <instance> (job <job>) has not answered its scrape for a minute (up is "
        "<value:number>). If it was the last one, no request is routed.",
        means="A router is down, or its metrics port is not reachable.",
        check=("Its pod or process: running, restarting, out of memory?", "Its configuration: the last change."),
        do=("Restart it; two replicas at least, so that one may fail.",),
    )  # fmt: skip


def _target_down() -> Alert:
    others = Select(s.UP, (("job", "!" + ROUTER_JOBS),)).matching("==", 0.0)
    return _alert(
        "TargetDown", others, 120, Severity.WARNING, tree="deployment",
        summary="<job> <instance> does not answer its scrape",
        description="<instance> of job <job> has not answered its metrics scrape for 2 minutes (up is "
        "<value:number>). What it reports is unknown, and every rule about it is blind.",
        means="A part is down, overloaded, or hidden by a network policy.",
        check=("Is the process alive, does /metrics answer from its own host?",),
        do=("Restart it, or repair the scrape.",),
    )  # fmt: skip


def _model_vanished() -> Alert:
    def serving(offset_s: float = 0.0) -> Expr:
        names = [Select(name, OWN, offset_s=offset_s) for name in spelled(s.RUNNING)]
        whole: Expr = names[0]
        for name in names[1:]:
            whole = whole.matching("or", name)
        return Agg("group", whole, MODEL)

    return _alert(
        "ModelVanished", serving(900).unless(serving(), *MODEL), 300, Severity.CRITICAL, tree="deployment",
        summary="No engine reports <model_name> any more",
        description="Engines of <model_name> in namespace <namespace> reported 15 minutes ago; none does now.",
        means="All replicas of a model are gone at once: deleted, crashed, or no longer scraped. Scaling to zero does "
        "this on purpose.",
        check=("Was it scaled to zero? Then silence this for the model.", "Deployments, pods, the scrape's selector."),
        do=("Restore the deployment, or its labels.",),
    )  # fmt: skip


def _no_engines() -> Alert:
    return _alert(
        "NoEngineMetrics", Absent(now_of(s.RUNNING, OWN)), 600, Severity.WARNING, tree="deployment",
        summary="No engine is scraped at all",
        description="There is no series of any engine (value <value:number>): every rule about engines is silent for "
        "want of data, not for want of faults.",
        means="Either nothing runs, or the scrape finds nothing (wrong port, selector, or metric prefix).",
        check=("The targets page of Prometheus.", "The name of the series: vllm:, kserve_vllm:, ray_vllm_, sglang:."),
        do=("Repair the PodMonitor's selector and port.",),
    )  # fmt: skip


def _crash_loop() -> Alert:
    looping = Over("max_over_time", s.POD_WAITING_REASON, 300, (("reason", "CrashLoopBackOff"),))
    return _alert(
        "PodCrashLooping", looping.matching(">=", 1.0), 300, Severity.CRITICAL, tree="deployment", local=False,
        summary="<namespace>/<pod> crashes again and again",
        description="Container <container> of <pod> in <namespace> is in CrashLoopBackOff (<value:number>) for 5 "
        "minutes.",
        means="The container starts and dies. For a router most often its plugin configuration, for an engine memory.",
        check=("kubectl logs --previous; the last termination reason (OOMKilled?).",),
        do=("Router: correct the plugin configuration.", "Engine: lower gpu_memory_utilization or the batch size."),
    )  # fmt: skip


def _unschedulable() -> Alert:
    return _alert(
        "PodUnschedulable", Select(s.POD_UNSCHEDULABLE).matching("==", 1.0), 300, Severity.WARNING, local=False,
        tree="deployment",
        summary="<namespace>/<pod> cannot be placed",
        description="No node takes <pod> of <namespace> (<value:number>) for 5 minutes: a scale-up that does not "
        "happen.",
        means="Too few GPUs of the kind it asks for, or a taint, selector or quota in the way.",
        check=("kubectl describe pod: the scheduler's sentence.", "Allocatable GPUs by node."),
        do=("Add nodes, or let wva use another variant.",),
    )  # fmt: skip


def _not_ready() -> Alert:
    unready = Select(s.POD_READY, (("condition", "false"),)).matching("==", 1.0)
    runs = Select(s.POD_PHASE, (("phase", "Running"),)).matching("==", 1.0)
    return _alert(
        "PodNotReady", both(unready, runs, "namespace", "pod"), 900, Severity.WARNING, local=False, tree="deployment",
        summary="<namespace>/<pod> runs but is not ready",
        description="<pod> in <namespace> runs and has not been ready (<value:number>) for 15 minutes.",
        means="Longer than a model takes to load: it hangs in start-up, or its readiness probe is wrong.",
        check=("Its log: still loading weights?", "The readiness probe's path and delays."),
        do=("Restart it; load weights from a faster store.",),
    )  # fmt: skip


def _node_not_ready() -> Alert:
    ready = Select(s.NODE_CONDITION, (("condition", "Ready"), ("status", "true")))
    return _alert(
        "NodeNotReady", ready.matching("==", 0.0), 300, Severity.CRITICAL, local=False, tree="deployment",
        summary="Node <node> is not ready",
        description="Node <node> has not been ready (<value:number>) for 5 minutes; its pods are lost.",
        means="The kubelet does not report, or reports trouble.",
        check=("kubectl describe node.",),
        do=("Repair or replace the node.",),
    )  # fmt: skip


def _node_without_gpus() -> Alert:
    gpus = Select(s.NODE_ALLOCATABLE, (("resource", "nvidia_com_gpu"),))
    return _alert(
        "NodeWithoutGPUs", gpus.matching("==", 0.0), 300, Severity.CRITICAL, local=False, tree="deployment",
        summary="Node <node> offers no GPU any more",
        description="Node <node> has <value:number> allocatable GPUs for 5 minutes although it has the resource.",
        means="The device plugin is gone or has marked every GPU unhealthy.",
        check=("The device plugin's pod on this node, nvidia-smi, XID errors."),
        do=("Restart the device plugin; else drain the node.",),
    )  # fmt: skip


def _hpa_at_max() -> Alert:
    on = ("namespace", "horizontalpodautoscaler")
    return _alert(
        "HPAAtMax", Select(s.HPA_CURRENT).matching("==", Select(s.HPA_MAX), *on), 900, Severity.WARNING, local=False,
        tree="throughput_low",
        summary="<namespace>/<horizontalpodautoscaler> is at its maximum",
        description="<horizontalpodautoscaler> in <namespace> has run its maximum of <value:number> replicas for 15 "
        "minutes: more load finds no more capacity.",
        means="The autoscaler would scale further and may not.",
        check=("Saturation: is the maximum enough after all?", "Quota and GPUs left."),
        do=("Raise the maximum, or shed.",),
    )  # fmt: skip


def _hpa_behind() -> Alert:
    on = ("namespace", "horizontalpodautoscaler")
    return _alert(
        "HPABehind", Select(s.HPA_DESIRED).matching("!=", Select(s.HPA_CURRENT), *on), 900, Severity.WARNING,
        local=False, tree="deployment",
        summary="<namespace>/<horizontalpodautoscaler> does not reach its wanted replicas",
        description="<horizontalpodautoscaler> in <namespace> wants <value:number> replicas, and has had another "
        "number for 15 minutes.",
        means="Pods do not start, or do not go.",
        check=("Unschedulable or crashing pods; finalizers and disruption budgets on the way down."),
        do=("As the alert on its pods says.",),
    )  # fmt: skip
