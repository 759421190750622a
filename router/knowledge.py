"""What a router knows of its engines, and how one request sees them.

The last scrape of each, this router's own books of what it has in flight, what it remembers of prompts, sessions and
speeds, what its other workers tell, and what engines say of their caches: :meth:`Knowledge.views` brings it together
for one decision, :meth:`Knowledge.placed` takes down how it went. No HTTP, no clock: :attr:`Knowledge.now_s` is set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from router.endpoints import Endpoint, EndpointSet, address
from router.kvevents.precise import Precise
from router.kvindex.prompt import Prompt
from router.ledger import NO_PREFIX, Ledger, Total
from router.pace import Pace
from router.prefix import PrefixIndex
from router.scorers import PrefixAware
from router.sessions import Sessions
from router.shared import Board
from router.ticket import Ticket
from router.traffic import Traffic
from router.types import EndpointView, InferenceRequest


class _Slot:
    """An engine that may be picked, with what a pick reads of it; made anew whenever the engines change."""

    __slots__ = ("adapters", "at_s", "endpoint", "peers", "total", "view")

    def __init__(self, endpoint: Endpoint, total: Total, peers: Sequence[int]) -> None:
        self.at_s = -math.inf
        """When what changes slowly was last read."""
        self.endpoint, self.total = endpoint, total
        self.adapters = total.adapters
        """Of the requests in flight, when that was."""
        self.peers = peers
        """Where the other workers tell what they have there."""
        self.view = EndpointView(url=endpoint.url, variant=endpoint.variant, role=endpoint.role, labels=endpoint.labels)


def _add_peers(cells: Sequence[int], slots: Sequence[_Slot]) -> None:
    """What the other workers have in flight counts like our own."""
    for slot in slots:
        for at in slot.peers:
            if requests := cells[at]:
                view = slot.view
                view.requests_in_flight += requests
                view.prefill_tokens_in_flight += cells[at + 1]
                view.context_tokens_in_flight += cells[at + 2]


def _match(views: Sequence[EndpointView], matched: Sequence[int], ticket: Ticket) -> int:
    """Put blocks that match into the views, as tokens; returns the most of them."""
    longest = 0
    for blocks in matched:
        if blocks > longest:  # noqa: PLR1730 - max() costs more than all of this
            longest = blocks
    if longest:
        total, block = ticket.input_tokens, ticket.block_tokens
        for index, view in enumerate(views):
            tokens = matched[index] * block
            view.matched_tokens = tokens if tokens < total else total
    else:
        for view in views:
            view.matched_tokens = 0
    return longest


class Knowledge:
    """Of all engines; one an event loop.

    Args:
        endpoints: the engines, with their last scrapes.
        prefix: how prompts are cut into blocks, and how many are remembered.
        board: what the other workers of this router tell; ``None``: it has one.
        precise: matches prefixes by engines' events; ``None``: by what was sent where.
    """

    def __init__(
        self, endpoints: EndpointSet, prefix: PrefixAware, *, now_s: float, board: Board | None = None,
        precise: Precise | None = None,
    ) -> None:  # fmt: skip
        self.endpoints, self.board, self.precise = endpoints, board, precise
        self.ledger, self.traffic, self.sessions, self.pace = Ledger(), Traffic(), Sessions(), Pace()
        self.prefix = PrefixIndex(prefix.capacity_blocks)
        self.now_s = now_s
        """A coarse clock, ``monotonic`` seconds."""
        self._block_tokens = prefix.block_tokens
        self._candidates: Sequence[Endpoint] | None = None
        self._slots: list[_Slot] = []
        self._views: list[EndpointView] = []
        """Of the slots; another list when the engines change."""
        self._urls: list[str] = []
        self._by_url: dict[str, EndpointView] = {}
        self._tally = self.traffic.tally
        """What the views' numbers of new prompts are taken from."""
        self.epoch = 0
        """Another number whenever something else of the views may have changed than what changes with each request."""
        self._cold: dict[str, int] = {}
        """Turn of the last request without any cached prefix, by engine."""

    def use(self, before: PrefixAware, after: PrefixAware) -> None:
        """Prompts are cut as ``after`` says from now on; what is remembered of them is kept where nothing changed."""
        if before.block_tokens != after.block_tokens or before.capacity_blocks != after.capacity_blocks:
            self.prefix, self._block_tokens = PrefixIndex(after.capacity_blocks), after.block_tokens
            for endpoint in self.endpoints.ready:
                self.sampled(endpoint)

    # One decision.

    def views(self, ticket: Ticket) -> tuple[list[EndpointView], int]:
        """The candidates as this request sees them, and the last block of its prompt that is expected in some cache."""
        board = self.board
        if board is not None:
            self._hear(board)
        candidates, hashes = self.endpoints.candidates(ticket.tried), ticket.hashes
        if candidates is not self._candidates:
            self._lay_out(candidates)
        matched = self.prefix.matches(hashes, self._urls)
        now_s, views = self.now_s, self._views
        if self.traffic.tally is not self._tally:
            self._count_anew()
        for slot in self._slots:
            view, one, load = slot.view, slot.endpoint, slot.total
            if (slot.at_s != now_s or view.sample is not one.sample or view.models is not one.models
                    or slot.adapters is not load.adapters):  # fmt: skip
                self._refresh(slot, now_s)
            view.requests_in_flight, view.prefill_tokens_in_flight = load.requests, load.prefill
            view.context_tokens_in_flight = load.context
        longest = _match(views, matched, ticket)
        if board is not None:
            _add_peers(board.cells, self._slots)
        if self.precise is not None and ticket.prompt is not None:
            self._know(self.precise, ticket, ticket.prompt, views)
        if ticket.allowed is not None:
            views = [view for view in views if view.url in ticket.allowed]
        return views, hashes[longest - 1] if longest else NO_PREFIX

    def _hear(self, board: Board) -> None:
        """Take down what the other workers placed."""
        for url, placed in board.news():
            self.prefix.record(url, placed)

    def _lay_out(self, candidates: Sequence[Endpoint]) -> None:
        """Other engines may be picked than before."""
        self._candidates, board = candidates, self.board
        self._slots = [
            _Slot(one, self.ledger.total(one.url), board.places(one.url) if board is not None else ())
            for one in candidates
        ]
        self._views = [slot.view for slot in self._slots]
        self._urls = [one.url for one in candidates]
        self._by_url = dict(zip(self._urls, self._views, strict=True))
        for view in self._views:
            view.last_cold = self._cold.get(view.url, 0)
        self._count_anew()

    def _count_anew(self) -> None:
        """The tally of new prompts is another object; until the next one :meth:`placed` keeps the views up to date."""
        tally = self._tally = self.traffic.tally
        for view in self._views:
            view.new_prompts = tally.get(view.url, 0.0)

    def _refresh(self, slot: _Slot, now_s: float) -> None:
        """Read what changes with a scrape or a tick, or with the adapters of requests in flight."""
        self.epoch += 1
        view, one, url = slot.view, slot.endpoint, slot.view.url
        slot.at_s = now_s
        view.models, view.distance_s, view.slowness = one.models, one.distance_s, self.pace.slowness(url)
        view.other_requests = self.ledger.others(url)
        sample = view.sample = one.sample
        sent = slot.adapters = slot.total.adapters
        if sample is None:
            view.age_s = view.adapter_slots = None
            view.adapters = sent
        else:
            view.age_s, view.adapter_slots = now_s - one.sampled_s, sample.adapter_slots
            view.adapters = sample.adapters | sent if sent else sample.adapters

    def _know(self, precise: Precise, ticket: Ticket, prompt: Prompt, views: list[EndpointView]) -> None:
        """Replace what is guessed of caches by what is known, for engines that publish it."""
        found = precise.match(prompt, self.now_s)
        if found is None:
            return
        ticket.input_tokens = total = prompt.tokens
        for view in views:
            known = found.get(address(view.url))
            if known is not None:
                view.matched_tokens = min(known, total)

    def request(self, ticket: Ticket, *, prefix: int) -> InferenceRequest:
        """The request as scorers see it; ``prefix`` as :meth:`views` gave it."""
        traffic, hints, model, targets = self.traffic, ticket.hints, ticket.model, ticket.targets
        session = hints.session and f"{ticket.tenant}\n{hints.session}"
        return InferenceRequest(
            request_id=ticket.request_id,
            model=model,
            input_tokens=ticket.input_tokens,
            block_hashes=ticket.hashes,
            block_tokens=ticket.block_tokens,
            max_tokens=ticket.max_tokens,
            streaming=ticket.streaming,
            tenant=ticket.tenant,
            expected_output_tokens=traffic.expected_output(model, ticket.tenant, ticket.max_tokens),
            alike=self.ledger.alike(prefix),
            expected_reuse=traffic.reuse,
            adapter=model if model in self.endpoints.adapters else "",
            session=session,
            session_url=self.sessions.url(session, self.now_s) if session else "",
            slo_ttft_s=targets.ttft_s,
            slo_tpot_s=targets.tpot_s,
        )

    def placed(
        self, ticket: Ticket, url: str, uncached: int, request: InferenceRequest, *, prefix: int, turn: int
    ) -> None:  # fmt: skip
        """The request goes to ``url``, where ``uncached`` tokens of its prompt are to be computed.

        Args:
            ticket: the request.
            url: the engine.
            uncached: tokens.
            request: as :meth:`request` gave it.
            prefix: the last block of its prompt that is cached anywhere, as :meth:`views` gave it.
            turn: a counter of decisions.
        """
        self.ledger.dispatch(url, ticket.key, uncached, request.input_tokens, prefix, adapter=request.adapter)
        self.traffic.dispatched(url, uncached, request.input_tokens)
        self.prefix.record(url, ticket.hashes)
        if self.precise is not None and ticket.prompt is not None:
            self.precise.sent(ticket.prompt, url, self.now_s)
        if self.board is not None:
            self.board.placed(url, ticket.hashes)
            self.board.put(url, self.ledger.total(url))
        view = self._by_url.get(url)
        if view is not None:
            view.new_prompts = self.traffic.tally.get(url, 0.0)
        if prefix == NO_PREFIX:
            self._cold[url] = turn
            if view is not None:
                view.last_cold = turn
        if request.session:
            self.sessions.placed(request.session, url, self.now_s)

    def moved(self, ticket: Ticket, url: str) -> None:
        """The request is at ``url``, and nothing of its prompt is computed there yet."""
        self.ledger.dispatch(url, ticket.key, ticket.input_tokens, ticket.input_tokens)

    def told(self, url: str) -> None:
        """Tell the other workers what is in flight at ``url``."""
        if self.board is not None and url:
            self.board.put(url, self.ledger.total(url))

    # Engines.

    def sampled(self, endpoint: Endpoint) -> None:
        """Note the requests of other routers; remember no more prefixes than the engine's KV cache can hold."""
        sample = endpoint.sample
        if sample is None:
            return
        peers = self.board.peers(endpoint.url)[0] if self.board is not None else 0
        self.ledger.observed(endpoint.url, (sample.waiting or 0.0) + (sample.running or 0.0) - peers)
        load = self.ledger.of(endpoint.url)
        context = load.context_tokens_in_flight / load.requests_in_flight if load.requests_in_flight else 0.0
        self.pace.seen(endpoint.url, sample, endpoint.sampled_s, context)
        if sample.kv_capacity_tokens:
            self.prefix.resize(endpoint.url, int(sample.kv_capacity_tokens // self._block_tokens))

    def restarted(self, url: str) -> None:
        """The engine at ``url`` has an empty cache."""
        self.prefix.forget(url)
        if self.precise is not None:
            self.precise.gone(url)
        self.traffic.forget(url)
        if (view := self._by_url.get(url)) is not None:
            view.new_prompts = 0.0

    def gone(self, url: str) -> None:
        """The engine at ``url`` is no more: forget what was known of it; answers under way go on."""
        self.restarted(url)
        self.ledger.forget(url)
        self._candidates = None
        self._cold.pop(url, None)
        self.pace.forget(url)
