"""Virtual time: what happens next, in order. Pure and deterministic.

Ties go to engines (the lower number first), then to callbacks in the order in which they were planned, then to
arrivals.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from simulator.link import Link, LinkSpec

Callback = Callable[[float], object]
"""Something to do at a time; it is given the time."""
_ENGINE, _CALLBACK, _ARRIVAL = 0, 1, 2


class Agenda:
    """A clock that jumps from event to event."""

    def __init__(self) -> None:
        """Nothing planned, at time 0."""
        self.now_s = 0.0
        self._entries: list[tuple[float, int, int, int | Callback]] = []
        self._serial = 0

    def at(self, at_s: float, callback: Callback) -> None:
        """Call ``callback`` once at ``at_s``.

        Raises: ValueError for the past.
        """
        self._plan(at_s, _CALLBACK, callback)

    def every(self, period_s: float, callback: Callback, *, start_s: float | None = None) -> None:
        """Call ``callback`` at ``start_s`` (default: one period from now) and each ``period_s`` after it.

        Raises: ValueError for a period that is not above 0.
        """
        if not period_s > 0.0:
            raise ValueError(f"period_s is {period_s}; it must be above 0")
        first_s, turn = self.now_s + period_s if start_s is None else start_s, 0

        def again(now_s: float) -> None:
            nonlocal turn
            turn += 1
            self.at(first_s + turn * period_s, again)
            callback(now_s)

        self.at(first_s, again)

    def _plan(self, at_s: float, rank: int, what: Callback) -> None:
        if at_s < self.now_s:
            raise ValueError(f"{at_s} s is in the past; it is {self.now_s} s")
        self._serial += 1
        heapq.heappush(self._entries, (at_s, rank, self._serial, what))

    def _plan_arrival(self, at_s: float, callback: Callback) -> None:
        self._plan(at_s, _ARRIVAL, callback)

    def _plan_turn(self, at_s: float, number: int, ticket: int) -> None:
        """Engine ``number`` acts at ``at_s``, if its ticket is still this one then."""
        heapq.heappush(self._entries, (max(at_s, self.now_s), _ENGINE, number, ticket))

    def _act(self, number: int, ticket: int, at_s: float) -> None:
        """An engine's entry has come up."""
        raise NotImplementedError

    def _advance(self, limit_s: float) -> None:
        """Everything that happens by ``limit_s``."""
        entries = self._entries
        while entries and entries[0][0] <= limit_s:
            at_s, _, key, what = heapq.heappop(entries)
            if isinstance(what, int):
                self._act(key, what, at_s)
            else:
                self.now_s = at_s
                what(at_s)
        self.now_s = max(self.now_s, limit_s)


class Fabric:
    """Transfers over one shared link, on an agenda."""

    def __init__(self, agenda: Agenda, spec: LinkSpec) -> None:
        """An idle link."""
        self.link = Link(spec)
        self._agenda = agenda
        self._done: dict[str, Callback] = {}
        self._ticket = 0

    def begin(self, name: str, size: float, done: Callback) -> None:
        """Transfer ``size`` bytes from now on; ``done`` is called when they are there, unless they are cancelled."""
        self._done[name] = done
        self._agenda.at(
            self._agenda.now_s + self.link.spec.latency_s, lambda now_s: self._flow(name, size, done, now_s)
        )

    def cancel(self, name: str) -> None:
        """A transfer that nobody wants any more, if there is one."""
        if self._done.pop(name, None) is not None:
            self.link.cancel(name, self._agenda.now_s)
            self._replan()

    def _flow(self, name: str, size: float, done: Callback, now_s: float) -> None:
        if self._done.get(name) is done:
            self.link.begin(name, size, now_s)
            self._replan()

    def _replan(self) -> None:
        self._ticket += 1
        due_s, ticket = self.link.due_s, self._ticket
        if due_s is not None:
            self._agenda.at(max(due_s, self._agenda.now_s), lambda now_s: self._end(ticket, now_s))

    def _end(self, ticket: int, now_s: float) -> None:
        if ticket == self._ticket:
            ended = [self._done.pop(name) for name in self.link.ended(now_s)]
            self._replan()
            for done in ended:
                done(now_s)
