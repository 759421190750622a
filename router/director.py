"""Where each request goes, and the books of where it is: everything a router does but HTTP.

The proxy (:mod:`router.dataplane`) and the endpoint picker behind Envoy drive one and the same object. One request::

    parsed = router.dataplane.body.parse(body)            # a Refusal when it cannot be routed
    ticket = director.open(parsed, request_id=...)        # hashed, counted as running
    director.route(ticket, on_routed)                     # on_routed(url) or on_routed(Refusal), now or later
    director.stream(ticket, chunk) / .plain(ticket, chunk)    # pieces of the answer's body, as they pass
    director.failed(ticket, reason, unreachable=...)      # the engine failed it before a byte came; then:
    director.retry(ticket)                                #   may it go elsewhere? then route() again
    director.close(ticket, outcome, status)               # exactly once takes effect, on every path

``on_routed`` is called at once where an engine can take the request; while flow control holds it, later. A ticket that
is closed meanwhile (its client left) is never called back. ``route`` enters the request into the ledger, so load is
counted from the pick on; ``failed``, a second ``route`` and ``close`` take it out again. All of it runs on one event
loop and never blocks; what the director cannot know (the time) it is told by :meth:`Director.tick`.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import NamedTuple

from fleet.history import RequestOutcome
from router.dataplane.body import ParsedBody
from router.dataplane.budget import RetryBudget
from router.dataplane.replies import Refusal, server_error
from router.endpoints import Endpoint, EndpointSet
from router.hints import NO_HINTS, Hints
from router.ledger import NO_PREFIX, Ledger, Load
from router.metrics import OTHER, ModelMeters, RouterMetrics
from router.pickers import Rng
from router.prefix import BYTES_PER_TOKEN, PrefixIndex, block_hashes, model_seed
from router.profile import NO_MODEL, Profile, Scheduler
from router.recorder import Facts, count, facts
from router.sessions import Sessions
from router.settings import RouterSettings
from router.ticket import Ticket
from router.traffic import Traffic
from router.types import EndpointView, InferenceRequest, Pick, Predict

OnRouted = Callable[[str | Refusal], None]
"""Told the engine's URL, or why there is none."""

_seed = lru_cache(maxsize=1024)(model_seed)


class Decision(NamedTuple):
    """One pick, for ``/debug/decisions``; no prompt, and no hashes of one: the ring stays small."""

    at_s: float
    request_id: str
    model: str
    input_tokens: int
    max_tokens: int | None
    streaming: bool
    pick: Pick
    took_s: float


@dataclass(slots=True, kw_only=True)
class Parts:
    """What a director is made of."""

    settings: RouterSettings
    scheduler: Scheduler
    endpoints: EndpointSet
    metrics: RouterMetrics
    rng: Rng
    predict: Predict | None = None
    record: Callable[[Ticket, Facts], None] = field(default=lambda _ticket, _seen: None)
    """Told of every request that is over."""


