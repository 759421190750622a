"""Bins that are over are read once: a live page then asks only for what is new. No I/O of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import pandas as pd

from dashboards.queries import joined

LAG_S: Final = 20.0
"""A bin is over this long after its end: writers batch, and requests are recorded when they finish."""
KEEP_S: Final = 60.0
"""Everything is read anew after so long, for rows that came later still."""
MOST: Final = 64

Ask = Callable[[float, float], pd.DataFrame]
"""Reads the bins of [since, until)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    from_s: float
    to_s: float
    read_at_s: float
    frame: pd.DataFrame


class Bins:
    """Remembers closed bins by question; safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[Hashable, _Held] = {}

    def read(self, key: Hashable, since_s: float, until_s: float, width_s: float, ask: Ask) -> pd.DataFrame:
        """The bins of [since, until), those that are over from memory where they are there.

        Args:
            key: what is asked for, window left out.
            since_s: start; a bin that it cuts is read as cut.
            until_s: end.
            width_s: of the bins, which begin at multiples of it.
            ask: reads bins; rows carry ``bin_s``.
        """
        first = -(-since_s // width_s) * width_s
        closed = (until_s - LAG_S) // width_s * width_s
        if closed <= first:
            return ask(since_s, until_s)
        held = self._usable(key, first)
        if held is None:
            parts, from_s = [], first
        else:  # a window that ends before what is held cuts its last bin
            from_s = min(held.to_s, until_s // width_s * width_s)
            parts = [held.frame[(held.frame["bin_s"] >= first) & (held.frame["bin_s"] < from_s)]]
        parts += [ask(since_s, first)] if since_s < first else []
        parts += [ask(from_s, until_s)] if from_s < until_s else []
        whole = joined(parts) if parts else ask(since_s, until_s)
        if held is None or closed > held.to_s:
            self._hold(key, whole, first, closed, held)
        return whole

    def _usable(self, key: Hashable, first: float) -> _Held | None:
        with self._lock:
            held = self._held.get(key)
        if held is None or self._clock() - held.read_at_s > KEEP_S or not held.from_s <= first < held.to_s:
            return None
        return held

    def _hold(self, key: Hashable, whole: pd.DataFrame, first: float, closed: float, before: _Held | None) -> None:
        frame = whole[(whole["bin_s"] >= first) & (whole["bin_s"] < closed)] if len(whole) else whole
        read_at_s = self._clock() if before is None else before.read_at_s
        with self._lock:
            self._held.pop(key, None)
            self._held[key] = _Held(from_s=first, to_s=closed, read_at_s=read_at_s, frame=frame)
            while len(self._held) > MOST:
                self._held.pop(next(iter(self._held)))
