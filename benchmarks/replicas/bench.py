"""``fleet bench replicas``: the published ladder through 1, 2 and 4 routers that share nothing but the engines."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from benchmarks.options import Bench, BenchOptions
from benchmarks.parallel import spread
from benchmarks.replicas.world import Replicas
from benchmarks.result import Bar, Outcome, Table
from benchmarks.routing import catalog
from benchmarks.routing.figures import StageFigures, stage_figures
from benchmarks.routing.ours import Ours

COUNTS: Final = (1, 2, 4)
MODES: Final = {"approximate": False, "precise": True}
"""Each replica guesses from what it sent itself, or all hear the engines' KV events."""
RATES: Final = (20.0, 40.0, 60.0)
"""Of the ladder's stages, requests/s: below, at and beyond the knee."""
LADDER: Final = "ladder"
Key = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(catalog.Chosen):
    """So many routers with one seed."""

    mode: str
    count: int


def run(options: BenchOptions) -> Outcome:
    """The bench: the ladder, or ``--workload``."""
    name = options.workload or LADDER
    _, where = catalog.find(name, [options.traces] if options.traces else [], scale=options.scale)
    tasks = [
        Task(workload=name, traces=options.traces, scale=options.scale, seed=seed, mode=mode, count=count)
        for mode in MODES for count in COUNTS for seed in options.seeds
    ]  # fmt: skip
    runs = spread(
        simulated, tasks, jobs=options.jobs,
        tell=lambda share, task: options.progress(share, f"{task.mode}, {task.count} replicas, seed {task.seed}"),
    )  # fmt: skip
    found: dict[Key, list[list[StageFigures]]] = {}
    for task, stages in zip(tasks, runs, strict=True):
        found.setdefault((task.mode, task.count), []).append(stages)
    return judged(found, f"{name}: {where}")


def simulated(task: Task) -> list[StageFigures]:
    """Figures of the task's stages; of the ladder, those of :data:`RATES`."""
    workload = task.made()
    world = Replicas(workload, Ours, seed=task.seed, precise=MODES[task.mode], count=task.count)
    stages = []
    for number, stage in enumerate(workload.stages):
        if not (stage.warm_up or task.workload != LADDER or stage.rate_rps in RATES):
            continue
        served = world.stage(number)
        if served and not stage.warm_up:
            stages.append(
                stage_figures(served, rate_rps=stage.rate_rps, slo=workload.slo, pods=workload.fleet.pods,
                              counted=workload.counted)
            )  # fmt: skip
    return stages


def judged(found: dict[Key, list[list[StageFigures]]], where: str) -> Outcome:
    """What is lost against one router."""
    rows, results = [], {}
    for (mode, count), runs in found.items():
        summary = _summary(runs)
        results[f"{mode}-{count}"] = summary
        rows.append([mode, count, *summary.values()])
    bars = {
        f"{mode}_kept_at_4_pct": Bar(value=round(_kept(results, mode), 2), unit="% of tokens/s", limit="report")
        for mode in MODES
    }
    notes = [
        where
        + (f"; stages of {', '.join(f'{rate:g}' for rate in RATES)} requests/s" if where.startswith(LADDER) else ""),
        "routers take requests in turn; each knows the others' only as numbers of requests, a scrape late",
        "tok/s and TTFT of the highest rate, means over seeds; TTFT of all stages is the mean of their P90",
    ]
    columns = ["prefixes", "replicas", *next(iter(results.values()))]
    return Outcome(results=results, bars=bars, notes=notes,
                   tables=[Table(title="Replicas", columns=columns, rows=rows)])  # fmt: skip


def _summary(runs: list[list[StageFigures]]) -> dict[str, float]:
    last = [stages[-1] for stages in runs]
    return {
        "tok_s": round(fmean(one.output_tok_s for one in last)),
        "ttft_p50_s": round(fmean(one.ttft_s.p50 for one in last), 3),
        "ttft_p90_s": round(fmean(one.ttft_s.p90 for one in last), 3),
        "all_stages_ttft_p90_s": round(fmean(one.ttft_s.p90 for stages in runs for one in stages), 3),
    }


def _kept(results: dict[str, Any], mode: str) -> float:
    return 100.0 * float(results[f"{mode}-4"]["tok_s"]) / float(results[f"{mode}-1"]["tok_s"])


BENCH: Final = Bench(name="replicas", what="1, 2 and 4 routers that do not talk to each other: what is lost",
                     bars=("approximate_kept_at_4_pct", "precise_kept_at_4_pct"), run=run)  # fmt: skip
