"""The latency predictor on what a router recorded of a real engine, beside constants and the machine's own noise."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray

from predictor.baselines import Band
from predictor.evaluate import evaluation
from predictor.fitting import one_thread
from predictor.samples import Dataset, dataset
from predictor.train import newest_pool
from tests.engine.checks import Check
from tests.engine.servers import Server
from tests.engine.traffic import TIMEOUT_S, completion, tokens

ROWS: Final = 10_000
METHODS: Final = ("ours", "physics", "upstream", "token-load", "lmetric")
REPEATS: Final = 60
REPEATED_TOKENS: Final = 512
FIGURES: Final = {"mape_pct": "mape", "median_pct": "median_ape", "bias_pct": "bias", "coverage_of_90_pct": "coverage"}


@dataclass(frozen=True, slots=True)
class Constant:
    """The same for every request: what a predictor must beat."""

    of: Callable[[NDArray[np.float64]], float]
    rows: Dataset

    def point(self, rows: Dataset, target: str) -> NDArray[np.float64]:
        """As :class:`predictor.baselines.Fitted`."""
        seen = self.rows.target(target)[self.rows.observed(target)]
        return np.full(len(rows), float(self.of(seen)))

    def band(self, rows: Dataset, target: str) -> Band | None:
        """It has none."""
        return None

    def upper(self, rows: Dataset, target: str) -> NDArray[np.float64] | None:
        """It has none."""
        return None


def mean(rows: Dataset) -> Constant:
    """The mean of the training rows."""
    return Constant(lambda values: float(np.mean(values)), rows)


def middle(rows: Dataset) -> Constant:
    """Their median."""
    return Constant(lambda values: float(np.median(values)), rows)


def predictor_error(name: str, promise: str, history_url: str, *, note: str, **more: Any) -> Check:
    """Errors on the newest 40 % of a history, of methods trained on the rows before: states, promises nothing.

    It fails when there are too few rows to state anything.
    """
    one_thread()
    pool = newest_pool(history_url, limit=ROWS)
    report = evaluation(dataset(pool.samples()), methods=METHODS, extra={"the mean": mean, "the median": middle})
    points = [one for one in report["curve"] if one["regime"] == "all"]
    if not points:
        rejected = {reason.value: count for reason, count in pool.rejected.items()}
        return Check(name=name, promise=promise, ok=False, note=f"{note} Too few samples to judge by.",
                     figures={"samples": len(pool), "rejected": rejected, **more})  # fmt: skip
    largest = max(one["n"] for one in points)
    by_method: dict[str, dict[str, Any]] = {}
    for one in (point for point in points if point["n"] == largest):
        row = by_method.setdefault(one["method"], {})
        row |= {f"{one['target']}_{figure}": None if one["score"][key] is None else round(100 * one["score"][key], 1)
                for figure, key in FIGURES.items()}  # fmt: skip
    judged = next(one["score"]["n"] for one in points if one["n"] == largest)
    figures = {"trained_on": largest, "judged_on": judged, **more, "method": by_method}
    return Check(name=name, promise=promise, ok=True, figures=figures, note=note)


def noise_floor(url: str, server: Server) -> dict[str, Any]:
    """One request over and over, alone, nothing of it cached: what no predictor can know of its TTFT."""
    body = completion(tokens(random.Random(9), REPEATED_TOKENS), max_tokens=4, stream=True)
    taken = np.array([_first_token_s(url, server, body) for _ in range(REPEATS)])[REPEATS // 6 :]  # warm by then
    p10, p50, p90 = map(float, np.percentile(1000 * taken, (10, 50, 90)))
    miss = np.abs(taken - np.median(taken)) / taken
    return {"requests": len(taken), "ttft_p10_ms": round(p10, 1), "ttft_p50_ms": round(p50, 1),
            "ttft_p90_ms": round(p90, 1), "mape_pct_of_their_median": round(100 * float(miss.mean()), 1)}  # fmt: skip


def _first_token_s(url: str, server: Server, body: dict[str, Any]) -> float:
    server.reset_cache()
    began = time.perf_counter()
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=TIMEOUT_S) as reply:
        reply.raise_for_status()
        chunks = reply.iter_bytes()
        next(chunks)
        taken = time.perf_counter() - began
        for _ in chunks:  # to its end, so that the next one is alone
            pass
    return taken
