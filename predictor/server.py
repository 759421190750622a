"""The predictor over HTTP: upstream's endpoints around a :class:`predictor.learner.Learner`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import ValidationError

from fleet import signals
from predictor.learner import Learner
from predictor.model import TARGETS, LatencyModel, Rung
from predictor.samples import MAX_TPOT_S, MAX_TTFT_S, RejectedError, Rejection, Sample, make
from predictor.server_models import COLD, add_models
from predictor.wire import (
    BulkError,
    BulkRequest,
    BulkResponse,
    PlainBulk,
    PredictionRequest,
    PredictionResponse,
    Row,
    TrainingBulk,
    TrainingEntry,
    feature_row,
)

_BULK_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {**COLD, 422: {"description": "No list of rows."}}
_NO_TEXT: Final[dict[int | str, dict[str, Any]]] = {400: {"description": "The body is no text."}}
_PLAIN: Final = msgspec.json.Decoder(PlainBulk)
_BULK_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": BulkRequest.model_json_schema()}}}
}


def make_app(learner: Learner) -> FastAPI:
    """The HTTP interface of ``learner``, which the caller starts and stops."""
    app = FastAPI(title="llm-fleet latency predictor", docs_url=None, redoc_url=None)
    registry = CollectorRegistry()
    registry.register(_Figures(learner))
    _add_predictions(app, learner)
    _add_training(app, learner)
    _add_state(app, learner, registry)
    add_models(app, learner)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """422 with each fault's place, text and kind; the input is left out (it may be NaN, which JSON cannot say)."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    told = [{name: item[name] for name in ("loc", "msg", "type")} for item in errors]
    return JSONResponse({"detail": told}, status_code=422)


def _ready(learner: Learner) -> LatencyModel:
    model = learner.model
    if model is None:
        raise HTTPException(503, f"Models are not ready: {learner.progress()}")
    return model


# ---- predictions


def _add_predictions(app: FastAPI, learner: Learner) -> None:
    level = learner.settings.quantile

    @app.post("/predict", response_model=None, responses={**COLD, **_NO_TEXT})
    async def predict(body: PredictionRequest) -> Response:
        """One request at one endpoint; 503 while cold."""
        return _json(predict_rows(_ready(learner), [body], level, version=learner.version)[0])

    @app.post("/predict/bulk/strict", response_model=None, openapi_extra=_BULK_BODY, responses=_BULK_ANSWERS)
    async def predict_strict(request: Request) -> Response:
        """Many rows, an answer for each: a refused one is answered with the largest latencies that are believed.

        Old clients read no errors here; a missing answer would look to them like an idle endpoint.
        """
        return _json(_bulk(learner, await request.body(), level, fill=True))

    @app.post("/predict/bulk", response_model=None, openapi_extra=_BULK_BODY, responses=_BULK_ANSWERS)
    async def predict_bulk(request: Request) -> Response:
        """Many rows; bad ones are refused one by one, with a reason."""
        return _json(_bulk(learner, await request.body(), level, fill=False))


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _bulk(learner: Learner, body: bytes, level: float, *, fill: bool) -> BulkResponse:
    started = time.perf_counter()
    good, errors = _rows(body)
    model = _ready(learner)
    count = len(good) + len(errors)
    found = predict_rows(model, good, level, version=learner.version) if good else []
    answers: Iterator[PredictionResponse] = iter(found)
    refused = {error.index: _ceiling(error.error, level) if fill else None for error in errors}
    return BulkResponse(
        predictions=[refused[index] if index in refused else next(answers) for index in range(count)],
        total_requests=count, successful_predictions=len(good), failed_predictions=len(errors),
        processing_time_ms=1000 * (time.perf_counter() - started), errors=errors,
    )  # fmt: skip


