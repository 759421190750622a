"""Our router: its profiles through its own scheduler, books, index and predictor."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.routing.arms import SCRAPE_S
from benchmarks.routing.front import Asked, Front
from benchmarks.routing.learning import Learning
from benchmarks.routing.run import Served
from router.profile import DEFAULT, Profile, Scheduler
from simulator.engine import Engine


class Ours:
    """A profile of the router, with the predictor learning beside it."""

    scrape_s = SCRAPE_S

    def __init__(
        self, engines: Sequence[Engine], seed: int, *, profile: Profile = DEFAULT, name: str = "ours",
        predicts: bool = True, counters: bool = True,
    ) -> None:  # fmt: skip
        """A fresh router.

        Args:
            engines: not looked at.
            seed: of its draws.
            profile: how it decides.
            name: in tables.
            predicts: it has a latency model; without, scorers that ask for one are neutral.
            counters: it reads the engines' speeds from their counters; without, only a latency model tells them.
        """
        self.name, self.learning = name, Learning() if predicts else None
        self._counters = counters
        self._scheduler, self._rng, self._turn = Scheduler(profile), np.random.default_rng(seed), 0

    @property
    def prediction_error(self) -> float | None:
        """Median relative error of the TTFT predictions; ``None`` when there was none."""
        return statistics.median(self.learning.errors) if self.learning and self.learning.errors else None

    def begin(self) -> None:
        """Nothing changes with a stage."""

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """As the gateway does it."""
        self._turn += 1
        views = front.views(asked, now_s)
        if not self._counters:
            views = [replace(view, slowness=None) for view in views]
        pick = self._scheduler.pick(asked.inference, views, rng=self._rng, turn=self._turn, predict=self.learning)
        chosen = pick.endpoint
        if chosen is None:
            raise RuntimeError(f"no endpoint was picked: {pick.reason}")
        if self.learning is not None:
            self.learning.sent(asked.inference, chosen, pick.prediction)
        return front.urls.index(chosen.url)

    def finished(self, request_id: str, served: Served, now_s: float) -> None:
        """The predictor learns."""
        if self.learning is not None:
            self.learning.finished(request_id, served, now_s)
