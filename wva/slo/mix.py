"""What one request costs a replica, from the step-time coefficients of model and GPU where they are known. Pure.

Two figures scale everything: alone a request takes ``lone_s``, and it adds ``work_s`` to every request beside it. In
between a step with prompts does not pay for the decode kernels' fixed part, and few prompts share a step while load is
light: :func:`stay_s` follows :class:`fleet.hardware.StepCoefficients` there. What is observed corrects it
(:mod:`wva.slo.law`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fleet.hardware import COEFFICIENTS, GPUS, StepCoefficients, shape_of
from fleet.types import FittedLaw, Role, VariantSpec

Array = NDArray[np.float64]
NOMINAL_TFLOPS: Final = 400.0
"""Of an unknown GPU: what only scales work and lone time, which are learned then."""
NOMINAL_TB_S: Final = 2.0
NOMINAL_PARAMETERS: Final = 8e9
EFFICIENCY: Final = 0.6
"""Share of peak that prefill and decode kernels reach, roughly, where no coefficients are known."""


REACH: Final = 2.0
"""A fitted law is believed up to so many times the load that it was fitted on."""


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
    saved_s: float
    """Prefill that the prefix cache saves: ``work_s`` would be so much more without it."""
    output: float
    """Steps that it takes part in after its prompt."""
    host_s: float
    """Of every step, whatever it does."""
    decode_s: float
    """Of a step without prompts."""
    sequence_s: float
    """Added to it by each running sequence."""
    context_s: float
    """Added to any step by each running sequence's context."""
    prompts_s: float
    """Of a step with prompts, beside the prompts' own time."""
    rider_s: float
    """Added to it by each sequence that decodes along."""
    known: bool
    """From calibrated coefficients, or from requests; otherwise a rough estimate."""
    reach: float = math.inf
    """In flight up to which that was seen."""


def calibrated(spec: VariantSpec) -> StepCoefficients | None:
    """The table's coefficients, where it has the pair of model and GPUs."""
    shape = shape_of(spec.model)
    return COEFFICIENTS.get((shape.name, spec.accelerator, spec.accelerator_count)) if shape else None


def step_coefficients(spec: VariantSpec) -> tuple[StepCoefficients, float, bool]:
    """Coefficients, host overhead a step (ms), and whether they are calibrated or estimated from peak figures."""
    shape, overhead_ms = shape_of(spec.model), _overhead_ms(spec)
    if found := calibrated(spec):
        return found, overhead_ms, True
    gpu, count = GPUS.get(spec.accelerator), max(spec.accelerator_count, 1)
    tflops = (gpu.bf16_tflops if gpu else NOMINAL_TFLOPS) * count * EFFICIENCY
    tb_s = (gpu.hbm_tb_s if gpu else NOMINAL_TB_S) * count * EFFICIENCY
    weights = shape.active_parameters if shape else NOMINAL_PARAMETERS
    kv_bytes = 4.0 * shape.layers * shape.kv_heads * shape.head_dim if shape else 131072.0
    per_token_ms = 2.0 * weights / (tflops * 1e9)
    return StepCoefficients(
        d0=2.0 * weights / (tb_s * 1e9), d_s=per_token_ms, d_kv=kv_bytes / (tb_s * 1e9), p0=0.0, p1=per_token_ms,
        p2=0.0,
    ), overhead_ms, False  # fmt: skip


def _overhead_ms(spec: VariantSpec) -> float:
    """The host's part of a step."""
    shape = shape_of(spec.model)
    return 0.13 + 0.032 * (shape.layers if shape else 32)


def fitted_coefficients(told: FittedLaw, overhead_ms: float) -> tuple[StepCoefficients, float]:
    """Coefficients and host overhead (ms) of what requests taught.

    Each running request was seen to bring prompts along; they are counted on their own here, and taken out of it.
    """
    host_ms = min(overhead_ms, 1000.0 * told.step_s)
    prompts_s = told.prompt_token_s * told.uncached_tokens / max(told.output_tokens, 1.0)
    return StepCoefficients(
        d0=1000.0 * told.step_s - host_ms, d_s=1000.0 * max(told.request_s - prompts_s, 0.0),
        d_kv=1000.0 * told.context_token_s, p0=0.0, p1=1000.0 * told.prompt_token_s,
        p2=1000.0 * told.prompt_square_s, eta=1.0,
    ), host_ms  # fmt: skip


