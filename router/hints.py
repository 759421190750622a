"""What a client's headers say about a request beside its body. Pure. Nothing in them can name an engine."""

from __future__ import annotations

import math
import re
from types import MappingProxyType
from typing import Final, NamedTuple

_WORD: Final = re.compile(rb"[\x21-\x7e]{1,256}")
_WORDS: Final = frozenset({"session", "fairness", "objective"})
MAX_SLO_MS: Final = 3_600_000.0
NO_TARGET_S: Final = math.inf
"""A target that a client declined (``none``): not even the model's is to hold."""


class Hints(NamedTuple):
    """The hints of one request."""

    session: str = ""
    """``x-session-id``: which conversation it belongs to."""
    slo_ttft_s: float | None = None
    """``x-llm-d-slo-ttft-ms``, or upstream's old ``x-slo-ttft-ms``; :data:`NO_TARGET_S`: ``none``."""
    slo_tpot_s: float | None = None
    """``x-llm-d-slo-tpot-ms``, or upstream's old ``x-slo-tpot-ms``; the same."""
    fairness: str = ""
    """``x-llm-d-inference-fairness-id``: whom it is for, where there are no tenants."""
    objective: str = ""
    """``x-llm-d-inference-objective``: the name of its priority."""
    explain: bool = False
    """``x-fleet-explain``: tell in ``x-fleet-decision`` why the request went where it went."""


NO_HINTS: Final = Hints()
HEADERS: Final = MappingProxyType(
    {
        b"x-session-id": "session",
        b"x-llm-d-slo-ttft-ms": "slo_ttft_s",
        b"x-slo-ttft-ms": "slo_ttft_s",
        b"x-llm-d-slo-tpot-ms": "slo_tpot_s",
        b"x-slo-tpot-ms": "slo_tpot_s",
        b"x-llm-d-inference-fairness-id": "fairness",
        b"x-gateway-inference-fairness-id": "fairness",
        b"x-llm-d-inference-objective": "objective",
        b"x-gateway-inference-objective": "objective",
        b"x-fleet-explain": "explain",
    }
)
"""Header (lower case) -> the hint that it gives."""


def with_hint(hints: Hints, name: str, value: bytes) -> Hints:
    """``hints`` with what a header says; a value that cannot be read says nothing.

    >>> with_hint(NO_HINTS, "slo_ttft_s", b"250").slo_ttft_s
    0.25
    """
    if name in _WORDS:
        return _with_word(hints, name, value.decode("ascii")) if _WORD.fullmatch(value) else hints
    if name == "explain":
        return hints._replace(explain=value.lower() in (b"1", b"true", b"yes"))
    seconds = _seconds(value)
    if seconds is None:
        return hints
    return hints._replace(slo_ttft_s=seconds) if name == "slo_ttft_s" else hints._replace(slo_tpot_s=seconds)


def _seconds(value: bytes) -> float | None:
    """A limit in milliseconds as seconds; :data:`NO_TARGET_S` for ``none``."""
    if value.lower() == b"none":
        return NO_TARGET_S
    try:
        limit_ms = float(value)
    except ValueError:
        return None
    return limit_ms / 1000.0 if math.isfinite(limit_ms) and 0.0 < limit_ms <= MAX_SLO_MS else None


def _with_word(hints: Hints, name: str, word: str) -> Hints:
    if name == "session":
        return hints._replace(session=word)
    return hints._replace(fairness=word) if name == "fairness" else hints._replace(objective=word)
