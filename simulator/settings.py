"""What ``fleet sim serve`` runs: settings of the process, and the file that names the variants."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict

from fleet.errors import ConfigError
from fleet.hardware import GPUS
from fleet.settings import Settings, read_yaml
from fleet.types import VariantSpec
from simulator.config import EngineConfig, engine_config


class SimSettings(Settings):
    """The platform API's process; environment prefix ``SIM_``."""

    model_config = SettingsConfigDict(env_prefix="SIM_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address of the platform API and of the engines. Default: this machine only."""
    port: int = Field(default=8060, ge=0, le=65_535)
    """Port of the platform API; 0 takes any free one."""
    engine_port_base: int = Field(default=9100, ge=1024, le=60_000)
    """Engines take free ports from here upwards."""
    drain_s: float = Field(default=30.0, ge=0)
    """A replica that is scaled away gets this long to finish its requests (Kubernetes' default grace period)."""
    drain_at_least_s: float = Field(default=3.0, ge=0)
    """And stays at least this long, for routers that have not heard yet (three polls; Kubernetes: a preStop sleep)."""


class VariantEntry(BaseModel):
    """One entry of ``variants``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    shape: str
    """Model whose sizes and step times to use, as in :mod:`fleet.hardware`."""
    accelerator: str
    accelerator_count: int = Field(default=1, ge=1)
    cost_per_hour: float | None = Field(default=None, ge=0)
    """US dollars of a replica and hour; left out: the GPUs' list price."""
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=10, ge=1, le=200)
    initial_replicas: int | None = Field(default=None, ge=0)
    """Left out: ``min_replicas``."""
    startup_s: float = Field(default=30.0, ge=0)
    """Seconds from start to healthy."""
    startup_jitter: float = Field(default=0.1, ge=0, le=1)
    """Start-ups vary by this share of ``startup_s`` either way, by replica name and ``seed``; 0: all alike."""
    kv_tokens: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    ttft_buckets: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _bounds(self) -> VariantEntry:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        if self.first_replicas > self.max_replicas:
            raise ValueError(f"initial_replicas {self.first_replicas} is above max_replicas {self.max_replicas}")
        bounds = self.ttft_buckets
        if bounds is not None and (not bounds or bounds[0] <= 0 or list(bounds) != sorted(set(bounds))):
            raise ValueError(f"ttft_buckets {list(bounds)} are not ascending numbers above 0")
        return self

    @property
    def first_replicas(self) -> int:
        """Replicas at the start."""
        return self.min_replicas if self.initial_replicas is None else self.initial_replicas

    def engine(self) -> EngineConfig:
        """The engine's limits.

        Raises: ConfigError when model, GPU and limits do not go together.
        """
        return engine_config(
            self.shape, self.accelerator, self.accelerator_count, kv_tokens=self.kv_tokens,
            max_num_seqs=self.max_num_seqs, max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
        )  # fmt: skip

    def spec(self, model: str) -> VariantSpec:
        """The variant as the platform API tells it."""
        listed = GPUS[self.accelerator].price_per_hour * self.accelerator_count
        return VariantSpec(
            name=self.name, model=model, accelerator=self.accelerator, accelerator_count=self.accelerator_count,
            cost_per_hour=listed if self.cost_per_hour is None else self.cost_per_hour,
            min_replicas=self.min_replicas, max_replicas=self.max_replicas,
        )  # fmt: skip


class FleetFile(BaseModel):
    """The file of ``fleet sim serve --config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    """Served name, the same for all variants."""
    seed: int = 0
    """Decides how long each start-up takes within its jitter."""
    variants: tuple[VariantEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> FleetFile:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"variant names repeat: {', '.join(names)}")
        return self


def load_fleet_file(path: Path) -> FleetFile:
    """The file, checked whole: every variant's engine can be built.

    Raises: ConfigError, one line that names file and key.
    """
    try:
        parsed = FleetFile.model_validate(read_yaml(path))
    except ValidationError as error:
        raise _one_line(path, error.errors()[0]) from None
    for index, variant in enumerate(parsed.variants):
        try:
            variant.engine()
        except ConfigError as error:
            raise ConfigError(error.what, where=f"{path} variants.{index} ({variant.name})", limit=error.limit,
                              next_step=error.next_step) from None  # fmt: skip
    return parsed


def _one_line(path: Path, error: ErrorDetails) -> ConfigError:
    where = ".".join([str(part) for part in error["loc"]])
    if error["type"] == "extra_forbidden":
        known = VariantEntry.model_fields if error["loc"][0] == "variants" else FleetFile.model_fields
        return ConfigError("unknown key", where=f"{path} {where}", next_step=_nearest(str(error["loc"][-1]), known))
    given = "" if error["type"] in {"missing", "value_error"} else f"{_short(error['input'])}: "
    message = error["msg"].removeprefix("Value error, ")
    return ConfigError(f"{given}{message}", where=f"{path} {where}".strip(), next_step="Correct it and start again.")


def _nearest(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
