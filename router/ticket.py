"""One request on its way through the router, from when its body is read: what is known of it, and what came of it.

It knows nothing of HTTP connections: the proxy and the endpoint picker behind Envoy keep the same tickets. It holds no
prompt, so that the ring of recent decisions may keep it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fleet.history import RequestOutcome
from router.dataplane.body import ParsedBody
from router.dataplane.observe import Observer
from router.dataplane.replies import Refusal
from router.flow import Waiting
from router.hints import NO_HINTS, Hints
from router.kvindex.prompt import Prompt
from router.metrics import ModelMeters
from router.predict import Seen
from router.targets import NO_TARGETS, Targets
from router.tenants import Tenant
from router.tracing.hooks import Trace
from router.types import InferenceRequest, Pick

_NO_ENGINES: frozenset[str] = frozenset()


class Ticket:
    """Made by :meth:`router.director.Director.open`, ended exactly once by :meth:`router.director.Director.close`."""

    __slots__ = (
        "allowed",
        "block_tokens",
        "client",
        "hashes",
        "held_s",
        "hints",
        "input_tokens",
        "key",
        "max_tokens",
        "meters",
        "model",
        "observer",
        "outcome",
        "outlived",
        "patience_s",
        "pick",
        "prefill",
        "prefill_cost_s",
        "priority",
        "prompt",
        "request_id",
        "seen",
        "size",
        "started_at_s",
        "started_s",
        "status",
        "streaming",
        "targets",
        "tenant",
        "trace",
        "tried",
        "turned_down",
        "url",
        "waiting",
    )  # fmt: skip

    def __init__(
        self, key: int, parsed: ParsedBody, hashes: Sequence[int], block_tokens: int, meters: ModelMeters,
        *, request_id: str, tenant: str, at_s: float, now_s: float,
        hints: Hints = NO_HINTS, targets: Targets = NO_TARGETS, client: Tenant | None = None, priority: int = 0,
        size: int = 0,
    ) -> None:  # fmt: skip
        self.key = key
        """The router's own name of it; clients may send the same ``x-request-id`` twice."""
        self.model, self.input_tokens = parsed.model, parsed.input_tokens
        self.max_tokens, self.streaming = parsed.max_tokens, parsed.stream
        self.hashes = hashes
        """Of the prompt's blocks; none once it is over."""
        self.block_tokens, self.meters = block_tokens, meters
        self.request_id, self.tenant, self.hints = request_id, tenant, hints
        self.targets = targets
        """Latencies that it is held to: what its client named, else its model's."""
        self.client, self.priority = client, priority
        """Whom it is charged to, if there are tenants, and how urgent it is: more is more."""
        self.size = size
        """Bytes of its body."""
        self.waiting: Waiting | None = None
        """Its place in a queue, while flow control holds it."""
        self.held_s = 0.0
        """From its arrival until it was let out of a queue; 0: it was in none."""
        self.patience_s = 0.0
        """How long it may wait for an engine that meets its targets: none does now; 0: it waits for none."""
        self.started_at_s = at_s
        """Unix time of arrival."""
        self.started_s = now_s
        """The same on ``perf_counter``, for latencies."""
        self.observer = Observer()
        self.pick: Pick | None = None
        self.seen: Seen | None = None
        """What was known of the engine it was sent to last, at that moment."""
        self.url = ""
        """The engine it is at; empty: at none."""
        self.prefill = ""
        """The engine that computes its prompt for another that decodes; empty: there is none."""
        self.prefill_cost_s = 0.0
        """What that was reckoned to take; 0: that engine did not do it."""
        self.outlived = False
        """That engine goes on computing it when the request is over."""
        self.prompt: Prompt | None = None
        """Its token ids and keys, where prefix matching is precise."""
        self.allowed: Collection[str] | None = None
        """Engines to choose among; ``None``: all."""
        self.tried: set[str] | frozenset[str] = _NO_ENGINES
        """Engines that failed it."""
        self.turned_down: Refusal | None = None
        """Why it was not let in, where a pick was taken back for that."""
        self.trace: Trace | None = None
        """Its span; ``None`` where it is not traced."""
        self.status = 0
        self.outcome: RequestOutcome | None = None
        """``None`` until it is over."""


class Decision:
    """One pick, for ``/debug/decisions``; no prompt, and no hashes of one: the ring stays small."""

    __slots__ = ("matched_tokens", "pick", "ticket", "took_s")

    def __init__(self, ticket: Ticket, pick: Pick, matched_tokens: int | None, took_s: float) -> None:
        self.ticket, self.pick = ticket, pick
        self.matched_tokens = matched_tokens
        """Of the prompt, expected in the cache of the engine picked; ``None``: none was."""
        self.took_s = took_s


class Owed:
    """A pick that is yet to be entered into the books: its request goes out first."""

    __slots__ = ("prefix", "request", "ticket", "took_s")

    def __init__(self, ticket: Ticket, request: InferenceRequest, prefix: int, took_s: float) -> None:
        self.ticket, self.request, self.prefix, self.took_s = ticket, request, prefix, took_s
