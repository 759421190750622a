"""What an engine settles to under a steady load, in closed form. Pure.

Little's law closes the loop: the batch is the rate times how long a request decodes, and the step grows with the
batch. Calibration inverts this, because it is a million times cheaper than a simulation; queues, preemptions and
bursts are not in it, so it holds only well below saturation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulator.steptime import FINISH_S, OUTPUT_TOKEN_S, StepTimer
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
    wait_s: float
    """Of it, because others' prompts are computed: in the step in progress, and in its own."""
    after_s: float
    """Of the time after it, because of prompts that came during its own."""
    itl_s: float
    """Between tokens, as a client sees them (prefills of others included)."""
    e2e_s: float
    step_s: float
    batch: float
    """Sequences that decode."""


def steady(timer: StepTimer, load: Load) -> Steady:
    """Means under ``load``.

    Args:
        timer: step times of the engine, and how a request gets to its scheduler.
        load: far enough below saturation; above it, the answer stays finite but means nothing.
    """
    c, after = timer.coefficients, load.output_tokens - 1
    context = load.prompt_tokens + load.output_tokens / 2
    each_ms = c.d_s + c.d_kv * context
    idle_ms, rate = timer.overhead_ms + c.d0, load.rate_rps / 1000
    alone_ms = after * (idle_ms + each_ms)  # a member's steps hold itself, and the others that are there
    decode_ms, prefill_ms, free = 0.0, 0.0, 1.0
    for _ in range(_ROUNDS):
        prefill_ms = _prefill_extra_ms(timer, load, batch=rate * decode_ms)
        free = max(1 - rate * (after * each_ms + prefill_ms), _LEAST)
        decode_ms = alone_ms / free
    met_ms = (idle_ms + each_ms * rate * decode_ms) / max(1 - rate * prefill_ms, _LEAST)
    met = _met(rate, met_ms, prefill_ms)
    after_ms = met.after_ms / free
    decode_ms += after_ms
    first_s = timer.host_s + ((timer.steps_ahead + 1.5) * met_ms + prefill_ms + met.wait_ms) / 1000
    decode_s = decode_ms / 1000
    return Steady(
        ttft_s=first_s, wait_s=met.wait_ms / 1000, after_s=after_ms / 1000,
        e2e_s=first_s + decode_s + FINISH_S + OUTPUT_TOKEN_S * load.output_tokens,
        itl_s=(decode_s + FINISH_S + OUTPUT_TOKEN_S * load.output_tokens) / max(after, 1.0),
        step_s=decode_s / max(after, 1.0), batch=rate * decode_ms,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Met:
    """What others' prompts cost a request, milliseconds."""

    wait_ms: float
    """Until its first token, beyond steps of mean length."""
    after_ms: float
    """After it, because of prompts that came during its own."""


def _met(rate: float, step_ms: float, prefill_ms: float) -> _Met:
    """A prompt that comes during a step is computed in the next one, together with all that came during the same.

    So a step is its decoding plus ``prefill_ms`` for each arrival in the step before, and its variance follows. A
    request meets long steps more often than short ones, waits half of what it meets, and shares its own step with
    those that came meanwhile. Its own is long, so more than usual come during that, and more again during theirs.
    """
    busy = min(rate * prefill_ms, 1 - _LEAST)
    variance = prefill_ms**2 * rate * step_ms / (1 - busy**2)
    long_ms = step_ms + variance / step_ms
    wait_ms = (long_ms - step_ms) / 2 + busy * long_ms
    return _Met(wait_ms, (prefill_ms + wait_ms) * busy / (1 - busy))


def _prefill_extra_ms(timer: StepTimer, load: Load, *, batch: float) -> float:
    """By how much a step with one prompt is longer than one without."""
    c, chunk = timer.coefficients, load.prompt_tokens - load.cached_tokens
    linear = c.eta * (c.p0 + c.p1 * (chunk + batch)) - (c.d0 + c.d_s * batch)
    return max(0.0, linear) + c.eta * 2 * c.p2 * chunk * (load.cached_tokens + chunk / 2)
