"""Follows a source of engines: while it is silent, what it said last holds, and that is said once."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import aiohttp

from fleet.discovery import parse_fleet
from fleet.errors import FleetError
from fleet.types import Variant
from router.endpoints import EndpointSet

log = logging.getLogger(__name__)


class Source(Protocol):
    """Says which engines there are."""

    name: str
    """For people: a URL, a path, a service."""

    async def variants(self) -> tuple[Variant, ...]:
        """All of them, now.

        Raises: FleetError, aiohttp.ClientError, TimeoutError, ValueError when it cannot tell.
        """
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


class Follower:
    """Looks at a source again and again.

    Args:
        source: what to follow.
        endpoints: where its news go.
        every_s: time between two looks.
    """

    def __init__(self, source: Source, endpoints: EndpointSet, *, every_s: float) -> None:
        self.source, self._endpoints, self._every_s = source, endpoints, every_s
        self.error = ""
        """Why the last look failed; empty: it did not."""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Look once."""
        try:
            self._endpoints.update(await self.source.variants())
        except (aiohttp.ClientError, TimeoutError, FleetError, ValueError, OSError) as error:
            self._say(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            return
        self._say("")

    def _say(self, error: str) -> None:
        name = self.source.name
        if error and not self.error:
            known = len(self._endpoints.ready)
            log.warning("%s does not say which engines there are (%s): keeping the %d last known", name, error, known)
        elif self.error and not error:
            log.info("%s says again which engines there are", name)
        self.error = error


class HttpPlatform:
    """The platform API's ``GET /fleet`` (:mod:`fleet.discovery`)."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        self.name = url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def variants(self) -> tuple[Variant, ...]:
        """See :class:`Source`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        async with self._session.get(self.name + "/fleet") as response:
            response.raise_for_status()
            return parse_fleet(await response.json(), where=self.name)

    async def close(self) -> None:
        """See :class:`Source`."""
        if self._session is not None:
            await self._session.close()
