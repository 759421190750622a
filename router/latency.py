"""Scorers that read the latency model's predictions. Pure.

While the model is cold they score every endpoint alike, which changes nothing between them. An endpoint never scraped
gets :data:`router.scoring.UNKNOWN`: its prediction would take what is not known for zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from router.parameters import choice, number
from router.scoring import UNKNOWN, Candidates, Predicting

SHORTEST_S: Final = 1e-4
"""Predictions below a tenth of a millisecond count as equal."""
_UNSCRAPED: Final = -1.0


def _latencies(candidates: Candidates, *, ttft: bool) -> list[float]:
    """By endpoint: TTFT or TPOT at the percentile asked for; below 0 for one never scraped. The model is not cold.

    A prediction that is no number counts as endless, one below 0.1 ms as 0.1 ms.
    """
    predictions = candidates.predictions
    if predictions is None:
        return []
    found, high = predictions.ttft_s if ttft else predictions.tpot_s, predictions.ttft_high_s
    if high is not None and predictions.tpot_high_s is not None:
        found = high if ttft else predictions.tpot_high_s
    return [
        _UNSCRAPED if endpoint.sample is None
        else latency if latency > SHORTEST_S else SHORTEST_S if latency == latency else math.inf  # noqa: PLR0124
        for endpoint, latency in zip(candidates.endpoints, found, strict=True)
    ]  # fmt: skip


def _against_best(candidates: Candidates, *, ttft: bool) -> list[float]:
    """Best predicted latency / predicted latency; :data:`UNKNOWN` while cold and for endpoints never scraped."""
    if candidates.predictions is None:
        return [UNKNOWN] * len(candidates.endpoints)
    latencies = _latencies(candidates, ttft=ttft)
    best = min(latencies)
    if best < 0.0:
        best = min([latency for latency in latencies if latency >= 0.0], default=math.inf)
    if best == math.inf:
        return [UNKNOWN] * len(latencies)
    return [best / latency if latency > 0.0 else UNKNOWN for latency in latencies]


def _within(candidates: Candidates, limit_s: float, *, ttft: bool, most: bool) -> list[float]:
    """Above 0.5 inside the limit, below it outside: by the room left, and by how far it is missed.

    With ``most`` the largest room scores 1, without it the smallest: requests are packed where they still fit.
    """
    start, slope = (1.0, -0.5 / limit_s) if most else (0.5, 0.5 / limit_s)
    half = 0.5 * limit_s
    return [
        UNKNOWN if latency < 0.0 else start + slope * latency if latency <= limit_s else half / latency
        for latency in _latencies(candidates, ttft=ttft)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLatency(Predicting):
    """Predicted latency of this request here against the best candidate's: best / predicted.

    Range 0..1: the best scores 1, one twice as slow 0.5. With ``slo_headroom`` and a request that has a limit: above
    0.5 where the prediction is within it, by the room left, below 0.5 where it is not. While the model is cold all
    score :data:`UNKNOWN`.
    """

    target_metric: str = choice("ttft", "targetMetric", among=("ttft", "tpot"))
    percentile: float = number(0.5, "percentile", low=0.01, high=0.99)
    """Of the latency that is predicted: 0.5 its median, 0.9 what nine in ten requests stay below."""
    slo_headroom: str = choice("off", "sloHeadroom", among=("off", "least", "most"))
    """``most`` prefers the most room below the limit, ``least`` the least that is enough (packing)."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Best / predicted, or room below the limit."""
        ttft = self.target_metric == "ttft"
        limit_s = candidates.request.slo_ttft_s if ttft else candidates.request.slo_tpot_s
        if self.slo_headroom == "off" or limit_s is None or limit_s <= 0.0 or candidates.predictions is None:
            return _against_best(candidates, ttft=ttft)
        return _within(candidates, limit_s, ttft=ttft, most=self.slo_headroom == "most")


@dataclass(frozen=True, slots=True, kw_only=True)
class BothLatencies(Predicting):
    """Both predicted latencies against the best candidate's, weighed 0.8 (TTFT) to 0.2 (TPOT). Range 0..1.

    For a request with a limit for one of them, that one is scored by its headroom, as upstream does: within the limit
    above 0.5, by the room left (``most``) or by how little is left (``least``). Cold: all :data:`UNKNOWN`.
    """

    ttft_weight: float = number(0.8, "ttftWeight")
    tpot_weight: float = number(0.2, "tpotWeight")
    """The two weights are taken relative to their sum."""
    headroom: str = choice("least", "headroomSelectionStrategy", among=("least", "most"))

    def __call__(self, candidates: Candidates) -> list[float]:
        """The weighted mean of the two."""
        weights = self.ttft_weight + self.tpot_weight
        if weights <= 0:
            return [UNKNOWN] * len(candidates.endpoints)
        request, share = candidates.request, self.ttft_weight / weights
        ttft = self._one(candidates, request.slo_ttft_s, ttft=True)
        tpot = self._one(candidates, request.slo_tpot_s, ttft=False)
        return [share * one + (1.0 - share) * two for one, two in zip(ttft, tpot, strict=True)]

    def _one(self, candidates: Candidates, limit_s: float | None, *, ttft: bool) -> list[float]:
        if limit_s is None or limit_s <= 0.0 or candidates.predictions is None:
            return _against_best(candidates, ttft=ttft)
        return _within(candidates, limit_s, ttft=ttft, most=self.headroom == "most")
