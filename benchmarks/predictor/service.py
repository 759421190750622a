"""The predictor as production runs it, over a recording: serve, learn from what came back, serve on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from predictor.fit import MIN_SAMPLES, fit_once
from predictor.intervals import queued
from predictor.model import TARGETS, LatencyModel, Rung
from predictor.samples import Sample, dataset
from predictor.trial import of, recalibrated

REFIT_ROWS: Final = 200
"""Production refits after ten rows or five seconds; a run of thousands of rows is over sooner this way ..."""
RECALIBRATE_ROWS: Final = 20
"""... while intervals follow what was served as closely as there, or less."""
KEEP_ROWS: Final = 3000
WARM_ROWS: Final = 300
"""Rows served before coverage counts: a minute or so of traffic."""
_JUDGE_EVERY: Final = 5
_RECENT: Final = 1200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Served:
    """What was served for each row, from the first one after the warm-up."""

    actual: dict[str, NDArray[np.float64]]
    point: dict[str, NDArray[np.float64]]
    low: dict[str, NDArray[np.float64]]
    high: dict[str, NDArray[np.float64]]
    queued: NDArray[np.bool_]
    endpoints: Sequence[str]
    rungs: dict[str, float]
    """Share of rows served by each rung (TTFT's)."""


def serve(samples: Sequence[Sample], *, refit_rows: int = REFIT_ROWS) -> Served:
    """Predict each block with the model of all rows before it, and learn from it as the router records it."""
    model: LatencyModel | None = None
    told: list[Sample] = []
    blocks: list[tuple[list[Sample], dict[str, tuple[NDArray[np.float64], ...]]]] = []
    rungs: list[Rung] = []
    start, turn = 0, 0
    fitted_at = 0
    while start < len(samples):
        block = list(samples[start : start + (RECALIBRATE_ROWS if model else MIN_SAMPLES)])
        if model is not None:
            found = _predict(model, block)
            blocks.append((block, found))
            rungs += [model.ttft.rung] * len(block)
            points = zip(block, found["ttft"][0].tolist(), found["tpot"][0].tolist(), strict=True)
            block = [replace(sample, predicted_ttft_s=ttft, predicted_tpot_s=tpot) for sample, ttft, tpot in points]
        told = (told + block)[-KEEP_ROWS:]
        start += len(block)
        if model is not None and start - fitted_at < refit_rows:
            model = recalibrated(model, dataset(told[-_RECENT:]))
            continue
        boosting = turn % _JUDGE_EVERY == 0 or (model is not None and model.rung is Rung.BOOSTED)
        result = fit_once(dataset(told), now_s=0.0, served=model, fresh=start - fitted_at, boosting=boosting)
        model, turn, fitted_at = result.model or model, turn + 1, start
    return _joined(blocks, rungs)


def _predict(model: LatencyModel, block: Sequence[Sample]) -> dict[str, tuple[NDArray[np.float64], ...]]:
    rows = dataset(block)
    places = model.places(rows.endpoints, rows.variants)
    point = model.predict_at(rows.matrix, places)
    ends = [model.quantile(rows.matrix, point, level, places) for level in (0.05, 0.95)]
    return {name: (of(point, name), of(ends[0], name), of(ends[1], name)) for name in TARGETS}


def _joined(
    blocks: Sequence[tuple[list[Sample], dict[str, tuple[NDArray[np.float64], ...]]]], rungs: Sequence[Rung]
) -> Served:
    """All blocks, without the first rows."""
    rows = dataset([sample for block, _ in blocks for sample in block][WARM_ROWS:])
    said = {name: [np.concatenate([found[name][which] for _, found in blocks])[WARM_ROWS:] for which in range(3)]
            for name in TARGETS}  # fmt: skip
    whole = {name: rows.observed(name) for name in TARGETS}
    actual = {name: np.where(whole[name], rows.target(name), np.nan) for name in TARGETS}
    return Served(
        actual=actual, point={name: said[name][0] for name in TARGETS}, low={name: said[name][1] for name in TARGETS},
        high={name: said[name][2] for name in TARGETS}, queued=queued(rows.matrix), endpoints=rows.endpoints,
        rungs={rung.value: rungs.count(rung) / max(1, len(rungs)) for rung in set(rungs)},
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Hits of the 90 % interval of some rows."""

    hits: int
    rows: int

    @property
    def pct(self) -> float | None:
        """Per cent; None without rows."""
        return 100.0 * self.hits / self.rows if self.rows else None


def coverage(served: Served, target: str, members: NDArray[np.bool_] | None = None) -> Coverage:
    """Of one target on some rows."""
    actual = served.actual[target]
    seen = np.isfinite(actual) if members is None else np.isfinite(actual) & members
    inside = (actual >= served.low[target]) & (actual <= served.high[target])
    return Coverage(hits=int((inside & seen).sum()), rows=int(seen.sum()))


def width(served: Served, target: str, at_coverage: float | None = None) -> float:
    """Mean log of upper over lower end; with ``at_coverage``, of intervals stretched or shrunk to cover so much."""
    seen = np.isfinite(served.actual[target])
    return width_of(served.actual[target][seen], served.low[target][seen], served.high[target][seen], at_coverage)


def width_of(
    actual: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], at_coverage: float | None = None
) -> float:
    """The same for bare arrays: each interval is stretched about its middle, on a logarithmic scale."""
    middle, half = 0.5 * np.log(low * high), np.maximum(0.5 * np.log(np.maximum(high, low) / low), 1e-6)
    if at_coverage is None:
        return float(np.mean(2.0 * half))
    stretch = float(np.quantile(np.abs(np.log(actual) - middle) / half, at_coverage))
    return float(np.mean(2.0 * half) * stretch)
