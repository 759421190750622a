"""How requests are spread over replicas, by name: the router in front of the pool. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from simulator.picks import Pick, least_request, prefix_affine, round_robin

ROUTERS: Final[dict[str, Callable[[], Pick]]] = {
    "least_request": least_request, "prefix_affine": prefix_affine, "round_robin": round_robin,
}  # fmt: skip
