"""``fleet bench routing``: every arm on every workload, in virtual time, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from benchmarks.options import BenchOptions
from benchmarks.parallel import spread
from benchmarks.result import Outcome
from benchmarks.routing import catalog, judge, tables
from benchmarks.routing.admitting import Admitting
from benchmarks.routing.arms import BASELINES, TokenLoad
from benchmarks.routing.clairvoyant import Clairvoyant
from benchmarks.routing.figures import StageFigures, run_figures, stage_figures
from benchmarks.routing.judge import Run
from benchmarks.routing.ours import Ours
from benchmarks.routing.run import ArmFactory, Simulation
from benchmarks.routing.workloads import Workload
from fleet.errors import ConfigError
from router.profile import PROFILES

BARS: Final = ("rr_throughput_error_pct_max", "rr_ttft_saturated_error_pct_max", "ours_tok_s_at_60",
               "ours_ttft_p90_s_at_60", "ours_vs_best_arm_worst_pct",
               "with_vs_without_predictor_worst_pct")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An arm in the race."""

    make: ArmFactory
    precise: bool = False
    """Its prefix index follows the engines' KV events."""
    told: bool = True
    """The workload's limits are its model's targets, as in an SLO file; rules that know no targets ignore them."""


ARMS: Final[dict[str, Entry]] = {
    **{kind.name: Entry(make=kind) for kind in BASELINES},
    "documents": Entry(make=partial(Ours, profile=PROFILES["documents"], name="documents")),
    judge.OURS: Entry(make=Ours),
    judge.WITHOUT: Entry(make=partial(Ours, name=judge.WITHOUT, predicts=False)),
    "ours-precise": Entry(make=partial(Ours, name="ours-precise"), precise=True),
    "clairvoyant": Entry(make=Clairvoyant, precise=True),
}

EXTRA: Final[dict[str, Entry]] = {
    judge.REFUSES: Entry(make=partial(Admitting, name=judge.REFUSES, wait_s=0.0)),
    judge.WAITS: Entry(make=partial(Admitting, name=judge.WAITS, wait_s=60.0)),
    judge.UNTOLD: Entry(make=partial(Ours, name=judge.UNTOLD), told=False),
    TokenLoad.name: Entry(make=TokenLoad),
    "ours-without-counters": Entry(make=partial(Ours, name="ours-without-counters", counters=False)),
    "ours-without-both": Entry(make=partial(Ours, name="ours-without-both", predicts=False, counters=False)),
    "documents-without-predictor": Entry(make=partial(
        Ours, profile=PROFILES["documents"], name="documents-without-predictor", predicts=False)),
}  # fmt: skip
"""Only with ``--extra``: what targets, admission, the latency model and the counters are worth."""


def run(options: BenchOptions) -> Outcome:
    """All arms on one workload, or on the default set."""
    names, notes = _find([options.workload] if options.workload else list(catalog.DEFAULT), options)
    arms = [*ARMS, *EXTRA] if options.extra else list(ARMS)
    tasks = [
        Task(workload=name, traces=options.traces, scale=options.scale, seed=seed, arm=arm)
        for name in names for seed in options.seeds for arm in arms
    ]  # fmt: skip
    runs = spread(
        simulated,
        tasks,
        jobs=options.jobs,
        tell=lambda share, task: options.progress(share, f"{task.workload}, seed {task.seed}, {task.arm}"),
    )
    ladder_as_published = options.scale == 1.0 and "ladder" in names
    return Outcome(
        results=judge.results(runs), bars=judge.bars(runs, ladder=ladder_as_published),
        tables=tables.tables(runs), plots=tables.plots(runs, published=ladder_as_published),
        notes=[*notes, *judge.notes(runs)],
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(catalog.Chosen):
    """One arm on one workload with one seed."""

    arm: str


def simulated(task: Task) -> Run:
    """The task's run."""
    chosen = catalog.Chosen(workload=task.workload, traces=task.traces, scale=task.scale, seed=task.seed)
    return _simulate(_workload(chosen), task.arm, (ARMS | EXTRA)[task.arm], task.seed)


@lru_cache(maxsize=1)
def _workload(chosen: catalog.Chosen) -> Workload:
    """Arms of one workload and seed follow each other, so it is made once."""
    return chosen.made()


def _find(names: Sequence[str], options: BenchOptions) -> tuple[list[str], list[str]]:
    """The workloads that can be had; of the default set, one whose trace is missing is left out and said."""
    folders = [options.traces] if options.traces else []
    found: list[str] = []
    notes: list[str] = []
    for name in names:
        try:
            _, where = catalog.find(name, folders, scale=options.scale)
        except ConfigError as error:
            if options.workload:
                raise
            notes.append(f"left out: {name}: {error}")
            continue
        found.append(name)
        notes.append(f"{name}: {where}")
    return found, notes


def _simulate(workload: Workload, arm: str, entry: Entry, seed: int) -> Run:
    simulation = Simulation(workload, entry.make, seed=seed, precise=entry.precise, told=entry.told)
    pods = workload.fleet.pods
    stages: list[StageFigures] = []
    kept, refused = [], 0
    for stage in workload.stages:
        served = simulation.run(stage)
        if stage.warm_up or not served:
            continue
        refused += simulation.refused
        stages.append(stage_figures(served, rate_rps=stage.rate_rps, slo=workload.slo, pods=pods,
                                    counted=workload.counted, refused=simulation.refused))  # fmt: skip
        kept.append((stages[-1], served))
    error = simulation.arm.prediction_error if isinstance(simulation.arm, Ours) else None
    return Run(workload=workload.name, what=workload.what, main=workload.main, slo=workload.slo, arm=arm, seed=seed,
               stages=stages, whole=run_figures(kept, slo=workload.slo, pods=pods, counted=workload.counted,
                                                refused=refused),
               prediction_error=error)  # fmt: skip
