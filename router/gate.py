"""Flow control: requests wait here while every engine of their model is full, or while there is none yet.

An engine is full when its queue, as last scraped and with what this router has sent since, is as long as
``flow_queue_depth``, or when as many requests are there as ``flow_in_flight`` allows. An engine whose scrape is too old
to trust is not full for its queue: were scraping broken, holding all traffic would turn a blind router into an outage.

A request that no engine is likely to serve within its latency targets (:mod:`router.admission`) waits in a queue beside
that one, until one is, or until its targets leave no more time. It holds nobody up: a target is a client's word, and a
tight one would otherwise stop a pool.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from router.dataplane.replies import Refusal, server_error
from router.endpoints import Endpoint, EndpointSet
from router.flow import LATE_EACH, LATE_EVERY_S, LATE_TRIES, Drop, FlowQueue, Waiting
from router.ledger import Ledger
from router.metrics import FlowMeters
from router.settings import RouterSettings
from router.shared import Board
from router.ticket import Ticket

OnRouted = Callable[[str | Refusal], None]
"""Told the engine's URL, or why there is none."""
Choose = Callable[[Ticket], str | None]
"""Chooses an engine and enters the request there; ``None``: there is none."""

_LONGEST_RETRY_S = 60


class Gate:
    """Lets requests through to the choice of an engine, or holds them.

    Args:
        choose: see :data:`Choose`.
        nothing: the refusal of a request for which ``choose`` found none.
        enter: has what ``choose`` chose entered into the books, now that it is under way.
        patience: seconds that a request may wait for room.
    """

    def __init__(
        self, settings: RouterSettings, endpoints: EndpointSet, ledger: Ledger, meters: FlowMeters, *, choose: Choose,
        nothing: Callable[[Ticket], Refusal], enter: Callable[[], None], patience: Callable[[Ticket], float],
        now_s: float, board: Board | None = None,
    ) -> None:  # fmt: skip
        self._settings, self._endpoints, self._ledger, self._meters = settings, endpoints, ledger, meters
        self._choose, self._nothing, self._enter = choose, nothing, enter
        self._patience, self._board = patience, board
        self._queues: dict[str, FlowQueue] = {}
        self._late: dict[str, FlowQueue] = {}
        """Of those that wait for their latency targets."""
        self._looked_s = now_s
        self._sent: dict[str, int] = {}
        """This router's requests at an engine when it was scraped."""
        self._watched = settings.flow_in_flight > 0
        """Some engine may be full: look before a request goes there."""
        self._pumping = False
        self._now_s = now_s
        self._taken = 0
        self._rate_rps = 0.0
        self.closed = False
        """The router stops: nothing waits any more."""

    @property
    def lengths(self) -> Mapping[str, int]:
        """Requests waiting, by model: for room, and for their latency targets."""
        found = {model: len(queue) for model, queue in self._queues.items()}
        for model, queue in self._late.items():
            found[model] = found.get(model, 0) + len(queue)
        return found

    @property
    def late(self) -> Mapping[str, int]:
        """Of these, those that wait for their latency targets."""
        return {model: len(queue) for model, queue in self._late.items()}

    # A request comes.

    def route(self, ticket: Ticket, on_routed: OnRouted) -> None:
        """Let it through now, or when there is room; see :meth:`router.director.Director.route`."""
        held = self._watched or self._queues
        if held and not ticket.tried and self._must_wait(ticket.model):
            self._wait(ticket, on_routed, self._patience(ticket))
            return
        url = self._choose(ticket)
        if url is not None:
            on_routed(url)
            self._enter()
        elif ticket.patience_s:
            self._wait_for_target(ticket, on_routed)
        elif self._may_come(ticket):
            self._wait(ticket, on_routed, self._settings.flow_no_engine_s)
        else:
            on_routed(self._nothing(ticket))

    def _must_wait(self, model: str) -> bool:
        """Others wait, or all engines are full."""
        return ((queue := self._queues.get(model)) is not None and bool(len(queue))) or self._full(model)

    def _may_come(self, ticket: Ticket) -> bool:
        """No engine serves the model now, and the platform could start one."""
        if ticket.turned_down is not None or ticket.tried:
            return False
        return self._settings.flow_no_engine_s > 0 and ticket.model in self._endpoints.declared

    def _wait(self, ticket: Ticket, on_routed: OnRouted, ttl_s: float) -> None:
        if self.closed:
            on_routed(self._refusal(Drop.SHUTTING_DOWN, ticket.model))
            return
        if not self._offer(self._queues, ticket, on_routed, now_s=self._now_s, ttl_s=ttl_s):
            self._meters.count(Drop.SATURATED)
            ticket.meters.refuse(Drop.SATURATED)
            on_routed(self._refusal(Drop.SATURATED, ticket.model))

    def _wait_for_target(self, ticket: Ticket, on_routed: OnRouted) -> None:
        """No engine is likely to be in time now, and one may be while its targets leave time."""
        if self.closed or not self._offer(self._late, ticket, on_routed, now_s=time.monotonic(),
                                          ttl_s=ticket.patience_s):  # fmt: skip
            on_routed(self._nothing(ticket))

    def _offer(
        self, queues: dict[str, FlowQueue], ticket: Ticket, on_routed: OnRouted, *, now_s: float, ttl_s: float
    ) -> bool:  # fmt: skip
        """Let it wait in its model's queue; False: there is no room for it."""
        queue = queues.get(ticket.model)
        if queue is None:
            limits = self._settings
            queue = queues[ticket.model] = FlowQueue(max_requests=limits.flow_requests, max_bytes=limits.flow_bytes)
        work = ticket.input_tokens + (ticket.max_tokens or 0)
        one = Waiting(ticket, on_routed, tenant=ticket.tenant, priority=ticket.priority, work=max(1.0, work),
                      size=ticket.size, now_s=now_s, ttl_s=ttl_s)  # fmt: skip
        evicted = queue.offer(one)
        if evicted is None:
            return False
        ticket.waiting = one
        for other in evicted:
            self._dropped(other, Drop.PRIORITY)
        return True

    # There is room, or time is up.

    def pump(self) -> None:
        """Let through what there is room for."""
        if self._pumping or not (self._queues or self._late):
            return
        self._pumping = True
        try:
            for model, queue in tuple(self._queues.items()):
                self._pump(model, queue)
                if not len(queue):
                    del self._queues[model]
            if self._late and (now_s := time.monotonic()) - self._looked_s >= LATE_EVERY_S:
                self._looked_s = now_s
                for model, queue in tuple(self._late.items()):
                    self._pump_late(model, queue)
                    if not len(queue):
                        del self._late[model]
        finally:
            self._pumping = False

    def _pump(self, model: str, queue: FlowQueue) -> None:
        while len(queue) and self._candidates(model) and not self._full(model):
            one = queue.take()
            if one is None:
                return
            ticket: Ticket = one.item
            ticket.waiting = None
            self._passed(one, self._now_s)
            url = self._choose(ticket)
            if url is None and ticket.patience_s:
                self._wait_for_target(ticket, one.resume)
                continue
            one.resume(self._nothing(ticket) if url is None else url)
            self._enter()

    def _pump_late(self, model: str, queue: FlowQueue) -> None:
        """Look whether an engine meets the targets of those that wait for one, in turn."""
        for one in queue.in_turn(each=LATE_EACH, most=LATE_TRIES):
            if self._must_wait(model):
                return
            if one.gone:  # its client left while another was told
                continue
            ticket: Ticket = one.item
            url = self._choose(ticket)
            if url is None and ticket.turned_down is not None:
                continue
            queue.took(one)
            ticket.waiting = None
            self._passed(one, time.monotonic())
            one.resume(self._nothing(ticket) if url is None else url)
            self._enter()

    def _passed(self, one: Waiting, now_s: float) -> None:
        """It waited until now, and goes on."""
        ticket: Ticket = one.item
        self._taken += 1
        self._meters.passed(now_s - one.since_s)
        ticket.held_s = time.perf_counter() - ticket.started_s
        if ticket.trace is not None:
            ticket.trace.waited(now_s - one.since_s)

    def leave(self, ticket: Ticket) -> None:
        """The request is over: if it waits, it does so no longer."""
        one: Waiting | None = ticket.waiting
        if one is not None:
            ticket.waiting = None
            one.leave()

    def tick(self, now_s: float) -> None:
        """Let through what there is room for by now; drop what waited too long."""
        elapsed_s = max(1e-3, now_s - self._now_s)
        self._rate_rps += min(1.0, elapsed_s / 5.0) * (self._taken / elapsed_s - self._rate_rps)
        self._now_s, self._taken = now_s, 0
        if self._queues or self._late:
            self.pump()
            for queue in tuple(self._queues.values()):
                for one in queue.expired(now_s):
                    self._dropped(one, Drop.TTL)
            for queue in tuple(self._late.values()):
                for one in queue.expired(now_s):
                    self._dropped(one, Drop.TARGET)

    def drain(self) -> None:
        """The router stops: nothing waits for room that may never come."""
        self.closed = True
        for queue in (*self._queues.values(), *self._late.values()):
            while (one := queue.take()) is not None:
                self._dropped(one, Drop.SHUTTING_DOWN)

    def _dropped(self, one: Waiting, why: Drop) -> None:
        ticket: Ticket = one.item
        ticket.waiting = None
        if why is Drop.TTL and not self._candidates(ticket.model):
            why = Drop.NO_ENDPOINTS
        self._meters.count(why)
        ticket.held_s = time.perf_counter() - ticket.started_s
        if ticket.trace is not None:
            ticket.trace.waited(self._now_s - one.since_s)
        if why is Drop.TARGET:
            one.resume(self._nothing(ticket))
            return
        ticket.meters.refuse(why)
        one.resume(self._refusal(why, ticket.model))

    def _refusal(self, why: Drop, model: str) -> Refusal:
        """Upstream's status: 503 where there is no engine or no router, else 429."""
        status = 503 if why in (Drop.NO_ENDPOINTS, Drop.SHUTTING_DOWN) else 429
        waiting = len(self._queues.get(model, ()))
        wait_s = min(_LONGEST_RETRY_S, max(1, math.ceil(waiting / max(1.0, self._rate_rps))))
        return server_error(status, _WORDS[why], code=why.value.replace("-", "_"), dropped=why, retry_after_s=wait_s)

    # Room.

    def sampled(self, endpoint: Endpoint) -> None:
        """An engine was scraped."""
        sent = self._ledger.total(endpoint.url).requests
        self._sent[endpoint.url] = sent if self._board is None else sent + self._board.peers(endpoint.url)[0]
        depth = self._settings.flow_queue_depth
        queued = depth and any((one.sample.waiting or 0.0) >= depth for one in self._endpoints.ready if one.sample)
        self._watched = self._settings.flow_in_flight > 0 or bool(queued) or bool(self._queues)
        self.pump()

    def gone(self, url: str) -> None:
        """An engine is no more."""
        self._sent.pop(url, None)

    def _candidates(self, model: str) -> Sequence[Endpoint]:
        return [one for one in self._endpoints.candidates() if not one.models or model in one.models]

    def _full(self, model: str) -> bool:
        """Every engine of the model is full; False where there is none."""
        candidates = self._candidates(model)
        return bool(candidates) and all(map(self._engine_full, candidates))

    def _engine_full(self, one: Endpoint) -> bool:
        settings, sent = self._settings, self._ledger.total(one.url).requests
        if self._board is not None:
            sent += self._board.peers(one.url)[0]
        if 0 < settings.flow_in_flight <= sent + self._ledger.others(one.url):
            return True
        sample, depth = one.sample, settings.flow_queue_depth
        if not depth or sample is None or not sample.waiting or self._now_s - one.sampled_s > settings.flow_stale_s:
            return False
        return sample.waiting + max(0, sent - self._sent.get(one.url, sent)) >= depth


_WORDS = {
    Drop.SATURATED: "every engine is full, and so is the queue before them",
    Drop.TTL: "no engine had room in time",
    Drop.NO_ENDPOINTS: "no engine of this model came up in time",
    Drop.SHUTTING_DOWN: "the router is stopping",
    Drop.PRIORITY: "requests of higher priority took its place in the queue",
}
