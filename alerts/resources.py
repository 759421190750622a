"""Layer 3: GPUs (DCGM) and the network (node exporter). Pure.

DCGM's ``pod`` and ``namespace`` are the workload's where the scrape keeps its labels (``honorLabels: true``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from alerts.algebra import Agg, Expr, Over, Select, both
from alerts.model import Alert, Severity
from alerts.recording import QUEUE
from fleet import signals as s
from fleet.signals import Layer

IDLE: Final = 0.05
HOT_C: Final = 85
LINK_FULL: Final = 0.9


def _alert(name: str, expr: Expr, for_s: float, severity: Severity, **words: Any) -> Alert:
    return Alert(name=name, expr=expr, for_s=for_s, severity=severity, layer=Layer.RESOURCES, group="l3_resources",
                 local=False, **words)  # fmt: skip


def alerts() -> Iterator[Alert]:
    """All alerts of layer 3."""
    yield from (_hung(), _xid(), _row_remap(), _hot(), _link_full(), _link_down())


def _hung() -> Alert:
    queued = Agg("max", Select(QUEUE), ("namespace", "pod")) > 0
    return _alert(
        "GPUHung", both(Select(s.GPU_ACTIVE) < IDLE, queued, "namespace", "pod"), 300, Severity.CRITICAL,
        tree="engine_stalled",
        summary="GPU <gpu> of <pod> is idle while requests wait",
        description="GPU <gpu> on <Hostname> (<modelName>) is <value:percent> active for 5 minutes while requests wait "
        "on <pod>: a hung engine, or a lost worker of a parallel group.",
        means="Work is there and the GPU does none of it.",
        check=("The engine's log and its other GPUs.", "XID errors, NVLink, NCCL timeouts."),
        do=("Take the pod out of rotation and delete it.",),
    )  # fmt: skip


def _xid() -> Alert:
    return _alert(
        "GPUXidError", Over("changes", s.GPU_XID, 600) > 0, 0, Severity.CRITICAL, tree="engine_stalled",
        summary="GPU <gpu> on <Hostname> reported a new XID error",
        description="The XID of GPU <gpu> on <Hostname> (pod <pod>) changed <value:number> times within 10 minutes. "
        "The gauge is sticky: only a change is news.",
        means="The driver met an error. Some (13, 31, 43) come from the program, others (48, 63, 64, 74, 79, 94, 95) "
        "from the hardware.",
        check=("dmesg or DCGM for the number; NVIDIA's XID table for its meaning.",),
        do=("Hardware XIDs: cordon the node, drain it, reset or replace the GPU.", "Program XIDs: restart the engine."),
    )  # fmt: skip


def _row_remap() -> Alert:
    return _alert(
        "GPURowRemapFailure", Select(s.GPU_ROW_REMAP) > 0, 0, Severity.CRITICAL,
        summary="GPU <gpu> on <Hostname> cannot remap a bad memory row",
        description="Row remapping failed on GPU <gpu> of <Hostname> (pod <pod>; flag <value:number>): its memory is "
        "no longer reliable.",
        means="The GPU ran out of spare rows: it needs replacement.",
        check=("Remapped rows and ECC counters of this GPU.",),
        do=("Cordon the node, drain it, return the GPU.",),
    )  # fmt: skip


def _hot() -> Alert:
    return _alert(
        "GPUHot", Select(s.GPU_TEMP) > HOT_C, 300, Severity.WARNING,
        summary="GPU <gpu> on <Hostname> is at <value:number> degrees Celsius",
        description=f"GPU <gpu> on <Hostname> (pod <pod>) is at <value:number> C for 5 minutes (limit {HOT_C} C): it "
        "throttles soon, and TPOT rises with it.",
        means="Cooling does not keep up.",
        check=("Fans, inlet temperature, neighbours in the rack.", "Clocks and power: does it throttle already?"),
        do=("Lower its power limit, or drain the node until it is repaired.",),
    )  # fmt: skip


def _link_full() -> Alert:
    used = Over("rate", s.IB_SENT, 300).matching("/", Select(s.IB_RATE), "instance", "device", "port")
    return _alert(
        "InfiniBandSaturated", used > LINK_FULL, 600, Severity.WARNING, tree="throughput_low",
        summary="InfiniBand <device> port <port> on <instance> is <value:percent> full",
        description=f"<device> port <port> on <instance> sends at <value:percent> of its line rate for 10 minutes "
        f"(limit {LINK_FULL:.0%}): KV transfers between prefill and decode queue up.",
        means="The network is the bottleneck of prefill/decode disaggregation.",
        check=("Traffic by pod: KV transfers, or something else?", "The ratio of prefill to decode replicas."),
        do=("Change the ratio (xPyD), spread pods over ports, or add bandwidth.",),
    )  # fmt: skip


def _link_down() -> Alert:
    return _alert(
        "InfiniBandLinkDown", Over("increase", s.IB_LINK_DOWN, 600) > 0, 0, Severity.CRITICAL, tree="throughput_low",
        summary="InfiniBand <device> port <port> on <instance> went down",
        description="<device> port <port> on <instance> lost its link <value:number> times within 10 minutes: KV "
        "transfers through it failed or took another path.",
        means="A cable, a transceiver or a switch port.",
        check=("ibstat, symbol errors, the switch's log.",),
        do=("Cordon the node until the link holds.",),
    )  # fmt: skip
