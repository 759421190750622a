"""Engines, a router and a workload in virtual time. Pure and deterministic by seed.

The router hears of a first token and of an end when they happen, of queues and caches only when it scrapes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple, Protocol, runtime_checkable

from benchmarks.routing.front import Asked, Front
from benchmarks.routing.late import Queue
from benchmarks.routing.workloads import Ask, Fleet, Stage, Workload
from router.admission import Verdict
from router.flow import Waiting
from simulator.cluster import Arrival, Cluster
from simulator.config import EngineConfig, deployment_config, engine_config
from simulator.engine import Engine
from simulator.outcome import Outcome
from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress

_TICK_S: Final = 0.25
"""As the router's."""


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


@runtime_checkable
class Door(Protocol):
    """An arm with an admission."""

    def judge(self, asked: Asked, front: Front, now_s: float, *, waited_s: float, again: bool) -> Verdict:
        """May it go now?"""
        ...


class _Sent(NamedTuple):
    """A request that was let in."""

    engine: int
    waited_s: float


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
        self.refused = 0
        """Requests of the last stage that nobody served."""
        self._sent: dict[str, _Sent] = {}
        self._door = self.arm if isinstance(self.arm, Door) else None
        self._late = Queue(self._attempt, self._refuse)
        if self._door is not None:
            self._cluster.every(_TICK_S, self._late.tick)

    def run(self, stage: Stage) -> list[Served]:
        """Send the stage's requests and wait for all answers; they come in order of completion."""
        self._served, self.refused = [], 0
        self.arm.begin()
        start_s = self._cluster.now_s
        self._asks = {ask.request.request_id: ask for ask in stage.asks}
        for ask in stage.asks:
            self._cluster.at(start_s + ask.at_s, partial(self._arrive, ask))
        self._cluster.run(until_s=start_s + stage.asks[-1].at_s if stage.asks else start_s)
        self._late.drain()
        return self._served

    # ---- requests

    def _arrive(self, ask: Ask, now_s: float) -> None:
        """Send it, or hold it until its session's turn before is answered."""
        if ask.session is not None and ask.session in self._talking:
            self._held.setdefault(ask.session, deque()).append(ask)
            return
        if ask.session is not None:
            self._talking.add(ask.session)
        self._submit(ask, now_s)

    def _submit(self, ask: Ask, now_s: float) -> None:
        """To an engine, or where there is an admission that refuses it for now, to the queue before it."""
        if self._door is None:
            self._cluster.submit(Arrival(at_s=now_s, request=ask.request))
            return
        asked = self.front.ask(ask.request)
        verdict = self._door.judge(asked, self.front, now_s, waited_s=0.0, again=False)
        if verdict.refusal is None:
            self._send(ask, asked, now_s, waited_s=0.0)
            return
        work = float(ask.request.prompt_tokens)
        one = Waiting(ask, _nobody, work=work, now_s=now_s, ttl_s=verdict.wait_s)
        if not verdict.wait_s or not self._late.offer(one):
            self._refuse(one)

    def _attempt(self, one: Waiting, now_s: float) -> bool:
        """One that waits is looked at again."""
        ask: Ask = one.item
        waited_s = now_s - one.since_s
        asked = self.front.ask(ask.request)
        if self._door is None or self._door.judge(asked, self.front, now_s, waited_s=waited_s, again=True).refusal:
            return False
        self._send(ask, asked, now_s, waited_s=waited_s)
        return True

    def _send(self, ask: Ask, asked: Asked, now_s: float, *, waited_s: float) -> None:
        """It goes now, so that the next one is judged beside it."""
        self._sent[ask.request.request_id] = _Sent(self._placed(asked, now_s), waited_s)
        self._cluster.submit(Arrival(at_s=now_s, request=ask.request))

    def _refuse(self, one: Waiting) -> None:
        ask: Ask = one.item
        self.refused += 1
        self._asks.pop(ask.request.request_id)
        self._ended(ask)

    def _placed(self, asked: Asked, now_s: float) -> int:
        index = self.arm.pick(asked, self.front, now_s)
        self.front.dispatch(index, asked)
        return index

    def _pick(self, request: EngineRequest, _engines: Sequence[Engine], now_s: float) -> int:
        sent = self._sent.get(request.request_id)
        return sent.engine if sent is not None else self._placed(self.front.ask(request), now_s)

    def _first_token(self, index: int, progress: Progress, _now_s: float) -> None:
        self.front.first_token(index, progress)

    def _over(self, outcome: Outcome) -> None:
        ask = self._asks.pop(outcome.request_id)
        served = _served(ask.request, outcome)
        sent = self._sent.pop(outcome.request_id, None)
        self._served.append(served if sent is None else _after(served, sent.waited_s))
        self.front.finish(outcome.engine, outcome.request_id, outcome.output_tokens)
        self.arm.finished(outcome.request_id, served, self._cluster.now_s)
        self._late.pump(self._cluster.now_s)
        self._ended(ask)

    def _ended(self, ask: Ask) -> None:
        """Its session's next turn comes."""
        if ask.session is None:
            return
        if waiting := self._held.get(ask.session):
            self._submit(waiting.popleft(), self._cluster.now_s)
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


def _nobody(_answer: object) -> None:
    """The run itself sees to those that wait."""


def _after(served: Served, waited_s: float) -> Served:
    """As the client saw it, who waited before."""
    return replace(served, sent_s=served.sent_s - waited_s, ttft_s=served.ttft_s + waited_s,
                   e2e_s=served.e2e_s + waited_s)  # fmt: skip


def _served(request: EngineRequest, outcome: Outcome) -> Served:
    if not outcome.ok:
        raise RuntimeError(f"request {request.request_id!r} was lost: {outcome.loss}")
    gaps = max(1, request.output_tokens - 1)
    return Served(
        engine=outcome.engine, sent_s=outcome.arrival_s, ttft_s=outcome.ttft_s,
        tpot_s=(outcome.e2e_s - outcome.ttft_s) / gaps, e2e_s=outcome.e2e_s, prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens, cached_tokens=outcome.cached_tokens, preemptions=outcome.preemptions,
    )  # fmt: skip
