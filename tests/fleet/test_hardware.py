"""Hardware data against published figures."""

from __future__ import annotations

import re

import pytest

from fleet.hardware import (
    COEFFICIENTS,
    DEPLOYMENTS,
    GPUS,
    MODELS,
    PRECISIONS,
    Deployment,
    Gpu,
    ModelShape,
    kv_bytes_per_token,
    kv_capacity_tokens,
    shape_of,
    weights_gib,
)


@pytest.mark.parametrize(
    ("model", "gpu", "tensor_parallel", "published"),
    [
        pytest.param("Qwen3-32B", "h100_sxm", 2, 307_328, id="qwen3-32b-on-two-h100"),
        pytest.param("Llama-3.1-70B", "h100_sxm", 4, 461_376, id="llama-70b-on-four-h100"),
    ],
)
def test_kv_capacity_is_within_one_percent_of_published(
    model: str, gpu: str, tensor_parallel: int, published: int
) -> None:
    assert kv_capacity_tokens(MODELS[model], GPUS[gpu], tensor_parallel) == pytest.approx(published, rel=0.01)


def test_grouped_query_attention_is_counted() -> None:
    assert kv_bytes_per_token(MODELS["Llama-3.1-70B"]) == 320 * 1024


def test_weights_that_do_not_fit_leave_no_capacity() -> None:
    assert kv_capacity_tokens(MODELS["Llama-3.1-70B"], GPUS["l40s"], 1) <= 0


@pytest.mark.parametrize("key", COEFFICIENTS, ids=str)
def test_every_coefficient_names_a_known_model_and_gpu(key: tuple[str, str, int]) -> None:
    model, gpu, tensor_parallel = key
    assert model in MODELS
    assert gpu in GPUS
    assert tensor_parallel in (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("model", "billions", "active"),
    [
        pytest.param("Llama-3.1-8B", 8.03, None, id="llama-3.1-8b"),
        pytest.param("Llama-3.1-70B", 70.55, None, id="llama-3.1-70b"),
        pytest.param("Llama-2-7B", 6.74, None, id="llama-2-7b"),
        pytest.param("Mistral-Nemo", 12.25, None, id="mistral-nemo"),
        pytest.param("Qwen2.5-7B", 7.62, None, id="qwen2.5-7b"),
        pytest.param("Qwen3-32B", 32.76, None, id="qwen3-32b"),
        pytest.param("Yi-34B", 34.39, None, id="yi-34b"),
        pytest.param("CodeLlama-34B", 33.74, None, id="codellama-34b"),
        pytest.param("Mixtral-8x7B", 46.7, 12.9, id="mixtral-8x7b"),
        pytest.param("Qwen3-30B-A3B", 30.5, 3.3, id="qwen3-30b-a3b"),
        pytest.param("Qwen3-Coder-480B-A35B", 480, 35, id="qwen3-coder-480b"),
        pytest.param("Llama-4-Scout-17B-16E", 109, 17, id="llama-4-scout-with-its-vision-part"),
    ],
)
def test_a_shape_gives_the_published_number_of_parameters(model: str, billions: float, active: float | None) -> None:
    shape = MODELS[model]
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=0.015)
    if active is not None:  # published with the embeddings
        assert (shape.active_parameters + shape.head_parameters) / 1e9 == pytest.approx(active, rel=0.03)


@pytest.mark.parametrize("shape", MODELS.values(), ids=lambda shape: shape.name)
def test_a_shape_is_consistent(shape: ModelShape) -> None:
    assert shape.heads % shape.kv_heads == 0
    assert shape.active_experts <= shape.experts
    assert (shape.experts == 0) == (shape.active_experts == 0)
    assert shape.active_parameters <= shape.parameters
    assert 0 < weights_gib(shape, "fp8") < weights_gib(shape) == shape.weight_gib


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_a_gpu_has_dated_prices_with_their_source(gpu: Gpu) -> None:
    assert gpu.prices
    assert gpu.price_per_hour == gpu.prices[0].usd_per_hour
    for price in gpu.prices:
        assert price.provider
        assert price.usd_per_hour > 0
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", price.as_of)
    assert gpu.prices[0].as_of in gpu.price_source
    assert gpu.kv_budget_gib < gpu.memory_gib


@pytest.mark.parametrize(
    ("served", "shape"),
    [
        pytest.param("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B", id="organisation-and-suffix"),
        pytest.param("meta-llama/Llama-2-70b-hf", "Llama-2-70B", id="another-case"),
        pytest.param("RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic", "Llama-4-Scout-17B-16E", id="quantised"),
        pytest.param("gpt-7", None, id="unknown"),
    ],
)
def test_a_served_name_finds_its_shape(served: str, shape: str | None) -> None:
    found = shape_of(served)
    assert (found.name if found else None) == shape


def test_eight_bit_weights_leave_more_capacity() -> None:
    wide, narrow = (kv_capacity_tokens(MODELS["Qwen3-32B"], GPUS["h100_sxm"], 1, precision=p) for p in PRECISIONS)
    assert narrow > wide + 100_000


@pytest.mark.parametrize("row", DEPLOYMENTS.values(), ids=lambda row: row.name)
def test_a_deployment_is_no_faster_than_its_memory(row: Deployment) -> None:
    """Weights and a context that nobody shares are read once a step, at the peak bandwidth at best."""
    model, bytes_per_ms = MODELS[row.model], row.count * GPUS[row.gpu].hbm_tb_s * 1e9
    host_ms = 0.13 + 0.032 * model.layers
    assert row.coefficients.d0 + host_ms > 2 * (model.linear_parameters + model.head_parameters) / bytes_per_ms
    assert row.coefficients.d_kv > kv_bytes_per_token(model) / bytes_per_ms
    assert 0 <= row.coefficients.reuse < 1
    assert row.coefficients.eta >= 1


@pytest.mark.parametrize("row", DEPLOYMENTS.values(), ids=lambda row: row.name)
def test_a_deployment_is_dated_with_its_source_and_fits_the_memory(row: Deployment) -> None:
    assert row.source
    assert row.engine
    assert re.fullmatch(r"20\d\d-\d\d", row.as_of)
    gpu, model = GPUS[row.gpu], MODELS[row.model]
    used_gib = (weights_gib(model) + row.kv_tokens * kv_bytes_per_token(model) / 1024**3) / row.count
    assert used_gib < gpu.memory_gib
