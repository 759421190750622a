"""Our router with an admission by latency targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.routing.front import Asked, Front
from benchmarks.routing.learning import Learning
from benchmarks.routing.ours import Ours
from router.admission import Admission, PredictedHopes, Verdict
from router.targets import Targets
from simulator.engine import Engine

CHANCE: Final = 0.5
"""``ROUTER_SLO_ADMISSION``, as the documentation writes it."""


class Admitting(Ours):
    """The default profile behind its admission; the workload's limits count, as with ``ROUTER_SLO_DEFAULTS=admit``."""

    def __init__(
        self, engines: Sequence[Engine], seed: int, *, name: str, wait_s: float, least: float = CHANCE
    ) -> None:  # fmt: skip
        """``wait_s``: ``ROUTER_SLO_WAIT_S``; ``least``: chance below which a request does not go."""
        super().__init__(engines, seed, name=name)
        learning = self.learning if self.learning is not None else Learning()
        self._admission = Admission(least, PredictedHopes(learning), usual=True, wait_s=wait_s)

    def judge(self, asked: Asked, front: Front, now_s: float, *, waited_s: float, again: bool) -> Verdict:
        """May it go now?"""
        request = asked.inference
        targets = Targets(request.slo_ttft_s, request.slo_tpot_s)
        return self._admission.judge(request, front.views(asked, now_s), targets, waited_s=waited_s, again=again)
