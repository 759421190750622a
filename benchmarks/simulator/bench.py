"""``fleet bench simulator``: requests per wall second, and errors against published measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any, Final

from benchmarks.options import Bench, BenchOptions
from benchmarks.result import Bar, Outcome
from benchmarks.simulator import accuracy, tables
from benchmarks.simulator.accuracy import Miss
from benchmarks.simulator.data_files import experiments
from benchmarks.simulator.experiments import Experiment
from benchmarks.simulator.kernels import unseen
from benchmarks.simulator.ladder import SATURATED_RPS, Climb, Step, climb
from fleet.errors import ConfigError

LIMITS: Final = {"e2e": 6.7, "itl": 7.1, "ttft": 17.6}
"""Medians that inference-sim (BLIS) reports over its own held-out runs, per cent."""
_LADDER_SHARE, _ACCURACY_SHARE = 0.5, 0.45
"""Of the bench's time, roughly."""


def run(options: BenchOptions) -> Outcome:
    """The bench.

    Raises: ConfigError for a workload: this bench has its own; or for a bad table of measurements.
    """
    if options.workload or options.scale != 1.0:
        raise ConfigError("the simulator bench runs published workloads only", limit="no --workload, no --scale",
                          next_step="Use fleet bench routing for other workloads.")  # fmt: skip
    measured, origin = experiments(options.traces)
    climbs = [_climb(options, index) for index in range(len(options.seeds))]
    sets = _accuracy(options, measured)
    return judged(climbs, sets, origin)


def _climb(options: BenchOptions, index: int) -> Climb:
    options.progress(_LADDER_SHARE * index / len(options.seeds), f"ladder, seed {options.seeds[index]}")
    return climb(options.seeds[index])


def _accuracy(options: BenchOptions, measured: Sequence[Experiment]) -> dict[str, list[Miss]]:
    """Errors by what the step times were fitted to."""
    alone = [one for one in measured if len(accuracy.siblings(measured, one)) == 1]
    paired = [one for one in measured if one not in alone]
    plans = {
        "unseen": (accuracy.shipped, measured),
        "others": (accuracy.left_out(measured), paired),
        "in_sample": (accuracy.fitted(measured), measured),
    }
    found = {}
    for index, (name, (timer_of, some)) in enumerate(plans.items()):
        tell = _teller(options, _LADDER_SHARE + _ACCURACY_SHARE * index / len(plans))
        found[name] = accuracy.misses(some, timer_of, options.seeds, tell=tell)
    found["left_out"] = [miss for miss in found["unseen"] if miss.experiment in alone] + found.pop("others")
    return found


def _teller(options: BenchOptions, share: float) -> Callable[[str], object]:
    return lambda what: options.progress(share, what)


def judged(climbs: Sequence[Climb], sets: dict[str, list[Miss]], origin: str) -> Outcome:
    """Bars, tables and plots of what was run."""
    steps = _mean_steps(climbs)
    medians = {name: accuracy.medians(found) for name, found in sets.items()}
    kernels = unseen()
    speeds = [one.requests / one.wall_s for one in climbs]
    bars = {"requests_per_s": Bar(value=round(median(speeds)), unit="requests/s", limit=">= 10000")}
    bars |= {f"{name}_err_pct": Bar(value=round(medians["left_out"][name], 2), unit="%", limit=f"<= {limit}")
             for name, limit in LIMITS.items()}  # fmt: skip
    results = _results(climbs, speeds, steps, sets, medians)
    results["kernels"] = [tables.kernel_row(one) for one in kernels]
    return Outcome(
        results=results,
        bars=bars,
        notes=tables.notes(origin, climbs[0].requests),
        tables=[
            tables.summary(medians),
            tables.experiments(sets),
            tables.stages(sets["left_out"]),
            tables.ladder(steps),
            tables.kernels(kernels),
        ],
        plots=tables.plots(steps, sets["left_out"]),
    )


def _mean_steps(climbs: Sequence[Climb]) -> list[Step]:
    """Each step of the ladder, averaged over the seeds."""
    return [
        Step(rate_rps=some[0].rate_rps, requests=some[0].requests, ttft_s=fmean(step.ttft_s for step in some),
             output_tok_s=fmean(step.output_tok_s for step in some))
        for some in zip(*(one.steps for one in climbs), strict=True)
    ]  # fmt: skip


def _results(
    climbs: Sequence[Climb], speeds: Sequence[float], steps: Sequence[Step], sets: dict[str, list[Miss]],
    medians: dict[str, dict[str, float]],
) -> dict[str, Any]:  # fmt: skip
    errors = [abs(step.throughput_error_pct) for step in steps if step.throughput_error_pct is not None]
    waits = [abs(step.ttft_error_pct) for step in steps
             if step.ttft_error_pct is not None and step.rate_rps >= SATURATED_RPS]  # fmt: skip
    return {
        "speed": {"requests": climbs[0].requests, "requests_per_s": [round(speed) for speed in speeds]},
        "median_err_pct": {name: _rounded(values) for name, values in medians.items()},
        "experiments": {name: [tables.miss_row(miss) for miss in found] for name, found in sets.items()},
        "ladder": {
            "throughput_err_pct_max": round(max(errors), 2), "throughput_err_pct_median": round(median(errors), 2),
            "saturated_ttft_err_pct_max": round(max(waits), 2) if waits else None,
            "steps": [tables.step_row(step) for step in steps],
        },
    }  # fmt: skip


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


BENCH: Final = Bench(
    name="simulator", what="speed on the published 8-pod ladder, errors against measured engines",
    bars=("requests_per_s", *(f"{name}_err_pct" for name in LIMITS)), run=run,
)  # fmt: skip
