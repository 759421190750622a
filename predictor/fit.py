"""From samples to a model, scored on rows newer than those it was fitted on. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from predictor.laws import Pair, fit_model
from predictor.model import TARGETS, LatencyModel
from predictor.samples import Dataset
from predictor.trial import BLOCKS, CALIBRATION_ROWS, Trial, backtest, calibrated, of, score, with_tables

__all__ = ["BLOCKS", "CALIBRATION_ROWS", "MIN_SAMPLES", "FitOutcome", "FitResult", "Trial", "backtest", "fit_model",
           "fit_once", "of", "score"]  # fmt: skip

MIN_SAMPLES: Final = 30
"""Fewest samples of each target for a first model."""

REFUSE_FACTOR: Final = 1.5
REFUSE_MARGIN: Final = 0.05
"""A fit whose error on rows that neither model saw is above the served one's times the factor plus the margin is
refused."""
JUDGES_SHARE: Final = 0.2
"""At most this share of the rows, the newest, judge a fit."""


class FitOutcome(enum.StrEnum):
    """What a fit came to."""

    FITTED = "fitted"
    COLD = "cold"
    """Too few samples."""
    REFUSED = "refused"
    """Worse on the newest rows than the model that is served."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitResult:
    """A fit's model, or why there is none."""

    outcome: FitOutcome
    detail: str
    """One sentence with the numbers."""
    samples: Mapping[str, int]
    """Rows that carry each target, seen to its end."""
    model: LatencyModel | None = None
    changed: Mapping[Pair, int] = field(default_factory=dict)
    """(endpoint, variant) -> rows since it became faster or slower."""


def fit_once(
    data: Dataset, *, now_s: float, min_samples: int = MIN_SAMPLES, served: LatencyModel | None = None,
    fresh: int | None = None, boosting: bool = True,
) -> FitResult:  # fmt: skip
    """Fit both targets on ``data`` (oldest first), scored on its newest fifth, then on all of it.

    Args:
        data: checked samples.
        now_s: Unix time to write into the model.
        min_samples: fewest rows of each target.
        served: the model in use; a fit that predicts rows which are new to both much worse is refused.
        fresh: so many of the newest rows came after ``served`` was fitted; ``None``: all.
        boosting: try a boosted part (it is kept only where it was better on newer rows).
    Raises: RuntimeError or ValueError (LinAlgError) if the solver fails.
    """
    counts = {name: int(data.observed(name).sum()) for name in TARGETS}
    if min(counts.values()) < min_samples:
        have = ", ".join(f"{count} of {min_samples} {name} samples" for name, count in counts.items())
        return FitResult(outcome=FitOutcome.COLD, detail=have, samples=counts)
    if served is not None and (complaint := _much_worse(data, served, fresh=fresh, now_s=now_s)):
        return FitResult(outcome=FitOutcome.REFUSED, detail=complaint, samples=counts)
    trial = backtest(data, now_s=now_s, boosting=boosting)
    model = fit_model(data, now_s=now_s)
    model = calibrated(with_tables(model, data, trial.boosted), trial)
    errors = ", ".join(f"{name} {_percent(getattr(model, name).score.mape)}" for name in TARGETS)
    detail = f"fitted on {counts['ttft']} samples; held-out error (MAPE): {errors}"
    return FitResult(outcome=FitOutcome.FITTED, detail=detail, samples=counts, model=model,
                     changed={**model.tpot.changed, **model.ttft.changed})  # fmt: skip


def _much_worse(data: Dataset, served: LatencyModel, *, fresh: int | None, now_s: float) -> str:
    """Why a fit on ``data`` must not replace the served model; empty if it may.

    Both predict the newest rows, which the served model never saw and the other one is not shown. Rows that the served
    model was fitted on would favour it, and every later fit would be refused.
    """
    judges = min(len(data) if fresh is None else fresh, round(JUDGES_SHARE * len(data)))
    if judges <= 0:
        return ""
    start = len(data) - judges
    rows = data.take(np.arange(start, len(data)))
    rival = fit_model(data.take(np.arange(start)), now_s=now_s)
    said = [model.predict_for(rows.matrix, rows.endpoints, rows.variants) for model in (rival, served)]
    for name in TARGETS:
        seen = rows.observed(name)
        ours, theirs = (score(rows.target(name)[seen], of(one, name)[seen]).mape for one in said)
        if ours is not None and theirs is not None and ours > REFUSE_FACTOR * theirs + REFUSE_MARGIN:
            return (f"refused: {name} error {_percent(ours)} on the newest {int(seen.sum())} rows, "
                    f"the served model has {_percent(theirs)}")  # fmt: skip
    return ""


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
