"""Fits on runs whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import ConfigError
from fleet.hardware import COEFFICIENTS, GPUS, MODELS, StepCoefficients
from simulator.calibrate import PairFit, Run, fit_efficiencies, fit_kernels, fit_pair, predict
from simulator.roofline import estimate
from simulator.steady import Load, steady
from simulator.steptime import StepTimer

PRIOR = COEFFICIENTS["Llama-3.1-8B", "h100_sxm", 1]
LAYERS = MODELS["Llama-3.1-8B"].layers
LOADS = [Load(rate_rps=rate, prompt_tokens=prompt, output_tokens=output)
         for rate in (0.5, 1, 2) for prompt, output in ((200, 300), (3000, 100))]  # fmt: skip


def runs(truth: StepCoefficients | StepTimer, loads: list[Load] = LOADS) -> list[Run]:
    timer = truth if isinstance(truth, StepTimer) else StepTimer(coefficients=truth, layers=LAYERS)
    found = []
    for index, load in enumerate(loads):
        made = steady(timer, load)
        found.append(Run(name=str(index), load=load, ttft_s=made.ttft_s, e2e_s=made.e2e_s))
    return found


def changed(d0: float, decode: float, prefill: float) -> StepCoefficients:
    return replace(PRIOR, d0=PRIOR.d0 * d0, d_s=PRIOR.d_s * decode, p0=PRIOR.p0 * prefill, p1=PRIOR.p1 * prefill,
                   p2=PRIOR.p2 * prefill)  # fmt: skip


def fit(truth: StepCoefficients) -> PairFit:
    return fit_pair(runs(truth), PRIOR, LAYERS)


def test_an_engine_slower_than_its_prior_is_found() -> None:
    found = fit(changed(1.5, 3.0, 1.6))
    assert found.factors["d0"] == pytest.approx(1.5, rel=0.05)
    assert found.factors["prefill"] == pytest.approx(1.6, rel=0.1)
    assert found.in_sample.e2e_pct < 1.0
    assert found.prior.e2e_pct > 20.0


def test_runs_that_agree_with_the_prior_leave_it() -> None:
    found = fit(PRIOR)
    assert list(found.factors.values()) == pytest.approx([1.0] * 6, abs=1e-3)
    assert found.in_sample.e2e_pct == pytest.approx(0.0, abs=0.01)


def test_what_the_runs_do_not_show_stays_as_the_prior_has_it() -> None:
    short = [Load(rate_rps=rate, prompt_tokens=17, cached_tokens=16, output_tokens=200) for rate in (0.5, 1.0)]
    found = fit_pair(runs(changed(1.4, 1.0, 5.0), short), PRIOR, LAYERS)
    assert found.factors["prefill"] == pytest.approx(1.0, abs=0.05)


def test_a_slow_host_is_told_from_slow_prompts() -> None:
    truth = StepTimer(coefficients=PRIOR, layers=LAYERS, host_s=0.02)
    found = fit_pair(runs(truth), PRIOR, LAYERS, doubt=3.0)
    assert found.timer.host_s == pytest.approx(0.02, rel=0.15)
    assert found.factors["prefill"] == pytest.approx(1.0, abs=0.1)


def test_what_a_request_meets_on_its_way_is_the_batch_of_the_runs() -> None:
    made = runs(PRIOR)
    timer = fit_pair(made, PRIOR, LAYERS).timer
    assert timer.nominal_batch == pytest.approx(sum(run.decoding for run in made) / len(made))
    assert timer.ingress_s < StepTimer(coefficients=timer.coefficients, layers=LAYERS).ingress_s


def test_hardware_that_the_prior_does_not_know_is_found_with_doubt() -> None:
    far = replace(PRIOR, d0=PRIOR.d0 / 5, d_s=PRIOR.d_s * 30, p1=PRIOR.p1 * 2, p2=PRIOR.p2 * 20)
    found = fit_pair(runs(far), PRIOR, LAYERS, doubt=5.0)
    trusting = fit_pair(runs(far), PRIOR, LAYERS)
    assert found.in_sample.ttft_pct < trusting.in_sample.ttft_pct
    assert max(found.in_sample.ttft_pct, found.in_sample.e2e_pct) < 2.0


def test_each_run_is_predicted_from_the_others() -> None:
    odd = runs(PRIOR)
    odd[0] = replace(odd[0], e2e_s=odd[0].e2e_s * 3)
    found = fit_pair(odd[:2], PRIOR, LAYERS)
    assert found.left_out is not None
    assert found.left_out.e2e_pct > found.in_sample.e2e_pct


def test_a_single_run_has_nothing_to_be_predicted_from() -> None:
    assert fit_pair(runs(PRIOR)[:1], PRIOR, LAYERS).left_out is None


@settings(max_examples=10, deadline=None)
@given(st.floats(0.4, 2.5), st.floats(0.3, 3.0), st.floats(0.5, 2.0))
def test_a_fit_is_never_worse_than_its_prior_and_never_negative(d0: float, decode: float, prefill: float) -> None:
    made = runs(changed(d0, decode, prefill), LOADS[:4])
    found = fit_pair(made, PRIOR, LAYERS)
    assert min(found.coefficients.d0, found.coefficients.d_s, found.coefficients.d_kv, found.coefficients.p1) >= 0
    assert found.in_sample.e2e_pct <= found.prior.e2e_pct + 1e-6


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ttft_s": 0.0}, id="no-first-token"),
        pytest.param({"e2e_s": 0.001}, id="ends-before-it-begins"),
        pytest.param({"e2e_s": float("inf")}, id="never-ends"),
        pytest.param({"load": Load(rate_rps=0, prompt_tokens=10, output_tokens=10)}, id="no-requests"),
        pytest.param({"load": Load(rate_rps=1, prompt_tokens=10, output_tokens=1)}, id="one-token"),
    ],
)
def test_a_run_that_is_none_is_named(change: dict[str, object]) -> None:
    bad = replace(runs(PRIOR)[0], name="night", **change)  # type: ignore[arg-type]  # parametrised by name
    with pytest.raises(ConfigError, match="run night: ") as caught:
        fit_pair([bad], PRIOR, LAYERS)
    assert "\n" not in str(caught.value)


def test_no_runs_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no run to fit to"):
        fit_pair([], PRIOR, LAYERS)


# ---- the roofline's efficiencies


def test_kernel_efficiencies_are_shares_of_the_peak() -> None:
    found = fit_kernels()
    assert all(0.1 < share <= 1.2 for share in (found.weights, found.kv, found.compute, found.attention, found.link))
    assert min(found.layer_ms, found.parallel_layer_ms, found.decode_compute, found.sequence_layer_ms) >= 0


def test_kernel_efficiencies_of_one_gpu_predict_another() -> None:
    found = fit_kernels([key for key in COEFFICIENTS if key[1] != "h200_sxm"])
    for model, gpu, count in COEFFICIENTS:
        if gpu == "h200_sxm":
            guess = estimate(MODELS[model], GPUS[gpu], count, by=found)
            assert guess.d0 == pytest.approx(COEFFICIENTS[model, gpu, count].d0, rel=0.15)


def test_engine_efficiencies_explain_runs_that_kernels_alone_do_not() -> None:
    kernels = fit_kernels()
    slower = replace(kernels, weights=0.7, layer_ms=0.05, mixture_layer_ms=0.2)
    made = []
    for model, count in (("Yi-34B", 2), ("Qwen2.5-7B", 1), ("Mixtral-8x7B", 2)):
        for rate in (1.0, 4.0):
            load = Load(rate_rps=rate, prompt_tokens=600, cached_tokens=592, output_tokens=250)
            blank = Run(name=model, load=load, ttft_s=1, e2e_s=2, model=model, gpu="h100_sxm", tensor_parallel=count)
            truth = predict(blank, fit_efficiencies([], slower))
            made.append(replace(blank, ttft_s=truth.ttft_s, e2e_s=truth.e2e_s))
    found = fit_efficiencies(made, kernels)
    misses = [predict(run, found).e2e_s / run.e2e_s - 1 for run in made]
    assert max(map(abs, misses)) < 0.04
    assert found.efficiencies.weights <= 1.0
