"""Limits of sampling parameters, in vLLM's order and words. Pure."""

from __future__ import annotations

import math

from simulator.api_types import ApiError, Body, bad_value

MAX_N = 16384
"""Answers to one request (vLLM's ``VLLM_MAX_N_SEQUENCES``)."""


def check_sampling(body: Body, n: int, max_tokens: int) -> None:
    """Refuse what vLLM refuses.

    Raises: ApiError 400.
    """
    if n < 1:
        raise ApiError(400, f"n must be at least 1, got {n}.")
    if n > MAX_N:
        raise ApiError(400, f"n must be at most {MAX_N}, got {n}.")
    _check_penalties(body)
    _check_randomness(body)
    if body.min_tokens < 0:
        raise ApiError(400, f"min_tokens must be greater than or equal to 0, got {body.min_tokens}.")
    if body.min_tokens > max_tokens:
        raise ApiError(400, f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {body.min_tokens}.")
    if any(not text for text in body.stop_strings):
        raise ApiError(400, "stop cannot contain an empty string.")


def _check_penalties(body: Body) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(body, name)
        if value is not None and not -2.0 <= value <= 2.0:
            raise ApiError(400, f"{name} must be in [-2, 2], got {value}.")
    repetition = body.repetition_penalty
    if repetition is not None and not 0.0 < repetition < math.inf:
        raise ApiError(400, f"repetition_penalty must be greater than zero, got {repetition}.")


def _check_randomness(body: Body) -> None:
    temperature, top_p, top_k, min_p = body.temperature, body.top_p, body.top_k, body.min_p
    if temperature is not None and temperature < 0.0:
        raise bad_value(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
    if temperature is not None and temperature > 2.0:
        raise bad_value(f"temperature must be in [0, 2], got {temperature}.", "temperature", temperature)
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise bad_value(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)
    if top_k is not None and top_k < -1:
        raise ApiError(400, f"top_k must be 0 (disable), or at least 1, got {top_k}.")
    if min_p is not None and not 0.0 <= min_p <= 1.0:
        raise ApiError(400, f"min_p must be in [0, 1], got {min_p}.")
