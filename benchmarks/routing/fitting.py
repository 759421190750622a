"""Fits the step times of the deployment behind the published ladder to part of the ladder; the rest judges the fit.

``python -m benchmarks.routing.fitting`` does it again and prints the coefficients of
:data:`fleet.hardware.DEPLOYMENTS` (about 15 minutes of one core). Four numbers are free: the weights' time ``d0``, the
context's ``d_kv``, what of a shared context is read again (``reuse``), and ``eta`` of prompts. The two arms tell them
apart: behind a plain Service hardly anything in a batch is shared and prompts are computed all the time; behind the
blend a third of the context and more is shared, and no prompt is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import click
from scipy.optimize import least_squares

from benchmarks.routing.arms import Blend, Random
from benchmarks.routing.figures import StageFigures, stage_figures
from benchmarks.routing.published import LADDER
from benchmarks.routing.run import ArmFactory, Simulation
from benchmarks.routing.workloads import LADDER as STAGES
from benchmarks.routing.workloads import Workload, ladder
from fleet.hardware import DEPLOYMENTS, GPUS, MODELS, StepCoefficients, kv_bytes_per_token
from simulator.config import deployment_config
from simulator.engine import Engine

DEPLOYMENT: Final = "llm-d-optimized-baseline"
SERVICE_RATES: Final = (3, 10, 15, 20, 25, 35, 43, 49, 55)
"""Steps of the plain Service that are fitted: the three below saturation, and every other one above."""
BLEND_RATES: Final = (3, 15, 22, 30, 40, 46, 52, 57)
"""Steps of llm-d's arm that are fitted: every other one."""
SEEDS: Final = (1, 2, 3)
_START: Final = StepCoefficients(d0=10.5, d_s=0.0238, d_kv=4.376e-05, p0=2.18, p1=0.0428, p2=1.51e-06, reuse=0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A published arm and the steps of it that are fitted."""

    make: ArmFactory
    rates: Sequence[int]
    published: str
    """Field of :class:`benchmarks.routing.published.Step`."""


ARMS: Final = (
    Arm(make=Random, rates=SERVICE_RATES, published="service_tok_s"),
    Arm(make=Blend, rates=BLEND_RATES, published="llmd_tok_s"),
)


def floor() -> StepCoefficients:
    """What the data sheet allows: weights and context no faster than the memory, nothing of it read for free."""
    row = DEPLOYMENTS[DEPLOYMENT]
    model, bandwidth = MODELS[row.model], row.count * GPUS[row.gpu].hbm_tb_s * 1e9  # bytes per ms
    weights = 2 * (model.linear_parameters + model.head_parameters) / bandwidth
    overhead = deployment_config(DEPLOYMENT).timer.overhead_ms
    return replace(_START, d0=weights - overhead, d_kv=kv_bytes_per_token(model) / bandwidth, reuse=0.0)


def steps(arm: ArmFactory, workload: Workload, coefficients: StepCoefficients, seed: int) -> list[StageFigures]:
    """The ladder's steps behind an arm, with step times of ``coefficients``."""
    config = deployment_config(DEPLOYMENT)
    config = replace(config, timer=replace(config.timer, coefficients=coefficients))
    engines = [Engine(config) for _ in range(workload.fleet.pods)]
    simulation = Simulation(workload, arm, seed=seed, engines=engines)
    found = []
    for stage in workload.stages:
        served = simulation.run(stage)
        if not stage.warm_up:
            found.append(stage_figures(served, rate_rps=stage.rate_rps, slo=workload.slo, pods=len(engines),
                                       counted=workload.counted))  # fmt: skip
    return found


def log_errors(
    coefficients: StepCoefficients, arms: Sequence[Arm] = ARMS, seeds: Sequence[int] = SEEDS
) -> list[float]:  # fmt: skip
    """Logarithms of simulated over published tokens/s, at each arm's steps; throughput is the mean over seeds."""
    found = []
    for arm in arms:
        stages = [stage for stage in STAGES if stage[0] in arm.rates]
        runs = [steps(arm.make, ladder(seed, stages), coefficients, seed) for seed in seeds]
        found += [
            math.log(fmean(run[index].output_tok_s for run in runs) / getattr(LADDER[int(rate)], arm.published))
            for index, (rate, _) in enumerate(stages)
        ]  # fmt: skip
    return found


def scaled(factors: Sequence[float]) -> StepCoefficients:
    """The starting row with ``d0``, ``d_kv``, ``reuse`` and ``eta`` that many times as large."""
    d0, d_kv, reuse, eta = (float(factor) for factor in factors)
    return replace(_START, d0=_START.d0 * d0, d_kv=_START.d_kv * d_kv, reuse=_START.reuse * reuse,
                   eta=_START.eta * eta)  # fmt: skip


def fit(tell: Callable[[Mapping[str, float]], object] = lambda _row: None) -> StepCoefficients:
    """The row of least squares within what the data sheet allows."""
    least = floor()

    def residuals(factors: Sequence[float]) -> list[float]:
        row = scaled(factors)
        errors = log_errors(row)
        tell({"d0": row.d0, "d_kv": row.d_kv, "reuse": row.reuse, "eta": row.eta, "rms": math.hypot(*errors)})
        return errors

    low = [least.d0 / _START.d0, least.d_kv / _START.d_kv, 0.0, 1.0 / _START.eta]
    found = least_squares(residuals, [1.0] * 4, bounds=(low, [1.5, 1.5, 1.0 / _START.reuse, 1.5]), diff_step=0.04,
                          x_scale=[0.1, 0.1, 0.2, 0.1], max_nfev=6)  # fmt: skip
    return scaled(found.x)


if __name__ == "__main__":
    click.echo(fit(click.echo))
