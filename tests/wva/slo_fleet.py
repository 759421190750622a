"""A toy fleet in virtual time for the ``slo`` analyzer: arrivals in, snapshots out, replicas as decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fleet.types import (
    Decision,
    EngineSample,
    FittedLaw,
    FleetSnapshot,
    Histogram,
    ModelTraffic,
    Replica,
    ReplicaObservation,
    ReplicaState,
    VariantObservation,
    VariantSpec,
)
from wva.decide import decide
from wva.types import Policy, WvaState

START = 1.7e9
SPEC = VariantSpec(name="pool", model="Qwen3-32B", accelerator="h100_sxm", accelerator_count=2, cost_per_hour=8.0,
                   min_replicas=1, max_replicas=20, slo_ttft_s=3.0, slo_tpot_s=0.1)  # fmt: skip
RULES = Policy(analyzer="slo", scale_down_stabilisation_s=30.0)


@dataclass
class ToyFleet:
    """Engines that answer in ``lone_s + work_s * running``, at most ``full`` at once; the rest waits."""

    spec: VariantSpec = SPEC
    rules: Policy = RULES
    replicas: int = 2
    prompt: float = 4000.0
    output: float = 1000.0
    lone_s: float = 15.0
    work_s: float = 0.45
    full: float = 60.0
    kv_per_request: float = 1 / 62
    startup_s: float = 100.0
    hit_ratio: float | None = None
    fitted: dict[str, FittedLaw] = field(default_factory=dict)
    router: bool = True
    state: WvaState = field(default_factory=WvaState)
    now_s: float = START
    in_flight: float = 0.0
    arrived: float = 0.0
    finished: float = 0.0
    good: float = 0.0
    bad: float = 0.0
    requested: int = 0
    starting: list[float] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    """Names of replicas that serve, by index."""
    last: Decision | None = None
    follow: bool = True

    def __post_init__(self) -> None:
        self.requested = self.requested or self.replicas

    def run(self, seconds: float, rate: Callable[[float], float] | float, *, every_s: float = 15.0) -> list[Decision]:
        """Passes every 15 s; what is decided is done."""
        decisions = []
        for _ in range(int(seconds / every_s)):
            for _second in range(int(every_s)):
                self._second(rate(self.now_s - START) if callable(rate) else rate)
            decisions.append(self.step())
        return decisions

    def _second(self, rps: float) -> None:
        self.now_s += 1.0
        served = len([at_s for at_s in self.starting if at_s <= self.now_s])
        self.named = [self._name(index) for index in range(self.replicas)]
        begun = self.starting[:served]
        self.named += [f"s-{at_s:.0f}-{begun[:index].count(at_s)}" for index, at_s in enumerate(begun)]
        self.starting = self.starting[served:]
        self.replicas += served
        level = self.in_flight / max(self.replicas, 1)
        running = min(level, self.full)
        done = min(running / (self.lone_s + self.work_s * max(running, 1.0)) * self.replicas, self.in_flight)
        self.in_flight += rps - done
        self.arrived, self.finished = self.arrived + rps, self.finished + done
        late = level > self.full
        self.good, self.bad = self.good + (0.0 if late else done), self.bad + (done if late else 0.0)

    def step(self, **changes: object) -> Decision:
        """One pass."""
        seen = replace(self.snapshot(), **changes)  # type: ignore[arg-type]
        decisions, self.state = decide(seen, [self.spec], self.state, self.now_s, self.rules)
        self.last = decisions[0]
        if self.follow:
            self.scale(self.last.desired)
        return self.last

    def scale(self, replicas: int) -> None:
        """As an HPA would: new ones start, the ones that start go first."""
        self.starting += [self.now_s + self.startup_s] * max(replicas - self.replicas - len(self.starting), 0)
        surplus = self.replicas + len(self.starting) - replicas
        while surplus > 0 and self.starting:
            self.starting.pop()
            surplus -= 1
        self.replicas -= max(surplus, 0)
        self.requested = replicas

    def snapshot(self) -> FleetSnapshot:
        """What is seen now."""
        entry = VariantObservation(spec=self.spec, requested=self.requested, replicas=(
            *(self._ready(index) for index in range(self.replicas)),
            *(self._begins(index, at_s) for index, at_s in enumerate(self.starting)),
        ))  # fmt: skip
        traffic = {self.spec.model: self._traffic()} if self.router else {}
        return FleetSnapshot(at_s=self.now_s, variants=(entry,), traffic=traffic, fitted=self.fitted)

    def _ready(self, index: int) -> ReplicaObservation:
        level = self.in_flight / self.replicas
        running = min(level, self.full)
        rps = running / (self.lone_s + self.work_s * max(running, 1.0))
        sample = EngineSample(at_s=self.now_s, running=running, waiting=level - running,
                              kv_utilisation=min(running * self.kv_per_request, 1.0))  # fmt: skip
        replica = Replica(name=self._name(index), url=f"http://r{index}", variant=self.spec.name, since_s=self.now_s)
        return ReplicaObservation(replica=replica, sample=sample, request_rps=rps, prompt_tps=rps * self.prompt,
                                  generation_tps=rps * self.output, age_s=0.0,
                                  prefix_hit_ratio=self.hit_ratio)  # fmt: skip

    def _name(self, index: int) -> str:
        return self.named[index] if index < len(self.named) else f"r{index}"

    def _begins(self, index: int, at_s: float) -> ReplicaObservation:
        name = f"s-{at_s:.0f}-{self.starting[:index].count(at_s)}"
        replica = Replica(name=name, url=f"http://s{index}", variant=self.spec.name,
                          state=ReplicaState.STARTING, since_s=at_s - self.startup_s)  # fmt: skip
        return ReplicaObservation(replica=replica)

    def _traffic(self) -> ModelTraffic:
        pace = Histogram(bounds=(0.1,), counts=(self.good, self.bad))
        first = Histogram(bounds=(3.0,), counts=(self.good, self.bad))
        return ModelTraffic(at_s=self.now_s, arrived_total=self.arrived, finished_total=self.finished,
                            prompt_tokens_total=self.arrived * self.prompt, in_flight=self.in_flight,
                            generation_tokens_total=self.finished * self.output, ttft=first, tpot=pace)  # fmt: skip
