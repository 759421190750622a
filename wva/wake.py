"""From zero replicas in under a second: a request that waits at the router starts a pass at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from fleet.errors import SourceError
from fleet.sources import RouterQueue
from fleet.types import FleetSnapshot

log = logging.getLogger(__name__)
POLL_S = 0.25
"""How often the router is asked while some model sleeps; nobody is asked while none does."""


def asleep(snapshot: FleetSnapshot | None) -> frozenset[str]:
    """Models of which no replica was asked for."""
    if snapshot is None:
        return frozenset()
    awake = {entry.spec.model for entry in snapshot.variants if entry.requested > 0}
    return frozenset(entry.spec.model for entry in snapshot.variants) - awake


class Waker:
    """Looks at the router's queue between passes.

    Args:
        queue: reads the requests that wait at the router.
        snapshot: the newest one, or ``None``.
        hurry: makes the next pass come now; the pass itself decides which variant wakes.
        poll_s: see :data:`POLL_S`.
    """

    def __init__(
        self, queue: Callable[[], RouterQueue], snapshot: Callable[[], FleetSnapshot | None],
        hurry: Callable[[], None], *, poll_s: float = POLL_S,
    ) -> None:  # fmt: skip
        self._queue, self._snapshot, self._hurry, self._poll_s = queue, snapshot, hurry, poll_s
        self._woken: frozenset[str] = frozenset()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waker", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """No pass is hurried any more."""
        self._stop.set()
        self._thread.join(5.0)

    def look(self) -> None:
        """Once: hurry for each sleeping model for which a request waits, one time until it is awake."""
        sleeping = asleep(self._snapshot())
        self._woken &= sleeping
        if not sleeping - self._woken:
            return
        try:
            queue = self._queue().waiting
        except SourceError:
            return  # the pass asks it too, and reports
        called = frozenset(model for model in sleeping - self._woken if queue.get(model, 0.0) > 0)
        if called:
            log.info("%s: requests wait and no replica runs; deciding now", ", ".join(sorted(called)))
            self._woken |= called
            self._hurry()

    def _run(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.look()
