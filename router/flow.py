"""Requests that wait for room at an engine, or for one that meets their targets: bounded, by priority, fair between
tenants. Pure: no I/O, no clock.

Higher priorities go first. Among requests of one priority the tenant that was given least work lately goes first (work
is counted in prompt tokens and expected output tokens), so one that sends ten times as much does not get ten times as
much while others wait; within a tenant, first come first served. A tenant that comes back starts at the least work of
those waiting: it cannot save up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Any, Final

LATE_EVERY_S: Final = 0.01
"""Those that wait for their targets are not looked at more often: each look predicts anew."""
LATE_EACH: Final = 4
LATE_TRIES: Final = 8
"""Of each tenant the first so many are looked at, so many in all: one that asks for much does not hold others up."""


class Drop(StrEnum):
    """Why a request was dropped: values of ``x-llm-d-request-dropped-reason``, as upstream names them."""

    SATURATED = "rejected-saturated"
    NO_ENDPOINTS = "rejected-no-endpoints"
    TTL = "rejected-ttl-expired"
    SHUTTING_DOWN = "rejected-shutting-down"
    PRIORITY = "evicted-priority"
    TARGET = "rejected-slo-unattainable"


class Waiting:
    """One request in a queue."""

    __slots__ = ("deadline_s", "gone", "item", "priority", "queue", "resume", "since_s", "size", "tenant", "work")

    def __init__(
        self, item: Any, resume: Callable[[Any], None], *, tenant: str = "", priority: int = 0, work: float = 1.0,
        size: int = 0, now_s: float = 0.0, ttl_s: float = 60.0,
    ) -> None:  # fmt: skip
        self.item, self.resume = item, resume
        """What waits, and what is told how it went on."""
        self.tenant, self.priority = tenant, priority
        self.work = work
        """What it will cost an engine, in tokens."""
        self.size = size
        """Bytes held while it waits."""
        self.since_s, self.deadline_s = now_s, now_s + ttl_s
        self.gone = False
        """It was taken, dropped, or left."""
        self.queue: FlowQueue | None = None
        """Where it waits, or waited."""

    def leave(self) -> None:
        """It waits no longer."""
        if self.queue is not None:
            self.queue.drop(self)


class _Band:
    """The requests of one priority."""

    __slots__ = ("given", "queues")

    def __init__(self) -> None:
        self.queues: dict[str, deque[Waiting]] = {}
        self.given: dict[str, float] = {}
        """Work given to each tenant that waits, from a common start."""

    def add(self, one: Waiting) -> None:
        if one.tenant not in self.queues:
            self.queues[one.tenant] = deque()
            self.given[one.tenant] = min(self.given.values(), default=0.0)
        self.queues[one.tenant].append(one)

    def take(self) -> Waiting | None:
        while self.queues:
            tenant = min(self.given, key=self.given.__getitem__)
            queue = self.queues[tenant]
            while queue:
                one = queue.popleft()
                if not one.gone:
                    self.given[tenant] += one.work
                    return one
            del self.queues[tenant], self.given[tenant]
        return None

    def first(self, each: int) -> list[Waiting]:
        """Of every tenant the first ``each``: first the first of all, least work first, then the second, and so on."""
        order = sorted(self.given, key=self.given.__getitem__)
        rows = [list(islice((one for one in self.queues[tenant] if not one.gone), each)) for tenant in order]
        return [row[place] for place in range(each) for row in rows if place < len(row)]

    def newest(self) -> Waiting | None:
        """The one that came last, of the tenant with most in the queue."""
        for queue in sorted(self.queues.values(), key=len, reverse=True):
            for one in reversed(queue):
                if not one.gone:
                    return one
        return None

    def sweep(self) -> None:
        """Let go of what is gone."""
        for tenant, queue in tuple(self.queues.items()):
            kept = deque(one for one in queue if not one.gone)
            if kept:
                self.queues[tenant] = kept
            else:
                del self.queues[tenant], self.given[tenant]


class FlowQueue:
    """The requests waiting for one model.

    Args:
        max_requests: held at most.
        max_bytes: of bodies, held at most.
    """

    __slots__ = ("_bands", "_max_bytes", "_max_requests", "bytes", "length")

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._bands: dict[int, _Band] = {}
        self.length = self.bytes = 0

    def __len__(self) -> int:
        return self.length

    def offer(self, one: Waiting) -> list[Waiting] | None:
        """Let it wait; those of lower priority that had to go for it, or ``None`` when there is no room for it."""
        evicted: list[Waiting] = []
        while self.length >= self._max_requests or self.bytes + one.size > self._max_bytes:
            lower = self._lowest()
            if lower is None or lower.priority >= one.priority:
                self._undo(evicted)
                return None
            self.drop(lower)
            evicted.append(lower)
        self._bands.setdefault(one.priority, _Band()).add(one)
        one.queue = self
        self.length += 1
        self.bytes += one.size
        return evicted

    def _undo(self, evicted: list[Waiting]) -> None:
        """It does not fit even so: nobody goes for it."""
        for one in evicted:
            one.gone = False
            self.length += 1
            self.bytes += one.size

    def _lowest(self) -> Waiting | None:
        for priority in sorted(self._bands):
            if (one := self._bands[priority].newest()) is not None:
                return one
        return None

    def take(self) -> Waiting | None:
        """The next one, out of the queue."""
        for priority in sorted(self._bands, reverse=True):
            if (one := self._bands[priority].take()) is not None:
                self.drop(one)
                return one
        return None

    def in_turn(self, *, each: int, most: int) -> list[Waiting]:
        """Who comes next, not taken out: by priority, of every tenant the first ``each``, ``most`` in all."""
        found: list[Waiting] = []
        for priority in sorted(self._bands, reverse=True):
            if len(found) < most:
                found += self._bands[priority].first(each)
        return found[:most]

    def took(self, one: Waiting) -> None:
        """One of those in turn goes: out of the queue, and its work is its tenant's."""
        given = self._bands[one.priority].given
        if not one.gone and one.tenant in given:
            given[one.tenant] += one.work
        self.drop(one)

    def drop(self, one: Waiting) -> None:
        """It waits no longer; a second call does nothing."""
        if not one.gone:
            one.gone = True
            self.length -= 1
            self.bytes -= one.size

    def expired(self, now_s: float) -> list[Waiting]:
        """Those that waited too long, out of the queue."""
        late = [one for one in self if one.deadline_s <= now_s]
        for one in late:
            self.drop(one)
        for priority, band in tuple(self._bands.items()):
            band.sweep()
            if not band.queues:
                del self._bands[priority]
        return late

    def __iter__(self) -> Iterator[Waiting]:
        for band in self._bands.values():
            for queue in band.queues.values():
                for one in queue:
                    if not one.gone:
                        yield one
