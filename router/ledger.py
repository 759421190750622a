"""The router's own book-keeping of what it has in flight where. Pure: no I/O, no clock.

A scrape is seconds old; what this router sent is known at once. Every request is counted at dispatch and released
exactly once, whatever happens to it, so the counts are never negative and return to zero.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, NamedTuple

NO_PREFIX: Final = 0
"""No block: nothing of a prompt was cached."""


class Load(NamedTuple):
    """What is in flight at one endpoint."""

    requests_in_flight: int = 0
    prefill_tokens_in_flight: int = 0
    """Uncached prompt tokens whose first output token has not come back."""
    context_tokens_in_flight: int = 0
    """Prompt and output tokens so far of the requests in flight."""


_IDLE = Load()
_NO_ADAPTERS: Final[frozenset[str]] = frozenset()


class _Entry:
    __slots__ = ("adapter", "context", "prefill", "prefix", "url")

    def __init__(self, url: str, prefill: int, context: int, prefix: int, adapter: str) -> None:
        self.url, self.prefill, self.context, self.prefix, self.adapter = url, prefill, context, prefix, adapter


class Total:
    """What is in flight at one endpoint, kept up to date while the endpoint is known; for reading only."""

    __slots__ = ("_counts", "adapters", "context", "prefill", "requests")

    def __init__(self) -> None:
        self.requests = self.prefill = self.context = 0
        self.adapters = _NO_ADAPTERS
        """LoRA adapters of the requests there: the same object while it is the same ones."""
        self._counts: dict[str, int] = {}

    def needs(self, adapter: str) -> None:
        """A request that needs ``adapter`` came."""
        count = self._counts.get(adapter, 0)
        self._counts[adapter] = count + 1
        if not count:
            self.adapters = frozenset(self._counts)

    def needed(self, adapter: str) -> None:
        """A request that needed ``adapter`` is over."""
        count = self._counts[adapter] - 1
        if count:
            self._counts[adapter] = count
        else:
            del self._counts[adapter]
            self.adapters = frozenset(self._counts) if self._counts else _NO_ADAPTERS


class Ledger:
    """Requests in flight, by request and by endpoint.

    ``request_id`` must be the router's own: a name that clients choose may come twice at once. Calls for a request
    that is not in flight (finished, or its endpoint forgotten) do nothing, so every path may release.
    """

    __slots__ = ("_alike", "_entries", "_others", "_totals")

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._totals: dict[str, Total] = {}
        self._others: dict[str, float] = {}
        self._alike: dict[int, int] = {}

    def dispatch(
        self, url: str, request_id: Hashable, uncached_tokens: int, input_tokens: int, prefix: int = NO_PREFIX,
        *, adapter: str = "",
    ) -> None:  # fmt: skip
        """The request goes to ``url``; one that is in flight elsewhere (a retry) moves.

        Args:
            url: the endpoint.
            request_id: the router's own name of the request.
            uncached_tokens: prompt tokens not expected in the endpoint's prefix cache.
            input_tokens: prompt tokens.
            prefix: the last block of it that was cached anywhere.
            adapter: the LoRA adapter that it needs; empty: none.
        """
        if request_id in self._entries:
            self.finish(request_id)
        entry = _Entry(url, max(0, uncached_tokens), max(0, input_tokens), prefix, adapter)
        if prefix:
            self._alike[prefix] = self._alike.get(prefix, 0) + 1
        self._entries[request_id] = entry
        total = self.total(url)
        total.requests += 1
        total.prefill += entry.prefill
        total.context += entry.context
        if adapter:
            total.needs(adapter)

    def first_token(self, request_id: Hashable) -> None:
        """Prefill is over: its tokens are released (the token itself is counted by :meth:`token`)."""
        if (entry := self._entries.get(request_id)) is not None and entry.prefill:
            self._totals[entry.url].prefill -= entry.prefill
            entry.prefill = 0

    def token(self, request_id: Hashable, n: int = 1) -> None:
        """``n`` output tokens came back, the first among them or not."""
        if (entry := self._entries.get(request_id)) is None or n <= 0:
            return
        total = self._totals[entry.url]
        entry.context += n
        total.context += n
        if entry.prefill:
            total.prefill -= entry.prefill
            entry.prefill = 0

    def finish(self, request_id: Hashable) -> None:
        """The request is over, in whichever way; a second call does nothing."""
        if (entry := self._entries.pop(request_id, None)) is None:
            return
        if entry.prefix:
            self._unlike(entry.prefix)
        total = self._totals[entry.url]
        total.requests -= 1
        total.prefill -= entry.prefill
        total.context -= entry.context
        if entry.adapter:
            total.needed(entry.adapter)

    def total(self, url: str) -> Total:
        """The running total of ``url``, until it is forgotten."""
        total = self._totals.get(url)
        if total is None:
            total = self._totals[url] = Total()
        return total

    def observed(self, url: str, requests: float) -> None:
        """A scrape saw ``requests`` queued and running at ``url``: those beyond this router's own are others'."""
        self._others[url] = max(0.0, requests - self.of(url).requests_in_flight)

    def others(self, url: str) -> float:
        """Requests at ``url`` that this router did not send, as of the last scrape."""
        return self._others.get(url, 0.0)

    def forget(self, url: str) -> None:
        """The endpoint is gone, and with it what was in flight there."""
        self._others.pop(url, None)
        if self._totals.pop(url, None) is not None:
            gone = [name for name, entry in self._entries.items() if entry.url == url]
            for name in gone:
                self._unlike(self._entries.pop(name).prefix)

    def alike(self, prefix: int) -> int:
        """Requests in flight anywhere whose longest cached prefix, when they were sent, ended in that block."""
        return self._alike.get(prefix, 0)

    def _unlike(self, prefix: int) -> None:
        if prefix:
            left = self._alike[prefix] - 1
            if left:
                self._alike[prefix] = left
            else:
                del self._alike[prefix]

    def of(self, url: str) -> Load:
        """What is in flight at ``url``; nothing for a stranger."""
        if (total := self._totals.get(url)) is None:
            return _IDLE
        return Load(total.requests, total.prefill, total.context)

    def adapters(self, url: str) -> frozenset[str]:
        """LoRA adapters of the requests in flight at ``url``."""
        total = self._totals.get(url)
        return _NO_ADAPTERS if total is None else total.adapters

    def __len__(self) -> int:
        """Requests in flight in all."""
        return len(self._entries)