def cost(spec: VariantSpec, mix: Mix, fitted: FittedLaw | None = None) -> Cost:
    """Cost of a request of ``mix`` on a replica of ``spec``; a prefill replica does not decode, nor the other way.

    Args:
        fitted: what its requests taught; in place of an estimate, not of calibrated coefficients.
    """
    if fitted is not None and calibrated(spec) is None:
        c, overhead_ms = fitted_coefficients(fitted, _overhead_ms(spec))
        return cost_of(c, overhead_ms, True, spec.role, mix, reach=REACH * fitted.in_flight_most)
    c, overhead_ms, known = step_coefficients(spec)
    return cost_of(c, overhead_ms, known, spec.role, mix)


def cost_of(
    c: StepCoefficients, overhead_ms: float, known: bool, role: Role, mix: Mix, *, reach: float = math.inf
) -> Cost:  # fmt: skip
    """As :func:`cost`, from coefficients at hand."""
    cached = mix.prompt * mix.hit_ratio
    prefill_ms = saved_ms = 0.0
    if role is not Role.DECODE:
        saved_ms = c.eta * (c.p1 * cached + c.p2 * cached**2)
        prefill_ms = c.eta * (c.p1 * (mix.prompt - cached) + c.p2 * (mix.prompt**2 - cached**2))
    output = 1.0 if role is Role.PREFILL else max(mix.output, 1.0)
    context_ms = c.d_kv * (mix.prompt + mix.output / 2)
    decode_ms = output * (c.d_s + context_ms)
    lone_ms = output * (overhead_ms + c.d0) + decode_ms + prefill_ms
    return Cost(
        lone_s=lone_ms / 1000.0, work_s=(prefill_ms + decode_ms) / 1000.0, prefill_s=prefill_ms / 1000.0,
        saved_s=saved_ms / 1000.0, output=output, host_s=overhead_ms / 1000.0, decode_s=c.d0 / 1000.0,
        sequence_s=c.d_s / 1000.0, context_s=context_ms / 1000.0, prompts_s=c.eta * c.p0 / 1000.0,
        rider_s=c.eta * c.p1 / 1000.0, known=known, reach=reach,
    )  # fmt: skip


STEADY_ROUNDS: Final = 7
"""Rounds of the fixed point below; it settles to a per mille in fewer."""


def stay_s(cost: Cost, running: float) -> float:
    """Seconds of a request while ``running`` are in the batch, each replaced by the next as it ends.

    A step lasts ``s``; ``q`` prompts join it on average, as Poisson arrivals do: with probability ``exp(-q)`` none does
    and it is a plain decode step.
    """
    return float(_stay(cost, max(running, 1.0), math.exp, max))


def stay_table(costs: Sequence[Cost], running: Array) -> Array:
    """:func:`stay_s` of each cost at each of its row's ``running``."""
    columns = {name: np.array([getattr(one, name) for one in costs])[:, None] for name in _STEP_FIELDS}
    return np.asarray(_stay(SimpleNamespace(**columns), np.maximum(running, 1.0), np.exp, np.maximum), dtype=np.float64)


_STEP_FIELDS: Final = (
    "prefill_s", "output", "host_s", "decode_s", "sequence_s", "context_s", "prompts_s", "rider_s",
)  # fmt: skip


def _stay(cost: Any, many: Any, exp: Callable[[Any], Any], larger: Callable[[Any, Any], Any]) -> Any:
    """On numbers or on arrays of them."""
    decode = cost.decode_s + cost.sequence_s * many
    prompts = larger(decode, cost.prompts_s + cost.rider_s * many + cost.prefill_s)
    always = cost.host_s + cost.context_s * many
    step = always + decode
    joins = (cost.prefill_s > 0.0) * 1.0
    for _ in range(STEADY_ROUNDS):
        q = joins * many * step / (cost.output * step + cost.prefill_s)
        none = exp(-q)
        step = always + none * decode + (1.0 - none) * prompts + (q - (1.0 - none)) * cost.prefill_s
    return cost.output * step + cost.prefill_s
