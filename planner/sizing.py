"""How many replicas of what, and what they cost. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from fleet.errors import ConfigError
from fleet.hardware import GPUS
from planner.capacity import Limits, State, config_for, replicas_for, state_at, sustainable_rps
from planner.demand import Demand, Promise
from planner.memory import Hardware, Memory, require_fit, transfer_s
from planner.trial import Trial, smallest

LINK_GBIT_S: Final = 200.0
"""One RDMA port, as the source documents assume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """US dollars, at the default list price of the GPU."""

    per_hour: float
    per_million_output_tokens: float
    """At the demand's rate, all replicas paid."""
    per_million_tokens: float
    """Prompt tokens counted too."""
    price_source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """The answer of ``fleet plan size``."""

    hardware: Hardware
    memory: Memory
    demand: Demand | None = None
    promise: Promise | None = None
    sustainable_rps: float | None = None
    """Of one replica, closed form."""
    replicas: int | None = None
    """What to run: the simulator's answer where it was asked, else the closed form's."""
    replicas_closed_form: int | None = None
    trial: Trial | None = None
    state: State | None = None
    """One of ``replicas``, closed form."""
    cost: Cost | None = None
    kv_transfer_s: float | None = None
    """A mean prompt's KV from a prefill to a decode engine."""
    calibrated: bool = True
    """Step times are measured ones; else the roofline's estimate."""

    def document(self) -> dict[str, Any]:
        """For ``--json``: flat where a program looks first."""
        found = asdict(self)
        flat = {"kv_capacity_tokens": self.memory.kv_capacity_tokens, "kv_bytes_per_token":
                self.memory.kv_bytes_per_token, "kv_blocks": self.memory.kv_blocks}  # fmt: skip
        return {"model": self.hardware.model, "gpu": self.hardware.gpu, "tensor_parallel":
                self.hardware.tensor_parallel, **flat, **found}  # fmt: skip


def size(
    hardware: Hardware, demand: Demand | None = None, promise: Promise | None = None, *, limits: Limits | None = None,
    simulate: bool = True, seed: int = 1, link_gbit_s: float = LINK_GBIT_S,
    progress: Callable[[str], object] = lambda _what: None,
) -> Sizing:  # fmt: skip
    """Memory of a replica and, for a demand, how many replicas keep the promise and what they cost.

    Args:
        hardware: one replica's.
        demand: peak traffic; ``None``: memory alone.
        promise: latency targets.
        limits: engine limits other than vLLM's defaults.
        simulate: try the closed form's answer out and correct it.
        seed: of the trial's arrivals and lengths.
        link_gbit_s: between prefill and decode engines.
        progress: told what is being tried.
    Raises: ConfigError when the model does not fit, or no number of replicas keeps the promise.
    """
    longest = 1 if demand is None else round(demand.input_tokens + demand.output_tokens)
    room = require_fit(hardware, longest)
    config = config_for(hardware, limits)
    calibrated = config.timer.source == "table"
    if demand is None:
        return Sizing(hardware=hardware, memory=room, calibrated=calibrated)
    promised = promise or Promise()
    guess = replicas_for(config, demand, promised)
    if guess is None:
        raise _hopeless(hardware, demand, promised, state_at(config, demand, promised, rps=1e-3))
    tried = smallest(config, demand, promised, guess, seed=seed, progress=progress) if simulate else None
    if simulate and tried is None:
        raise _hopeless(hardware, demand, promised, state_at(config, demand, promised, rps=1e-3))
    count = tried.replicas if tried else guess
    return Sizing(
        hardware=hardware, memory=room, demand=demand, promise=promised, calibrated=calibrated,
        sustainable_rps=sustainable_rps(config, demand, promised, replicas=count), replicas=count,
        replicas_closed_form=guess, trial=tried,
        state=state_at(config, demand, promised, rps=demand.rps / count, replicas=count),
        cost=cost_of(hardware, count, demand),
        kv_transfer_s=transfer_s(demand.input_tokens, hardware, gbit_s=link_gbit_s),
    )  # fmt: skip


def cost_of(hardware: Hardware, replicas: int, demand: Demand) -> Cost:
    """What ``replicas`` cost, and per million tokens of the demand."""
    per_hour = hardware.price_per_hour * replicas
    millions = demand.rps * 3600 / 1e6
    return Cost(
        per_hour=per_hour, per_million_output_tokens=per_hour / (millions * demand.output_tokens),
        per_million_tokens=per_hour / (millions * (demand.input_tokens + demand.output_tokens)),
        price_source=GPUS[hardware.gpu].price_source,
    )  # fmt: skip


def _hopeless(hardware: Hardware, demand: Demand, promise: Promise, idle: State) -> ConfigError:
    """Why no number of replicas is enough: an idle one already misses."""
    if idle.ttft_s > promise.ttft_s:
        what = f"an idle replica takes {idle.ttft_s:.2f} s to the first token at this quantile"
        limit, step = f"TTFT {promise.ttft_s:g} s", "Raise tensor parallelism, cache prefixes, or promise more time."
    else:
        what, limit = f"an idle replica takes {1000 * idle.tpot_s:.1f} ms a token", f"TPOT {1000 * promise.tpot_s:g} ms"
        step = "Raise tensor parallelism or take a faster GPU."
    where = f"{hardware.model} on {hardware.tensor_parallel} x {hardware.gpu}, {demand.input_tokens:.0f} tokens in"
    return ConfigError(f"no number of replicas keeps the promise: {what}", where=where, limit=limit, next_step=step)