class Director:
    """Directs requests to engines; one an event loop."""

    def __init__(self, parts: Parts) -> None:
        self.settings, self.endpoints, self.metrics = parts.settings, parts.endpoints, parts.metrics
        self.scheduler = parts.scheduler
        self.predict = parts.predict
        self._rng, self._record = parts.rng, parts.record
        prefix = parts.scheduler.profile.prefix
        self.ledger = Ledger()
        self.prefix, self.traffic, self.sessions = PrefixIndex(prefix.capacity_blocks), Traffic(), Sessions()
        self.budget = RetryBudget(ratio=self.settings.retry_ratio, burst=self.settings.retry_burst)
        self.decisions: deque[Decision] = deque(maxlen=self.settings.decisions)
        self.config_error = ""
        """Why the newest scheduling configuration is not in use; empty: it is."""
        self.now_s = time.monotonic()
        """A coarse clock, set by :meth:`tick`."""
        self._seen: dict[str, tuple[object, EndpointView]] = {}
        self._turn = 0
        self._cold: dict[str, int] = {}
        """Turn of the last request without any cached prefix, by engine."""
        self._keys = itertools.count()

    def use(self, profile: Profile) -> None:
        """Decide by another profile from now on. What is remembered of prompts is kept, unless blocks changed size."""
        before, after = self.scheduler.profile.prefix, profile.prefix
        self.scheduler = Scheduler(profile)
        if before.block_tokens != after.block_tokens or before.capacity_blocks != after.capacity_blocks:
            self.prefix = PrefixIndex(after.capacity_blocks)
            for endpoint in self.endpoints.ready:
                self.sampled(endpoint)

    # A request comes.

    def refused(self, status: int) -> None:
        """Count a request that could not be read."""
        meters = self.metrics.model(OTHER)
        meters.requests += 1
        meters.error(str(status))

    def open(
        self, parsed: ParsedBody, *, request_id: str, tenant: str = "", hints: Hints = NO_HINTS
    ) -> Ticket:  # fmt: skip
        """Enter a request into the books; :meth:`close` must follow, whatever happens."""
        self.budget.earn()
        prefix = self.scheduler.profile.prefix
        hashes = block_hashes(
            parsed.prompt, block_bytes=prefix.block_tokens * BYTES_PER_TOKEN, seed=_seed(parsed.model),
            max_blocks=prefix.hashed_blocks,
        )  # fmt: skip
        meters = self._meters(parsed.model)
        meters.running += 1
        return Ticket(str(next(self._keys)), parsed, hashes, meters, request_id=request_id, tenant=tenant,
                      at_s=time.time(), now_s=perf_counter(), hints=hints)  # fmt: skip

    def _meters(self, model: str) -> ModelMeters:
        """The model's numbers, if any engine serves it: what clients invent does not become a label."""
        meters = self.metrics.models().get(model)
        if meters is not None:
            return meters
        return self.metrics.model(model if model in self.endpoints.known_models() else OTHER)

    # It goes to an engine.

    def route(self, ticket: Ticket, on_routed: OnRouted) -> None:
        """Choose an engine, enter the request into the ledger there, tell ``on_routed``; or say why there is none."""
        on_routed(self._choose(ticket))

    def _choose(self, ticket: Ticket) -> str | Refusal:
        started_s = perf_counter()
        self._turn += 1
        views, prefix = self._views(ticket)
        request = ticket.request = self._request(ticket, alike=self.ledger.alike(prefix))
        pick = ticket.pick = self.scheduler.pick(
            request, views, rng=self._rng, turn=self._turn, predict=self.predict
        )  # fmt: skip
        took_s = perf_counter() - started_s
        self.metrics.scheduler.observe(took_s)
        self.decisions.append(
            Decision(ticket.started_at_s, request.request_id, request.model, request.input_tokens,
                     request.max_tokens, request.streaming, pick, took_s)
        )  # fmt: skip
        if pick.endpoint is None:
            return self._nothing(ticket, pick)
        url = ticket.url = pick.endpoint.url
        uncached = request.input_tokens - pick.endpoint.matched_tokens
        self.ledger.dispatch(url, ticket.key, uncached, request.input_tokens, prefix, adapter=request.adapter)
        self.traffic.dispatched(url, uncached, request.input_tokens)
        self.prefix.record(url, ticket.hashes)
        if prefix == NO_PREFIX:
            self._cold[url] = self._turn
        if request.session:
            self.sessions.placed(request.session, url, self.now_s)
        return url

    def _request(self, ticket: Ticket, *, alike: int) -> InferenceRequest:
        parsed, hints = ticket.parsed, ticket.hints
        session = hints.session and f"{ticket.tenant}\n{hints.session}"
        return InferenceRequest(
            request_id=ticket.request_id,
            model=parsed.model,
            input_tokens=parsed.input_tokens,
            block_hashes=ticket.hashes,
            block_tokens=self._block_tokens(parsed),
            max_tokens=parsed.max_tokens,
            streaming=parsed.stream,
            tenant=ticket.tenant,
            expected_output_tokens=self.traffic.expected_output(parsed.model, ticket.tenant, parsed.max_tokens),
            alike=alike,
            expected_reuse=self.traffic.reuse,
            adapter=parsed.model if parsed.model in self.endpoints.adapters else "",
            session=session,
            session_url=self.sessions.url(session, self.now_s) if session else "",
            slo_ttft_s=hints.slo_ttft_s,
            slo_tpot_s=hints.slo_tpot_s,
        )

    def _block_tokens(self, parsed: ParsedBody) -> int:
        """Tokens of one block of this prompt: exact where the client sent token ids."""
        tokens, size = self.scheduler.profile.prefix.block_tokens, len(parsed.prompt)
        exact = round(parsed.input_tokens * tokens * BYTES_PER_TOKEN / size) if size else 0
        return min(tokens, max(1, exact))

    def _views(self, ticket: Ticket) -> tuple[list[EndpointView], int]:
        """The candidates, and the last block of the prompt that is expected in some cache."""
        candidates, hashes = self.endpoints.candidates(ticket.tried), ticket.hashes
        matched = self.prefix.match(hashes, [one.url for one in candidates])
        longest = max(matched.values(), default=0)
        prefix = hashes[longest - 1] if longest else NO_PREFIX
        total, block = ticket.parsed.input_tokens, self._block_tokens(ticket.parsed)
        return [self._view(one, min(matched[one.url] * block, total)) for one in candidates], prefix

    def _view(self, one: Endpoint, matched: int) -> EndpointView:
        """The engine as a request sees it of which ``matched`` tokens are cached there; the last view again where
        nothing has changed since."""
        load, new_prompts = self.ledger.of(one.url), self.traffic.new_prompts(one.url)
        state = (load, matched, new_prompts, self.now_s, one.sampled_s, one.models)
        seen = self._seen.get(one.url)
        if seen is not None and seen[0] == state:
            return seen[1]
        view = self._new_view(one, load, matched, new_prompts)
        self._seen[one.url] = (state, view)
        return view

    def _new_view(self, one: Endpoint, load: Load, matched: int, new_prompts: float) -> EndpointView:
        return EndpointView(
            url=one.url,
            variant=one.variant,
            models=one.models,
            role=one.role,
            sample=one.sample,
            age_s=None if one.sample is None else self.now_s - one.sampled_s,
            requests_in_flight=load.requests_in_flight,
            prefill_tokens_in_flight=load.prefill_tokens_in_flight,
            context_tokens_in_flight=load.context_tokens_in_flight,
            other_requests=self.ledger.others(one.url),
            matched_tokens=matched,
            new_prompts=new_prompts,
            adapters=self._adapters(one),
            adapter_slots=one.sample.adapter_slots if one.sample else None,
            labels=one.labels,
            distance_s=one.distance_s,
            last_cold=self._cold.get(one.url, 0),
        )

    def _adapters(self, one: Endpoint) -> frozenset[str]:
        """LoRA adapters loaded there, or about to be: those scraped, and those of requests on their way."""
        scraped = one.sample.adapters if one.sample else frozenset()
        sent = self.ledger.adapters(one.url)
        return scraped | sent if sent else scraped

    def _nothing(self, ticket: Ticket, pick: Pick) -> Refusal:
        meters = ticket.meters
        if ticket.tried:
            meters.refuse("engines_failed")
            return server_error(503, "the engines tried failed, and no other is left", code="engines_failed",
                                dropped="rejected-no-endpoints", retry_after_s=1)  # fmt: skip
        model, reason = ticket.parsed.model, pick.reason
        if reason == NO_MODEL and model in self.endpoints.declared:
            reason = "no_ready"  # the platform has a variant of it, and none of its engines is ready
        meters.refuse(reason)
        if reason == NO_MODEL:
            return Refusal(404, f"the model {model!r} is served by no engine here",
                           code="model_not_found", dropped="rejected-no-endpoints")  # fmt: skip
        return server_error(503, f"no engine can take this request now ({reason}); try again shortly",
                            code=reason, dropped="rejected-no-endpoints", retry_after_s=2)  # fmt: skip

    # The answer comes, or does not.

    def stream(self, ticket: Ticket, data: bytes) -> None:
        """A piece of an event stream is on its way to the client."""
        if events := ticket.observer.stream(data, perf_counter()):
            self.ledger.token(ticket.key, events)

    def plain(self, ticket: Ticket, data: bytes) -> None:
        """A piece of any other answer is on its way to the client."""
        ticket.observer.plain(data)

    def failed(self, ticket: Ticket, reason: str, *, unreachable: bool = False) -> None:
        """The engine failed the request before it answered a byte: the request is there no more, nor will it be again.

        ``unreachable``: it took no connection, which leaves it out of further picks for a while.
        """
        url = ticket.url
        if unreachable:
            self.endpoints.unreachable(url, reason, for_s=self.settings.eject_s)
        if url:
            ticket.tried = {*ticket.tried, url}
        ticket.url = ""
        self.ledger.finish(ticket.key)

    def retry(self, ticket: Ticket) -> bool:
        """May a request that its engine failed try another? Spends from the budget when it may."""
        return len(ticket.tried) <= self.settings.retries and self.budget.take()

    def note_failure(self, url: str, reason: str) -> None:
        """A request was lost at ``url``."""
        endpoint = self.endpoints.get(url)
        if endpoint is not None:
            endpoint.failures += 1
            endpoint.last_error = reason

    def close(self, ticket: Ticket, outcome: RequestOutcome, status: int) -> bool:
        """The request is over: release it and account for it. False, and nothing done, when it was over already."""
        if ticket.outcome is not None:
            return False
        ticket.outcome, ticket.status = outcome, status
        self.ledger.finish(ticket.key)
        seen = facts(ticket, perf_counter())
        count(ticket, seen)
        if outcome is RequestOutcome.OK:
            self.traffic.answered(seen.output_tokens, ticket.parsed.model, ticket.tenant)
        if ticket.pick is not None and ticket.pick.endpoint is not None:
            self._count_pick(ticket, ticket.pick, ticket.pick.endpoint)
        self._record(ticket, seen)
        return True

    def _count_pick(self, ticket: Ticket, pick: Pick, endpoint: EndpointView) -> None:
        if (tokens := ticket.parsed.input_tokens) > 0:
            self.metrics.prefix_hits.observe(endpoint.matched_tokens / tokens)
        if (prediction := pick.prediction) is not None:
            ticket.meters.predicted_ttft.observe(prediction.ttft_s)

    # Engines and time.

    def sampled(self, endpoint: Endpoint) -> None:
        """Note the requests of other routers; remember no more prefixes than the engine's KV cache can hold."""
        sample = endpoint.sample
        if sample is None:
            return
        self.ledger.observed(endpoint.url, (sample.waiting or 0.0) + (sample.running or 0.0))
        if sample.kv_capacity_tokens:
            block = self.scheduler.profile.prefix.block_tokens
            self.prefix.resize(endpoint.url, int(sample.kv_capacity_tokens // block))

    def restarted(self, url: str) -> None:
        """The engine at ``url`` has an empty cache."""
        self.prefix.forget(url)
        self.traffic.forget(url)

    def gone(self, url: str) -> None:
        """The engine at ``url`` is no more: forget what was known of it; answers under way go on."""
        self.restarted(url)
        self.ledger.forget(url)
        self._seen.pop(url, None)
        self._cold.pop(url, None)

    def tick(self, now_s: float) -> None:
        """Tell the time (``monotonic`` seconds); called several times a second."""
        self.now_s = now_s
