"""Layer 1 beside the error budgets: latency now, throughput under demand, and promises nobody can read. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from alerts.algebra import Agg, Binary, Expr, Over, Select, both
from alerts.buckets import LATENCIES, bound_matcher
from alerts.burn import Entry, burn_alerts, entries
from alerts.model import Alert, Severity
from alerts.recording import MODEL, MODEL_QUEUE, OUTPUT_TPS, TTFT_P95, rate_of
from alerts.text import number, seconds
from fleet import signals as s
from fleet.signals import Layer
from fleet.slo import LatencyTarget, SloBook


def alerts(book: SloBook) -> Iterator[Alert]:
    """All alerts of layer 1."""
    yield from burn_alerts(book)
    for entry in entries(book):
        if entry.slo.ttft is not None:
            yield _high_ttft(entry, entry.slo.ttft)
            yield _bucket_missing(entry, entry.slo.ttft)
        if entry.slo.output_tps is not None:
            yield _low_throughput(entry, entry.slo.output_tps)
    yield _server_errors()


def _of(entry: Entry) -> dict[str, str]:
    return {"slo": entry.label}


def _high_ttft(entry: Entry, target: LatencyTarget) -> Alert:
    limit = seconds(target.threshold_s)
    return Alert(
        name="HighTTFT", expr=Select(TTFT_P95, entry.models) > target.threshold_s, for_s=300,
        severity=Severity.CRITICAL, layer=Layer.BUSINESS, group="l1_business", tree="ttft_high", labels=_of(entry),
        summary=f"<model_name>: TTFT P95 is <value:seconds> (limit {limit})",
        description=f"The slowest twentieth of the requests to <model_name> waited longer than <value:seconds> for a "
        f"first token over the last 5 minutes; the promise is {limit}. Check the prefix hit rate, then the queue.",
        means="Users wait too long for the first token. Measured at the router where there is one, else at the "
        "engines (whose figure leaves out the time before them).",
        check=("Prefix hit rate: did it fall (layer 2)?", "Queue depth: did it grow on all pods, or on one?",
               "GPU activity: low activity with slow answers points at the network or at P/D transfer."),
        do=("Hit rate fell: check the scheduler, raise the weight of prefix-aware.",
            "Queue grew: add replicas, or lower max_num_seqs.", "One pod is hot: spread its prefix, check top-3 pick."),
    )  # fmt: skip


def _bucket_missing(entry: Entry, target: LatencyTarget) -> Alert:
    ttft = LATENCIES[0]
    bound = bound_matcher(target.threshold_s)
    engines = Agg("count", rate_of(ttft.engine, 300, entry.models, "_count"), MODEL)
    shown = [
        Agg("count", rate_of(signal, 300, (bound, *matchers, *entry.models), "_bucket"), MODEL)
        for signal, matchers in ((ttft.engine, ()), (ttft.router, ttft.router_matchers))
    ]
    return Alert(
        name="TTFTBucketMissing", expr=engines.unless(shown[0], "model_name").unless(shown[1], "model_name"),
        for_s=900, severity=Severity.WARNING, layer=Layer.BUSINESS, group="l1_business", labels=_of(entry),
        summary=f"<model_name>: no histogram can show TTFT under {target.threshold_s:g} s",
        description=f"<value:number> series measure the TTFT of <model_name>, and none has a bucket bound at "
        f"{target.threshold_s:g} s: its TTFT error budget is blind, and quantiles near it are interpolated.",
        means="vLLM's default TTFT buckets go from 0.1 to 0.25 s, and no router measures this model. A promise "
        "between two bounds cannot be checked: requests that all take 150 ms read as a P95 of 242 ms.",
        check=("`fleet alerts check alerts/slos.yaml` says which bounds there are.",),
        do=("Send the traffic through the router: its TTFT histogram has a bound at 0.2 s.",
            "Or start vLLM (0.32 and later) with --custom-histogram-buckets; a list replaces the whole family.",
            "Or promise a latency that is a bound."),
    )  # fmt: skip


def _low_throughput(entry: Entry, tps: float) -> Alert:
    slow = Select(OUTPUT_TPS, entry.models) < tps
    demand = Over("min_over_time", MODEL_QUEUE, 300) > 0
    return Alert(
        name="ThroughputLow", expr=both(slow, demand, *MODEL), for_s=600,
        severity=Severity.WARNING, layer=Layer.BUSINESS, group="l1_business", tree="throughput_low", labels=_of(entry),
        summary=f"<model_name>: <value:number> output tokens/s while requests wait (promise {number(tps)})",
        description=f"<model_name> gives <value:number> output tokens/s; {number(tps)} are promised, and requests have "
        "been waiting without a pause for 5 minutes.",
        means="The model delivers less than promised although there is demand. Without a queue low throughput is no "
        "fault, so this only fires while requests wait.",
        check=("Replicas ready against replicas wanted (layer 4).", "GPU activity and batch size (layers 3, 2).",
               "KV-cache use and preemptions."),
        do=("Follow the diagnosis; at full batches and full GPUs only replicas help.",),
    )  # fmt: skip


def _server_errors() -> Alert:
    def by_job(*matchers: tuple[str, str]) -> Expr:
        return Over("rate", s.ENGINE_HTTP, 300, (("handler", "~/v1/.*"), *matchers)).by("namespace", "job")

    every = by_job()
    share: Binary = by_job(("status", "5xx")) / (every > 0.1)
    return Alert(
        name="EngineServerErrors", expr=share > 0.01, for_s=300, severity=Severity.WARNING,
        layer=Layer.BUSINESS, group="l1_business", tree="errors_high",
        summary="<value:percent> of the engines' answers are server errors (job <job>)",
        description="Engines of job <job> in namespace <namespace> answered <value:percent> of their API requests with "
        "a 5xx over 5 minutes. Requests that a router retried elsewhere count here and not in the success promise.",
        means="Engines fail requests themselves. vllm:request_success_total cannot show it: it counts every finish, "
        "errors and aborts too, and requests refused at the door never reach it.",
        check=("The engines' logs: out of memory, CUDA errors, timeouts.", "XID errors and temperature (layer 3)."),
        do=("Take a failing engine out of rotation, then restart it.",),
    )  # fmt: skip
