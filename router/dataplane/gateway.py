"""What all connections share: the engines, the decision, the books."""

from __future__ import annotations

import dataclasses
import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import NamedTuple

from fleet.history import RequestOutcome
from router.dataplane import local
from router.dataplane.body import ParsedBody, parse
from router.dataplane.budget import RetryBudget
from router.dataplane.client import ClientConnection
from router.dataplane.exchange import Exchange
from router.dataplane.reader import ClientRequest
from router.dataplane.replies import Refusal, server_error
from router.dataplane.upstream import Pool
from router.endpoints import Endpoint, EndpointSet
from router.ledger import NO_PREFIX, Ledger, Load
from router.metrics import OTHER, ModelMeters, RouterMetrics
from router.pickers import Rng
from router.prefix import BYTES_PER_TOKEN, PrefixIndex, block_hashes, model_seed
from router.profile import NO_MODEL, Scheduler
from router.recorder import Facts, count, facts
from router.settings import RouterSettings
from router.traffic import Traffic
from router.types import EndpointView, InferenceRequest, Pick, Predict

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
    """What the gateway is made of."""

    settings: RouterSettings
    scheduler: Scheduler
    endpoints: EndpointSet
    metrics: RouterMetrics
    rng: Rng
    predict: Predict | None = None
    record: Callable[[Exchange, Facts], None] = field(default=lambda _exchange, _seen: None)
    """Told of every request that is over."""


