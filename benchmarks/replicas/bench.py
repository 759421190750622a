"""``fleet bench replicas``: the published ladder through 1, 2 and 4 routers that share nothing but the engines."""

from __future__ import annotations

from statistics import fmean
from typing import Any, Final

from benchmarks.options import Bench, BenchOptions
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
Key = tuple[str, int]


def run(options: BenchOptions) -> Outcome:
    """The bench: the ladder, or ``--workload``."""
    name = options.workload or "ladder"
    make, where = catalog.find(name, [options.traces] if options.traces else [], scale=options.scale)
    found: dict[Key, list[list[StageFigures]]] = {}
    cells = [(mode, count, seed) for mode in MODES for count in COUNTS for seed in options.seeds]
    for done, (mode, count, seed) in enumerate(cells):
        options.progress(done / len(cells), f"{mode}, {count} replicas, seed {seed}")
        workload = make(seed)
        world = Replicas(workload, Ours, seed=seed, precise=MODES[mode], count=count)
        stages = []
        for number, stage in enumerate(workload.stages):
            if not (stage.warm_up or name != "ladder" or stage.rate_rps in RATES):
                continue
            served = world.stage(number)
            if served and not stage.warm_up:
                stages.append(
                    stage_figures(served, rate_rps=stage.rate_rps, slo=workload.slo, pods=workload.fleet.pods)
                )
        found.setdefault((mode, count), []).append(stages)
    return judged(found, f"{name}: {where}")


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
        where + (f"; stages of {', '.join(f'{rate:g}' for rate in RATES)} requests/s" if "ladder" in where else ""),
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
