"""Estimated step times: against calibrated ones, their provenance, their monotony."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from fleet.hardware import COEFFICIENTS, GPUS, MODELS
from simulator.roofline import coefficients_for, estimate, terms
from simulator.steptime import kv_tokens_for, timer_for

MODEL = st.sampled_from(sorted(MODELS))
GPU = st.sampled_from(sorted(GPUS))
COUNT = st.sampled_from((1, 2, 4))


def test_calibrated_pairs_keep_their_table() -> None:
    found, source = coefficients_for("Llama-3.1-8B", "h100_sxm", 1)
    assert (found, source) == (COEFFICIENTS["Llama-3.1-8B", "h100_sxm", 1], "table")


@pytest.mark.parametrize(
    ("model", "gpu", "precision"),
    [
        pytest.param("Qwen2.5-7B", "h100_sxm", "bf16", id="model-without-a-table"),
        pytest.param("Llama-3.1-8B", "l4", "bf16", id="gpu-without-a-table"),
        pytest.param("Llama-3.1-8B", "h100_sxm", "fp8", id="weights-in-8-bits"),
    ],
)
def test_other_pairs_are_marked_as_estimates(model: str, gpu: str, precision: str) -> None:
    timer = timer_for(model, gpu, 1, precision=precision)  # type: ignore[arg-type]  # parametrised by name
    assert timer.source == "roofline"
    assert timer.step_s(decoding=1, context=100) > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("GPT-7", "h100_sxm", 1), "unknown model shape 'GPT-7'", id="unknown-model"),
        pytest.param(("Qwen3-32B", "h900", 1), "unknown accelerator 'h900'", id="unknown-gpu"),
        pytest.param(("Qwen3-32B", "h100_sxm", 3), "cannot be split over 3 GPUs", id="heads-do-not-divide"),
        pytest.param(("Qwen3-32B", "h100_sxm", 0), "cannot be split over 0 GPUs", id="no-gpu"),
    ],
)
def test_impossible_pairs_are_refused_on_one_line(arguments: tuple[str, str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        coefficients_for(*arguments)
    assert "\n" not in str(caught.value)


def test_an_estimate_is_near_the_calibrated_step_of_a_loaded_engine() -> None:
    """Engines run slower than their kernels alone, so the estimate is fitted to both; it must not leave the table."""
    for (model, gpu, count), known in COEFFICIENTS.items():
        guess = estimate(MODELS[model], GPUS[gpu], count)
        steps = [c.d0 + c.d_s * 64 + c.d_kv * 64 * 2048 for c in (guess, known)]
        assert steps[0] / steps[1] == pytest.approx(1.0, abs=0.35), (model, gpu, count)


@given(MODEL, GPU, COUNT)
def test_every_coefficient_is_finite_and_not_negative(model: str, gpu: str, count: int) -> None:
    found = estimate(MODELS[model], GPUS[gpu], count)
    assert min(found.d0, found.d_kv, found.p1, found.p2) > 0
    assert min(found.d_s, found.p0) >= 0
    assert max(found.d0, found.p1) < 1e5


@given(MODEL, GPU)
def test_more_gpus_read_weights_and_cache_faster(model: str, gpu: str) -> None:
    one, two = (terms(MODELS[model], GPUS[gpu], count) for count in (1, 2))
    assert two.weights == pytest.approx(one.weights / 2)
    assert two.kv_token == pytest.approx(one.kv_token / 2)
    assert two.link_token > one.link_token == 0


@given(MODEL, GPU, COUNT)
def test_eight_bit_weights_are_never_slower(model: str, gpu: str, count: int) -> None:
    wide, narrow = (terms(MODELS[model], GPUS[gpu], count, precision) for precision in ("bf16", "fp8"))  # type: ignore[arg-type]
    assert narrow.weights < wide.weights
    assert narrow.linear_token <= wide.linear_token


def test_a_mixture_reads_more_weights_as_the_batch_grows_and_a_dense_model_does_not() -> None:
    scout, dense = (terms(MODELS[name], GPUS["h100_sxm"], 2) for name in ("Llama-4-Scout-17B-16E", "Qwen3-32B"))
    assert scout.weights_each > 0
    assert dense.weights_each == 0


def test_a_mixture_multiplies_only_what_a_token_uses() -> None:
    model = MODELS["Mixtral-8x7B"]
    token = terms(model, GPUS["h100_sxm"], 1).linear_token
    assert token * GPUS["h100_sxm"].bf16_tflops * 1e9 == pytest.approx(2 * model.active_linear_parameters)
    assert model.active_linear_parameters < model.linear_parameters / 3


def test_without_8_bit_units_the_arithmetic_stays_in_16_bits() -> None:
    model = MODELS["Llama-3.1-8B"]
    wide, narrow = (terms(model, GPUS["a100_sxm"], 1, precision) for precision in ("bf16", "fp8"))  # type: ignore[arg-type]
    assert narrow.linear_token == wide.linear_token
    assert narrow.weights < wide.weights


def test_8_bit_weights_make_room_for_the_cache() -> None:
    with pytest.raises(ConfigError, match="do not fit 1 x h100_sxm"):
        kv_tokens_for("Llama-3.1-70B", "h100_sxm", 1)
    assert kv_tokens_for("Llama-3.1-70B", "h200_sxm", 1, precision="fp8") > 100_000
