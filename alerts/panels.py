"""Grafana panels as data: a dashboard for each layer and one of the SLOs, over what the rules read. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from alerts.algebra import Agg, Expr, Number, Over, Quantile, Select
from alerts.application import BACKLOG, HIT_RATIO_LOW, KV_FULL, SCHEDULING_LIMIT_S
from alerts.buckets import BOUNDS, LATENCIES, Latency
from alerts.burn import BURNS, Entry, bad_ratio_series, budget_s, entries, indicators
from alerts.recording import (
    HIT_RATIO,
    KV,
    MODEL,
    MODEL_QUEUE,
    OUTPUT_TPS,
    QUEUE,
    SCHEDULING_P95,
    SCHEDULING_P99,
    STREAMED,
    rate_of,
)  # fmt: skip
from alerts.resources import HOT_C, LINK_FULL
from alerts.store import Matchers
from fleet import signals as s
from fleet.signals import Signal
from fleet.slo import SloBook

RATE_S: Final = 0.987
"""Stands for Grafana's ``$__rate_interval``, which is no number: the renderer puts that in its place."""
CHOSEN: Final[Matchers] = (("namespace", "~$namespace"), ("model_name", "~$model"))
IN_NAMESPACE: Final[Matchers] = (("namespace", "~$namespace"),)
POD_CHOSEN: Final[Matchers] = (*CHOSEN, ("pod", "~$pod"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One time series panel; ``red`` is the value from which (or, with ``low``, under which) it is a fault."""

    title: str
    description: str
    unit: str
    """Grafana's name of the unit."""
    lines: tuple[tuple[Expr, str], ...]
    """(expression, legend with Grafana's marks)."""
    red: float | None = None
    low: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A page of panels."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


def _one(title: str, description: str, unit: str, expr: Expr, legend: str, *, red: float | None = None,
         low: bool = False) -> Panel:  # fmt: skip
    return Panel(title=title, description=description, unit=unit, lines=((expr, legend),), red=red, low=low)


def _around(value: float, bounds: tuple[float, ...]) -> str:
    below, above = [b for b in bounds if b < value], [b for b in bounds if b >= value]
    return f"{below[-1] if below else 0:g} s to {above[0]:g} s" if above else f"over {bounds[-1]:g} s"


def _bounds(latency: Latency, at_s: float) -> str:
    """What a quantile near ``at_s`` can be told from: the bounds around it."""
    sides = [
        f"{side}: {_around(at_s, BOUNDS[signal.name])}"
        for side, signal in (("router", latency.router), ("engine", latency.engine))
    ]
    return f"Interpolated inside a bucket. Around {at_s:g} s the buckets are {', '.join(sides)}."


def _quantiles(latency: Latency, entry: Entry) -> Iterator[Panel]:
    if (target := latency.target(entry.slo)) is None:
        return
    matchers = (*(() if latency.key != "ttft" else STREAMED), *CHOSEN)
    for side, signal, given in (("router", latency.router, matchers), ("engine", latency.engine, CHOSEN)):
        buckets = rate_of(signal, RATE_S, given, "_bucket").by(*MODEL, "le")
        lines = tuple((Quantile(q, buckets), f"P{q * 100:g} {{{{model_name}}}}") for q in (0.5, 0.95, 0.99))
        yield Panel(
            title=f"{latency.key.upper()} at the {side}", unit="s", lines=lines, red=target.threshold_s,
            description=f"Promise: {target.objective:.3g} of the requests within {target.threshold_s:g} s. "
            f"{_bounds(latency, target.threshold_s)}",
        )  # fmt: skip


def _slo(book: SloBook) -> Iterator[Panel]:
    for entry in entries(book):
        own = (("slo", entry.label), *CHOSEN)
        for indicator in indicators(entry):
            budget = 1 - indicator.objective
            for window_s in (BURNS[0].short_s, BURNS[0].long_s, BURNS[-1].long_s):
                yield _one(
                    f"{indicator.title}: burn rate over {_hours(window_s)} ({entry.label})",
                    f"Share of the requests that broke the promise ({indicator.promise}) over what the budget of "
                    f"{entry.slo.window} allows: 1 uses it up exactly. The line is the factor that alerts.",
                    "none", Select(bad_ratio_series(indicator.name, window_s), own) / Number(budget),
                    "{{model_name}}", red=_factor(window_s, budget_s(entry.slo)),
                )  # fmt: skip


def _hours(window_s: float) -> str:
    return f"{window_s / 60:g} min" if window_s < 3_600 else f"{window_s / 3_600:g} h"


def _factor(window_s: float, whole_s: float) -> float:
    """The alert's factor of the pair of windows that has this one."""
    burn = next(burn for burn in BURNS if window_s in (burn.long_s, burn.short_s))
    return round(burn.factor(whole_s), 3)


def _business(book: SloBook) -> Iterator[Panel]:
    default = entries(book)[0]
    for latency in LATENCIES:
        yield from _quantiles(latency, default)
    yield _one("Output throughput", "Output tokens per second by model; the promise holds while requests wait.",
               "short", Select(OUTPUT_TPS, CHOSEN), "{{model_name}}", red=default.slo.output_tps, low=True)  # fmt: skip
    errors = Over("rate", s.ROUTER_ERRORS, RATE_S, CHOSEN).by("model_name", "error_code")
    yield _one("Failed requests by code", "Requests that the router answered with an error, the client's included.",
               "reqps", errors, "{{model_name}} {{error_code}}")  # fmt: skip
    requests = Over("rate", s.ROUTER_REQUESTS, RATE_S, CHOSEN).by("model_name")
    yield _one("Requests", "Requests that reached the router.", "reqps", requests, "{{model_name}}")


def _application() -> Iterator[Panel]:
    pod = "{{pod}} {{model_name}}"
    yield _one("Requests waiting, by model", "Requests that wait for capacity.", "short",
               Select(MODEL_QUEUE, CHOSEN), "{{model_name}}")  # fmt: skip
    yield _one("Requests waiting, by pod", "A queue on one pod alone is imbalance.", "short",
               Select(QUEUE, POD_CHOSEN), pod, red=BACKLOG)  # fmt: skip
    yield _one("Requests running", "The running batch.", "short", _gauge(s.RUNNING), pod)
    yield _one("KV cache", "Blocks in use. An engine can be saturated long before this is full.", "percentunit",
               Select(KV, POD_CHOSEN), pod, red=KV_FULL)  # fmt: skip
    preempted = rate_of(s.PREEMPTIONS, RATE_S, POD_CHOSEN).by("pod", "model_name")
    yield _one("Preemptions", "Requests thrown out of the batch and computed again.", "ops", preempted, pod)
    yield _one("Prefix hit rate", "Prompt tokens that a prefix cache had, over 10 minutes.", "percentunit",
               Select(HIT_RATIO, CHOSEN), "{{model_name}}", red=HIT_RATIO_LOW, low=True)  # fmt: skip
    made = rate_of(s.GENERATION_TOKENS, RATE_S, POD_CHOSEN).by("pod", "model_name")
    yield _one("Output tokens, by pod", "Zero with requests waiting is a stalled engine.", "short", made, pod)
    yield Panel(
        title="Scheduling time", unit="s", red=SCHEDULING_LIMIT_S,
        lines=((Select(SCHEDULING_P95, IN_NAMESPACE), "P95"), (Select(SCHEDULING_P99, IN_NAMESPACE), "P99")),
        description="Time to choose an endpoint. Interpolated inside a bucket; llm-d's buckets go .02, .05, .1 s, and "
        "what is above 0.1 s reads as 0.1 s.",
    )  # fmt: skip
    refused = Over("rate", s.ADMISSION_REJECTIONS, RATE_S, CHOSEN).by("model_name", "reason")
    yield _one("Refused at the engine's door", "In no latency figure.", "reqps", refused, "{{model_name}} {{reason}}")


def _gauge(signal: Signal) -> Expr:
    return Agg("max", Select(signal, (("server", ""), *POD_CHOSEN)), ("pod", "model_name"))


def _resources() -> Iterator[Panel]:
    gpu, mine = "{{pod}} GPU {{gpu}}", (*IN_NAMESPACE, ("pod", "~$pod"))
    for title, text, signal in (
        ("GPU activity", "Share of the time that the graphics engine is active.", s.GPU_ACTIVE),
        ("Tensor pipe", "Share of the cycles that the tensor cores are busy: what prefill uses.", s.GPU_TENSOR),
        ("Memory interface", "Share of the cycles that memory moves data: what decode uses.", s.GPU_DRAM),
    ):
        yield _one(title, text, "percentunit", Select(signal, mine), gpu)
    used, free = Select(s.GPU_FB_USED, mine), Select(s.GPU_FB_FREE, mine)
    yield _one("GPU memory", "In use. vLLM allocates in advance: over 90 % is normal.", "percentunit",
               used / (used + free), gpu)  # fmt: skip
    yield _one("Temperature", "GPUs throttle soon above the line.", "celsius", Select(s.GPU_TEMP, mine), gpu, red=HOT_C)
    yield _one("Power", "Power draw of each GPU.", "watt", Select(s.GPU_POWER, mine), gpu)
    sent = Over("rate", s.IB_SENT, RATE_S).matching("/", Select(s.IB_RATE), "instance", "device", "port")
    yield _one("InfiniBand", "Share of the line rate that is sent.", "percentunit", sent,
               "{{instance}} {{device}} {{port}}", red=LINK_FULL)  # fmt: skip


def _infrastructure() -> Iterator[Panel]:
    variant = "{{variant_name}}"
    yield Panel(
        title="Replicas", unit="short", description="Wanted by wva, and ready.",
        lines=((Select(s.WVA_DESIRED, IN_NAMESPACE), f"{variant} wanted"),
               (Select(s.WVA_CURRENT, IN_NAMESPACE), f"{variant} ready")),
    )  # fmt: skip
    yield _one("Saturation", "Load over what the replicas take; wva scales on it.", "percentunit",
               Select(s.WVA_SATURATION, CHOSEN), variant)  # fmt: skip
    yield _one("Targets that do not answer", "Scrapes that fail, by job.", "short",
               Agg("count", Select(s.UP, IN_NAMESPACE).matching("==", 0.0), ("job",)), "{{job}}", red=1)  # fmt: skip
    waiting = Select(s.POD_WAITING_REASON, IN_NAMESPACE).by("reason")
    yield _one("Containers that wait, by reason", "CrashLoopBackOff pages.", "short", waiting, "{{reason}}")
    yield _one("Pods that cannot be placed", "No node takes them.", "short",
               Select(s.POD_UNSCHEDULABLE, IN_NAMESPACE).by("namespace"), "{{namespace}}", red=1)  # fmt: skip
    yield _one("GPUs that a node offers", "Zero: the device plugin is gone.", "short",
               Select(s.NODE_ALLOCATABLE, (("resource", "nvidia_com_gpu"),)), "{{node}}", red=1, low=True)  # fmt: skip


def dashboards(book: SloBook) -> tuple[Dashboard, ...]:
    """The SLO overview, then one for each layer."""
    return (
        Dashboard(uid="fleet-slo", title="LLM fleet: SLOs", panels=tuple(_slo(book))),
        Dashboard(uid="fleet-l1", title="LLM fleet: 1 business", panels=tuple(_business(book))),
        Dashboard(uid="fleet-l2", title="LLM fleet: 2 application", panels=tuple(_application())),
        Dashboard(uid="fleet-l3", title="LLM fleet: 3 resources", panels=tuple(_resources())),
        Dashboard(uid="fleet-l4", title="LLM fleet: 4 infrastructure", panels=tuple(_infrastructure())),
    )
