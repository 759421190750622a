"""One request on its way through the router, from when its body is read: what is known of it, and what came of it.

It knows nothing of HTTP connections: the proxy and the endpoint picker behind Envoy keep the same tickets.
"""

from __future__ import annotations

from fleet.history import RequestOutcome
from router.dataplane.body import ParsedBody
from router.dataplane.observe import Observer
from router.hints import NO_HINTS, Hints
from router.metrics import ModelMeters
from router.types import InferenceRequest, Pick

_NO_ENGINES: frozenset[str] = frozenset()


class Ticket:
    """Made by :meth:`router.director.Director.open`, ended exactly once by :meth:`router.director.Director.close`."""

    __slots__ = (
        "hashes", "hints", "key", "meters", "observer", "outcome", "parsed", "pick", "request", "request_id",
        "started_at_s", "started_s", "status", "tenant", "tried", "url",
    )  # fmt: skip

    def __init__(
        self, key: str, parsed: ParsedBody, hashes: list[int], meters: ModelMeters, *, request_id: str, tenant: str,
        at_s: float, now_s: float, hints: Hints = NO_HINTS,
    ) -> None:  # fmt: skip
        self.key = key
        """The router's own name of it; clients may send the same ``x-request-id`` twice."""
        self.parsed, self.hashes, self.meters = parsed, hashes, meters
        self.request_id, self.tenant, self.hints = request_id, tenant, hints
        self.started_at_s = at_s
        """Unix time of arrival."""
        self.started_s = now_s
        """The same on ``perf_counter``, for latencies."""
        self.observer = Observer()
        self.request: InferenceRequest | None = None
        """As the scheduler saw it last; ``None`` before the first pick."""
        self.pick: Pick | None = None
        self.url = ""
        """The engine it is at; empty: at none."""
        self.tried: set[str] | frozenset[str] = _NO_ENGINES
        """Engines that failed it."""
        self.status = 0
        self.outcome: RequestOutcome | None = None
        """``None`` until it is over."""
