"""Where each request goes, and the books of where it is: everything a router does but HTTP.

The proxy (:mod:`router.dataplane`) and the endpoint picker behind Envoy drive one and the same object. One request::

    parsed = router.dataplane.body.parse(body)            # a Refusal when it cannot be routed
    ticket = director.open(parsed, request_id=...)        # hashed, counted as running
    director.route(ticket, on_routed)                     # on_routed(url) or on_routed(Refusal), now or later
    director.stream(ticket, chunk) / .plain(ticket, chunk)    # pieces of the answer's body, as they pass
    director.failed(ticket, reason, unreachable=...)      # the engine failed it before a byte came; then:
    director.retry(ticket)                                #   may it go elsewhere? then route() again
    director.close(ticket, outcome, status)               # exactly once takes effect, on every path

Where there are tenants, ``director.identify(authorization)`` comes first, and its tenant goes to ``open``.

``on_routed`` is called at once where an engine can take the request; while flow control holds it, later. A ticket that
is closed meanwhile (its client left) is never called back. ``route`` enters the request into the ledger, so load is
counted from the pick on; ``failed``, a second ``route`` and ``close`` take it out again. All of it runs on one event
loop and never blocks; what the director cannot know (the time) it is told by :meth:`Director.tick`.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from functools import partial
from time import perf_counter
from typing import Final

from fleet.history import RequestOutcome
from router.admission import IN_VAIN, WAITS
from router.dataplane.body import ParsedBody
from router.dataplane.budget import RetryBudget
from router.dataplane.observe import Observer
from router.dataplane.replies import Refusal
from router.door import Door
from router.endpoints import Endpoint
from router.gate import Gate, OnRouted
from router.hints import NO_HINTS, Hints
from router.knowledge import Knowledge
from router.metrics import OTHER, ModelMeters
from router.models import Models
from router.parts import Parts
from router.predict import Seen, seen_at
from router.prefix import BYTES_PER_TOKEN, block_hashes
from router.profile import Profile, Scheduler
from router.recorder import count, facts
from router.refusals import UNKNOWN_KEY, none_found, over_limits
from router.targets import of_request, of_tenant
from router.tenants import Tenant
from router.ticket import Decision, Owed, Ticket
from router.types import EndpointView, InferenceRequest, Pick

_SETTLE_S: Final = 1.0
_OK: Final = RequestOutcome.OK
_NOTHING: Final = Observer()
"""What a request that is over keeps of its answer."""


def _block_tokens(parsed: ParsedBody, tokens: int) -> int:
    """Tokens of one block of this prompt, where a block of text has ``tokens``: exact where the client sent ids."""
    size = len(parsed.prompt)
    exact = round(parsed.input_tokens * tokens * BYTES_PER_TOKEN / size) if size else 0
    return min(tokens, max(1, exact))


class Director:
    """Directs requests to engines; one an event loop."""

    def __init__(self, parts: Parts) -> None:
        self.settings, self.endpoints, self.metrics = parts.settings, parts.endpoints, parts.metrics
        self.scheduler = parts.scheduler
        self.predict = parts.predict
        self.precise, self.splitter, self.protocol = parts.precise, parts.splitter, parts.protocol
        self.door = Door(parts) if parts.admission is not None else None
        self.rng, self._record, self.aliases = parts.rng, parts.record, parts.aliases
        self.now_s = time.monotonic()
        """A coarse clock, set by :meth:`tick`."""
        self.known = Knowledge(parts.endpoints, parts.scheduler.profile.prefix, now_s=self.now_s, board=parts.board,
                               precise=parts.precise)  # fmt: skip
        self.ledger, self.traffic = self.known.ledger, self.known.traffic
        self.budget = RetryBudget(ratio=self.settings.retry_ratio, burst=self.settings.retry_burst)
        self.decisions: deque[Decision] = deque(maxlen=self.settings.decisions)
        self.config_error = ""
        """Why the newest configuration is not in use; empty: it is."""
        self.tenants = parts.tenants
        self.gate = Gate(self.settings, self.endpoints, self.ledger, self.metrics.flow, choose=self._choose,
                         nothing=self._nothing, enter=self._enter, patience=self._patience_s, now_s=self.now_s,
                         board=parts.board)  # fmt: skip
        self._settled_s = self.now_s
        self._turn = 0
        self._owed: Owed | None = None
        self.models = Models(parts.slos)
        self._defaults = self.settings.slo_defaults != "off"
        """Requests that name no target may have one."""
        self._keys = itertools.count()

    def use(self, profile: Profile) -> None:
        """Decide by another profile from now on. What is remembered of prompts is kept, unless blocks changed size."""
        before, after = self.scheduler.profile.prefix, profile.prefix
        self.scheduler = Scheduler(profile)
        self.known.use(before, after)

    # A request comes.

    def refused(self, status: int) -> None:
        """Count a request that could not be read."""
        meters = self.metrics.model(OTHER)
        meters.requests += 1
        meters.error(str(status))

    def identify(self, authorization: bytes) -> Tenant | Refusal | None:
        """Whose request it is by its ``Authorization`` header; ``None`` where there are no tenants."""
        if not self.tenants.all:
            return None
        return self.tenants.identify(authorization) or UNKNOWN_KEY

    def open(
        self, parsed: ParsedBody, *, request_id: str, hints: Hints = NO_HINTS, client: Tenant | None = None,
        tenant: str = "", size: int = 0,
    ) -> Ticket:  # fmt: skip
        """Enter a request into the books; :meth:`close` must follow, whatever happens.

        Args:
            parsed: what its body says.
            request_id: its name for people; may come twice.
            hints: what its headers say.
            client: what :meth:`identify` gave.
            tenant: whom it is for, where ``client`` does not say.
            size: bytes of its body, which are held while it waits.
        """
        self.budget.earn()
        scheduler = self.scheduler
        model = self.models.of(parsed.model)
        hashes = block_hashes(
            parsed.prompt, block_bytes=scheduler.block_bytes, seed=model.seed,
            max_blocks=scheduler.hashed_blocks,
        )  # fmt: skip
        meters = self._meters(parsed.model)
        meters.running += 1
        meters.prompt_tokens += parsed.input_tokens
        tenant = client.spec.name if client is not None else tenant or hints.fairness
        priority = self.tenants.priority(client, hints.objective) if client is not None or hints.objective else 0
        targets = model.targets
        if client is not None and client.spec.slo is not None and self._defaults:
            targets = of_tenant(client.spec.slo, targets)
        ticket = Ticket(next(self._keys), parsed, hashes, _block_tokens(parsed, scheduler.block_tokens), meters,
                        request_id=request_id, tenant=tenant, at_s=time.time(), now_s=perf_counter(), hints=hints,
                        targets=targets if hints is NO_HINTS else of_request(hints, targets),
                        client=client, priority=priority, size=size)  # fmt: skip
        if self.precise is not None:
            ticket.prompt = self.precise.begin(parsed)
        return ticket

    def _meters(self, model: str) -> ModelMeters:
        """The model's numbers, if any engine serves it: what clients invent does not become a label."""
        meters = self.metrics.models().get(model)
        if meters is not None:
            return meters
        return self.metrics.model(model if model in self.endpoints.known_models() else OTHER)

    # It goes to an engine.

    def route(self, ticket: Ticket, on_routed: OnRouted) -> None:
        """Choose an engine, enter the request into the ledger there, tell ``on_routed``; or say why there is none."""
        if ticket.client is not None and not ticket.tried:
            refusal = over_limits(ticket, ticket.client, self.now_s)
            if refusal is not None:
                ticket.client = None  # it was not let in: nothing to give back
                on_routed(refusal)
                return
        if ticket.prompt is not None and ticket.prompt.waiting:
            ticket.prompt.on_known = partial(self._known, ticket, on_routed)
        else:
            self.gate.route(ticket, on_routed)

    def _known(self, ticket: Ticket, on_routed: OnRouted) -> None:
        """Its tokens are known, or will not be; its client may have left meanwhile."""
        if ticket.outcome is None:
            self.gate.route(ticket, on_routed)

    def _choose(self, ticket: Ticket) -> str | None:
        self._enter()
        started_s = perf_counter()
        self._turn += 1
        views, prefix = self.known.views(ticket)
        prefills: list[EndpointView] = []
        if self.splitter is not None:
            views, prefills = self.splitter.sides(views)
        request = self.known.request(ticket, prefix=prefix)
        pick = ticket.pick = self.scheduler.pick(
            request, views, rng=self.rng, turn=self._turn, predict=self.predict, epoch=self.known.epoch
        )  # fmt: skip
        took_s = perf_counter() - started_s
        if self.door is not None:
            self.door.judge(ticket, request, pick, prefills)
        view = pick.endpoint
        if view is None:
            if pick.reason != WAITS:
                self._decided(ticket, pick, None, took_s)
            return None
        ticket.url = view.url
        self._owed = Owed(ticket, request, prefix, took_s)
        if self.splitter is not None:  # how it goes out depends on where its prompt is computed
            self._enter(prefilled=self._split(ticket, request, view, prefills))
        return view.url

    def _enter(self, *, prefilled: bool = False) -> None:
        """Enter the last pick into the books, unless that is done; what was known of its engine has not changed since.

        ``prefilled``: another engine computes its prompt.
        """
        owed, self._owed = self._owed, None
        if owed is None:
            return
        ticket, request, pick = owed.ticket, owed.request, owed.ticket.pick
        view = pick.endpoint if pick is not None else None
        if pick is None or view is None:
            return
        matched = view.matched_tokens
        ticket.seen = seen_at(view)
        uncached = 0 if prefilled else request.input_tokens - matched
        self.known.placed(ticket, view.url, uncached, request, prefix=owed.prefix, turn=self._turn)
        self._decided(ticket, pick, matched, owed.took_s)

    def _decided(self, ticket: Ticket, pick: Pick, matched: int | None, took_s: float) -> None:
        self.metrics.scheduler.observe(took_s)
        self.decisions.append(Decision(ticket, pick, matched, took_s))

    def _split(
        self, ticket: Ticket, request: InferenceRequest, decode: EndpointView, prefills: list[EndpointView]
    ) -> bool:  # fmt: skip
        """Have another engine compute the prompt, if that is worth it; it is entered into the ledger there."""
        if self.splitter is None:
            return False
        able = [one for one in prefills if one.url not in ticket.tried]
        chosen = self.splitter.prefill(request, decode, able)
        ticket.prefill = "" if chosen is None else chosen.url
        self.metrics.split(request.model, "decode" if chosen is None else "prefill-decode")
        if chosen is None:
            return False
        uncached = request.input_tokens - chosen.matched_tokens
        ticket.prefill_cost_s = self.splitter.cost_s(request, chosen, decode)
        self.ledger.dispatch(chosen.url, (ticket.key, "prefill"), uncached, request.input_tokens)
        self.known.prefix.record(chosen.url, ticket.hashes)
        return True

    def prefilled(self, ticket: Ticket, *, failed: str = "", unreachable: bool = False, blame: bool = True) -> None:
        """The prefill leg is over; ``failed`` says why it did not help: then the engine that decodes computes it.

        ``blame``: the prefill engine is at fault, not the request.
        """
        self._enter()
        self.ledger.finish((ticket.key, "prefill"))
        if not failed:
            return
        ticket.prefill_cost_s = 0.0
        self.metrics.split(ticket.model, "fallback")
        if blame:
            self.note_failure(ticket.prefill, failed)
        if unreachable:
            self.endpoints.unreachable(ticket.prefill, failed, for_s=self.settings.eject_s)
        if ticket.url:
            self.known.moved(ticket, ticket.url)

    def _patience_s(self, ticket: Ticket) -> float:
        """How long a request may wait for room."""
        most_s = self.settings.flow_wait_s
        return most_s if self.door is None else self.door.patience_s(ticket, most_s)

    def _nothing(self, ticket: Ticket) -> Refusal:
        """Why no engine was found."""
        pick = ticket.pick
        if pick is not None and pick.reason == WAITS:  # it waited in vain, or had no room to
            pick.reason = IN_VAIN
            self._decided(ticket, pick, None, 0.0)
        return none_found(ticket, self.endpoints.declared)

    # The answer comes, or does not.

    def stream(self, ticket: Ticket, data: bytes) -> None:
        """A piece of an event stream is on its way to the client."""
        observer = ticket.observer
        first = not observer.events
        if events := observer.stream(data, perf_counter()):
            self.ledger.token(ticket.key, events)
            if first:  # later tokens are told with the next request there
                self.known.told(ticket.url)
                if ticket.prefill_cost_s and self.door is not None:
                    self.door.prefilled(ticket)

    def plain(self, ticket: Ticket, data: bytes) -> None:
        """A piece of any other answer is on its way to the client."""
        ticket.observer.plain(data)

    def failed(self, ticket: Ticket, reason: str, *, unreachable: bool = False) -> None:
        """The engine failed the request before it answered a byte: the request is there no more, nor will it be again.

        ``unreachable``: it took no connection, which leaves it out of further picks for a while.
        """
        url = ticket.url
        if ticket.trace is not None:
            ticket.trace.failed(url, reason)
        if unreachable:
            self.endpoints.unreachable(url, reason, for_s=self.settings.eject_s)
        if url:
            ticket.tried = {*ticket.tried, url}
        ticket.url = ""
        self._finish(ticket, url)

    def served(self, ticket: Ticket, url: str) -> None:
        """Another engine than the one chosen serves it: a proxy walked down its list."""
        self._enter()
        if ticket.url:
            self.note_failure(ticket.url, "a proxy went on to another engine")
        ticket.url = url
        self.known.moved(ticket, url)
        self.known.prefix.record(url, ticket.hashes)

    def retry(self, ticket: Ticket) -> bool:
        """May a request that its engine failed try another? Spends from the budget when it may."""
        return len(ticket.tried) <= self.settings.retries and self.budget.take()

    def note_failure(self, url: str, reason: str) -> None:
        """A request was lost at ``url``, or answered with 5xx."""
        settings = self.settings
        self.endpoints.failed(url, reason, after=settings.breaker_failures, for_s=settings.eject_s)

    def may_go_elsewhere(self, ticket: Ticket) -> bool:
        """Is there another engine that could be asked, and may one more be? Spends nothing yet."""
        if len(ticket.tried) >= self.settings.retries or not self.budget.left:
            return False
        model = ticket.model
        return any(one.url != ticket.url and (not one.models or model in one.models)
                   for one in self.endpoints.candidates(ticket.tried))  # fmt: skip

    def close(self, ticket: Ticket, outcome: RequestOutcome, status: int) -> bool:
        """The request is over: release it and account for it. False, and nothing done, when it was over already."""
        if ticket.outcome is not None:
            return False
        ticket.outcome, ticket.status = outcome, status
        if ticket.waiting is not None:
            self.gate.leave(ticket)
        self._finish(ticket, ticket.url)
        if ticket.prefill and not ticket.outlived:
            self.ledger.finish((ticket.key, "prefill"))
        seen = facts(ticket, perf_counter())
        count(ticket, seen)
        if outcome is _OK:
            self.endpoints.answered(ticket.url)
            self.traffic.answered(seen.output_tokens, ticket.model, ticket.tenant)
        if ticket.pick is not None and ticket.seen is not None:
            self._count_pick(ticket, ticket.pick, ticket.seen)
        if ticket.client is not None:
            ticket.client.end(seen.output_tokens)
        self._record(ticket, seen)
        ticket.hashes, ticket.observer = (), _NOTHING
        self.gate.pump()
        return True

    def _finish(self, ticket: Ticket, url: str) -> None:
        """The request is no longer in flight at ``url``."""
        self._enter()
        self.ledger.finish(ticket.key)
        self.known.told(url)

    def _count_pick(self, ticket: Ticket, pick: Pick, seen: Seen) -> None:
        if (tokens := ticket.input_tokens) > 0:
            self.metrics.prefix_hits.observe(seen.matched_tokens / tokens)
        if (prediction := pick.prediction) is not None:
            ticket.meters.predicted_ttft.observe(prediction.ttft_s)

    # Engines and time.

    def sampled(self, endpoint: Endpoint) -> None:
        """An engine was scraped."""
        if endpoint.sample is not None:
            self.known.sampled(endpoint)
            self.gate.sampled(endpoint)

    def restarted(self, url: str) -> None:
        """The engine at ``url`` has an empty cache."""
        self.known.restarted(url)

    def gone(self, url: str) -> None:
        """The engine at ``url`` is no more: forget what was known of it; answers under way go on."""
        self.known.gone(url)
        self.gate.gone(url)
        if self.door is not None:
            self.door.pace.forget(url)

    def tick(self, now_s: float) -> None:
        """Tell the time (``monotonic`` seconds); called several times a second."""
        self.now_s = self.known.now_s = now_s
        self.gate.tick(now_s)
        if now_s - self._settled_s >= _SETTLE_S:
            self._settled_s = now_s
            self.metrics.settle()
