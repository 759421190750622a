"""How long the server takes to draw a page, on the console's own ``/metrics``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Histogram

_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0)
DRAWN: Final = Histogram(
    "fleet_console_draw_seconds",
    "Server time to draw a page once, first or again.",
    ["page"],
    buckets=_BOUNDS_S,
)

WRITTEN: Final = Histogram(
    "fleet_console_write_seconds",
    "Server time to read and compute a page, once for all who look at the same moment.",
    ["page"],
    buckets=_BOUNDS_S,
)
BEHIND: Final = Counter(
    "fleet_console_draws_behind_total",
    "Draws that showed the page of an earlier tick again, as the new one was not ready in time.",
    ["page"],
)


class Pace:
    """How much less often live pages are drawn than asked for, so that many viewers do not wait for each other.

    Drawing holds Python's one lock: all draws together may take this share of a core; above it the time between
    draws is doubled for everybody, well below it halved again.

    Args:
        clock: seconds that only grow.
    """

    SHARE: Final = 0.4
    OVER_S: Final = 10.0
    """The share is judged over so long, and the pace changes no more often."""
    MOST: Final = 16

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._worked_s, self._since_s = 0.0, clock()
        self.times = 1
        """The time between draws is so many times what was asked for: a power of two."""

    def note(self, worked_s: float) -> None:
        """One draw took so much of a core."""
        with self._lock:
            self._worked_s += worked_s
            if (passed := self._clock() - self._since_s) < self.OVER_S:
                return
            share = self._worked_s / passed
            self._worked_s, self._since_s = 0.0, self._clock()
            while share > self.SHARE and self.times < self.MOST:
                self.times, share = 2 * self.times, share / 2
            if share < self.SHARE / 3 and self.times > 1:
                self.times //= 2


PACE: Final = Pace()
"""Of this process."""
