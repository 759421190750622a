"""What one request costs a replica, from the step-time coefficients of model and GPU where they are known. Pure.

With ``r`` requests in flight an engine answers one in ``lone_s + work_s * r`` seconds: alone it takes ``lone_s``, and
each request beside it adds its own prefill and its share of every decode step. The form is exact for steps whose time
is affine in the batch (:class:`fleet.hardware.StepCoefficients`); its two figures are corrected by what is observed
(:mod:`wva.slo.law`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.hardware import COEFFICIENTS, GPUS, StepCoefficients, shape_of
from fleet.types import Role, VariantSpec

NOMINAL_TFLOPS: Final = 400.0
"""Of an unknown GPU: what only scales work and lone time, which are learned then."""
NOMINAL_TB_S: Final = 2.0
NOMINAL_PARAMETERS: Final = 8e9
EFFICIENCY: Final = 0.6
"""Share of peak that prefill and decode kernels reach, roughly, where no coefficients are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Mean tokens of a request."""

    prompt: float
    """All prompt tokens, cached ones included."""
    output: float
    hit_ratio: float = 0.0
    """Share of the prompt that the prefix cache holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a request of a mix costs one replica, seconds."""

    lone_s: float
    """From first to last step on an idle replica."""
    work_s: float
    """Added to every other request's time; ``1 / work_s`` is the rate that nothing can exceed."""
    prefill_s: float
    """Part of ``work_s`` that is prefill."""
    known: bool
    """From calibrated coefficients; otherwise a rough estimate."""


def step_coefficients(spec: VariantSpec) -> tuple[StepCoefficients, float, bool]:
    """Coefficients, host overhead a step (ms), and whether they are calibrated or estimated from peak figures."""
    shape = shape_of(spec.model)
    layers = shape.layers if shape else 32
    overhead_ms = 0.13 + 0.032 * layers
    if shape and (found := COEFFICIENTS.get((shape.name, spec.accelerator, spec.accelerator_count))):
        return found, overhead_ms, True
    gpu, count = GPUS.get(spec.accelerator), max(spec.accelerator_count, 1)
    tflops = (gpu.bf16_tflops if gpu else NOMINAL_TFLOPS) * count * EFFICIENCY
    tb_s = (gpu.hbm_tb_s if gpu else NOMINAL_TB_S) * count * EFFICIENCY
    weights = shape.active_parameters if shape else NOMINAL_PARAMETERS
    kv_bytes = 4.0 * shape.layers * shape.kv_heads * shape.head_dim if shape else 131072.0
    per_token_ms = 2.0 * weights / (tflops * 1e9)
    return StepCoefficients(
        d0=2.0 * weights / (tb_s * 1e9), d_s=per_token_ms, d_kv=kv_bytes / (tb_s * 1e9), p0=0.0, p1=per_token_ms, p2=0.0,
    ), overhead_ms, False  # fmt: skip


def cost(spec: VariantSpec, mix: Mix) -> Cost:
    """Cost of a request of ``mix`` on a replica of ``spec``; a prefill replica does not decode, nor the other way."""
    c, overhead_ms, known = step_coefficients(spec)
    return cost_of(c, overhead_ms, known, spec.role, mix)


def cost_of(c: StepCoefficients, overhead_ms: float, known: bool, role: Role, mix: Mix) -> Cost:
    """As :func:`cost`, from coefficients at hand."""
    cached = mix.prompt * mix.hit_ratio
    prefill_ms = 0.0
    if role is not Role.DECODE:
        prefill_ms = c.eta * (c.p1 * (mix.prompt - cached) + c.p2 * (mix.prompt**2 - cached**2))
    output = 1.0 if role is Role.PREFILL else max(mix.output, 1.0)
    step_ms = overhead_ms + c.d0
    decode_ms = output * (c.d_s + c.d_kv * (mix.prompt + mix.output / 2))
    return Cost(lone_s=(output * step_ms + decode_ms + prefill_ms) / 1000.0, work_s=(prefill_ms + decode_ms) / 1000.0,
                prefill_s=prefill_ms / 1000.0, known=known)  # fmt: skip
