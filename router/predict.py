"""The latency model in this process, for the predicted-latency scorer."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, Protocol

import numpy as np

from fleet.types import EngineSample
from predictor.features import NAMES
from predictor.few import Few
from predictor.model import Array, Batch, LatencyModel
from router.types import EndpointView, InferenceRequest, Predictions


def features(input_tokens: int, seen: Seen) -> dict[str, float]:
    """What was known of a request at the engine it was sent to, by name."""
    return dict(zip(NAMES, row_of(input_tokens, seen), strict=True))


def row(request: InferenceRequest, endpoint: EndpointView) -> tuple[float, ...]:
    """The same in the order of :data:`predictor.features.NAMES`."""
    return row_of(request.input_tokens, seen_at(endpoint))


class Seen:
    """What was known of an engine when a request was sent there."""

    __slots__ = (
        "context_tokens_in_flight", "matched_tokens", "prefill_tokens_in_flight", "requests_in_flight", "sample",
    )  # fmt: skip

    def __init__(
        self, matched_tokens: int, prefill_tokens_in_flight: int, requests_in_flight: int,
        context_tokens_in_flight: int, sample: EngineSample | None,
    ) -> None:  # fmt: skip
        self.matched_tokens, self.prefill_tokens_in_flight = matched_tokens, prefill_tokens_in_flight
        self.requests_in_flight, self.context_tokens_in_flight = requests_in_flight, context_tokens_in_flight
        self.sample = sample


def seen_at(endpoint: EndpointView) -> Seen:
    """The part of a view that the features are made of; the view itself changes with the next request."""
    return Seen(endpoint.matched_tokens, endpoint.prefill_tokens_in_flight, endpoint.requests_in_flight,
                endpoint.context_tokens_in_flight, endpoint.sample)  # fmt: skip


def row_of(input_tokens: int, seen: Seen) -> tuple[float, ...]:
    """Features in the order of :data:`predictor.features.NAMES`."""
    sample = seen.sample
    return (
        float(input_tokens),
        float(seen.matched_tokens),
        float(seen.prefill_tokens_in_flight),
        float(seen.requests_in_flight),
        float(seen.context_tokens_in_flight),
        (sample.waiting or 0.0) if sample else 0.0,
        (sample.running or 0.0) if sample else 0.0,
        (sample.kv_utilisation or 0.0) if sample else 0.0,
    )


FEW: Final = 16
"""Up to so many candidates plain floats are faster than numpy."""


class Source(Protocol):
    """Where the model comes from (:class:`predictor.client.Watcher`)."""

    @property
    def model(self) -> LatencyModel | None:
        """The newest; ``None`` while there is none."""
        ...

    @property
    def cold(self) -> bool:
        """There is none."""
        ...


class Predictor:
    """Predictions from the newest model; ``None`` while there is none (see :class:`router.types.Predict`)."""

    def __init__(self, watcher: Source) -> None:
        self._watcher = watcher
        self._desk: Desk | None = None

    @property
    def cold(self) -> bool:
        """There is no model yet."""
        return self._watcher.cold

    def __call__(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], level: float = 0.5
    ) -> Predictions | None:
        """Predicted latencies in the order of ``endpoints``."""
        model = self._watcher.model
        if model is None:
            return None
        desk = self._desk
        if desk is None or not desk.fits(model, endpoints):
            desk = self._desk = Desk(model, endpoints)
        return desk.predictions(request, endpoints, level)


class Desk:
    """One model and one set of candidates; what does not change between two requests is laid out once."""

    __slots__ = ("_batch", "_counts", "_endpoints", "_few", "_samples", "_urls")

    def __init__(self, model: LatencyModel, endpoints: Sequence[EndpointView]) -> None:
        self._endpoints = endpoints
        self._urls = [one.url for one in endpoints]
        self._samples: list[EngineSample | None] = [None] * len(endpoints)
        variants = [one.variant for one in endpoints]
        self._few = Few(model, self._urls, variants) if len(endpoints) <= FEW else None
        self._batch = model.at(self._urls, variants)
        self._counts = Struct(f"{4 * len(endpoints)}d")
        """Rows 1 to 4 of the features: it writes counts into an array in half the time that numpy takes."""

    def fits(self, model: LatencyModel, endpoints: Sequence[EndpointView]) -> bool:
        """It is for this model and these candidates."""
        if self._batch.model is not model:
            return False
        return endpoints is self._endpoints or self._urls == [one.url for one in endpoints]

    def look(self, request: InferenceRequest, endpoints: Sequence[EndpointView], *, idle: bool = False) -> Batch:
        """The batch, predicted for ``request``; ``idle``: were the candidates without load."""
        batch, rows = self._batch, self._batch.rows
        rows[0] = request.input_tokens
        if idle:
            rows[1] = [one.matched_tokens for one in endpoints]
            rows[2:] = 0.0
            self._samples = [None] * len(endpoints)
            batch.predict()
            return batch
        self._counts.pack_into(rows.data, rows.strides[0], *[one.matched_tokens for one in endpoints],
                               *[one.prefill_tokens_in_flight for one in endpoints],
                               *[one.requests_in_flight for one in endpoints],
                               *[one.context_tokens_in_flight for one in endpoints])  # fmt: skip
        samples = [one.sample for one in endpoints]
        if samples != self._samples:  # scraped since
            self._samples = samples
            rows[5] = [(one.waiting or 0.0) if one else 0.0 for one in samples]
            rows[6] = [(one.running or 0.0) if one else 0.0 for one in samples]
            rows[7] = [(one.kv_utilisation or 0.0) if one else 0.0 for one in samples]
        batch.predict()
        return batch

    def predictions(
        self, request: InferenceRequest, endpoints: Sequence[EndpointView], level: float = 0.5
    ) -> Predictions:
        """See :func:`predictions`."""
        if self._few is not None and level == 0.5:
            return _few_predictions(self._few, float(request.input_tokens), endpoints)
        batch = self.look(request, endpoints)
        count = len(endpoints)
        slowness = _agreed(*(latency / (latency.sum() / count) for latency in batch.alike()))
        found = Predictions(batch.ttft_s.tolist(), batch.tpot_s.tolist(), slowness.tolist())
        if level != 0.5:
            high = batch.quantiles(level)
            found.ttft_high_s, found.tpot_high_s = high.ttft_s.tolist(), high.tpot_s.tolist()
        return found


def predictions(
    model: LatencyModel, request: InferenceRequest, endpoints: Sequence[EndpointView], level: float = 0.5
) -> Predictions:
    """What ``model`` says of ``request`` at each endpoint, and of the endpoints themselves; above the median also at
    the percentile ``level``.

    Their slowness is what it predicts for one and the same load, the candidates' mean, at each of them.
    """
    return Desk(model, endpoints).predictions(request, endpoints, level)


def _few_predictions(few: Few, size: float, endpoints: Sequence[EndpointView]) -> Predictions:
    rows = [
        (size, one.matched_tokens, one.prefill_tokens_in_flight, one.requests_in_flight, one.context_tokens_in_flight,
         0.0 if (sample := one.sample) is None else sample.waiting or 0.0,
         0.0 if sample is None else sample.kv_utilisation or 0.0)
        for one in endpoints
    ]  # fmt: skip
    found, alike = few.predict(rows), few.alike(rows)
    ttft, tpot = (sum(column) / len(rows) for column in zip(*alike, strict=True))
    slowness = [_agree(slow[0] / ttft, slow[1] / tpot) for slow in alike]
    return Predictions([one[0] for one in found], [one[1] for one in found], slowness)


def _agree(one: float, two: float) -> float:
    """As :func:`_agreed`."""
    if one > 1.0 and two > 1.0:
        return one if one < two else two
    if one < 1.0 and two < 1.0:
        return one if one > two else two
    return 1.0


def _agreed(one: Array, two: Array) -> Array:
    """Of two ratios the one nearer to 1, and 1 where they contradict each other: a queue that the model does not
    explain looks like a slow engine in TTFT, and so does a crowded batch in TPOT."""
    return np.where((one > 1.0) & (two > 1.0), np.minimum(one, two),
                    np.where((one < 1.0) & (two < 1.0), np.maximum(one, two), 1.0))  # fmt: skip
