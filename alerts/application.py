"""Layer 2: engines (queue, KV cache, prefix cache, TPOT) and the router's scheduler. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from alerts.algebra import Expr, Over, Select, any_of, both
from alerts.burn import entries
from alerts.model import Alert, Severity
from alerts.recording import (
    FINISHED_RPS,
    HIT_RATIO,
    KV,
    MODEL,
    MODEL_QUEUE,
    POD,
    QUEUE,
    RANK,
    SCHEDULING_P95,
    SCHEDULING_P99,
    TPOT_P95,
    rate_of,
    spelled,
)  # fmt: skip
from alerts.text import seconds
from fleet import signals as s
from fleet.signals import Layer, Signal
from fleet.slo import SloBook

KV_FULL: Final = 0.95
KV_HIGH: Final = 0.9
BACKLOG: Final = 100
HIT_RATIO_LOW: Final = 0.3
SCHEDULING_LIMIT_S: Final = 0.05
DRAIN_LIMIT_S: Final = 10.0
HIT_RATIO_FALL: Final = 0.5
"""Of the hit rate a day earlier."""


def _alert(name: str, expr: Expr, for_s: float, severity: Severity, **words: Any) -> Alert:
    return Alert(name=name, expr=expr, for_s=for_s, severity=severity, layer=Layer.APPLICATION,
                 group="l2_application", **words)  # fmt: skip


def alerts(book: SloBook) -> Iterator[Alert]:
    """All alerts of layer 2."""
    yield from (_kv_memory_pressure(), _preempting(), _queue_backlog(), _queue_drains_slowly(), _engine_stalled())
    yield from _high_tpot(book)
    yield from (_low_hit_rate(), _hit_rate_fell(), _scheduling_slow(), _scheduling_tail())
    yield from (_rejections(), _kv_transfer())


def _kv_memory_pressure() -> Alert:
    return _alert(
        "KVMemoryPressure", Select(KV) > KV_FULL, 180, Severity.WARNING, tree="out_of_memory",
        summary="<model_name>: KV cache <value:percent> full on <pod>",
        description=f"<value:percent> of the KV-cache blocks of <pod> (rank <engine>) are in use "
        f"(limit {KV_FULL:.0%}) for 3 minutes: new requests wait, running ones may be preempted.",
        means="An engine's KV cache is nearly full. It can saturate long before that on prefill-heavy load, so a low "
        "figure is no proof of health.",
        check=("Preemptions: are requests computed twice?", "Long contexts: did prompts or outputs grow?"),
        do=("Add a replica.", "Lower max_num_seqs, or offload KV to the CPU.", "Check gpu_memory_utilization."),
    )  # fmt: skip


def _preempting() -> Alert:
    preempted = rate_of(s.PREEMPTIONS, 300).by(*RANK) > 0
    return _alert(
        "PreemptionsUnderKVPressure", both(Select(KV) > KV_HIGH, preempted, *RANK), 300, Severity.WARNING,
        tree="out_of_memory",
        summary="<model_name>: requests are preempted, KV cache <value:percent> full on <pod>",
        description="<pod> preempts requests with <value:percent> of its KV cache in use: what they had "
        "computed is thrown away and computed again.",
        means="Work is done twice: the engine admitted more than its KV cache holds. TPOT and TTFT suffer together.",
        check=("vllm:num_preemptions_total by pod.", "Output lengths: longer than planned?"),
        do=("Lower max_num_seqs (128), or add a replica.", "Offload KV to the CPU where requests return seldom."),
    )  # fmt: skip


def _queue_backlog() -> Alert:
    return _alert(
        "QueueBacklog", Select(QUEUE) > BACKLOG, 300, Severity.WARNING, tree="ttft_high",
        summary="<model_name>: <value:number> requests wait on <pod>",
        description=f"<value:number> requests of <model_name> wait on <pod> (limit {BACKLOG}) for 5 minutes.",
        means="More arrives than the engines take. Each waiting request adds to TTFT.",
        check=("Replicas wanted and ready: is a scale-up under way?", "One pod or all: a queue on one is imbalance."),
        do=("Add replicas; at the maximum, raise it or shed.", "Queue on one pod: see the tree for uneven load."),
    )  # fmt: skip


def _queue_drains_slowly() -> Alert:
    drain = Select(MODEL_QUEUE) / (Select(FINISHED_RPS) > 0)
    return _alert(
        "QueueDrainsSlowly", drain > DRAIN_LIMIT_S, 300, Severity.WARNING, tree="ttft_high",
        summary="<model_name>: the queue takes <value:seconds> to drain",
        description=f"At the rate at which <model_name> finishes requests, those that wait now take <value:seconds> to "
        f"start (limit {seconds(DRAIN_LIMIT_S)}).",
        means="The queue in seconds rather than in requests: what a new request will wait, whatever the model's size.",
        check=("Completion rate: did it fall, or did arrivals grow?",),
        do=("As QueueBacklog.",),
    )  # fmt: skip


def _engine_stalled() -> Alert:
    made = rate_of(s.GENERATION_TOKENS, 120).by(*POD).matching("==", 0.0)
    work = any_of(*(Over("min_over_time", name, 120) for name in spelled(s.RUNNING))).by(*POD) > 0
    waits = Select(QUEUE) > 0
    return _alert(
        "EngineStalled", both(made, any_of(work, waits), *POD), 120, Severity.CRITICAL, tree="engine_stalled",
        summary="<model_name>: <pod> has work and makes no tokens",
        description="<pod> holds requests and generated <value:rate> tokens/s over 2 minutes: hung, or "
        "its workers are gone.",
        means="An engine that answers its metrics page but computes nothing. Routers keep sending to it.",
        check=("The engine's log: NCCL timeout, CUDA error, a lost worker.", "GPUHung and XID errors (layer 3)."),
        do=("Take it out of rotation and restart it.",),
    )  # fmt: skip


def _high_tpot(book: SloBook) -> Iterator[Alert]:
    for entry in entries(book):
        if (target := entry.slo.tpot) is None:
            continue
        limit = seconds(target.threshold_s)
        yield _alert(
            "HighTPOT", Select(TPOT_P95, entry.models) > target.threshold_s, 300, Severity.WARNING,
            tree="throughput_low", labels={"slo": entry.label},
            summary=f"<model_name>: TPOT P95 is <value:seconds> (limit {limit})",
            description=f"A twentieth of the requests to <model_name> got their tokens <value:seconds> apart or slower "
            f"over 5 minutes; the promise is {limit}.",
            means="Answers stream too slowly: batches too large, prefill in the way of decode, or preemptions.",
            check=("Batch size and preemptions (layer 2).", "Prompt lengths: long prefills between decode steps."),
            do=("Lower max_num_batched_tokens or max_num_seqs.", "Long prompts: separate prefill from decode."),
        )  # fmt: skip


def _low_hit_rate() -> Alert:
    return _alert(
        "LowCacheHitRate", Select(HIT_RATIO) < HIT_RATIO_LOW, 600, Severity.WARNING, tree="hit_rate_low",
        summary="<model_name>: prefix hit rate <value:percent> (limit 30%)",
        description="<value:percent> of the prompt tokens of <model_name> were found in a prefix cache over 10 "
        "minutes. Check hashBlockSize, or whether the workload changed.",
        means="Prompts are computed anew that a cache could have served, or the prompts share nothing.",
        check=("Did the workload change? Then this is expected.", "hashBlockSize and the weight of prefix-aware.",
               "Is the cache index healthy, and is prefix caching on?"),
        do=("Low reuse by nature: silence it for this model, and set the weights load 100, prefix 0.",
            "Else follow the diagnosis."),
    )  # fmt: skip


def _hit_rate_fell() -> Alert:
    before = Select(HIT_RATIO, offset_s=86_400)
    fell = (Select(HIT_RATIO) / (before > HIT_RATIO_LOW)) < HIT_RATIO_FALL
    return _alert(
        "CacheHitRateFell", fell, 900, Severity.INFO, tree="hit_rate_low", local=False,
        summary="<model_name>: prefix hit rate is <value:percent> of what it was a day ago",
        description="The prefix hit rate of <model_name> is <value:percent> of its value at this time yesterday.",
        means="Something changed within a day: routing weights, a restart that emptied caches, or the prompts.",
        check=("Releases and configuration changes since yesterday.",),
        do=("Follow the diagnosis of a low hit rate.",),
    )  # fmt: skip


def _scheduling(name: str, signal: Signal, q: str, for_s: float) -> Alert:
    limit = seconds(SCHEDULING_LIMIT_S)
    return _alert(
        name, Select(signal) > SCHEDULING_LIMIT_S, for_s, Severity.WARNING, tree="scheduling_slow",
        summary=f"Choosing an endpoint takes <value:seconds> ({q}, limit {limit})",
        description=f"{q} of the scheduling time is <value:seconds> over 5 minutes (limit {limit}). Check the cache "
        "index, add router replicas. (llm-d's own histogram ends at 100 ms: there the true figure may be higher.)",
        means="The router itself adds to every TTFT. A decision should take less than 10 ms.",
        check=("CPU of the router.", "Time of a look-up in the cache index.", "Length of the prompts it hashes."),
        do=("More CPU or more replicas of the router.", "Fewer blocks to match, larger hashBlockSize."),
    )  # fmt: skip


def _scheduling_slow() -> Alert:
    return _scheduling("EPPHighLatency", SCHEDULING_P95, "P95", 300)


def _scheduling_tail() -> Alert:
    return _scheduling("SchedulingTailSlow", SCHEDULING_P99, "P99", 600)


def _rejections() -> Alert:
    return _alert(
        "AdmissionRejections", rate_of(s.ADMISSION_REJECTIONS, 300).by(*MODEL, "reason") > 0, 300,
        Severity.WARNING, tree="ttft_high",
        summary="<model_name>: engines refuse <value:rate> requests/s (<reason>)",
        description="The engines of <model_name> refuse <value:rate> requests/s at the door because of <reason>.",
        means="A limit on the engine's queue is reached. These requests appear in no latency figure.",
        check=("The limit's value against the queue.", "Does the router know of the limit (maxQueueLength)?"),
        do=("Add replicas; set maxQueueLength of the router below the engine's limit.",),
    )  # fmt: skip


def _kv_transfer() -> Alert:
    failed, expired = (rate_of(signal, 300).by(*POD) * 300.0 > 0 for signal in (s.NIXL_FAILED, s.NIXL_EXPIRED))
    return _alert(
        "KVTransferFailing", any_of(failed, expired), 300, Severity.WARNING, tree="throughput_low",
        summary="<model_name>: KV transfers fail on <pod>",
        description="<value:number> KV transfers of <pod> failed or expired within 5 minutes.",
        means="Prefill results do not reach decode: requests fail or are computed again.",
        check=("InfiniBand and NIXL logs on both sides.", "Decode pods that hold leases too long."),
        do=("Repair the link; until then route without disaggregation.",),
    )  # fmt: skip
