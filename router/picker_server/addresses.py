"""Engines' URLs and the ``ip:port`` by which a proxy names them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable

from router.endpoints import EndpointSet, address


class Addresses:
    """Of all engines that are known now."""

    def __init__(self, endpoints: EndpointSet) -> None:
        self._endpoints = endpoints
        self._turn = itertools.count()

    def of(self, url: str) -> str:
        """The address of an engine."""
        return address(url)

    def url(self, named: str) -> str:
        """The engine at an address; empty for a stranger."""
        return next((one.url for one in self._endpoints.all if address(one.url) == named.strip()), "")

    def urls(self, named: Iterable[object]) -> Collection[str]:
        """The engines at addresses; strangers are left out."""
        wanted = {str(one).strip() for one in named}
        return {one.url for one in self._endpoints.all if address(one.url) in wanted}

    def hosts(self, named: Iterable[str]) -> Collection[str]:
        """The engines at addresses, or at any port of a host."""
        wanted = {one.strip() for one in named}
        return {one.url for one in self._endpoints.all
                if address(one.url) in wanted or address(one.url).rpartition(":")[0] in wanted}  # fmt: skip

    def any(self, allowed: Collection[str] | None) -> str | None:
        """A ready engine, in turn; ``None``: there is none."""
        ready = [one.url for one in self._endpoints.candidates() if allowed is None or one.url in allowed]
        return ready[next(self._turn) % len(ready)] if ready else None
