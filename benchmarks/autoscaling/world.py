"""A pool of simulated engines under an autoscaler, in virtual time: the fine mode. Pure and deterministic by seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.autoscaling.arms import Arm
from benchmarks.autoscaling.case import Case, met, ttft_limit_s
from benchmarks.autoscaling.pool import (
    KEEP_S,
    TPOT_BOUNDS_S,
    TTFT_BOUNDS_S,
    Histogram,
    Life,
    Pool,
    RouterSample,
    Sample,
    Seen,
)
from benchmarks.autoscaling.routers import ROUTERS
from benchmarks.autoscaling.trail import Trail
from simulator.cluster import Cluster, Member, Outcome, State
from simulator.engine import Engine
from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress


@dataclass(slots=True)
class _Books:
    """What the platform and Prometheus hold of one replica."""

    member: Member
    samples: deque[Sample] = field(default_factory=deque)
    busy_s: float = 0.0
    busy_since_s: float | None = None

    def busy(self, now_s: float) -> float:
        """Seconds with a request, by ``now_s``."""
        return self.busy_s + (now_s - self.busy_since_s if self.busy_since_s is not None else 0.0)


class World:
    """Engines, router, Prometheus, platform and one arm."""

    def __init__(self, case: Case, arm: Arm, *, seed: int) -> None:
        self.case, self.arm = case, arm
        self._rng = np.random.default_rng([seed, 7])
        self._pick = ROUTERS[case.router]()
        self._requested = case.fleet.initial if arm.initial is None else arm.initial
        self._books: dict[int, _Books] = {}
        self._by_engine: dict[Engine, _Books] = {}
        self._router: deque[RouterSample] = deque()
        self._ttft, self._tpot = Histogram(TTFT_BOUNDS_S), Histogram(TPOT_BOUNDS_S)
        self._arrived = self._finished = self._input = self._output = 0.0
        self._config = case.fleet.config
        self.trail = Trail(initial=self._requested)
        self._cluster = Cluster([], self._choose, on_first_token=self._first_token, on_outcome=self._ended)
        for _ in range(self._requested):
            self._start(0.0)

    def run(self) -> Trail:
        """The whole case, and its tail."""
        cluster, arm = self._cluster, self.arm
        until_s = self.case.span_s + self.case.tail_s
        self._scrape_router(0.0)
        phase_s = float(self._rng.uniform(0.0, arm.interval_s))
        cluster.every(arm.interval_s, self._control, start_s=self.case.settle_s + phase_s)
        self._judge(cluster.run(self.case.arrivals(), until_s=until_s))
        self.trail.end_s = until_s
        self.trail.paid = [(member.added_s, min(member.left_s, until_s)) for member in cluster.members]
        self.trail.serving = [(member.ready_s, min(member.left_s, until_s)) for member in cluster.members
                              if member.ready_s < until_s]  # fmt: skip
        return self.trail

    def _judge(self, outcomes: list[Outcome]) -> None:
        case, trail = self.case, self.trail
        limits = {tokens: ttft_limit_s(case.slo, self._config, tokens)
                  for tokens in {request.input_tokens for request in case.requests}}  # fmt: skip
        trail.total, trail.cached = float(len(case.requests)), [0.0] * len(case.requests)
        for outcome in outcomes:
            index = int(outcome.request_id)
            trail.cached[index] = float(outcome.cached_tokens)
            trail.good += met(outcome, case.slo, limits[case.requests[index].input_tokens])

    # ---- requests

    def _choose(self, request: EngineRequest, engines: Sequence[Engine], now_s: float) -> int:
        index = self._pick(request, engines, now_s)
        books = self._by_engine[engines[index]]
        if books.busy_since_s is None:
            books.busy_since_s = now_s
        self._arrived += 1
        self._input += request.prompt_tokens
        return index

    def _first_token(self, _number: int, progress: Progress, now_s: float) -> None:
        self._ttft.observe(now_s - progress.arrival_s)

    def _ended(self, outcome: Outcome) -> None:
        books = self._books.get(outcome.engine)
        if books is not None and not books.member.in_flight and books.busy_since_s is not None:
            now_s = self._cluster.now_s
            books.busy_s, books.busy_since_s = books.busy(now_s), None
        self._finished += 1
        self._output += outcome.output_tokens
        if outcome.ok and outcome.output_tokens > 1:
            self._tpot.observe((outcome.e2e_s - outcome.ttft_s) / (outcome.output_tokens - 1))

    # ---- Prometheus

    def _scrape_router(self, now_s: float) -> None:
        in_flight = float(sum(one.member.in_flight for one in self._books.values()))
        self._router.append(RouterSample(
            at_s=now_s, in_flight=in_flight, arrived=self._arrived, input_tokens=self._input,
            output_tokens=self._output, finished=self._finished, ttft=tuple(self._ttft.counts),
            tpot=tuple(self._tpot.counts),
        ))  # fmt: skip
        while self._router[0].at_s < now_s - KEEP_S:
            self._router.popleft()
        self._cluster.at(now_s + self.arm.scrape_s, self._scrape_router)

    def _scrape(self, books: _Books, now_s: float) -> None:
        if books.member.state is State.GONE:
            return
        engine = books.member.engine
        counters = engine.counters
        books.samples.append(Sample(
            at_s=now_s, running=engine.running, waiting=engine.waiting(now_s), kv_usage=engine.kv.usage,
            prompt_tokens=counters.prompt_tokens, generation_tokens=counters.generation_tokens,
            finished=counters.finished, prefix_queries=counters.prefix_queries, prefix_hits=counters.prefix_hits,
            busy_s=books.busy(now_s),
        ))  # fmt: skip
        while books.samples[0].at_s < now_s - KEEP_S:
            books.samples.popleft()
        self._cluster.at(now_s + self.arm.scrape_s, lambda at_s: self._scrape(books, at_s))

    # ---- platform

    def _control(self, now_s: float) -> None:
        wanted = self.arm.step(self._pool(now_s))
        if wanted == self._requested:
            return
        self.trail.events.append((now_s, wanted))
        alive = self._alive()
        for _ in range(wanted - len(alive)):
            self._start(float(self._rng.uniform(*self.case.fleet.startup_s)))
        for books in sorted(alive, key=_expendable)[: max(len(alive) - wanted, 0)]:
            self._cluster.drain(books.member.number)
        self._requested = wanted

    def _start(self, start_s: float) -> None:
        cluster = self._cluster
        number = cluster.add_engine(Engine(self._config), start_s=start_s)
        books = _Books(member=cluster.members[number])
        self._books[number] = self._by_engine[books.member.engine] = books
        first_s = cluster.now_s + start_s + float(self._rng.uniform(0.0, self.arm.scrape_s))
        cluster.at(first_s, lambda at_s: self._scrape(books, at_s))

    def _alive(self) -> list[_Books]:
        kept = (State.STARTING, State.READY)
        for number, one in list(self._books.items()):
            if one.member.state is State.GONE:
                del self._books[number], self._by_engine[one.member.engine]
        return [one for one in self._books.values() if one.member.state in kept]

    def _pool(self, now_s: float) -> Pool:
        return Pool(
            now_s=now_s, requested=self._requested, bounds=self.case.fleet.bounds,
            replicas=tuple(_seen(books) for books in self._alive()), router=tuple(self._router),
        )  # fmt: skip


def _expendable(books: _Books) -> tuple[bool, float]:
    """Starting replicas go first, then the youngest."""
    member = books.member
    return member.state is State.READY, -member.added_s if member.state is State.STARTING else -member.ready_s


def _seen(books: _Books) -> Seen:
    member = books.member
    ready = member.state is State.READY
    return Seen(name=f"replica-{member.number}", life=Life.READY if ready else Life.STARTING,
                since_s=member.ready_s if ready else member.added_s, samples=tuple(books.samples))  # fmt: skip
