"""Hardware data against published figures."""

from __future__ import annotations

import pytest

from fleet.hardware import COEFFICIENTS, GPUS, MODELS, kv_bytes_per_token, kv_capacity_tokens


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
