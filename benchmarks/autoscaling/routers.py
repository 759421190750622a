"""How requests are spread over replicas: the router in front of the pool. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from simulator.cluster import Pick, round_robin
from simulator.engine import Engine
from simulator.sequence import EngineRequest


def least_request() -> Pick:
    """The replica with fewest requests in flight, as the router itself counts them; ties in turn."""
    turn = -1

    def pick(_request: EngineRequest, engines: Sequence[Engine], _now_s: float) -> int:
        nonlocal turn
        turn += 1
        count = len(engines)
        return min(range(count), key=lambda index: (engines[index].unfinished, (index - turn) % count))

    return pick


SLACK: Final = 4
"""A replica that holds the prefix may have so many requests more in flight than the idlest one."""


def prefix_affine() -> Pick:
    """The replica that holds most of the prompt's prefix, within :data:`SLACK` requests of the idlest."""
    fallback = least_request()

    def pick(request: EngineRequest, engines: Sequence[Engine], now_s: float) -> int:
        limit = min(engine.unfinished for engine in engines) + SLACK
        blocks = len(request.block_hashes)
        held = [engine.kv.match(request.block_hashes, blocks) if engine.unfinished <= limit else 0
                for engine in engines]  # fmt: skip
        most = max(held)
        return held.index(most) if most else fallback(request, engines, now_s)

    return pick


ROUTERS: Final[dict[str, Callable[[], Pick]]] = {
    "least_request": least_request, "prefix_affine": prefix_affine, "round_robin": round_robin,
}  # fmt: skip
