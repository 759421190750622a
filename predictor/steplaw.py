"""What one engine step costs, and what that says of latency before a request was seen. Pure.

Three sources of a step's cost, in seconds: the hardware table where model and GPU are known, the typical engine of that
table where they are not, and a fitted model (for others who reckon with steps, such as the autoscaler's analyzer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from fleet.hardware import COEFFICIENTS, MODELS, StepCoefficients, shape_of
from predictor.physics import CACHED, CHUNK_TOKENS, INPUT, TPOT_COLUMNS, TTFT_COLUMNS, Array, Prior

INGRESS_S: Final = 0.004
"""HTTP, tokenising and hand-over before the scheduler sees a request."""
STEPS_FIRST: Final = 2.9
"""Steps before a first token besides the prompt's own work: half of the one under way, 1.4 that vLLM has scheduled
ahead (both as fitted to measured engines in :mod:`simulator.steptime`), and the one that computes it."""
TTFT_ROWS: Final = 1.0
"""Weight of what is expected of TTFT: a hundred requests tell most of it themselves."""
TPOT_ROWS: Final = 10.0
"""Of TPOT: requests of one wave of load all meet the same batch, and do not tell its parts apart."""
USUAL_OUTPUT_TOKENS: Final = 256.0
"""Length of an answer where samples do not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLaw:
    """Seconds of one engine step: ``step + request * B + context * K + prompt * P`` (P tokens of prompts in it)."""

    step_s: float
    request_s: float
    """For each sequence that decodes."""
    context_token_s: float
    """For each token that attention reads."""
    prompt_token_s: float
    """For each prompt token computed."""
    prompt_square_s: float = 0.0
    """For each prompt token squared: attention within a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Means of what is asked."""

    uncached_tokens: float
    """Prompt tokens of a request that are computed."""
    output_tokens: float = USUAL_OUTPUT_TOKENS


def mix_of(matrix: Array, output_tokens: Array) -> Mix:
    """Means over feature rows (n, 8); answers of unknown length (NaN) do not count."""
    uncached = float(np.maximum(matrix[:, INPUT] - matrix[:, CACHED], 1.0).mean())
    told = output_tokens[np.isfinite(output_tokens)]
    return Mix(uncached_tokens=uncached, output_tokens=float(told.mean()) if len(told) else USUAL_OUTPUT_TOKENS)


def of_hardware(model: str, accelerator: str, count: int) -> StepLaw | None:
    """The table's law for a served model's name on ``count`` GPUs; ``None`` where the table has no such pair."""
    shape = shape_of(model)
    found = COEFFICIENTS.get((shape.name, accelerator, count)) if shape else None
    return _law(found, MODELS[shape.name].layers) if shape and found else None


def typical() -> StepLaw:
    """The median engine of the hardware table: right in its proportions, not in its size.

    Against the fixed part of a step, a sequence, a token of context and a prompt token cost within a factor of two of
    the same on every GPU and model of the table.
    """
    laws = [_law(found, MODELS[name].layers) for (name, _, _), found in COEFFICIENTS.items()]
    step_s = median(law.step_s for law in laws)
    shares: Mapping[str, float] = {
        name: median(getattr(law, name) / law.step_s for law in laws)
        for name in ("request_s", "context_token_s", "prompt_token_s", "prompt_square_s")
    }
    return StepLaw(step_s=step_s, **{name: share * step_s for name, share in shares.items()})


def _law(found: StepCoefficients, layers: int) -> StepLaw:
    overhead_ms = 0.13 + 0.032 * layers  # the host's part of a step (BLIS)
    return StepLaw(
        step_s=(overhead_ms + found.d0) / 1e3, request_s=found.d_s / 1e3, context_token_s=found.d_kv / 1e3,
        prompt_token_s=found.eta * found.p1 / 1e3, prompt_square_s=found.eta * found.p2 / 1e3,
    )  # fmt: skip


def ttft_prior(law: StepLaw) -> Prior:
    """Coefficients on :data:`predictor.physics.TTFT_COLUMNS` that follow from a step's cost; 0: it does not tell.

    What a full KV cache costs depends on how fast answers end, so that column has no prior.
    """
    values = {
        "constant": INGRESS_S + STEPS_FIRST * law.step_s,
        "uncached_k": 1e3 * law.prompt_token_s,
        "uncached_x_length_m": 1e6 * law.prompt_square_s,
        "pending_k": 1e3 * law.prompt_token_s,
        "steps_x_requests": law.request_s,
        "steps_x_context_k": 1e3 * law.context_token_s,
        "overflow_k": 0.0,
    }
    return Prior(proportions=np.array([values[name] for name in TTFT_COLUMNS]), rows=TTFT_ROWS)


def tpot_prior(law: StepLaw, mix: Mix) -> Prior:
    """Coefficients on :data:`predictor.physics.TPOT_COLUMNS` that follow from a step's cost.

    Prompts of others are computed between an answer's tokens. In the long run as many prompts come as answers end, so
    each request in flight brings ``uncached / output`` prompt tokens to every output token; what is pending now is
    spread over one answer.
    """
    values = {
        "constant": law.step_s,
        "requests": law.request_s + law.prompt_token_s * mix.uncached_tokens / max(mix.output_tokens, 1.0),
        "context_k": 1e3 * law.context_token_s,
        "pending_k": 1e3 * law.prompt_token_s / max(mix.output_tokens, 1.0),
        "length_k": 1e3 * law.context_token_s,
    }
    return Prior(proportions=np.array([values[name] for name in TPOT_COLUMNS]), rows=TPOT_ROWS)


def of_coefficients(ttft: Array, tpot: Array) -> StepLaw:
    """The law behind fitted coefficients (:meth:`predictor.model.Law.coefficients`), as the fleet behaves on average.

    ``request_s`` includes the prompts that each request in flight brings along: it is what one more request adds to
    every step in the long run, which is what sizing wants. A chunk's share of the others' decoding counts as prompt.
    """
    prompt_s = max(float(ttft[TTFT_COLUMNS.index("uncached_k")]), float(ttft[TTFT_COLUMNS.index("pending_k")])) / 1e3
    return StepLaw(
        step_s=float(tpot[TPOT_COLUMNS.index("constant")]), request_s=float(tpot[TPOT_COLUMNS.index("requests")]),
        context_token_s=float(tpot[TPOT_COLUMNS.index("context_k")]) / 1e3,
        prompt_token_s=prompt_s or float(tpot[TPOT_COLUMNS.index("constant")]) / CHUNK_TOKENS,
        prompt_square_s=float(ttft[TTFT_COLUMNS.index("uncached_x_length_m")]) / 1e6,
    )  # fmt: skip
