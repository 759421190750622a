"""Scorers that read the latency model's predictions. Pure.

While the model is cold they score every endpoint alike, which changes nothing between them. An endpoint never scraped
gets :data:`router.scoring.UNKNOWN`: its prediction would take what is not known for zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from router.parameters import choice, number
from router.scoring import UNKNOWN, Candidates, sane
from router.types import Prediction


def _ttft(prediction: Prediction) -> float:
    return prediction.ttft_s if prediction.ttft_high_s is None else prediction.ttft_high_s


def _tpot(prediction: Prediction) -> float:
    return prediction.tpot_s if prediction.tpot_high_s is None else prediction.tpot_high_s


def _latencies(candidates: Candidates, read: Callable[[Prediction], float]) -> list[float | None]:
    """By endpoint, ``None`` for one never scraped; the model is not cold."""
    return [
        None if endpoint.sample is None else sane(read(prediction))
        for endpoint, prediction in zip(candidates.endpoints, candidates.predictions or (), strict=True)
    ]


def _against_best(candidates: Candidates, read: Callable[[Prediction], float]) -> list[float]:
    """Best predicted latency / predicted latency; :data:`UNKNOWN` while cold and for endpoints never scraped."""
    if candidates.predictions is None:
        return [UNKNOWN] * len(candidates.endpoints)
    latencies = _latencies(candidates, read)
    best = min((latency for latency in latencies if latency is not None), default=math.inf)
    if math.isinf(best):
        return [UNKNOWN] * len(latencies)
    return [UNKNOWN if latency is None else best / latency for latency in latencies]


def _within(candidates: Candidates, read: Callable[[Prediction], float], limit_s: float, *, most: bool) -> list[float]:
    """Above 0.5 inside the limit, below it outside: by the room left, and by how far it is missed.

    With ``most`` the largest room scores 1, without it the smallest: requests are packed where they still fit.
    """
    scores = []
    for latency in _latencies(candidates, read):
        if latency is None:
            scores.append(UNKNOWN)
        elif latency <= limit_s:
            room = 1.0 - latency / limit_s
            scores.append(0.5 + 0.5 * (room if most else 1.0 - room))
        else:
            scores.append(0.5 * limit_s / latency if math.isfinite(latency) else 0.0)
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLatency:
    """Predicted latency of this request here against the best candidate's: best / predicted.

    Range 0..1: the best scores 1, one twice as slow 0.5. With ``slo_headroom`` and a request that has a limit: above
    0.5 where the prediction is within it, by the room left, below 0.5 where it is not. While the model is cold all
    score :data:`UNKNOWN`.
    """

    predicts: ClassVar[bool] = True
    target_metric: str = choice("ttft", "targetMetric", among=("ttft", "tpot"))
    percentile: float = number(0.5, "percentile", low=0.01, high=0.99)
    """Of the latency that is predicted: 0.5 its median, 0.9 what nine in ten requests stay below."""
    slo_headroom: str = choice("off", "sloHeadroom", among=("off", "least", "most"))
    """``most`` prefers the most room below the limit, ``least`` the least that is enough (packing)."""

    def __call__(self, candidates: Candidates) -> list[float]:
        """Best / predicted, or room below the limit."""
        ttft = self.target_metric == "ttft"
        read = _ttft if ttft else _tpot
        limit_s = candidates.request.slo_ttft_s if ttft else candidates.request.slo_tpot_s
        if self.slo_headroom == "off" or limit_s is None or limit_s <= 0.0 or candidates.predictions is None:
            return _against_best(candidates, read)
        return _within(candidates, read, limit_s, most=self.slo_headroom == "most")


@dataclass(frozen=True, slots=True, kw_only=True)
class BothLatencies:
    """Both predicted latencies against the best candidate's, weighed 0.8 (TTFT) to 0.2 (TPOT). Range 0..1.

    For a request with a limit for one of them, that one is scored by its headroom, as upstream does: within the limit
    above 0.5, by the room left (``most``) or by how little is left (``least``). Cold: all :data:`UNKNOWN`.
    """

    predicts: ClassVar[bool] = True
    ttft_weight: float = number(0.8, "ttftWeight")
    tpot_weight: float = number(0.2, "tpotWeight")
    """The two weights are taken relative to their sum."""
    headroom: str = choice("least", "headroomSelectionStrategy", among=("least", "most"))

    def __call__(self, candidates: Candidates) -> list[float]:
        """The weighted mean of the two."""
        weights = self.ttft_weight + self.tpot_weight
        if weights <= 0:
            return [UNKNOWN] * len(candidates.endpoints)
        request = candidates.request
        ttft, tpot = self._one(candidates, _ttft, request.slo_ttft_s), self._one(candidates, _tpot, request.slo_tpot_s)
        return [
            (self.ttft_weight * one + self.tpot_weight * two) / weights for one, two in zip(ttft, tpot, strict=True)
        ]

    def _one(self, candidates: Candidates, read: Callable[[Prediction], float], limit_s: float | None) -> list[float]:
        if limit_s is None or limit_s <= 0.0 or candidates.predictions is None:
            return _against_best(candidates, read)
        return _within(candidates, read, limit_s, most=self.headroom == "most")
