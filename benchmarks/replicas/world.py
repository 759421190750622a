"""Several routers in front of the same engines, in virtual time. Pure and deterministic by seed.

Each has books, prefix index and traffic of its own, as replicas have; requests come to them in turn, as from a load
balancer. All scrape all engines, so each learns how many requests the others have at an engine, a scrape late. With
``precise`` all hear the same KV events.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.routing.front import Front
from benchmarks.routing.run import Arm, ArmFactory, Served, Simulation, engines_of
from benchmarks.routing.workloads import Workload
from simulator.engine import Engine
from simulator.outcome import Outcome
from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress


class Replicas(Simulation):
    """A simulation with ``count`` routers."""

    def __init__(self, workload: Workload, make: ArmFactory, *, seed: int, precise: bool, count: int) -> None:
        engines = engines_of(workload.fleet)
        super().__init__(workload, make, seed=seed, precise=precise, engines=engines)
        others = [Front(engines, precise=precise) for _ in range(count - 1)]
        self.fronts = [self.front, *others]
        self.arms: list[Arm] = [self.arm, *(make(engines, seed + 1000 * number) for number in range(1, count))]
        for number, front in enumerate(others, 1):
            for index in range(len(engines)):
                start_s = self.arm.scrape_s * (index / len(engines) + number / count)
                self._cluster.every(self.arm.scrape_s, partial(front.scrape, index), start_s=start_s)
        self._turn = 0
        self._owner: dict[str, int] = {}

    def _pick(self, request: EngineRequest, _engines: Sequence[Engine], now_s: float) -> int:
        replica = self._owner[request.request_id] = self._turn % len(self.fronts)
        self._turn += 1
        front = self.fronts[replica]
        asked = front.ask(request)
        index = self.arms[replica].pick(asked, front, now_s)
        front.dispatch(index, asked)
        return index

    def _first_token(self, index: int, progress: Progress, _now_s: float) -> None:
        self.fronts[self._owner[progress.request.request_id]].first_token(index, progress)

    def _over(self, outcome: Outcome) -> None:
        replica = self._owner.pop(outcome.request_id)
        self.front, self.arm = self.fronts[replica], self.arms[replica]
        super()._over(outcome)

    def stage(self, number: int) -> list[Served]:
        """Run one stage of the workload."""
        for arm in self.arms[1:]:
            arm.begin()
        return self.run(self.workload.stages[number])
