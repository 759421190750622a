"""Several engines in virtual time, fed through a picker: the loop under the benches. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from simulator.engine import Engine
from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request and when the client sends it."""

    at_s: float
    request: EngineRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request, times in simulated seconds."""

    request_id: str
    engine: int
    arrival_s: float
    ttft_s: float
    e2e_s: float
    output_tokens: int
    cached_tokens: int
    preemptions: int


Pick = Callable[[EngineRequest, Sequence[Engine], float], int]
"""Index of the engine that takes a request at a time."""


def round_robin() -> Pick:
    """Each engine in turn."""
    turn = -1

    def pick(_request: EngineRequest, engines: Sequence[Engine], _now_s: float) -> int:
        nonlocal turn
        turn = (turn + 1) % len(engines)
        return turn

    return pick


class Cluster:
    """Runs engines and arrivals in order of time; ties go to steps before arrivals, then to the lower engine."""

    def __init__(self, engines: Sequence[Engine], pick: Pick) -> None:
        """Idle engines at time 0."""
        self.engines, self._pick = engines, pick
        self._busy = [False] * len(engines)
        self._events: list[tuple[float, int, list[Progress] | None]] = []

    def run(self, arrivals: Iterable[Arrival]) -> list[Outcome]:
        """Outcomes in order of completion, once every request has finished.

        Args:
            arrivals: in order of time.
        """
        outcomes: list[Outcome] = []
        for arrival in arrivals:
            self._run_until(arrival.at_s, outcomes)
            index = self._pick(arrival.request, self.engines, arrival.at_s)
            self.engines[index].submit(arrival.request, arrival.at_s)
            self._wake(index, arrival.at_s)
        self._run_until(float("inf"), outcomes)
        return outcomes

    def _run_until(self, limit_s: float, outcomes: list[Outcome]) -> None:
        while self._events and self._events[0][0] <= limit_s:
            now_s, index, finished = heapq.heappop(self._events)
            if finished:
                outcomes.extend(_outcome(index, sequence) for sequence in finished)
            self._advance(index, now_s)

    def _advance(self, index: int, now_s: float) -> None:
        """The engine's step is over, or its first request has got through the ingress."""
        self._busy[index] = False
        start_s = self.engines[index].next_start_s(now_s)
        if start_s is not None and start_s > now_s:
            self._wake(index, now_s)
        elif start_s is not None and (result := self.engines[index].step(now_s)) is not None:
            self._busy[index] = True
            heapq.heappush(self._events, (result.end_s, index, result.finished))

    def _wake(self, index: int, now_s: float) -> None:
        start_s = self.engines[index].next_start_s(now_s)
        if start_s is not None and not self._busy[index]:
            self._busy[index] = True
            heapq.heappush(self._events, (start_s, index, None))


def _outcome(index: int, sequence: Progress) -> Outcome:
    if sequence.first_token_s is None or sequence.delivered_s is None:
        raise ValueError(f"request {sequence.request.request_id!r} has not finished")
    return Outcome(
        request_id=sequence.request.request_id,
        engine=index,
        arrival_s=sequence.arrival_s,
        ttft_s=sequence.first_token_s - sequence.arrival_s,
        e2e_s=sequence.delivered_s - sequence.arrival_s,
        output_tokens=sequence.request.output_tokens,
        cached_tokens=sequence.cached_tokens,
        preemptions=sequence.preemptions,
    )
