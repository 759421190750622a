"""Keeps a subscriber's sources in step with the engines: whom to hear, who has gone, who restarted."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp

from router.endpoints import EndpointSet, address
from router.kvevents.places import Plan, sources
from router.kvevents.subscriber import Subscriber

log = logging.getLogger(__name__)


class Follow:
    """Asks every new engine once where its events are.

    Args:
        subscriber: told whom to hear.
        how: the setting.
        endpoints: the engines.
        every_s: between two looks at which there are.
    """

    def __init__(self, subscriber: Subscriber, how: Plan, endpoints: EndpointSet, *, every_s: float = 0.5) -> None:
        self._subscriber, self._how, self._endpoints, self._every_s = subscriber, how, endpoints, every_s
        self._known: set[str] = set()

    def open(self) -> None:
        """Listen, where engines connect; on a running event loop.

        Raises: ConfigError when the address cannot be used.
        """
        if self._how.bind and not self._subscriber.bound:
            self._subscriber.bind(self._how.bind)

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Look for ever."""
        while True:
            await self.look(session)
            await asyncio.sleep(self._every_s)

    async def look(self, session: aiohttp.ClientSession) -> None:
        """Look once."""
        new = [one.url for one in self._endpoints.ready if one.url not in self._known]
        for url, told in zip(new, await asyncio.gather(*(self._told(url, session) for url in new)), strict=True):
            if told is not None:
                self._known.add(url)
                self._subscriber.follow(address(url), sources(url, self._how, told))

    async def _told(self, url: str, session: aiohttp.ClientSession) -> dict[str, Any] | None:
        """Its ``/kv_event_sources``; nothing where it has none, ``None`` where it does not answer: ask again."""
        if self._how.port:
            return {}
        try:
            async with session.get(url + "/kv_event_sources") as reply:
                if reply.status != 200:
                    return {}
                found = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            log.debug("%s/kv_event_sources: %s", url, error)
            return None
        return found if isinstance(found, dict) else {}

    def gone(self, url: str) -> None:
        """The engine is no more."""
        self._known.discard(url)
        self._subscriber.forget(address(url))

    def restarted(self, url: str) -> None:
        """The engine has an empty cache, and perhaps other ports."""
        self._known.discard(url)
        self._subscriber.restarted(address(url))
