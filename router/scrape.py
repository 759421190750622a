"""Reads every engine's ``/metrics`` and ``/v1/models`` on its own beat; routing never waits for it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

import aiohttp

from fleet.sources.exposition import engine_sample
from router.endpoints import Endpoint, EndpointSet

log = logging.getLogger(__name__)

_FAILURES = (aiohttp.ClientError, TimeoutError, ValueError)
_PAGE_LIMIT = 8 << 20
"""A larger page is no engine's metrics."""


class PageTooLargeError(ValueError):
    """A page beyond what an engine's metrics can be."""


async def fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    """The page at ``url``, at most 8 MiB.

    Raises: aiohttp.ClientError, TimeoutError, PageTooLargeError.
    """
    async with session.get(url) as response:
        response.raise_for_status()
        page = bytearray()
        async for part in response.content.iter_any():
            page += part
            if len(page) > _PAGE_LIMIT:
                raise PageTooLargeError(f"page above {_PAGE_LIMIT} bytes")
        return bytes(page)


class Scraper:
    """One task an engine.

    Args:
        endpoints: whom to read; new ones are read at once.
        every_s: time between two scrapes.
        models_s: time between two reads of ``/v1/models``.
        clock: the router's clock.
        on_sample: called with the engine after each good scrape.
        on_done: called with a task that ended, by whatever.
    """

    def __init__(
        self, endpoints: EndpointSet, *, every_s: float, models_s: float, clock: Callable[[], float],
        on_sample: Callable[[Endpoint], None] = lambda _endpoint: None,
        on_done: Callable[[asyncio.Task[None]], None] = lambda _task: None,
    ) -> None:  # fmt: skip
        self._endpoints, self._every_s, self._models_s, self._clock = endpoints, every_s, models_s, clock
        self._on_sample, self._on_done = on_sample, on_done
        self._session: aiohttp.ClientSession | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.errors = 0

    def start(self, session: aiohttp.ClientSession) -> None:
        """Begin with the engines known, and take on new ones as they come."""
        self._session = session
        self._endpoints.on_new = self._begin
        for endpoint in self._endpoints.all:
            self._begin(endpoint)

    def _begin(self, endpoint: Endpoint) -> None:
        if self._session is None:
            return
        if (old := self._tasks.pop(endpoint.url, None)) is not None:
            old.cancel()
        task = asyncio.get_running_loop().create_task(self._follow(endpoint, self._session))
        task.add_done_callback(self._on_done)
        self._tasks[endpoint.url] = task

    def stop(self) -> None:
        """Stop all."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _follow(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        """Scrape one engine until it is gone."""
        models_at_s = -math.inf
        while self._endpoints.get(endpoint.url) is endpoint:
            if endpoint.scraped:
                await self.metrics(endpoint, session)
                if self._clock() - models_at_s >= self._models_s and await self.models(endpoint, session):
                    models_at_s = self._clock()
            await asyncio.sleep(self._every_s)
        self._tasks.pop(endpoint.url, None)

    async def metrics(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        """Read ``/metrics`` once."""
        started_s = self._clock()
        try:
            page = await fetch(session, endpoint.url + "/metrics")
            sample = engine_sample(page.decode("utf-8", "replace"), at_s=time.time())
        except _FAILURES as error:
            self._failed(endpoint, error)
            return
        endpoint.reached(started_s=started_s)
        endpoint.took(self._clock() - started_s)
        if sample.waiting is None and sample.running is None:  # a page without an engine's series says nothing
            return
        if endpoint.restarted(sample):
            self._endpoints.on_restart(endpoint.url)
        endpoint.sample, endpoint.sampled_s = sample, self._clock()
        self._on_sample(endpoint)

    async def models(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> bool:
        """Read ``/v1/models`` once; False when that failed."""
        try:
            async with session.get(endpoint.url + "/v1/models") as response:
                response.raise_for_status()
                entries = (await response.json())["data"]
                names = frozenset(str(entry["id"]) for entry in entries)
        except (*_FAILURES, KeyError, TypeError) as error:
            self._failed(endpoint, error)
            return False
        endpoint.model_entries = entries
        self._endpoints.described()
        if names:
            endpoint.models = names
        return True

    def _failed(self, endpoint: Endpoint, error: Exception) -> None:
        self.errors += 1
        endpoint.last_error = f"scrape: {type(error).__name__}: {error}"
        log.debug("engine %s: %s", endpoint.url, endpoint.last_error)
