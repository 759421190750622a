"""The simulator's error against measured experiments: with nothing fitted to them, fitted, and each left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.simulator.experiments import Experiment, simulate
from fleet.hardware import MODELS
from simulator.calibrate import Run, fit_pair
from simulator.roofline import coefficients_for
from simulator.steptime import StepTimer, timer_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """Signed errors of one experiment or stage, per cent."""

    experiment: Experiment
    stage: int
    """-1: the whole experiment."""
    source: str
    """Of the step times: ``table``, ``roofline`` or ``fitted``."""
    e2e_pct: float
    itl_pct: float
    ttft_pct: float
    itl_generated_pct: float
    """Of the ITL, were the client's count of tokens that of the engine."""


TimerOf = Callable[[Experiment], StepTimer]


def shipped(experiment: Experiment) -> StepTimer:
    """Step times as everybody gets them; nothing is fitted to any of these experiments."""
    model, gpu, count, precision = experiment.pair
    return timer_for(model, gpu, count, precision=precision)


def fitted(experiments: Sequence[Experiment]) -> TimerOf:
    """Step times fitted to all stages of the experiment's own model on its own GPUs."""

    def timer(experiment: Experiment) -> StepTimer:
        return _fit(siblings(experiments, experiment), experiment)

    return timer


def left_out(experiments: Sequence[Experiment]) -> TimerOf:
    """Step times fitted to the other experiments with the same model on the same GPUs."""

    def timer(experiment: Experiment) -> StepTimer:
        return _fit([other for other in siblings(experiments, experiment) if other is not experiment], experiment)

    return timer


def siblings(experiments: Sequence[Experiment], experiment: Experiment) -> list[Experiment]:
    """Experiments with the same model on the same GPUs, itself included."""
    return [other for other in experiments if other.pair == experiment.pair]


def _fit(train: Sequence[Experiment], experiment: Experiment) -> StepTimer:
    model, gpu, count, precision = experiment.pair
    prior, _ = coefficients_for(model, gpu, count, precision)
    runs: list[Run] = [run for other in train for run in other.stages]
    return fit_pair(runs, prior, MODELS[model].layers).timer


def misses(
    experiments: Sequence[Experiment], timer_of: TimerOf, seeds: Sequence[int], *, share: float = 1.0,
    tell: Callable[[str], object] = lambda _what: None,
) -> list[Miss]:  # fmt: skip
    """Errors of every experiment and its stages; latencies are means over ``seeds``."""
    found = []
    for experiment in experiments:
        tell(f"{experiment.whole.model} {experiment.workload_name}")
        found += _misses(experiment, timer_of(experiment), seeds, share)
    return found


def _misses(experiment: Experiment, timer: StepTimer, seeds: Sequence[int], share: float) -> list[Miss]:
    repeats = [simulate(experiment, timer, seed, share=share) for seed in seeds]
    found = []
    for index, (stage, run) in enumerate(zip(range(-1, len(experiment.stages)), (experiment.whole, *experiment.stages),
                                             strict=True)):  # fmt: skip
        means = [repeat[index] for repeat in repeats]
        ttft_s, e2e_s, itl_s = (fmean(getattr(mean, name) for mean in means) for name in ("ttft_s", "e2e_s", "itl_s"))
        counted = (run.output_counted or run.load.output_tokens) - 1
        found.append(Miss(
            experiment=experiment, stage=stage, source=timer.source, e2e_pct=_pct(e2e_s, run.e2e_s),
            ttft_pct=_pct(ttft_s, run.ttft_s), itl_pct=_pct(itl_s, (run.e2e_s - run.ttft_s) / counted),
            itl_generated_pct=_pct(itl_s, run.itl_s)))  # fmt: skip
    return found


def _pct(simulated: float, measured: float) -> float:
    return 100 * (simulated / measured - 1)


def medians(found: Sequence[Miss]) -> dict[str, float]:
    """Medians of the absolute errors over whole experiments, per cent."""
    whole = [miss for miss in found if miss.stage < 0]
    return {
        "e2e": median(abs(miss.e2e_pct) for miss in whole), "itl": median(abs(miss.itl_pct) for miss in whole),
        "ttft": median(abs(miss.ttft_pct) for miss in whole),
        "itl_generated": median(abs(miss.itl_generated_pct) for miss in whole),
    }  # fmt: skip
