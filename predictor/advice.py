"""What a decision may make of uncertain predictions: chances, safe exploration, a hint for admission. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor import intervals
from predictor.model import LatencyModel, LatencyPrediction, Law, Places
from predictor.physics import Array

EXPLORE: Final = 0.02
"""Share of requests that may go to an endpoint for what is learned there."""
WORSE: Final = 1.25
"""An explored endpoint's upper quantile is at most this many times the best one's."""


def chance(model: LatencyModel, matrix: Array, point: LatencyPrediction, places: Places, *,
           ttft_s: float | None = None, tpot_s: float | None = None) -> Array:  # fmt: skip
    """Probability that each row meets its limits, shape (n,): the smaller of both targets'.

    Args:
        model: whose quantiles are read.
        matrix: feature rows (n, 8).
        point: its predictions of these rows.
        places: of their endpoints (:meth:`predictor.model.LatencyModel.places`).
        ttft_s, tpot_s: limits; ``None``: none.
    """
    found = np.ones(len(matrix))
    group, excess = intervals.groups(matrix), model.excess(matrix)
    ttft_widths, tpot_widths = model.widths_at(places)
    for law, values, widths, limit in (
        (model.ttft, point.ttft_s, ttft_widths, ttft_s), (model.tpot, point.tpot_s, tpot_widths, tpot_s),
    ):  # fmt: skip
        if limit is not None:
            found = np.minimum(found, _below(law, group, widths, excess, limit / values))
    return found


def _below(law: Law, group: NDArray[np.intp], widths: Array, excess: Array, ratio: Array) -> Array:
    """Probability of staying below ``ratio`` times the prediction."""
    met = np.empty(len(ratio))
    for row, (member, width, beyond, value) in enumerate(zip(group, widths, excess, ratio, strict=True)):
        logs = intervals.widened(intervals.row_of_logs(law.quantiles, int(member), width), beyond)
        met[row] = np.interp(np.log(max(value, 1e-9)), logs, intervals.LEVELS, left=0.0, right=1.0)
    return met


def explorable(high_s: Array, spread: Array, *, share: float = EXPLORE, worse: float = WORSE) -> Array:
    """Probabilities with which a decision should leave its best candidate for another, summing to at most ``share``.

    Only candidates whose upper quantile is close to the best one's are tried, so nobody waits long for the sake of
    learning; among them the less is known, the more often.

    Args:
        high_s: upper quantile of the latency at each candidate, shape (n,).
        spread: log width of its interval, shape (n,).
    """
    best = int(np.argmin(high_s))
    safe = high_s <= worse * high_s[best]
    safe[best] = False
    known = spread[best]
    weight = np.where(safe, np.maximum(spread - known, 0.0), 0.0)
    total = float(weight.sum())
    if total <= 0.0:
        return np.zeros(len(high_s))
    return np.asarray(share * min(1.0, total / max(known, 1e-9)) * weight / total)


def admission(chances: Array) -> float:
    """Hint for admission: the best chance that any candidate gives; below about 0.1 a sheddable request is in vain."""
    return float(chances.max()) if len(chances) else 0.0
