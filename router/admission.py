"""Requests that would miss their latency target wherever they went may be refused at once: opt-in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from predictor import advice
from predictor.model import Array, LatencyModel, LatencyPrediction
from router.dataplane.replies import Refusal, server_error
from router.predict import Desk, Source
from router.targets import Targets, named
from router.types import EndpointView, InferenceRequest

IN_VAIN: Final = "slo_unattainable"
"""Reason of a decision, and code of the refusal."""
_BEST: Final = 8
"""Candidates whose chances are worked out: those whose predictions are nearest to the target."""
_LONGEST_RETRY_S: Final = 60


class Hope(NamedTuple):
    """The best that any candidate promises a request."""

    chance: float
    """Of meeting all its targets, 0..1."""
    late_s: float
    """How far the best prediction of its TTFT is beyond the target; at most 0: it is within."""


class Hopes(Protocol):
    """Works out :class:`Hope`."""

    def __call__(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], targets: Targets
    ) -> Hope | None:  # fmt: skip
        """``None``: there is no target, no model, or a candidate of which nothing is known."""
        ...


class PredictedHopes:
    """By the latency model in this process."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._desk: Desk | None = None

    def __call__(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], targets: Targets
    ) -> Hope | None:  # fmt: skip
        """See :class:`Hopes`."""
        ttft_s, tpot_s = targets.ttft_s, targets.tpot_s
        model = self._source.model
        if model is None or not endpoints or (ttft_s is None and tpot_s is None):
            return None
        if any(one.sample is None for one in endpoints):
            return None
        desk = self._desk
        if desk is None or not desk.fits(model, endpoints):
            desk = self._desk = Desk(model, endpoints)
        batch = desk.look(request, endpoints)
        return _hope(model, batch.rows.T, LatencyPrediction(ttft_s=batch.ttft_s, tpot_s=batch.tpot_s), ttft_s, tpot_s)


def _hope(
    model: LatencyModel, matrix: Array, point: LatencyPrediction, ttft_s: float | None, tpot_s: float | None
) -> Hope:
    worst = np.zeros(len(matrix))
    for values, limit_s in ((point.ttft_s, ttft_s), (point.tpot_s, tpot_s)):
        if limit_s is not None:
            worst = np.maximum(worst, values / limit_s)
    best = np.argsort(worst)[:_BEST]
    near = LatencyPrediction(ttft_s=point.ttft_s[best], tpot_s=point.tpot_s[best])
    chances = advice.chance(model, matrix[best], near, ttft_s=ttft_s, tpot_s=tpot_s)
    late_s = 0.0 if ttft_s is None else float(point.ttft_s.min()) - ttft_s
    return Hope(advice.admission(chances), late_s)


class Admission:
    """Refuses requests that hope too little.

    Args:
        least: chance below which a request is refused; 0 refuses none and only tells.
        hopes: gives the chance.
        usual: targets of the SLO file count as well as those that a request names itself.
    """

    def __init__(self, least: float, hopes: Hopes, *, usual: bool = False) -> None:
        self._least, self._hopes, self._usual = least, hopes, usual

    def judge(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], targets: Targets
    ) -> tuple[float | None, Refusal | None]:  # fmt: skip
        """The best chance among ``endpoints``, where it is known, and why the request is refused, if it is."""
        hope = self._hopes(request, endpoints, targets if self._usual else named(targets))
        if hope is None:
            return None, None
        return hope.chance, in_vain(hope) if hope.chance < self._least else None


def in_vain(hope: Hope) -> Refusal:
    """The refusal; the time to wait is what the best engine is late by now."""
    wait_s = min(_LONGEST_RETRY_S, max(1, math.ceil(hope.late_s)))
    message = f"no engine is likely to meet the latency target of this request (best chance {hope.chance:.0%})"
    return server_error(429, message, code=IN_VAIN, dropped="rejected-slo-unattainable", retry_after_s=wait_s)
