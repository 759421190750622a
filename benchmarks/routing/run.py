"""Engines, a router and a workload in virtual time. Pure and deterministic by seed.

The router hears of a first token and of an end when they happen, of queues and caches only when it scrapes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from benchmarks.routing.front import Asked, Front
from benchmarks.routing.workloads import Ask, Fleet, Stage, Workload
from simulator.cluster import Arrival, Cluster
from simulator.config import EngineConfig, deployment_config, engine_config
from simulator.engine import Engine
from simulator.outcome import Outcome
from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What became of one request; times in simulated seconds, as its client saw them."""

    engine: int
    sent_s: float
    ttft_s: float
    tpot_s: float
    e2e_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    preemptions: int


class Arm(Protocol):
    """A way to route."""

    name: str
    scrape_s: float
    """Seconds between two scrapes of an engine."""

    def begin(self) -> None:
        """A stage begins: its clients open new connections."""
        ...

    def pick(self, asked: Asked, front: Front, now_s: float) -> int:
        """Index of the endpoint that takes the request."""
        ...

    def finished(self, request_id: str, served: Served, now_s: float) -> None:
        """The router saw the end of a request."""
        ...


ArmFactory = Callable[[Sequence[Engine], int], Arm]
"""Makes an arm for engines (only a clairvoyant looks at them) and a seed."""


class Simulation:
    """Fresh engines, one router, and the stages in turn."""

    def __init__(
        self, workload: Workload, make: ArmFactory, *, seed: int, precise: bool = False, told: bool = False,
        engines: Sequence[Engine] | None = None,
    ) -> None:  # fmt: skip
        self.workload = workload
        engines = engines_of(workload.fleet) if engines is None else engines
        self.arm = make(engines, seed)
        self.front = Front(engines, precise=precise, slo=workload.slo if told else None)
        self._cluster = Cluster(engines, self._pick, on_first_token=self._first_token, on_outcome=self._over)
        for index in range(len(engines)):
            start_s = self.arm.scrape_s * index / len(engines)
            self._cluster.every(self.arm.scrape_s, partial(self.front.scrape, index), start_s=start_s)
        self._asks: dict[str, Ask] = {}
        self._talking: set[int] = set()
        self._held: dict[int, deque[Ask]] = {}
        self._served: list[Served] = []

    def run(self, stage: Stage) -> list[Served]:
        """Send the stage's requests and wait for all answers; they come in order of completion."""
        self._served = []
        self.arm.begin()
        start_s = self._cluster.now_s
        self._asks = {ask.request.request_id: ask for ask in stage.asks}
        for ask in stage.asks:
            self._cluster.at(start_s + ask.at_s, partial(self._arrive, ask))
        self._cluster.run(until_s=start_s + stage.asks[-1].at_s if stage.asks else start_s)
        return self._served

    # ---- requests

    def _arrive(self, ask: Ask, now_s: float) -> None:
        """Send it, or hold it until its session's turn before is answered."""
        if ask.session is not None and ask.session in self._talking:
            self._held.setdefault(ask.session, deque()).append(ask)
            return
        if ask.session is not None:
            self._talking.add(ask.session)
        self._cluster.submit(Arrival(at_s=now_s, request=ask.request))

    def _pick(self, request: EngineRequest, _engines: Sequence[Engine], now_s: float) -> int:
        asked = self.front.ask(request)
        index = self.arm.pick(asked, self.front, now_s)
        self.front.dispatch(index, asked)
        return index

    def _first_token(self, index: int, progress: Progress, _now_s: float) -> None:
        self.front.first_token(index, progress)

    def _over(self, outcome: Outcome) -> None:
        ask = self._asks.pop(outcome.request_id)
        served = _served(ask.request, outcome)
        self._served.append(served)
        self.front.finish(outcome.engine, outcome.request_id, outcome.output_tokens)
        self.arm.finished(outcome.request_id, served, self._cluster.now_s)
        if ask.session is None:
            return
        if waiting := self._held.get(ask.session):
            self._cluster.submit(Arrival(at_s=self._cluster.now_s, request=waiting.popleft().request))
        else:
            self._talking.discard(ask.session)


def engines_of(fleet: Fleet) -> list[Engine]:
    """Fresh engines of a fleet."""
    config = config_of(fleet)
    factors = [*fleet.slow, *[1.0] * (fleet.pods - len(fleet.slow))]
    return [Engine(config, slow_factor=factor) for factor in factors]


def config_of(fleet: Fleet) -> EngineConfig:
    """One engine of a fleet."""
    if fleet.deployment:
        return deployment_config(fleet.deployment)
    return engine_config(fleet.shape, fleet.accelerator, fleet.count, kv_tokens=fleet.kv_tokens)


def _served(request: EngineRequest, outcome: Outcome) -> Served:
    if not outcome.ok:
        raise RuntimeError(f"request {request.request_id!r} was lost: {outcome.loss}")
    gaps = max(1, request.output_tokens - 1)
    return Served(
        engine=outcome.engine, sent_s=outcome.arrival_s, ttft_s=outcome.ttft_s,
        tpot_s=(outcome.e2e_s - outcome.ttft_s) / gaps, e2e_s=outcome.e2e_s, prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens, cached_tokens=outcome.cached_tokens, preemptions=outcome.preemptions,
    )  # fmt: skip
