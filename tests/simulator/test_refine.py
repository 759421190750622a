"""Calibration against the simulator: an engine whose law is known, of hardware that no table knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fleet.hardware import COEFFICIENTS, MODELS
from simulator.calibrate import PairFit, Run
from simulator.config import EngineConfig, engine_config
from simulator.refine import fit_simulated, simulate
from simulator.steady import Load, steady
from simulator.steptime import StepTimer, timer_for

PRIOR = COEFFICIENTS["Llama-3.1-8B", "h100_sxm", 1]
LAYERS = MODELS["Llama-3.1-8B"].layers
CPU = StepTimer(
    coefficients=replace(PRIOR, d0=0.7, d_s=0.3, d_kv=1e-4, p0=1.0, p1=0.035, p2=5e-6), layers=LAYERS,
    host_s=0.006, steps_ahead=0.0, nominal_batch=2, nominal_context=700,
)  # fmt: skip
"""Like two layers on one core: short steps, each sequence and each prompt dear, and no step scheduled ahead."""
LOADS = [Load(prompt_tokens=prompt, output_tokens=output, rate_rps=rate)
         for prompt, output, rates in ((128, 128, (3, 8)), (384, 64, (3, 7)), (1024, 64, (2, 4)))
         for rate in rates]  # fmt: skip


def config_of(timer: StepTimer) -> EngineConfig:
    return replace(engine_config("Llama-3.1-8B", "h100_sxm", max_num_batched_tokens=2048), timer=timer)


@pytest.fixture(scope="module")
def measured() -> list[Run]:
    """Simulated with other seeds than the fit's."""
    found = []
    for load in LOADS:
        ttft_s, e2e_s = simulate(load, config_of(CPU), seeds=(11, 12))
        found.append(Run(name=f"{load}", load=load, ttft_s=ttft_s, e2e_s=e2e_s))
    return found


@pytest.fixture(scope="module")
def fitted(measured: list[Run]) -> PairFit:
    return fit_simulated(measured, PRIOR, LAYERS, config_of, doubt=5.0)


@pytest.mark.parametrize("rate", [3.0, 7.0])
def test_an_engine_fitted_on_some_loads_is_predicted_on_another(fitted: PairFit, rate: float) -> None:
    load = Load(prompt_tokens=512, output_tokens=96, rate_rps=rate)
    truth, guess = (simulate(load, config_of(timer), seeds=(21, 22)) for timer in (CPU, fitted.timer))
    assert guess[0] == pytest.approx(truth[0], rel=0.06)
    assert guess[1] == pytest.approx(truth[1], rel=0.08)


def test_the_errors_told_are_those_of_the_simulator(fitted: PairFit, measured: list[Run]) -> None:
    misses = [simulate(run.load, config_of(fitted.timer))[1] / run.e2e_s - 1 for run in measured]
    assert 100 * float(np.median(np.abs(misses))) == pytest.approx(fitted.in_sample.e2e_pct, abs=1.0)
    assert fitted.left_out is not None
    assert max(fitted.left_out.e2e_pct, fitted.left_out.ttft_pct) < 6.0


def test_a_cached_prompt_is_simulated_as_one() -> None:
    cold = Load(prompt_tokens=4000, output_tokens=10, rate_rps=1)
    warm = replace(cold, cached_tokens=cold.full_hit())
    timer = timer_for("Llama-3.1-8B", "h100_sxm", 1)
    ttft_s, _ = simulate(warm, config_of(timer), requests=60, seeds=(1,))
    assert ttft_s < 0.5 * simulate(cold, config_of(timer), requests=60, seeds=(1,))[0]
    assert ttft_s == pytest.approx(steady(timer, warm).ttft_s, rel=0.5)
