"""The HTTP bodies: upstream's names and fields, and what this predictor adds (old clients ignore it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from predictor.features import NAMES

MAX_BULK: Final = 10_000

MOST: Final = 100_000_000
"""No count of tokens or requests at one endpoint is larger (:data:`predictor.samples.MAX_FEATURE`)."""

Count = Annotated[int, Field(ge=0, le=MOST)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class PredictionRequest(BaseModel):
    """A request at one endpoint, as upstream's router describes it."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore")

    kv_cache_percentage: Ratio
    """0..1 despite its name."""
    input_token_length: Count
    num_request_waiting: Count
    num_request_running: Count
    num_tokens_generated: Count
    """Accepted and not used: the law predicts the mean over the whole answer."""
    prefix_cache_score: Ratio
    pod_type: str = Field(default="", max_length=64)
    """Accepted and not used: prefill and decode variants have their own laws by ``variant``."""
    encoder_matched_size: Count = 0
    encoder_input_size: Count = 0
    """Accepted and not used."""
    prefill_tokens_in_flight: Count | None = None
    """Not sent: the waiting requests, each as long as this one, stand in."""
    decode_tokens_in_flight: Count = 0
    endpoint: str = Field(default="", max_length=512)
    """Addition: URL of the endpoint; its own scale is then used."""
    variant: str = Field(default="", max_length=256)

    def features(self) -> Mapping[str, float]:
        """By our names."""
        return dict(zip(NAMES, feature_row(self), strict=True))


_Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
_Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]


class PlainRequest(msgspec.Struct, kw_only=True):
    """The same fields and limits as :class:`PredictionRequest`, for rows that need no conversion: read in one pass."""

    kv_cache_percentage: _Ratio
    input_token_length: _Count
    num_request_waiting: _Count
    num_request_running: _Count
    num_tokens_generated: _Count
    prefix_cache_score: _Ratio
    pod_type: Annotated[str, msgspec.Meta(max_length=64)] = ""
    encoder_matched_size: _Count = 0
    encoder_input_size: _Count = 0
    prefill_tokens_in_flight: _Count | None = None
    decode_tokens_in_flight: _Count = 0
    endpoint: Annotated[str, msgspec.Meta(max_length=512)] = ""
    variant: Annotated[str, msgspec.Meta(max_length=256)] = ""


class PlainBulk(msgspec.Struct):
    """Rows that are all in order."""

    requests: Annotated[list[PlainRequest], msgspec.Meta(min_length=1, max_length=MAX_BULK)]


Row = PredictionRequest | PlainRequest


def feature_row(row: Row) -> tuple[float, ...]:
    """In the order of :data:`predictor.features.NAMES`; tokens in flight of both kinds together are the context."""
    prompt, waiting = row.input_token_length, row.num_request_waiting
    prefill = waiting * prompt if row.prefill_tokens_in_flight is None else row.prefill_tokens_in_flight
    return (prompt, row.prefix_cache_score * prompt, prefill, row.num_request_running + waiting,
            row.decode_tokens_in_flight + prefill, waiting, row.num_request_running,
            row.kv_cache_percentage)  # fmt: skip


class TrainingEntry(PredictionRequest):
    """A request with its outcome; a target of 0 was not observed."""

    censored: bool = False
    """Addition: it was given up before its first token, ``actual_ttft_ms`` is how long it had waited."""
    output_tokens: int | None = Field(default=None, ge=0)
    """Addition."""
    predicted_ttft_ms: float | None = None
    predicted_tpot_ms: float | None = None

    actual_ttft_ms: float
    actual_tpot_ms: float


class BulkRequest(BaseModel):
    """Rows are checked one by one."""

    requests: list[Any] = Field(min_length=1, max_length=MAX_BULK)


class TrainingBulk(BaseModel):
    """Rows are checked one by one."""

    entries: list[Any] = Field(max_length=MAX_BULK)


class PredictionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds; the fields after ``last_model_load`` are additions."""

    ttft_ms: float
    tpot_ms: float
    predicted_at: datetime
    model_type: str = "physics_nnls"
    objective_type: str = "mean"
    quantile: float
    last_model_load: datetime | None
    ttft_quantile_ms: float
    """Stays below with probability ``quantile``."""
    tpot_quantile_ms: float
    ttft_interval_ms: tuple[float, float]
    """Covers with probability ``quantile``, the same share above and below."""
    tpot_interval_ms: tuple[float, float]
    outside_training_range: bool
    """A feature is above all that training saw: the law extrapolates, and the interval is wider."""
    rung: str = ""
    """What it rests on (:class:`predictor.model.Rung`)."""
    model_version: str = ""
    refused: str = ""
    """Why this row was refused; its latencies are then the largest that are believed, so that nobody picks it."""


class BulkError(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was refused."""

    index: int
    error: str


class BulkResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Answers in the order of the rows; ``/predict/bulk`` says ``null`` where a row was refused."""

    predictions: Sequence[PredictionResponse | None]
    total_requests: int
    successful_predictions: int
    failed_predictions: int
    processing_time_ms: float
    errors: Sequence[BulkError] = ()