class Gateway:
    """Serves requests of all client connections. One an event loop; nothing here blocks."""

    def __init__(self, parts: Parts) -> None:
        self.settings, self.endpoints, self.metrics = parts.settings, parts.endpoints, parts.metrics
        self.scheduler = parts.scheduler
        self._rng, self._predict, self._record = parts.rng, parts.predict, parts.record
        prefix = parts.scheduler.profile.prefix
        self.ledger = Ledger()
        self.prefix, self.traffic = PrefixIndex(prefix.capacity_blocks), Traffic()
        self.budget = RetryBudget(ratio=self.settings.retry_ratio, burst=self.settings.retry_burst)
        self.decisions: deque[Decision] = deque(maxlen=self.settings.decisions)
        self.clients: set[ClientConnection] = set()
        self.pools: dict[str, Pool] = {}
        self.buffered = 0
        """Bytes of bodies that are being read."""
        self.now_s = time.monotonic()
        """A coarse clock for limits in seconds, set by :meth:`tick`."""
        self.draining = False
        self._seen: dict[str, tuple[object, EndpointView]] = {}
        self._turn = itertools.count()
        self._keys = itertools.count()
        self._ids = (uuid.uuid4().hex[:16], itertools.count())

    # Clients.

    def admit(self, client: ClientConnection) -> bool:
        """May it stay connected?"""
        if self.draining or len(self.clients) >= self.settings.connections:
            return False
        self.clients.add(client)
        return True

    def overfull(self) -> Refusal:
        """The refusal when all bodies together are too large."""
        return server_error(503, "too many request bodies at once", code="overloaded", dropped="rejected-saturated",
                            retry_after_s=1)  # fmt: skip

    def refused(self, refusal: Refusal) -> None:
        """A request that could not be read."""
        meters = self.metrics.model(OTHER)
        meters.requests += 1
        meters.error(str(refusal.status))

    def serve(self, client: ClientConnection, request: ClientRequest) -> Exchange | None:
        """Answer ``request``; the exchange if that is not done at once."""
        if not request.request_id:
            request.request_id = f"{self._ids[0]}-{next(self._ids[1]):x}"
        answer = local.answer(self, request)
        if answer is not None:
            keep_alive = request.keep_alive and not request.http10 and not self.draining
            client.write(answer.to_bytes(request, close=not keep_alive))
            client.finish(keep_alive=keep_alive)
            return None
        return self._infer(client, request)

    def _infer(self, client: ClientConnection, request: ClientRequest) -> Exchange | None:
        parsed = parse(request.body)
        if isinstance(parsed, Refusal):
            self.refused(parsed)
            keep_alive = request.keep_alive and not request.http10 and not self.draining
            client.write(parsed.reply(request_id=request.request_id, close=not keep_alive))
            client.finish(keep_alive=keep_alive)
            return None
        self.budget.earn()
        exchange = Exchange(self, client, request, self._inference(request, parsed), self._meters(parsed.model),
                            key=str(next(self._keys)), at_s=time.time())  # fmt: skip
        exchange.meters.running += 1
        try:
            exchange.route()
        except BaseException:  # a fault of our own ends the connection; the books must not keep the request
            exchange.cancel()
            raise
        return None if exchange.done else exchange

    def _inference(self, request: ClientRequest, parsed: ParsedBody) -> InferenceRequest:
        prefix, size = self.scheduler.profile.prefix, len(parsed.prompt)
        block_bytes = prefix.block_tokens * BYTES_PER_TOKEN
        exact = round(parsed.input_tokens * block_bytes / size) if size else 0
        return InferenceRequest(
            request_id=request.request_id,
            model=parsed.model,
            input_tokens=parsed.input_tokens,
            block_hashes=block_hashes(
                parsed.prompt, block_bytes=block_bytes, seed=_seed(parsed.model), max_blocks=prefix.hashed_blocks
            ),
            block_tokens=min(prefix.block_tokens, max(1, exact)),
            max_tokens=parsed.max_tokens,
            streaming=parsed.stream,
            expected_output_tokens=self.traffic.output_tokens,
            expected_reuse=self.traffic.reuse,
        )

    # Decisions.

    def choose(self, exchange: Exchange) -> Pool | Refusal:
        """Pick an engine for ``exchange`` and enter it into the books, or say why there is none."""
        started_s = perf_counter()
        views, prefix = self._views(exchange.inference, exchange.tried)
        request = dataclasses.replace(exchange.inference, alike=self.ledger.alike(prefix))
        pick = self.scheduler.pick(
            request, views, rng=self._rng, turn=next(self._turn), predict=self._predict
        )  # fmt: skip
        took_s = perf_counter() - started_s
        self.metrics.scheduler.observe(took_s)
        exchange.pick = pick
        self.decisions.append(
            Decision(exchange.started_at_s, request.request_id, request.model, request.input_tokens,
                     request.max_tokens, request.streaming, pick, took_s)
        )  # fmt: skip
        if pick.endpoint is None:
            return self._nothing(exchange, pick)
        url = pick.endpoint.url
        uncached = request.input_tokens - pick.endpoint.matched_tokens
        self.ledger.dispatch(url, exchange.key, uncached, request.input_tokens, prefix)
        self.traffic.dispatched(url, uncached, request.input_tokens)
        self.prefix.record(url, request.block_hashes)
        return self.pool(url)

    def _views(self, request: InferenceRequest, tried: set[str]) -> tuple[list[EndpointView], int]:
        """The candidates, and the last block of the prompt that is expected in some cache."""
        candidates = self.endpoints.candidates(tried)
        matched = self.prefix.match(request.block_hashes, [one.url for one in candidates])
        longest = max(matched.values(), default=0)
        prefix = request.block_hashes[longest - 1] if longest else NO_PREFIX
        return [self._view(one, request, matched[one.url]) for one in candidates], prefix

    def _view(self, one: Endpoint, request: InferenceRequest, blocks: int) -> EndpointView:
        """The engine as this request sees it; the last view again where nothing has changed since."""
        load, new_prompts = self.ledger.of(one.url), self.traffic.new_prompts(one.url)
        matched = min(blocks * request.block_tokens, request.input_tokens)
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
        )

    def _nothing(self, exchange: Exchange, pick: Pick) -> Refusal:
        meters = exchange.meters
        if exchange.tried:
            meters.refuse("engines_failed")
            return server_error(503, "the engines tried failed, and no other is left", code="engines_failed",
                                dropped="rejected-no-endpoints", retry_after_s=1)  # fmt: skip
        model, reason = exchange.inference.model, pick.reason
        if reason == NO_MODEL and model in self.endpoints.declared:
            reason = "no_ready"  # the platform has a variant of it, and none of its engines is ready
        meters.refuse(reason)
        if reason == NO_MODEL:
            return Refusal(404, f"the model {model!r} is served by no engine here",
                           code="model_not_found", dropped="rejected-no-endpoints")  # fmt: skip
        return server_error(503, f"no engine can take this request now ({reason}); try again shortly",
                            code=reason, dropped="rejected-no-endpoints", retry_after_s=2)  # fmt: skip

    def pool(self, url: str) -> Pool:
        """Connections to the engine at ``url``."""
        pool = self.pools.get(url)
        if pool is None:
            pool = self.pools[url] = Pool(url, self.settings)
            pool.now_s = self.now_s
        return pool

    def unreachable(self, url: str, reason: str) -> None:
        """A connection to ``url`` could not be opened."""
        self.endpoints.unreachable(url, reason, for_s=self.settings.eject_s)

    def note_failure(self, url: str, reason: str) -> None:
        """A request was lost at ``url``."""
        endpoint = self.endpoints.get(url)
        if endpoint is not None:
            endpoint.failures += 1
            endpoint.last_error = reason

    def release(self, exchange: Exchange) -> None:
        """It is no longer at the engine it was sent to."""
        self.ledger.finish(exchange.key)

    def restarted(self, url: str) -> None:
        """The engine at ``url`` has an empty cache."""
        self.prefix.forget(url)
        self.traffic.forget(url)

    def gone(self, url: str) -> None:
        """The engine at ``url`` is no more: forget what was known of it; answers under way go on."""
        self.restarted(url)
        self.ledger.forget(url)
        self._seen.pop(url, None)
        if (pool := self.pools.pop(url, None)) is not None:
            pool.close()

    # The end of a request.

    def finished(self, exchange: Exchange) -> None:
        """Account for a request that is over; called once for each."""
        self.ledger.finish(exchange.key)
        seen = facts(exchange, perf_counter())
        count(exchange, seen, exchange.meters)
        if exchange.outcome is RequestOutcome.OK:
            self.traffic.answered(seen.output_tokens)
        if exchange.pick is not None and exchange.pick.endpoint is not None:
            self._count_pick(exchange, exchange.pick, exchange.pick.endpoint)
        self._record(exchange, seen)

    def _count_pick(self, exchange: Exchange, pick: Pick, endpoint: EndpointView) -> None:
        if (tokens := exchange.inference.input_tokens) > 0:
            self.metrics.prefix_hits.observe(endpoint.matched_tokens / tokens)
        if (prediction := pick.prediction) is not None:
            exchange.meters.predicted_ttft.observe(prediction.ttft_s)

    def _meters(self, model: str) -> ModelMeters:
        """The model's numbers, if any engine serves it: what clients invent does not become a label."""
        meters = self.metrics.models().get(model)
        if meters is not None:
            return meters
        return self.metrics.model(model if model in self.endpoints.known_models() else OTHER)

    # Time.

    def tick(self, now_s: float) -> None:
        """Look after limits in seconds; called several times a second."""
        self.now_s = now_s
        for pool in self.pools.values():
            pool.sweep(now_s)
        for client in tuple(self.clients):
            client.tick(now_s)

    def drain(self) -> None:
        """Take no more requests; connections without one are closed."""
        self.draining = True
        for client in tuple(self.clients):
            client.drain()

    def abort(self) -> None:
        """Close everything now."""
        for client in tuple(self.clients):
            client.abort_stalled()
        for pool in self.pools.values():
            pool.abort()
