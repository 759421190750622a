"""Everything that can be said about one simulated engine, and its command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet.errors import ConfigError
from simulator.answer_plan import DEFAULT_LAW
from simulator.transfer import BOOTSTRAP_PORT, LEASE_S, ConnectorKind
from simulator.vllm_metrics import NEWEST


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """One engine; names are those of the options of ``fleet sim engine``."""

    model: str = ""
    """Served name; empty: the shape's."""
    shape: str = "Llama-3.1-8B"
    accelerator: str = "h100_sxm"
    accelerator_count: int = 1
    kv_tokens: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    scheduling_policy: str = "fcfs"
    startup_s: float = 0.0
    speed: float = 1.0
    seed: int = 0
    """Of answer lengths and of faults."""
    output_law: str = DEFAULT_LAW
    ttft_buckets: str = ""
    metrics_version: str = NEWEST
    show_hidden_metrics: bool = False
    max_loras: int = 0
    """Adapters in one batch; 0: LoRA is off."""
    lora_module: tuple[str, ...] = ()
    """``NAME=PATH`` of adapters that are there from the start."""
    role: str | None = None
    """``prefill``, ``decode`` or ``both``: there is a KV connector."""
    kv_connector: str = ConnectorKind.NIXL.value
    kv_bootstrap_port: int = BOOTSTRAP_PORT
    """Of Mooncake's bootstrap server, which a prefill engine runs beside its API."""
    kv_lease_s: float = LEASE_S
    kv_link: str = "ucx"
    kv_load_failure_policy: str = "fail"
    kv_events: str | None = None
    kv_events_replay: str | None = None
    kv_events_encoding: str = "map"
    advertise_host: str = ""
    """Under which others reach this engine; empty: the address it listens on."""
    fault: tuple[str, ...] = ()

    @property
    def served(self) -> str:
        """The name that requests give."""
        return self.model or self.shape

    def arguments(self) -> list[str]:
        """The options on a command line, as far as they are not the defaults."""
        default = EngineOptions()
        return [
            part for name in self.__slots__ for part in _argument(name, getattr(self, name), getattr(default, name))
        ]


def _argument(name: str, value: Any, default: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if value == default:
        return []
    if value is True:
        return [flag]
    if isinstance(value, tuple):
        return [part for one in value for part in (flag, one)]
    return [flag, repr(value) if isinstance(value, float) else str(value)]


def parse_bounds(text: str) -> tuple[float, ...] | None:
    """``0.1,0.2,0.5`` as bounds; empty: ``None``.

    Raises: ConfigError unless they are numbers above 0 in ascending order.
    """
    if not text:
        return None
    try:
        bounds = tuple(float(part) for part in text.split(","))
    except ValueError:
        bounds = ()
    if not bounds or bounds[0] <= 0 or list(bounds) != sorted(set(bounds)):
        raise ConfigError(f"{text!r} are no bucket bounds", where="--ttft-buckets", limit="numbers above 0, ascending",
                          next_step="Write seconds such as 0.05,0.1,0.2,0.5,1.")  # fmt: skip
    return bounds


def parse_modules(given: tuple[str, ...]) -> list[tuple[str, str]]:
    """Name and path of each ``NAME=PATH``.

    Raises: ConfigError.
    """
    pairs = [text.partition("=") for text in given]
    for text, (name, _, path) in zip(given, pairs, strict=True):
        if not name or not path:
            raise ConfigError(f"{text!r} is no LoRA module", where="--lora-module", limit="NAME=PATH",
                              next_step="Write for example sql=adapters/sql.")  # fmt: skip
    return [(name, path) for name, _, path in pairs]
