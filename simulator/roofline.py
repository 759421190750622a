"""Step coefficients from first principles, for models and GPUs that nobody has calibrated. Pure.

A step reads the weights and the KV cache once from memory and multiplies each token with the active weights. How much
of the data sheet's bandwidth and arithmetic a serving engine reaches, and what a layer costs beyond them, are the
:class:`Efficiencies`: fitted to the kernel tables behind :data:`fleet.hardware.COEFFICIENTS`, then to measured runs of
three models (:mod:`simulator.calibrate`). An estimate is marked as such: its source is ``roofline``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from fleet.errors import ConfigError
from fleet.hardware import (
    COEFFICIENTS,
    GPUS,
    MODELS,
    Gpu,
    ModelShape,
    Precision,
    StepCoefficients,
    kv_bytes_per_token,
)

Source = Literal["table", "roofline", "fitted"]
"""Calibrated by kernels and shipped, estimated, or fitted to runs of the pair itself."""
BYTES_16_BIT: Final = 2
_FEW, _MANY = 16, 64
"""Batches between which the experts that a step reads are taken as linear in the batch; a smaller batch reads fewer
than that, so a mixture of experts is estimated too slow when it is almost idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiencies:
    """What an engine makes of a data sheet."""

    weights: float
    """Of the peak bandwidth, while weights are read."""
    kv: float
    """Of the peak bandwidth, while the KV cache is read."""
    compute: float
    """Of the peak arithmetic, in a prompt's linear layers."""
    attention: float
    """Of the peak arithmetic, in a prompt's attention."""
    link: float
    """Of the link's bandwidth, in a prompt's all-reduces."""
    decode_compute: float
    """Time per decoding sequence, in units of its linear layers' time at the peak."""
    sequence_layer_ms: float
    """Beyond that, per decoding sequence and layer."""
    layer_ms: float
    """Per step and layer: launches, norms, what no bandwidth explains."""
    parallel_layer_ms: float
    """The same, more of it, when the layer is split over GPUs (two all-reduces)."""
    mixture_layer_ms: float
    """The same, more of it, in a mixture of experts (routing, grouped kernels)."""
    prefill_layer_ms: float
    """Per step with a prompt and layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Milliseconds that the data sheet's peak figures give for one model on ``tensor_parallel`` GPUs."""

    weights: float
    """Reading all weights that a step of one sequence reads."""
    weights_each: float
    """More of them, per sequence: experts that further tokens call."""
    kv_token: float
    linear_token: float
    attention_token: float
    """Per token and token before it."""
    link_token: float


def terms(model: ModelShape, gpu: Gpu, tensor_parallel: int, precision: Precision = "bf16") -> Terms:
    """The physical part of an estimate."""
    bandwidth = tensor_parallel * gpu.hbm_tb_s * 1e9  # bytes per ms
    peak = (gpu.fp8_tflops if precision == "fp8" else None) or gpu.bf16_tflops
    few, many = (_weight_bytes(model, batch, precision) for batch in (_FEW, _MANY))
    each = (many - few) / (_MANY - _FEW)
    reduced = 2 * 2 * model.layers * model.hidden * BYTES_16_BIT * (tensor_parallel - 1) / tensor_parallel
    return Terms(
        weights=(few - _FEW * each) / bandwidth,
        weights_each=each / bandwidth,
        kv_token=kv_bytes_per_token(model) / bandwidth,
        linear_token=2 * model.active_linear_parameters / (tensor_parallel * peak * 1e9),
        attention_token=2 * model.layers * model.heads * model.head_dim / (tensor_parallel * gpu.bf16_tflops * 1e9),
        link_token=reduced / (gpu.link_gb_s * 1e6),
    )


def _weight_bytes(model: ModelShape, batch: int, precision: Precision) -> float:
    """Bytes of weights that a step of ``batch`` tokens reads, tokens choosing their experts evenly."""
    linear = float(model.linear_parameters)
    if model.experts:
        unread = (1 - model.active_experts / model.experts) ** batch
        linear -= model.layers * model.experts * model.expert_parameters * unread
    return linear * (1 if precision == "fp8" else BYTES_16_BIT) + model.head_parameters * BYTES_16_BIT


def estimate(
    model: ModelShape, gpu: Gpu, tensor_parallel: int, precision: Precision = "bf16", *, by: Efficiencies | None = None
) -> StepCoefficients:
    """Coefficients of a pair that was not calibrated.

    >>> round(estimate(MODELS["Qwen2.5-7B"], GPUS["h100_sxm"], 1).d0, 1)
    5.0
    """
    e = by or FITTED
    t = terms(model, gpu, tensor_parallel, precision)
    per_layer = e.layer_ms + (e.parallel_layer_ms if tensor_parallel > 1 else 0.0)
    per_layer += e.mixture_layer_ms if model.experts else 0.0
    per_sequence = e.decode_compute * t.linear_token + e.sequence_layer_ms * model.layers
    return StepCoefficients(
        d0=t.weights / e.weights + per_layer * model.layers,
        d_s=t.weights_each / e.weights + per_sequence,
        d_kv=t.kv_token / e.kv,
        p0=e.prefill_layer_ms * model.layers,
        p1=t.linear_token / e.compute + t.link_token / e.link,
        p2=t.attention_token / e.attention,
    )


def coefficients_for(
    model: str, gpu: str, tensor_parallel: int, precision: Precision = "bf16"
) -> tuple[StepCoefficients, Source]:
    """Calibrated coefficients where there are some, else an estimate; and which of the two.

    Raises: ConfigError when the model or the GPU is not known, or the model cannot be split like that.
    """
    shape, chip = MODELS.get(model), GPUS.get(gpu)
    if shape is None or chip is None:
        what, known = (f"model shape {model!r}", MODELS) if shape is None else (f"accelerator {gpu!r}", GPUS)
        raise ConfigError(f"unknown {what}", limit=", ".join(sorted(known)), next_step="Choose one of those.")
    if tensor_parallel < 1 or shape.heads % tensor_parallel:
        raise ConfigError(f"{model} cannot be split over {tensor_parallel} GPUs",
                          limit=f"a divisor of its {shape.heads} attention heads",
                          next_step="Choose another number of GPUs.")  # fmt: skip
    known_pair = COEFFICIENTS.get((model, gpu, tensor_parallel)) if precision == "bf16" else None
    return (known_pair, "table") if known_pair else (estimate(shape, chip, tensor_parallel, precision), "roofline")


FITTED: Final = Efficiencies(
    weights=1.0,
    kv=0.8903,
    compute=0.8464,
    attention=0.3661,
    link=0.6949,
    decode_compute=0.3253,
    sequence_layer_ms=0.0001261,
    layer_ms=0.02824,
    parallel_layer_ms=0.01605,
    mixture_layer_ms=0.0509,
    prefill_layer_ms=0.06194,
)
"""Fitted to the kernel tables and to measured runs by :mod:`simulator.calibrate`; a test fits them again."""
