"""What all connections of one event loop share: limits, counts, connections to engines, the coarse clock."""

from __future__ import annotations

import uuid
from typing import Protocol

from router.dataplane.heads import Heads
from router.dataplane.outbox import Outbox
from router.dataplane.reader import Meaning
from router.dataplane.replies import Refusal, server_error
from router.dataplane.upstream import Pool
from router.director import Director
from router.tracing.hooks import Tracing


class Connected(Protocol):
    """A client's connection, as the hub sees it."""

    def tick(self, now_s: float) -> None:
        """Look at the time."""

    def drain(self) -> None:
        """Close unless a request is being served."""

    def abort_stalled(self) -> None:
        """Close now."""


class Hub:
    """Shared by client connections and exchanges. Nothing here blocks."""

    def __init__(self, director: Director) -> None:
        self.director, self.settings = director, director.settings
        self.idle_s = self.settings.idle_s
        """A client's connection without a request is closed after this."""
        self.clients: set[Connected] = set()
        self.pools: dict[str, Pool] = {}
        self.engine_ids: dict[str, dict[str, str]] = {}
        """Mooncake: by prefill engine, data-parallel rank -> engine id."""
        self.heads: Heads[Meaning] = Heads()
        """Heads of requests read before, by whichever client."""
        key = self.settings.engine_api_key.get_secret_value()
        self.outbox = Outbox()
        """What is written on the way."""
        self.credentials = b"authorization: Bearer %b\r\n" % key.encode() if key else b""
        """What engines are shown."""
        self.buffered = 0
        """Bytes of bodies that are being read."""
        self.now_s = director.now_s
        """A coarse clock for limits in seconds, set by :meth:`tick`."""
        self.tracing: Tracing | None = None
        """Begins requests' spans; ``None``: there are none."""
        self.draining = False
        self._name, self._number = uuid.uuid4().hex[:16], 0

    # Clients.

    def admit(self, client: Connected) -> bool:
        """May it stay connected?"""
        if self.draining or len(self.clients) >= self.settings.connections:
            return False
        self.clients.add(client)
        return True

    def overfull(self) -> Refusal:
        """The refusal when all bodies together are too large."""
        return server_error(503, "too many request bodies at once", code="overloaded", dropped="rejected-saturated",
                            retry_after_s=1)  # fmt: skip

    def new_id(self) -> str:
        """A request id for a client that gave none."""
        self._number += 1
        return f"{self._name}-{self._number}"

    # Engines.

    def pool(self, url: str) -> Pool:
        """Connections to the engine at ``url``."""
        pool = self.pools.get(url)
        if pool is None:
            pool = self.pools[url] = Pool(url, self.settings, self.outbox)
            pool.now_s = self.now_s
        return pool

    def gone(self, url: str) -> None:
        """The engine at ``url`` is no more; answers under way go on."""
        self.director.gone(url)
        self.engine_ids.pop(url, None)
        if (pool := self.pools.pop(url, None)) is not None:
            pool.close()

    # Time.

    def tick(self, now_s: float) -> None:
        """Look after limits in seconds; called several times a second."""
        self.now_s = now_s
        self.director.tick(now_s)
        for pool in self.pools.values():
            pool.sweep(now_s)
        for client in tuple(self.clients):
            client.tick(now_s)

    def drain(self) -> None:
        """Take no more requests; connections without one are closed."""
        self.draining = True
        self.director.gate.drain()
        for client in tuple(self.clients):
            client.drain()

    def abort(self) -> None:
        """Close everything now."""
        for client in tuple(self.clients):
            client.abort_stalled()
        for pool in self.pools.values():
            pool.abort()
