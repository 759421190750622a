"""The predictor's settings; environment prefix ``PREDICTOR_``."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.settings import Settings
from predictor.fit import MIN_SAMPLES


class PredictorSettings(Settings):
    """How the service listens and how it learns."""

    model_config = SettingsConfigDict(env_prefix="PREDICTOR_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on; the default is loopback: nothing is reachable from outside."""
    port: int = Field(default=8090, ge=0, le=65535)
    """0: any free port."""
    refit_s: float = Field(default=5.0, gt=0)
    """Look for new rows, and refit when there are enough, this often (5 s: a slower GPU is known within seconds)."""
    refit_rows: int = Field(default=10, ge=1)
    """Refit after so many new samples (10 is what an unseen endpoint needs for its scale)."""
    min_samples: int = Field(default=MIN_SAMPLES, ge=10)
    """Samples of TTFT and of TPOT before the first model; below it every answer is "not ready"."""
    max_rows: int = Field(default=10_000, ge=100)
    """Samples kept and fitted on (10 000 take about a quarter of a second of one core each refit)."""
    quantile: float = Field(default=0.9, gt=0.5, lt=1)
    """Level of the quantiles in answers; intervals cover as much (upstream's default, 0.9)."""
    evaluate_s: float = Field(default=120.0, gt=0)
    """Measure the method on the samples that are held this often, for the console (a second or two of one core)."""
    prior: str = ""
    """``MODEL:GPU:COUNT`` whose hardware data answers before the first fit; ``typical``: the median engine; empty:
    nothing does, and the router goes by its own counts."""
    platform: str = ""
    """URL of a fleet API (``GET /fleet``) that tells each variant's model and GPU, for the same purpose."""
