"""Reads each engine's ``/metrics`` itself: no Prometheus needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import aiohttp
import requests

from fleet.errors import SourceError
from fleet.sources import rates
from fleet.sources.base import EngineReading, RouterQueue
from fleet.sources.exposition import ENGINE_SERIES, combine, parse
from fleet.sources.traffic import ENGINES, ROUTER, model_of, model_traffic
from fleet.types import EngineSample, ModelTraffic, Replica

MAX_PAGE_BYTES = 8 * 1024 * 1024
"""A longer page is no metrics page (vLLM's is about 60 kB)."""


_WANTED = ENGINE_SERIES | ENGINES.series


class ScrapeSource:
    """Gets all pages at once and keeps the samples of the last ``window_s`` for rates.

    ``read`` blocks and runs an event loop of its own: call it from a thread that has none.

    Args:
        window_s: rates are over this long (at least over the last two samples).
        timeout_s: an engine that takes longer is missing from the answer.
        concurrency: pages fetched at the same time.
    """

    name = "scrape"

    def __init__(self, *, window_s: float = 30.0, timeout_s: float = 2.0, concurrency: int = 64) -> None:
        self._window_s, self._timeout_s, self._concurrency = window_s, timeout_s, concurrency
        self._samples: dict[str, tuple[EngineSample, ...]] = {}
        self._traffic: Mapping[str, ModelTraffic] = {}

    def traffic(self) -> Mapping[str, ModelTraffic]:
        """What the engines of the last :meth:`read` counted of each model's requests."""
        return self._traffic

    def check(self) -> None:
        """Nothing to reach beforehand: each engine answers for itself."""

    def read(self, replicas: Sequence[Replica], *, now_s: float) -> Mapping[str, EngineReading]:
        """See :class:`fleet.sources.base.MetricSource`."""
        urls = tuple(dict.fromkeys(replica.url for replica in replicas))
        pages = asyncio.run(self._fetch_all(urls))
        self._samples = {url: held for url, held in self._samples.items() if url in set(urls)}
        found, counted = {}, []
        for url, (delay_s, page) in pages.items():
            points = list(parse(page, _WANTED))
            counted += points
            sample = combine(iter(points), at_s=now_s + delay_s)
            if sample.waiting is None and sample.running is None and sample.kv_utilisation is None:
                continue  # some page, but no engine's
            held = (old for old in self._samples.get(url, ()) if old.at_s <= now_s)  # later: the clock went back
            kept = rates.within((*held, sample), now_s=now_s, window_s=self._window_s)
            self._samples[url] = kept
            found[url] = rates.reading(kept)
        self._traffic = model_traffic(counted, ENGINES, at_s=now_s, source="engines")
        return found

    async def _fetch_all(self, urls: Sequence[str]) -> dict[str, tuple[float, str]]:
        gate = asyncio.Semaphore(self._concurrency)
        started = time.perf_counter()
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            pages = await asyncio.gather(*(_fetch(session, gate, url, started) for url in urls))
        return {url: page for url, page in zip(urls, pages, strict=True) if page is not None}


async def _fetch(
    session: aiohttp.ClientSession, gate: asyncio.Semaphore, url: str, started: float
) -> tuple[float, str] | None:
    """Seconds since ``started`` and the page; ``None`` when the engine does not answer as it should."""
    async with gate:
        try:
            async with session.get(f"{url}/metrics") as response:
                body = await response.content.read(MAX_PAGE_BYTES) if response.status == 200 else b""
                while body and len(body) < MAX_PAGE_BYTES and (more := await response.content.read(MAX_PAGE_BYTES)):
                    body += more
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
            return None
    return (time.perf_counter() - started, body.decode("utf-8", "replace")) if body else None


class RouterPage:
    """What the router counts, from its admin port's ``/metrics``: its queue and each model's requests.

    One page answers both: :meth:`queue` fetches it, :meth:`traffic` reads what was fetched last.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self.name = url.rstrip("/")
        self._timeout_s = timeout_s
        self._traffic: Mapping[str, ModelTraffic] = {}

    def traffic(self) -> Mapping[str, ModelTraffic]:
        """Traffic by model as of the last :meth:`queue`; its age is in ``at_s``."""
        return self._traffic

    def queue(self) -> RouterQueue:
        """Waiting requests by model, as of now.

        Raises: SourceError when the router does not answer.
        """
        try:
            response = requests.get(f"{self.name}/metrics", timeout=self._timeout_s)
            response.raise_for_status()
        except requests.RequestException as error:
            raise SourceError(f"its metrics cannot be read: {type(error).__name__}", where=f"router {self.name}",
                              next_step="Check that the router's admin port answers.") from error  # fmt: skip
        points = list(parse(response.text, ROUTER.series))
        self._traffic = model_traffic(points, ROUTER, at_s=time.time(), source="router")
        waiting: dict[str, float] = {}
        for point in points:
            if point.name in ROUTER.queued:
                model = model_of(point.labels)
                waiting[model] = waiting.get(model, 0.0) + max(point.value, 0.0)
        return RouterQueue(waiting=waiting)
