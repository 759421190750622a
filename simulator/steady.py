"""What an engine settles to under a steady load, in closed form. Pure.

Little's law closes the loop: the batch is the rate times how long a request decodes, and the step grows with the
batch. Calibration inverts this, because it is a million times cheaper than a simulation; queues, preemptions and
bursts are not in it, so it holds only well below saturation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulator.steptime import FINISH_S, HOST_INGRESS_S, OUTPUT_TOKEN_S, STEPS_AHEAD, StepTimer
from simulator.tokens import BLOCK_TOKENS

_LEAST: Final = 0.02
"""Nearest to saturation that an answer is given for, as a share of the step that is not the load's."""
_ROUNDS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests that all look alike, arriving at random."""

    rate_rps: float
    prompt_tokens: float
    output_tokens: float
    cached_tokens: float = 0.0
    """Of the prompt, found in the prefix cache."""

    def full_hit(self) -> float:
        """Tokens that a prompt seen before finds: all full blocks, but never its last token."""
        return (self.prompt_tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """Means of one engine, seconds."""

    ttft_s: float
    itl_s: float
    """Between tokens, as a client sees them (prefills of others included)."""
    e2e_s: float
    step_s: float
    batch: float
    """Sequences that decode."""


def steady(timer: StepTimer, load: Load, *, host_s: float = HOST_INGRESS_S, steps_ahead: float = STEPS_AHEAD) -> Steady:
    """Means under ``load``.

    Args:
        timer: step times of the engine.
        load: far enough below saturation; above it, the answer stays finite but means nothing.
        host_s: seconds in the host before a request is queued.
        steps_ahead: steps that pass before the scheduler can take a queued request, beyond the one in progress.
    """
    c, after = timer.coefficients, load.output_tokens - 1
    context = load.prompt_tokens + load.output_tokens / 2
    each_ms = c.d_s + c.d_kv * context
    rate, step_ms, prefill_ms = load.rate_rps / 1000, 0.0, 0.0
    for _ in range(_ROUNDS):
        prefill_ms = _prefill_extra_ms(timer, load, batch=rate * after * step_ms)
        free = 1 - rate * (after * each_ms + prefill_ms)
        step_ms = (timer.overhead_ms + c.d0) / max(free, _LEAST)
    first_s = host_s + ((steps_ahead + 1.5) * step_ms + prefill_ms) / 1000
    decode_s = after * step_ms / 1000
    return Steady(
        ttft_s=first_s, e2e_s=first_s + decode_s + FINISH_S + OUTPUT_TOKEN_S * load.output_tokens,
        itl_s=(decode_s + FINISH_S + OUTPUT_TOKEN_S * load.output_tokens) / max(after, 1.0),
        step_s=step_ms / 1000, batch=rate * after * step_ms,
    )  # fmt: skip


def _prefill_extra_ms(timer: StepTimer, load: Load, *, batch: float) -> float:
    """By how much a step with one prompt is longer than one without."""
    c, chunk = timer.coefficients, load.prompt_tokens - load.cached_tokens
    linear = c.eta * (c.p0 + c.p1 * (chunk + batch)) - (c.d0 + c.d_s * batch)
    return max(0.0, linear) + c.eta * 2 * c.p2 * chunk * (load.cached_tokens + chunk / 2)
