"""What is served, by what, under which promise: one case of the bench. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.autoscaling.pool import Bounds
from fleet.hardware import GPUS
from simulator.cluster import Arrival, Outcome
from simulator.config import EngineConfig, engine_config
from simulator.sequence import EngineRequest
from simulator.steptime import INGRESS_S
from simulator.tokens import BLOCK_TOKENS
from simulator.workload import HASH_BLOCK_TOKENS, RateSource, TimedRequest

LONE_FACTOR: Final = 2.0
"""A prompt that alone takes more than half of the TTFT target is given this many times its lone time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a request must meet, seconds."""

    ttft_s: float = 3.0
    tpot_s: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """One variant and how its replicas come."""

    shape: str = "Qwen3-32B"
    accelerator: str = "h100_sxm"
    count: int = 2
    """GPUs of a replica."""
    kv_tokens: int | None = 307_328
    """As published for this model on two H100."""
    startup_s: tuple[float, float] = (98.0, 139.0)
    """Shortest and longest time from request to ready (published for this model on H100); uniform between them."""
    bounds: Bounds
    initial: int

    @property
    def config(self) -> EngineConfig:
        """Of each engine."""
        return engine_config(self.shape, self.accelerator, self.count, kv_tokens=self.kv_tokens)

    @property
    def cost_per_hour(self) -> float:
        """Dollars for one replica."""
        return GPUS[self.accelerator].price_per_hour * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Traffic of one seed with its fleet and its promise; requests, or a rate curve too long for them."""

    name: str
    what: str
    fleet: Fleet
    slo: Slo
    span_s: float
    """Until the last request comes."""
    bin_s: float
    """Width of the bins in which the clairvoyant counts replicas."""
    requests: Sequence[TimedRequest] = ()
    curve: RateSource | None = None
    poisson: bool = True
    """Whether arrivals are random around their rate (for measuring what a replica bears)."""
    drained: bool = False
    """Whether the figures go on until the pool is back at its floor (as the episode's publication counts)."""
    tail_s: float = 60.0
    """Watched after the last arrival, at most."""
    settle_s: float = 0.0
    """The pool has served for so long when the autoscaler is switched on."""
    router: str = "least_request"
    """Of :data:`benchmarks.autoscaling.routers.ROUTERS`."""

    def arrivals(self) -> Iterator[Arrival]:
        """The requests for the simulator, made when they are needed."""
        for index, request in enumerate(self.requests):
            yield Arrival(at_s=request.arrival_s, request=engine_request(str(index), request))


def engine_request(name: str, request: TimedRequest) -> EngineRequest:
    """A recorded request as an engine takes it; equal leading 512-token ids are equal leading blocks."""
    full = request.input_tokens // BLOCK_TOKENS
    each = HASH_BLOCK_TOKENS // BLOCK_TOKENS
    blocks = [hash_id * each + part for hash_id in request.hash_ids for part in range(each)]
    return EngineRequest(request_id=name, prompt_tokens=request.input_tokens, output_tokens=request.output_tokens,
                         block_hashes=blocks[:full])  # fmt: skip


def lone_ttft_s(config: EngineConfig, tokens: int) -> float:
    """TTFT of a prompt on an idle engine, seconds."""
    spent, present = INGRESS_S, 0
    while present < tokens:
        chunk = min(config.max_num_batched_tokens, tokens - present)
        spent += config.timer.step_s(decoding=0, context=0, prefill=chunk, attention=chunk * (present + chunk / 2))
        present += chunk
    return spent


def ttft_limit_s(slo: Slo, config: EngineConfig, tokens: int) -> float:
    """The TTFT that a prompt of this length must meet."""
    return max(slo.ttft_s, LONE_FACTOR * lone_ttft_s(config, tokens))


def met(outcome: Outcome, slo: Slo, limit_s: float) -> bool:
    """Whether a request was answered whole, its first token within ``limit_s``, the others within the TPOT target."""
    if not outcome.ok or outcome.ttft_s > limit_s:
        return False
    return (outcome.e2e_s - outcome.ttft_s) / max(outcome.output_tokens - 1, 1) <= slo.tpot_s


def fitting(requests: Sequence[TimedRequest], config: EngineConfig) -> list[TimedRequest]:
    """Those that an engine can serve at all."""
    return [one for one in requests if one.input_tokens + one.output_tokens <= config.max_model_len]
