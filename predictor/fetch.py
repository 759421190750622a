"""Follows a predictor's model over HTTP, where there is no folder to share: in a cluster, another pod.

The newest artifact is put into a file that a :class:`predictor.client.Watcher` follows. What is no whole, sound
artifact never gets there: the last good one stays, over restarts of either side as well.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet import signals
from fleet.errors import ConfigError
from predictor import artifact

log = logging.getLogger(__name__)

FETCHED_NAME: Final = "fetched-model.json"
"""In the home folder: never the predictor's own file, should both live there."""
MAX_BYTES: Final = 16 << 20
"""Of an artifact; a fleet of a thousand endpoints takes about 100 kB."""
_TIMEOUT_S: Final = 5.0


def checked_url(url: str, *, where: str) -> str:
    """``url`` without a trailing slash.

    Raises: ConfigError when it is no http(s) URL with a host.
    """
    try:
        parsed = urlsplit(url)
        usable = parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError("is no URL of a predictor", where=where, limit="http://HOST:PORT",
                          next_step="Name the service of fleet predictor serve.")  # fmt: skip
    return url.rstrip("/")


class Fetcher:
    """Asks every ``every_s`` seconds whether there is a newer model. One an event loop.

    Args:
        url: of the predictor (:func:`checked_url`).
        path: the file to keep.
        every_s: seconds between two looks.
        clock: Unix time.
    """

    def __init__(
        self, url: str, path: Path, *, every_s: float = 2.0, clock: Callable[[], float] = time.time
    ) -> None:  # fmt: skip
        self.path, self._every_s, self._clock = path, every_s, clock
        self._base, self._url = url, f"{url}/model/download"
        self._etag = ""
        self.failures = 0
        """Looks that brought neither a sound model nor the word that there is no newer one."""
        self.error = ""
        """Why the last look failed; empty: it did not."""
        self.checked_s: float | None = None
        """When it was last known that ours is the newest (Unix time)."""

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Look for ever."""
        while True:
            await self.look(session)
            await asyncio.sleep(self._every_s)

    async def look(self, session: aiohttp.ClientSession) -> bool:
        """Look once; whether a new model was put in place."""
        try:
            body = await self._get(session)
            if body is not None:
                self._etag = await asyncio.to_thread(self._take, *body)
        except (aiohttp.ClientError, TimeoutError, OSError, artifact.ArtifactError, _RefusedError) as error:
            self._failed(str(error) or type(error).__name__)
            return False
        if self.error:
            log.info("predictor: %s gives its model again", self._base)
        self.error, self.checked_s = "", self._clock()
        return body is not None

    async def _get(self, session: aiohttp.ClientSession) -> tuple[bytes, str] | None:
        """The artifact and its tag; ``None``: ours is the newest, or there is none yet."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._etag and self.path.exists():
            headers["If-None-Match"] = self._etag
        limit = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        # A redirect is not followed: only the address that was configured is trusted.
        async with session.get(self._url, headers=headers, timeout=limit, allow_redirects=False) as reply:
            if reply.status in (304, 503):  # 503: cold
                return None
            if reply.status != 200:
                raise _RefusedError(f"status {reply.status}")
            body = bytearray()
            async for part in reply.content.iter_chunked(1 << 16):
                body += part
                if len(body) > MAX_BYTES:
                    raise _RefusedError(f"more than {MAX_BYTES} bytes")
            return bytes(body), reply.headers.get("ETag", "")

    def _take(self, body: bytes, etag: str) -> str:
        """Check the artifact and put it in place in one step; its tag.

        Raises: ArtifactError if its schema, checksum or a value is wrong; OSError if it cannot be kept.
        """
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            raise _RefusedError("the model is no JSON") from None
        artifact.from_dict(data, where=self._url)
        if etag and etag != tag_of(data["checksum"]):
            raise _RefusedError("the model's tag is not its checksum")
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(body)
        temporary.replace(self.path)
        log.info("model %s fetched", artifact.version_of(data))
        return etag

    def _failed(self, reason: str) -> None:
        self.failures += 1
        if reason != self.error:  # once, not at every look
            log.warning("predictor: no model from %s (%s); the last good one stays. Start fleet predictor serve there, "
                        "or correct --predictor-url; it is asked again by itself.", self._base, reason)  # fmt: skip
        self.error = reason

    def collector(self) -> FetchCollector:
        """Its metrics."""
        return FetchCollector(self)


class _RefusedError(Exception):
    """An answer that is not used."""


def tag_of(checksum: str) -> str:
    """An artifact's entity tag."""
    return f'"{checksum}"'


class FetchCollector(Collector):
    """Gives a fetcher's failures and freshness to a registry."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def collect(self) -> Iterable[Metric]:
        """Both families."""
        failures, checked = signals.ROUTER_MODEL_FAILURES, signals.ROUTER_MODEL_CHECKED
        yield CounterMetricFamily(failures.name.removesuffix("_total"), failures.meaning, value=self._fetcher.failures)
        family = GaugeMetricFamily(checked.name, checked.meaning)
        if self._fetcher.checked_s is not None:
            family.add_metric([], self._fetcher.checked_s)
        yield family
