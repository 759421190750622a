"""Requests of a run that wait for an engine in time, as the router's gate holds them."""

from __future__ import annotations

from collections.abc import Callable

from router.flow import LATE_EACH, LATE_EVERY_S, LATE_TRIES, FlowQueue, Waiting


class Queue:
    """Those that wait for an engine that is in time.

    Args:
        attempt: may it go now? Sends it if so.
        refuse: its time is up.
    """

    def __init__(self, attempt: Callable[[Waiting, float], bool], refuse: Callable[[Waiting], None]) -> None:
        self._attempt, self._refuse = attempt, refuse
        self._queue = FlowQueue(max_requests=5000, max_bytes=1 << 30)
        self._looked_s = 0.0

    def offer(self, one: Waiting) -> bool:
        """Let it wait; False: there is no room for it."""
        return self._queue.offer(one) is not None

    def pump(self, now_s: float) -> None:
        """A request ended."""
        if not len(self._queue) or now_s - self._looked_s < LATE_EVERY_S:
            return
        self._looked_s = now_s
        for one in self._queue.in_turn(each=LATE_EACH, most=LATE_TRIES):
            if self._attempt(one, now_s):
                self._queue.took(one)

    def tick(self, now_s: float) -> None:
        """A quarter of a second has passed."""
        self.pump(now_s)
        for one in self._queue.expired(now_s):
            self._refuse(one)

    def drain(self) -> None:
        """The run is over."""
        while (one := self._queue.take()) is not None:
            self._refuse(one)
