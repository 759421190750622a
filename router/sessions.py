"""Where each conversation was last served. Pure: the time is an argument.

A session is what the client names in ``x-session-id``: a name, never an address. Its memory is bounded in number (the
longest unused go first) and in time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

KEEP_S: Final = 300.0
"""A session unused for this long is forgotten (as upstream: its cache is probably gone too)."""
MAX_SESSIONS: Final = 65_536
"""Sessions remembered: about 12 MB."""


class Sessions:
    """Session -> endpoint.

    Args:
        keep_s: a session is forgotten after this long without a request.
        limit: sessions remembered, at least 1.
    """

    __slots__ = ("_keep_s", "_limit", "_places")

    def __init__(self, *, keep_s: float = KEEP_S, limit: int = MAX_SESSIONS) -> None:
        self._keep_s, self._limit = keep_s, max(1, limit)
        self._places: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def url(self, session: str, now_s: float) -> str:
        """Where its last request went; empty: not known (any more)."""
        found = self._places.get(session)
        return found[0] if found is not None and now_s - found[1] <= self._keep_s else ""

    def placed(self, session: str, url: str, now_s: float) -> None:
        """A request of it went to ``url``."""
        self._places[session] = (url, now_s)
        self._places.move_to_end(session)
        while len(self._places) > self._limit or now_s - next(iter(self._places.values()))[1] > self._keep_s:
            self._places.popitem(last=False)

    def __len__(self) -> int:
        """Sessions remembered."""
        return len(self._places)