def _rows(body: bytes) -> tuple[Sequence[Row], list[BulkError]]:
    """Rows of a bulk request that can be predicted, and why the others cannot.

    Raises: RequestValidationError for a body that is no list of 1 to :data:`predictor.wire.MAX_BULK` rows.
    """
    try:
        return _PLAIN.decode(body).requests, []
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # something is wrong or needs a conversion: row by row, then
    try:
        rows = BulkRequest.model_validate(json.loads(body)).requests
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from None
    except (ValueError, RecursionError) as error:
        raise RequestValidationError(
            [{"loc": ("body",), "msg": f"JSON decode error: {error}", "type": "json_invalid"}]
        ) from None
    good: list[Row] = []
    errors: list[BulkError] = []
    for index, row in enumerate(rows):
        try:
            good.append(PredictionRequest.model_validate(row))
        except ValidationError as error:
            errors.append(BulkError(index=index, error=_first(error)))
    return good, errors


def _ceiling(reason: str, level: float) -> PredictionResponse:
    """What is said of an endpoint whose row was refused."""
    ttft, tpot = 1000 * MAX_TTFT_S, 1000 * MAX_TPOT_S
    return PredictionResponse(
        ttft_ms=ttft, tpot_ms=tpot, predicted_at=datetime.now(UTC), quantile=level, last_model_load=None,
        ttft_quantile_ms=ttft, tpot_quantile_ms=tpot, ttft_interval_ms=(0.0, ttft), tpot_interval_ms=(0.0, tpot),
        outside_training_range=True, refused=reason,
    )  # fmt: skip


def predict_rows(
    model: LatencyModel, rows: Sequence[Row], level: float, *, version: str = ""
) -> list[PredictionResponse]:
    """Answers in the order of ``rows`` (at least one), with the quantile and the interval at ``level``."""
    matrix = np.array([feature_row(row) for row in rows], dtype=np.float64)
    places = model.places([row.endpoint for row in rows], [row.variant for row in rows])
    point, tail = model.predict_at(matrix, places), (1 - level) / 2
    high, *ends = (model.quantile(matrix, point, at, places) for at in (level, tail, 1 - tail))
    outside = model.outside(matrix)
    now, loaded = datetime.now(UTC), datetime.fromtimestamp(model.fitted_at_s, UTC)
    ms = [1000 * values for p in (point, high, *ends) for values in (p.ttft_s, p.tpot_s)]
    rung = model.rung.value
    return [
        PredictionResponse(
            ttft_ms=ttft, tpot_ms=tpot, predicted_at=now, quantile=level, last_model_load=loaded,
            ttft_quantile_ms=ttft_q, tpot_quantile_ms=tpot_q, ttft_interval_ms=(ttft_low, ttft_high),
            tpot_interval_ms=(tpot_low, tpot_high), outside_training_range=out, rung=rung, model_version=version,
        )
        for ttft, tpot, ttft_q, tpot_q, ttft_low, tpot_low, ttft_high, tpot_high, out in zip(
            *(values.tolist() for values in ms), outside.tolist(), strict=True
        )
    ]  # fmt: skip


def _first(error: ValidationError) -> str:
    fault = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, fault["loc"]))
    return f"{place}: {fault['msg']}" if place else fault["msg"]


# ---- training data


def _add_training(app: FastAPI, learner: Learner) -> None:
    @app.post("/add_training_data_bulk", status_code=202, responses=_NO_TEXT)
    async def add_training_data_bulk(body: TrainingBulk) -> dict[str, Any]:
        """Samples with outcomes; bad rows are refused one by one, with a reason."""
        accepted: list[Sample] = []
        refused: list[dict[str, Any]] = []
        counts: Counter[Rejection] = Counter()
        for index, entry in enumerate(body.entries):
            try:
                accepted.append(training_sample(entry))
            except RejectedError as error:
                counts[error.reason] += 1
                refused.append({"index": index, "reason": error.reason.value, "detail": str(error)})
        learner.add(accepted, counts)
        message = f"Accepted {len(accepted)} training samples" + (f", refused {len(refused)}" if refused else "")
        return {"message": message, "accepted": len(accepted), "rejected": refused}


