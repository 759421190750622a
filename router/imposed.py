"""What a request costs that will be late wherever it goes: its own target, and those of others that it slows. Pure.

Equal delay everywhere is best while everybody can be in time. Once nobody can, it makes all a little late. A request
that misses its target at every candidate then does least harm where the others miss theirs anyway, or have room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_SPREAD: Final = 0.2
"""Of answers' TPOT around its prediction, as a standard deviation of its log."""
_BEYOND: Final = 1.05
"""A prediction so many times the limit is late: nearer to it, harm is done for misses that never come."""
_LEFT: Final = 0.5
"""Of an answer under way this much is still to come, on average."""
_NO_TIME_S: Final = 1e-6


def late_everywhere(tpot_s: Sequence[float], limit_s: float) -> bool:
    """Every candidate is predicted to be late, by more than predictions err."""
    return min(tpot_s) >= _BEYOND * limit_s


def misses(
    tpot_s: Sequence[float], limit_s: float, requests: Sequence[float], slowed: Sequence[float]
) -> list[float]:  # fmt: skip
    """Targets missed through the request at each candidate, expected: its own (0..1), and those that it imposes.

    Args:
        tpot_s: predicted there.
        limit_s: the target, taken for the others' too.
        requests: under way there.
        slowed: share by which each of their tokens takes longer for this request.
    """
    found = []
    for tpot, others, share in zip(tpot_s, requests, slowed, strict=True):
        beyond = math.log(max(tpot, _NO_TIME_S) / limit_s) / _SPREAD
        own = 0.5 * math.erfc(-beyond / math.sqrt(2.0))
        density = math.exp(-0.5 * beyond * beyond) / (math.sqrt(2.0 * math.pi) * _SPREAD)
        found.append(own + _LEFT * others * share * density)
    return found
