"""A bound: the default rule with perfect knowledge.

It sees what is in every cache (not what was probably put there), the true length of every answer, the true cost of a
step, and how slow each engine is. It does not see the future: a bound for routing on arrival by this rule, not for
every rule.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks.routing.arms import UPSTREAM_SCRAPE_S
from benchmarks.routing.front import Asked, Front
from benchmarks.routing.run import Served
from router.delay import LeastDelay
from router.profile import DEFAULT, Scheduler, WeightedScorer
from simulator.engine import Engine


class Clairvoyant:
    """Least delay, exactly known."""

    name = "clairvoyant"
    scrape_s = UPSTREAM_SCRAPE_S

    def __init__(self, engines: Sequence[Engine], seed: int) -> None:
        exact = WeightedScorer(name="least-delay", weight=1.0, scorer=exact_delay(engines[0]))
        self._scheduler = Scheduler(dataclasses.replace(DEFAULT, scorers=(exact,)))
        self._engines, self._rng = engines, np.random.default_rng(seed)

    def begin(self) -> None:
        """Nothing changes with a stage."""

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """The least true delay."""
        request = copy.copy(asked.inference)
        request.expected_output_tokens = float(asked.output_tokens)
        views = front.views(asked, now_s)
        for view, engine in zip(views, self._engines, strict=True):
            view.slowness = engine.slow_factor
        pick = self._scheduler.pick(request, views, rng=self._rng, turn=0)
        return front.urls.index(pick.endpoint.url) if pick.endpoint else 0

    def finished(self, request_id: str, served: Served, now_s: float) -> None:
        """Nothing to learn."""


def exact_delay(engine: Engine) -> LeastDelay:
    """The scorer with the engine's own costs instead of typical ones."""
    timer = engine.config.timer
    cost = timer.coefficients
    token_ms = cost.eta * cost.p1
    alone_ms = 1000.0 * timer.step_s(decoding=0, context=0)
    return LeastDelay(request_tokens=cost.d_s / token_ms, context_tokens=cost.d_kv / token_ms,
                      step_tokens=alone_ms / token_ms)  # fmt: skip
