"""What ``fleet sim serve`` runs: settings of the process, and the file that names the variants."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict

from fleet.errors import ConfigError
from fleet.hardware import GPUS
from fleet.settings import Settings, read_yaml
from fleet.types import VariantSpec
from simulator.answer_plan import DEFAULT_LAW, parse_law
from simulator.config import EngineConfig, engine_config
from simulator.engine_options import EngineOptions
from simulator.faults import parse_fault
from simulator.kvevents import Encoding
from simulator.transfer import BOOTSTRAP_PORT, ConnectorKind, Role


class SimSettings(Settings):
    """The platform API's process; environment prefix ``SIM_``."""

    model_config = SettingsConfigDict(env_prefix="SIM_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address of the platform API and of the engines. Default: this machine only."""
    port: int = Field(default=8060, ge=0, le=65_535)
    """Port of the platform API; 0 takes any free one."""
    engine_port_base: int = Field(default=9100, ge=1024, le=60_000)
    """Engines take free ports from here upwards."""
    vllm: str = ""
    """vLLM's program, to run real engines in place of simulated ones; empty: they are simulated."""
    vllm_model: str = ""
    """What it loads: a folder or a hub name."""
    vllm_args: str = ""
    """Further arguments of ``vllm serve``, split as a shell splits words."""
    in_process: bool = False
    """Run all engines in this process instead of one process each: cheaper, and nobody can kill one."""
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
    role: Role | None = None
    """Takes legs of disaggregated requests; left out: no KV connector."""
    kv_connector: ConnectorKind = ConnectorKind.NIXL
    """Protocol of the KV connector: ``nixl`` or ``mooncake``."""
    kv_bootstrap_port: int = Field(default=BOOTSTRAP_PORT, ge=1, le=65_535)
    """Mooncake: port of each prefill engine's bootstrap server, the same for all, as a router has one setting for it
    (``--bootstrap-port``). On a loopback address each such engine gets an address of its own, as a pod has."""
    kv_events: str | None = Field(default=None, pattern=r"^tcp://[^*:]+:\d+$")
    """Where the engines publish KV events: an address that a subscriber binds, shared by all of them."""
    kv_events_replay: bool = False
    """Each engine plays back what was missed, on a port that its ``/kv_event_sources`` tells."""
    kv_events_encoding: Encoding = Encoding.MAP
    max_loras: int = Field(default=0, ge=0)
    """LoRA adapters in a batch; above 0 they can be loaded and unloaded."""
    lora_modules: dict[str, str] = Field(default_factory=dict)
    """Adapters that are there from the start, name to path."""
    metrics_version: Literal["0.11", "0.16", "0.20", "0.32"] = "0.32"
    """vLLM version whose metric names the engines show."""
    output_law: str = DEFAULT_LAW
    """Where answers without ``ignore_eos`` end."""
    faults: tuple[str, ...] = ()
    """What each engine suffers, as ``--fault`` of ``fleet sim engine``."""

    @model_validator(mode="after")
    def _bounds(self) -> VariantEntry:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        if self.first_replicas > self.max_replicas:
            raise ValueError(f"initial_replicas {self.first_replicas} is above max_replicas {self.max_replicas}")
        bounds = self.ttft_buckets
        if bounds is not None and (not bounds or bounds[0] <= 0 or list(bounds) != sorted(set(bounds))):
            raise ValueError(f"ttft_buckets {list(bounds)} are not ascending numbers above 0")
        if self.kv_connector is not ConnectorKind.NIXL and self.role is None:
            raise ValueError(f"kv_connector {self.kv_connector.value} needs a role: prefill, decode or both")
        return self

    @property
    def has_bootstrap(self) -> bool:
        """Whether its engines run Mooncake's bootstrap server."""
        return self.kv_connector is ConnectorKind.MOONCAKE and self.role in (Role.PREFILL, Role.BOTH)

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

    def options(self, fleet: FleetFile, *, startup_s: float) -> EngineOptions:
        """One replica's engine.

        Raises: ConfigError when a text in it cannot be read.
        """
        parse_law(self.output_law, seed=0)
        for fault in self.faults:
            parse_fault(fault)
        return EngineOptions(
            model=fleet.model, shape=self.shape, accelerator=self.accelerator,
            accelerator_count=self.accelerator_count, kv_tokens=self.kv_tokens, max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens, max_model_len=self.max_model_len,
            startup_s=round(startup_s, 3), speed=fleet.speed, seed=fleet.seed, output_law=self.output_law,
            ttft_buckets=",".join(map(str, self.ttft_buckets or ())), metrics_version=self.metrics_version,
            max_loras=self.max_loras, lora_module=tuple(f"{name}={path}" for name, path in self.lora_modules.items()),
            role=self.role, kv_connector=self.kv_connector.value, kv_bootstrap_port=self.kv_bootstrap_port,
            kv_events=self.kv_events, kv_events_encoding=self.kv_events_encoding, fault=self.faults,
            kv_events_replay="tcp://127.0.0.1:*" if self.kv_events and self.kv_events_replay else None,
        )  # fmt: skip

    def spec(self, model: str) -> VariantSpec:
        """The variant as the platform API tells it."""
        listed = GPUS[self.accelerator].price_per_hour * self.accelerator_count
        return VariantSpec(
            name=self.name, model=model, accelerator=self.accelerator, accelerator_count=self.accelerator_count,
            cost_per_hour=listed if self.cost_per_hour is None else self.cost_per_hour,
            min_replicas=self.min_replicas, max_replicas=self.max_replicas, startup_s=self.startup_s,
        )  # fmt: skip


class FleetFile(BaseModel):
    """The file of ``fleet sim serve --config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    """Served name, the same for all variants."""
    seed: int = 0
    """Decides how long each start-up takes within its jitter, and what the engines draw."""
    speed: float = Field(default=1.0, gt=0)
    """Simulated seconds a real second, for all engines; start-up takes real seconds."""
    gpus: dict[str, Annotated[int, Field(ge=0)]] | None = None
    """GPUs that there are, by accelerator, used ones included; what is not named, or all without it, has no limit."""
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
            variant.options(parsed, startup_s=variant.startup_s)
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
