"""Who serves a request: the shape of a picker, and the plain ones. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from simulator.engine import Engine
from simulator.sequence import EngineRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Two engines for one request, as indices of those that are offered."""

    prefill: int
    """Computes the prompt and keeps its blocks until they are fetched."""
    decode: int
    """Fetches them and gives the answer."""


Pick = Callable[[EngineRequest, Sequence[Engine], float], int]
"""Where a request goes at a time: an index of the engines that are offered, which are in order of number."""
SplitPick = Callable[[EngineRequest, Sequence[Engine], float], int | Placement]
"""The same for a picker that may send prompt and answer to different engines."""


def round_robin() -> Pick:
    """Each engine in turn."""
    turn = -1

    def pick(_request: EngineRequest, engines: Sequence[Engine], _now_s: float) -> int:
        nonlocal turn
        turn = (turn + 1) % len(engines)
        return turn

    return pick


def at_random(below: Callable[[int], int]) -> Pick:
    """Any engine: what a Kubernetes Service comes to, whose kube-proxy draws one for each new connection.

    Args:
        below: draws an integer from 0 to below its argument (``random.Random.randrange``).
    """

    def pick(_request: EngineRequest, engines: Sequence[Engine], _now_s: float) -> int:
        return below(len(engines))

    return pick


def least_request() -> Pick:
    """The engine with fewest requests in flight, as a router itself counts them; ties in turn."""
    turn = -1

    def pick(_request: EngineRequest, engines: Sequence[Engine], _now_s: float) -> int:
        nonlocal turn
        turn += 1
        count = len(engines)
        return min(range(count), key=lambda index: (engines[index].unfinished, (index - turn) % count))

    return pick


SLACK: Final = 4
"""An engine that holds the prefix may have so many requests more in flight than the idlest one."""


def prefix_affine() -> Pick:
    """The engine with most of the prompt's prefix, within :data:`SLACK` requests of the idlest; else the idlest."""
    fallback = least_request()

    def pick(request: EngineRequest, engines: Sequence[Engine], now_s: float) -> int:
        limit = min(engine.unfinished for engine in engines) + SLACK
        blocks = len(request.block_hashes)
        held = [engine.kv.match(request.block_hashes, blocks) if engine.unfinished <= limit else 0
                for engine in engines]  # fmt: skip
        most = max(held)
        return held.index(most) if most else fallback(request, engines, now_s)

    return pick
