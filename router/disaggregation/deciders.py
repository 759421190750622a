"""Whether a request is worth two engines. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fleet.errors import ConfigError
from router.types import InferenceRequest

Decider = Callable[[InferenceRequest, int], bool]
"""Request, and prompt tokens cached at the decode engine chosen -> prefill elsewhere?"""
DEFAULT: Final = "uncached:1024"


def always(_request: InferenceRequest, _matched_tokens: int) -> bool:
    """Every request."""
    return True


def uncached(tokens: int) -> Decider:
    """More than ``tokens`` of the prompt are to be computed: what is cached where it decodes costs nothing."""
    return lambda request, matched: request.input_tokens - matched > tokens


def prompt(tokens: int) -> Decider:
    """The prompt is longer than ``tokens``, cached or not."""
    return lambda request, _matched: request.input_tokens > tokens


def decider(text: str) -> Decider:
    """By its name in settings: ``always``, ``uncached:TOKENS`` or ``prompt:TOKENS``.

    Raises: ConfigError.
    """
    word, _, number = text.partition(":")
    if text == "always":
        return always
    if number.isdigit() and word in ("uncached", "prompt"):
        return uncached(int(number)) if word == "uncached" else prompt(int(number))
    raise ConfigError(f"{text!r} is no decider", where="--pd-decider or ROUTER_PD_DECIDER",
                      limit="always, uncached:TOKENS, prompt:TOKENS", next_step="Name one of them.")  # fmt: skip
