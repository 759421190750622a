"""The latency model in this process, for the predicted-latency scorer."""

from __future__ import annotations

from collections.abc import Sequence

from predictor.client import Watcher
from predictor.features import NAMES
from router.types import EndpointView, InferenceRequest, Prediction


def features(request: InferenceRequest, endpoint: EndpointView) -> dict[str, float]:
    """What is known of ``request`` at ``endpoint``, by name."""
    return dict(zip(NAMES, row(request, endpoint), strict=True))


def row(request: InferenceRequest, endpoint: EndpointView) -> tuple[float, ...]:
    """The same in the order of :data:`predictor.features.NAMES`."""
    sample = endpoint.sample
    return (
        float(request.input_tokens),
        float(endpoint.matched_tokens),
        float(endpoint.prefill_tokens_in_flight),
        float(endpoint.requests_in_flight),
        float(endpoint.context_tokens_in_flight),
        (sample.waiting or 0.0) if sample else 0.0,
        (sample.running or 0.0) if sample else 0.0,
        (sample.kv_utilisation or 0.0) if sample else 0.0,
    )


class Predictor:
    """Predictions from the newest artifact; ``None`` while there is none (see :class:`router.types.Predict`)."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    @property
    def cold(self) -> bool:
        """There is no model yet."""
        return self._watcher.cold

    def __call__(self, request: InferenceRequest, endpoints: Sequence[EndpointView]) -> Sequence[Prediction] | None:
        """Predicted latencies in the order of ``endpoints``."""
        latencies = self._watcher.predict_for(
            [row(request, endpoint) for endpoint in endpoints],
            [endpoint.url for endpoint in endpoints],
            [endpoint.variant for endpoint in endpoints],
        )
        if latencies is None:
            return None
        pairs = zip(latencies.ttft_s.tolist(), latencies.tpot_s.tolist(), strict=True)
        return [Prediction(ttft_s=ttft_s, tpot_s=tpot_s) for ttft_s, tpot_s in pairs]
