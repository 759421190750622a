"""Reads the predictor's model for the analyzer ``slo``: its file, or its address where no folder is shared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import aiohttp

from fleet.errors import SourceError
from fleet.types import FittedLaw
from predictor.client import Watcher
from predictor.fetch import Fetcher
from predictor.model import LatencyModel
from predictor.published import fitted_laws

FETCHED_NAME: Final = "wva-model.json"
"""In the home folder: neither the predictor's own file nor the router's."""
EVERY_S: Final = 30.0
"""Between two looks over HTTP: a law that is minutes old is as good."""


class PredictorLaws:
    """The laws in ``path``, fetched from ``url`` before where one is given.

    What is no whole, sound model changes nothing: the last good one stays, and grows old. A call over HTTP blocks and
    runs an event loop of its own: from a thread that has none.
    """

    def __init__(self, path: Path, *, url: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._watcher = Watcher(path, check_s=0.0)
        self._fetcher = Fetcher(url, path) if url else None
        self._clock, self._next_s = clock, float("-inf")
        self._model: LatencyModel | None = None
        self._laws: Mapping[str, FittedLaw] = {}

    def __call__(self) -> Mapping[str, FittedLaw]:
        """See :class:`wva.collect.LawReader`."""
        if self._fetcher is not None and self._clock() >= self._next_s:
            self._next_s = self._clock() + EVERY_S
            asyncio.run(_look(self._fetcher))
        if self._fetcher is not None and self._fetcher.error:
            raise SourceError(f"no model: {self._fetcher.error}", where="predictor",
                              next_step="Laws start from what was known before.")  # fmt: skip
        if (model := self._watcher.model) is not self._model:
            self._model, self._laws = model, fitted_laws(model) if model else {}
        return self._laws


async def _look(fetcher: Fetcher) -> None:
    async with aiohttp.ClientSession() as session:
        await fetcher.look(session)