def training_sample(entry: Any) -> Sample:
    """The sample in one of upstream's training entries.

    Raises: RejectedError with the reason.
    """
    try:
        row = TrainingEntry.model_validate(entry)
    except ValidationError as error:
        raise RejectedError(_reason(error), _first(error)) from None
    return make(row.features(), ttft_s=row.actual_ttft_ms / 1000, tpot_s=row.actual_tpot_ms / 1000,
                endpoint=row.endpoint, variant=row.variant, censored=row.censored, output_tokens=row.output_tokens,
                predicted_ttft_s=_seconds(row.predicted_ttft_ms),
                predicted_tpot_s=_seconds(row.predicted_tpot_ms))  # fmt: skip


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _reason(error: ValidationError) -> Rejection:
    kind = error.errors(include_input=False, include_url=False)[0]["type"]
    if kind == "missing":
        return Rejection.MISSING_FEATURES
    if kind == "greater_than_equal":
        return Rejection.NEGATIVE
    return Rejection.ABSURD if kind == "less_than_equal" else Rejection.NOT_A_NUMBER


# ---- state


def _add_state(app: FastAPI, learner: Learner, registry: CollectorRegistry) -> None:
    @app.get("/healthz", responses={503: {"description": "It does not learn any more."}})
    async def healthz() -> dict[str, str]:
        """The process is up and learns; it may still be cold."""
        if learner.broken:
            raise HTTPException(503, "the learning loop ended; restart the process")
        return {"status": "ok"}

    @app.get("/readyz", responses=COLD)
    async def readyz() -> dict[str, str]:
        """503 "Models are not ready" while cold."""
        _ready(learner)
        return {"status": "ready"}

    @app.get("/status")
    async def status() -> dict[str, Any]:
        """Upstream's fields, then ours."""
        return {**_upstream_status(learner), **learner.status(), "held_out_error": _held_out(learner.model)}

    @app.get("/data/status")
    async def data_status() -> dict[str, Any]:
        """What is kept for the next fit."""
        return learner.data_status()

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _upstream_status(learner: Learner) -> dict[str, Any]:
    model = learner.model
    return {
        "is_ready": model is not None,
        "model_type": "physics_nnls",
        "objective_type": "mean",
        "quantile": learner.settings.quantile,
        "last_model_load": datetime.fromtimestamp(model.fitted_at_s, UTC) if model else None,
        "training_server_url": "",
        "models_exist": dict.fromkeys(TARGETS, model is not None),
        "ensemble_active": False,
    }


def _held_out(model: LatencyModel | None) -> dict[str, Any]:
    """Error of the last fit on newer rows that it had not seen, by target."""
    return {name: asdict(getattr(model, name).score) for name in TARGETS} if model else {}


class _Figures(Collector):
    """The catalogue's predictor series, read from the learner when scraped."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def collect(self) -> Iterator[Metric]:
        """One family a signal; a value that is not known has no sample."""
        model, status = self._learner.model, self._learner.status()
        served = {name: status["error"][f"{name}_mape"] for name in TARGETS}
        laws = {"ttft": model.ttft, "tpot": model.tpot} if model else {}
        yield _gauge(signals.PREDICTOR_SAMPLES, {name: law.samples for name, law in laws.items()})
        yield _gauge(signals.PREDICTOR_ERROR, served)
        yield _gauge(signals.PREDICTOR_HELD_OUT_ERROR, {name: law.score.mape for name, law in laws.items()})
        yield _gauge(signals.PREDICTOR_COVERAGE, {name: law.score.coverage for name, law in laws.items()})
        yield _gauge(signals.PREDICTOR_LAST_FIT, {"": status["good_fit_at_s"]})
        yield _gauge(signals.PREDICTOR_COLD, {"": float(status["cold"])})
        yield _counter(signals.PREDICTOR_FIT_FAILURES, {"": status["fit_failures"]})
        yield _counter(signals.PREDICTOR_REJECTED, status["rejected"])
        yield _gauge(signals.PREDICTOR_RUNG, {rung.value: float(rung is self._learner.rung) for rung in Rung})
        yield _counter(signals.PREDICTOR_DRIFTS, {"": status["drifts"]})


def _gauge(signal: signals.Signal, values: dict[str, Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(signal.name, signal.meaning, labels=signal.labels)
    for label, value in values.items():
        if value is not None:
            family.add_metric([label] if signal.labels else [], value)
    return family


def _counter(signal: signals.Signal, values: dict[str, Any]) -> CounterMetricFamily:
    family = CounterMetricFamily(signal.name.removesuffix("_total"), signal.meaning, labels=signal.labels)
    for label, value in values.items():
        family.add_metric([label] if signal.labels else [], value)
    return family
