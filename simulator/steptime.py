"""How long one engine step takes, from calibrated coefficients or the roofline's estimate. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from fleet.errors import ConfigError
from fleet.hardware import GPUS, MODELS, Precision, StepCoefficients, kv_capacity_tokens, weights_gib
from simulator.roofline import Source, coefficients_for

INGRESS_S = 15.5632e-3
"""Before the scheduler sees a request: HTTP, tokenising, hand-over (BLIS, fitted to vLLM 0.15 on H100)."""
HOST_INGRESS_S = 3.986e-3
"""The host's part of that, once :data:`STEPS_AHEAD` is told apart (fitted by :mod:`simulator.calibrate`)."""
STEPS_AHEAD = 1.396
"""Steps that a request misses beyond the one in progress when it arrives (fitted likewise)."""
NOMINAL_BATCH = 32
NOMINAL_CONTEXT = 1024
FINISH_S = 0.7773e-3
"""After the last token, per request (BLIS)."""
OUTPUT_TOKEN_S = 0.0459075e-3
"""Per output token outside the GPU: detokenising, streaming (BLIS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimer:
    """Step time of one model on one kind of GPU."""

    coefficients: StepCoefficients
    layers: int
    source: Source = "table"
    """Where the coefficients come from."""
    host_s: float = HOST_INGRESS_S
    """The host's part of a request's way to the scheduler."""
    steps_ahead: float = STEPS_AHEAD
    """Steps that a request misses there beyond the one in progress."""
    nominal_batch: float = NOMINAL_BATCH
    """Sequences of the step that those are taken to be, and"""
    nominal_context: float = NOMINAL_CONTEXT
    """the tokens of each: those of the runs, where it was fitted to some."""

    @property
    def overhead_ms(self) -> float:
        """The host's part of every step."""
        return 0.13 + 0.032 * self.layers

    @property
    def ingress_s(self) -> float:
        """Before the scheduler can take a request, for an engine under some load.

        vLLM schedules a step while the one before it runs, so a request misses the next step as well. The engine's
        model has no such look-ahead; this stands for it, by the step of a nominal batch.
        """
        context = self.nominal_batch * self.nominal_context
        return self.host_s + self.steps_ahead * self.step_s(decoding=self.nominal_batch, context=context)

    def step_s(
        self, *, decoding: float, context: float, prefill: int = 0, attention: float = 0.0, repeated: int = 0
    ) -> float:  # fmt: skip
        """Seconds of one step.

        Args:
            decoding: sequences that decode (B).
            context: tokens their attention reads, summed; a shared prefix is read by each sequence (sum of K).
            prefill: prompt tokens computed in this step (P).
            attention: ``sum(c * (k + c/2))`` over the chunks of ``c`` tokens that follow ``k`` present ones.
            repeated: of ``context``, tokens in blocks that another sequence of the batch reads as well.

        >>> timer = timer_for("Llama-3.1-8B", "h100_sxm", 1)
        >>> round(1000 * timer.step_s(decoding=64, context=64 * 2048), 1)
        13.3
        """
        c = self.coefficients
        busy = c.d0 + c.d_s * decoding
        if prefill:
            busy = max(busy, c.eta * (c.p0 + c.p1 * (prefill + decoding)))
        read = context - c.reuse * min(repeated, context)
        return (self.overhead_ms + busy + c.d_kv * read + c.eta * 2.0 * c.p2 * attention) / 1000.0


def timer_for(shape: str, accelerator: str, count: int, *, precision: Precision = "bf16") -> StepTimer:
    """The timer of ``shape`` on ``count`` GPUs of kind ``accelerator``; its ``source`` says whether it is an estimate.

    Raises: ConfigError when the model or the GPU is unknown, or the model cannot be split over so many.
    """
    _known(shape, MODELS, "model shape")
    _known(accelerator, GPUS, "accelerator")
    found, source = coefficients_for(shape, accelerator, count, precision)
    return StepTimer(coefficients=found, layers=MODELS[shape].layers, source=source)


def kv_tokens_for(shape: str, accelerator: str, count: int, *, precision: Precision = "bf16") -> int:
    """Tokens of KV cache beside the weights, at vLLM's memory defaults.

    Raises: ConfigError when the weights alone are larger than the memory.
    """
    tokens = kv_capacity_tokens(MODELS[shape], GPUS[accelerator], count, precision=precision)
    if tokens <= 0:
        gib = weights_gib(MODELS[shape], precision) / count
        raise ConfigError(
            f"the weights of {shape} do not fit {count} x {accelerator}: {gib:.1f} GiB a GPU",
            limit=f"{GPUS[accelerator].kv_budget_gib:.1f} GiB", next_step="Use more GPUs or a larger one.")  # fmt: skip
    return tokens


def _known(name: str, names: Iterable[str], what: str) -> None:
    known = sorted(names)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else "Choose one of those."
        raise ConfigError(f"unknown {what} {name!r}", limit=", ".join(known), next_step=hint)
