"""The predictor beside a run: it learns from the run's own outcomes, in virtual time.

As in production: finished requests become samples (:mod:`predictor.samples`) in a pool, and every few seconds, when
enough are new, :func:`predictor.fit.fit_once` makes the next model, which must not be much worse than the served one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from threadpoolctl import threadpool_limits

from benchmarks.routing.run import Served
from predictor.fit import MIN_SAMPLES, fit_once
from predictor.model import LatencyModel
from predictor.pool import Pool
from predictor.samples import Sample, dataset
from router.predict import predictions, row
from router.types import EndpointView, InferenceRequest, Prediction, Predictions

REFIT_S: Final = 20.0
"""Production looks every 5 s; a run of half an hour is fitted often enough this way, and ends sooner."""
REFIT_ROWS: Final = 10
MAX_ROWS: Final = 2000
"""Production keeps 10 000, for the same reason."""


class Learning:
    """A model that follows a run; also the ``predict`` of :class:`router.profile.Scheduler`."""

    def __init__(self) -> None:
        self.pool = Pool(MAX_ROWS)
        self.model: LatencyModel | None = None
        self.errors: list[float] = []
        """Relative errors of the TTFT predictions that were used."""
        self._under_way: dict[str, tuple[EndpointView, tuple[float, ...], Prediction | None]] = {}
        self._next_s, self._fitted_at = 0.0, 0

    @property
    def cold(self) -> bool:
        """There is no model yet."""
        return self.model is None

    def __call__(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], level: float = 0.5
    ) -> Predictions | None:
        """Latencies in the order of ``endpoints``; ``None`` while cold."""
        if self.model is None:
            return None
        return predictions(self.model, request, endpoints, level)

    def sent(self, request: InferenceRequest, endpoint: EndpointView, prediction: Prediction | None) -> None:
        """Remember what was known at dispatch."""
        self._under_way[request.request_id] = (endpoint, row(request, endpoint), prediction)

    def finished(self, request_id: str, served: Served, now_s: float) -> None:
        """Learn from an outcome, and refit when it is time."""
        endpoint, features, prediction = self._under_way.pop(request_id)
        self.pool.add(
            Sample(features=features, ttft_s=served.ttft_s, tpot_s=served.tpot_s, endpoint=endpoint.url,
                   variant=endpoint.variant, predicted_ttft_s=prediction.ttft_s if prediction else None,
                   predicted_tpot_s=prediction.tpot_s if prediction else None)
        )  # fmt: skip
        if prediction is not None:
            self.errors.append(abs(prediction.ttft_s / served.ttft_s - 1.0))
        if now_s >= self._next_s and self.pool.accepted - self._fitted_at >= REFIT_ROWS:
            self._refit(now_s)

    def _refit(self, now_s: float) -> None:
        samples = self.pool.samples()
        if len(samples) < MIN_SAMPLES:
            return
        self._next_s, self._fitted_at = now_s + REFIT_S, self.pool.accepted
        with threadpool_limits(1):  # small fits: threads would only fight over the cores, each other's runs among them
            result = fit_once(dataset(samples), now_s=now_s, served=self.model)
        if result.model is not None:
            self.model = result.model
