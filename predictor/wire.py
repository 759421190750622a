"""The HTTP bodies: upstream's names and fields, and what this predictor adds (old clients ignore it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_BULK = 10_000

Count = Annotated[int, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class PredictionRequest(BaseModel):
    """A request at one endpoint, as upstream's router describes it."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore")

    kv_cache_percentage: Ratio
    """0..1 despite its name."""
    input_token_length: Count
    num_request_waiting: Count
    num_request_running: Count
    num_tokens_generated: Count = 0
    """Accepted and not used: the law predicts the mean over the whole answer."""
    prefix_cache_score: Ratio
    prefill_tokens_in_flight: Count | None = None
    """Not sent: the waiting requests, each as long as this one, stand in."""
    decode_tokens_in_flight: Count = 0
    endpoint: str = Field(default="", max_length=512)
    """Addition: URL of the endpoint; its own scale is then used."""
    variant: str = Field(default="", max_length=256)

    def features(self) -> Mapping[str, float]:
        """By our names; ``decode_tokens_in_flight`` and ``prefill_tokens_in_flight`` together are the context."""
        prefill = self.prefill_tokens_in_flight
        if prefill is None:
            prefill = self.num_request_waiting * self.input_token_length
        return {
            "input_tokens": float(self.input_token_length),
            "cached_tokens": self.prefix_cache_score * self.input_token_length,
            "prefill_tokens_in_flight": float(prefill),
            "requests_in_flight": float(self.num_request_running + self.num_request_waiting),
            "context_tokens_in_flight": float(self.decode_tokens_in_flight + prefill),
            "waiting": float(self.num_request_waiting),
            "running": float(self.num_request_running),
            "kv_utilisation": self.kv_cache_percentage,
        }


class TrainingEntry(PredictionRequest):
    """A request with its outcome; a target of 0 was not observed."""

    actual_ttft_ms: float
    actual_tpot_ms: float


class BulkRequest(BaseModel):
    """All rows are valid, or the whole is refused."""

    requests: list[PredictionRequest] = Field(min_length=1, max_length=MAX_BULK)


class LooseBulkRequest(BaseModel):
    """Rows are checked one by one."""

    requests: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_BULK)


class TrainingBulk(BaseModel):
    """Rows are checked one by one."""

    entries: list[Any] = Field(max_length=MAX_BULK)


class PredictionResponse(BaseModel):
    """Milliseconds; the fields after ``last_model_load`` are additions."""

    model_config = ConfigDict(protected_namespaces=())

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
    """A feature is above all that training saw: the law extrapolates, the interval does not hold."""


class BulkError(BaseModel):
    """A row that was refused."""

    index: int
    error: str


class BulkResponse(BaseModel):
    """Answers in the order of the rows; ``None`` where a row was refused (its reason is in ``errors``)."""

    predictions: Sequence[PredictionResponse | None]
    total_requests: int
    successful_predictions: int
    failed_predictions: int
    processing_time_ms: float
    errors: list[BulkError] = []
