"""The whole loop on a real Prometheus that fails in every way: no decrease on doubt, the reason said, soon back.

Time is the test's own: what the loop takes for now moves by hand, and the proxy lets Prometheus's clock go along, so
that nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.errors import SourceError
from fleet.history import History
from fleet.sources.prometheus import PrometheusSource, instance_of
from fleet.types import Decision, Direction, Reason, Replica, Variant, VariantSpec
from tests.fleet.fake_engines import Engine, serve
from tests.fleet.real_prometheus import prometheus
from tests.ports import free_ports
from tests.waiting import until
from tests.wva.prometheus_faults import (
    Fault,
    Proxy,
    aged,
    doubled,
    proxied,
    shifted,
    valued,
    without,
    without_answers_to,
)
from tests.wva.wva_builders import spec
from wva.build import build_queue, build_traffic
from wva.collect import Collector
from wva.loop import ControlLoop
from wva.types import Policy

pytestmark = [pytest.mark.integration, pytest.mark.needs_prometheus]

START = 1_800_000_000.0
DOUBT = {Reason.STALE, Reason.NO_SIGNAL}
IDLE, STEADY = 0.01, 0.8
"""KV utilisation."""


class Fleet:
    """Three engines of one variant; requests for replicas are remembered and change nothing that runs."""

    name, can_scale = "engines", True

    def __init__(self, urls: list[str], engines: list[Engine]) -> None:
        self.urls, self.engines = urls, engines
        self.spec: VariantSpec = spec("a", min_replicas=3, max_replicas=5)
        self.scalings: list[int] = []

    def variants(self) -> tuple[Variant, ...]:
        replicas = tuple(
            Replica(name=f"engine-{i}", url=url, variant="a", since_s=1.0) for i, url in enumerate(self.urls)
        )
        return (Variant(spec=self.spec, requested=len(self.urls), replicas=replicas),)

    def scale(self, variant: str, replicas: int) -> None:
        self.scalings.append(replicas)

    def load(self, kv: float) -> None:
        for engine in self.engines:
            engine.kv, engine.waiting, engine.running = kv, 0.0, 0.0 if kv == IDLE else 4.0

    def may_shrink(self) -> None:
        """Its owner lowers the minimum: from now on an idle fleet has one replica too many."""
        self.spec = replace(self.spec, min_replicas=1)


class World:
    """A loop in front of the fleet, through the proxy."""

    def __init__(self, fleet: Fleet, proxy: Proxy, folder: Path, *, analyzer: str, timeout_s: float = 10.0) -> None:
        self.fleet, self.proxy, self.now_s, self.steady_s = fleet, proxy, START, 0.0
        proxy.clock = lambda: self.now_s
        self.source = PrometheusSource(proxy.url, timeout_s=timeout_s)
        policy = Policy(analyzer=analyzer, scale_down_stabilisation_s=0.0)
        self.loop = ControlLoop(
            Collector(fleet, self.source, build_queue(None, self.source), build_traffic(None, self.source)), fleet,
            History(f"sqlite:///{folder / 'history.sqlite3'}"), policy=policy, state_file=folder / "state.json",
            clock=lambda: self.now_s, steady=lambda: self.steady_s,
        )  # fmt: skip

    def decide(self, *, every_s: float = 15.0) -> Decision:
        made = self.loop.run_once()
        assert made is not None
        self.now_s += every_s
        self.steady_s += every_s
        return made.decisions[0]

    def activity(self) -> list[float | None]:
        """What DCGM says of each engine."""
        found = self.source.read(self.fleet.variants()[0].replicas, now_s=self.now_s)
        return [found[url].gpu_active if url in found else None for url in self.fleet.urls]

    def sees(self, kv: float) -> bool:
        """Whether Prometheus tells of all engines at this load."""
        try:
            found = self.source.read(self.fleet.variants()[0].replicas, now_s=self.now_s)
        except SourceError:
            return False
        samples = [one.sample for one in found.values()]
        running = 0.0 if kv == IDLE else 4.0
        return len(samples) == 3 and all(one.kv_utilisation == kv and one.running == running for one in samples)


@pytest.fixture(scope="module")
def real(prometheus_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str]]:
    """Three engines, and a real Prometheus that scrapes each by two jobs."""
    with ExitStack() as stack:
        engines = [Engine(100.0, ranks=1) for _ in range(3)]
        urls = [stack.enter_context(serve(page_of(engine, i))) for i, engine in enumerate(engines)]
        folder = tmp_path_factory.mktemp("prometheus")
        jobs = {"pods": urls, "services": urls}
        yield Fleet(urls, engines), stack.enter_context(prometheus(prometheus_binary, folder, free_ports(), jobs))


DCGM: dict[int, float] = {}
"""Utilisation of an engine's GPU, percent, where DCGM tells."""


def page_of(engine: Engine, index: int) -> Callable[[], str]:
    """The engine's page, and what DCGM would say of its pod's two GPUs."""

    def page() -> str:
        told = "".join(f'DCGM_FI_DEV_GPU_UTIL{{gpu="{gpu}",pod="engine-{index}"}} {DCGM[index] - 5 * gpu}\n'
                       for gpu in range(2) if index in DCGM)  # fmt: skip
        return engine.page() + told

    return page


Make = Callable[..., World]


@pytest.fixture
def world(real: tuple[Fleet, str], tmp_path: Path) -> Iterator[Make]:
    fleet, url = real
    fleet.spec, fleet.scalings = spec("a", min_replicas=3, max_replicas=5), []
    made: list[World] = []
    with proxied(url) as proxy:

        def make(*, kv: float = IDLE, analyzer: str = "saturation", timeout_s: float = 10.0) -> World:
            fleet.load(kv)
            made.append(World(fleet, proxy, tmp_path, analyzer=analyzer, timeout_s=timeout_s))
            until(lambda: made[-1].sees(kv), "Prometheus has scraped the load")
            proxy.asked.clear()
            return made[-1]

        yield make
        for each in made:
            each.loop.stop()


def test_without_a_fault_an_idle_fleet_shrinks(world: Make) -> None:
    """What every test below would do if it believed its data; two jobs that scrape each engine change nothing."""
    here = world()
    assert here.decide().reason is Reason.AT_MIN
    here.fleet.may_shrink()
    assert (here.decide().reason, here.fleet.scalings) == (Reason.IDLE, [2])


FAULTS: Mapping[str, tuple[Fault, str]] = {
    "down": (Fault(status=0), "cannot be reached"),
    "unavailable": (Fault(status=503), "refuses a query"),
    "empty": (Fault(change=lambda _query, _found: []), "report"),
    "one-engine-missing": (Fault(change=None), "report"),
    "kv-missing": (Fault(change=without_answers_to("kv_cache_usage_perc")), "report"),
    "queues-missing": (Fault(change=without_answers_to("num_requests_waiting")), "report"),
    "nan": (Fault(change=valued("NaN")), "report"),
    "infinite": (Fault(change=valued("+Inf")), "report"),
    "nonsense": (Fault(change=valued("many")), "report"),
    "old-timestamps": (Fault(change=aged(3600.0)), "3600 s old"),
}
"""By name: the fault, and a word of the sentence that says why nothing shrinks."""
PARTLY = ("one-engine-missing", "kv-missing", "queues-missing")
"""Requests are still counted: ``slo`` knows the demand, and holds without wanting anything else."""


@pytest.mark.parametrize("analyzer", ["saturation", "slo"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_lasts_never_shrinks_anything_and_is_over_when_it_is_over(
    world: Make, name: str, analyzer: str
) -> None:
    here = world(analyzer=analyzer)
    fault, word = FAULTS[name]
    here.proxy.fault = fault
    if name == "one-engine-missing":
        here.proxy.fault = Fault(change=without(instance_of(here.fleet.urls[2])))
    for _ in range(6):
        here.decide()
    here.fleet.may_shrink()
    for _ in range(3 if analyzer == "saturation" else 12):
        decision = here.decide()
        assert (decision.direction, decision.desired) == (Direction.HOLD, 3), decision.detail
    assert here.fleet.scalings == []
    if analyzer == "saturation" or name not in PARTLY:
        assert decision.reason in DOUBT, decision.detail
        assert word in decision.detail or any(word in one.line for one in here.loop.last.problems), decision.detail
    here.proxy.fault = Fault()
    decisions = [here.decide(), here.decide()]
    assert decisions[-1].reason not in DOUBT, "two intervals are enough"
    if analyzer == "saturation":
        assert here.fleet.scalings[:1] == [2]


@pytest.mark.parametrize("status", [0, 503])
def test_when_prometheus_goes_down_what_it_said_last_shrinks_nothing(world: Make, status: int) -> None:
    """The readings are a pass old, far from the limit of age: they may add replicas, but take none away."""
    here = world()
    here.decide()
    here.proxy.fault = Fault(status=status)
    here.fleet.may_shrink()
    decision = here.decide()
    assert (decision.direction, decision.reason, decision.desired) == (Direction.HOLD, Reason.STALE, 3)
    assert "the metric source does not answer" in decision.detail
    assert "would be" in decision.detail
    here.proxy.fault = Fault()
    assert (here.decide().reason, here.fleet.scalings) == (Reason.IDLE, [2])


def test_a_prometheus_that_does_not_answer_in_time_counts_as_down(world: Make) -> None:
    here = world(timeout_s=5.0)
    here.decide()
    here.fleet.may_shrink()
    release = threading.Event()
    here.proxy.fault = Fault(held=release)
    decision = here.decide()
    assert (decision.reason, decision.desired, here.fleet.scalings) == (Reason.STALE, 3, [])
    assert "does not answer in time" in decision.detail
    here.proxy.fault = Fault()
    release.set()
    assert [here.decide().reason, here.decide().reason][-1] not in DOUBT
    assert here.fleet.scalings[:1] == [2]


def test_a_duplicate_that_contradicts_is_believed_in_the_careful_direction(world: Make) -> None:
    """The copy says idle and an hour old: the fleet is as loaded as the one says, and as old as the other."""
    here = world(kv=STEADY)
    here.fleet.may_shrink()
    here.proxy.fault = Fault(change=doubled)
    for _ in range(3):
        decision = here.decide()
        assert (decision.direction, decision.reason) == (Direction.HOLD, Reason.STALE)
    assert here.fleet.scalings == []
    here.proxy.fault = Fault()
    assert here.decide().reason is Reason.STEADY


@pytest.mark.parametrize("jump_s", [-7200.0, 7200.0])
def test_prometheus_s_own_clock_may_be_wrong(world: Make, jump_s: float) -> None:
    """Ages are differences by its own clock."""
    here = world(kv=STEADY)
    here.fleet.may_shrink()
    here.decide()
    here.proxy.fault = Fault(change=shifted(jump_s))
    for _ in range(3):
        assert here.decide().reason is Reason.STEADY
    assert here.fleet.scalings == []


@pytest.mark.parametrize("ahead_s", [-7200.0, 7200.0])
def test_slo_scales_down_though_prometheus_s_clock_is_off(world: Make, ahead_s: float) -> None:
    here = world(analyzer="slo")
    here.proxy.fault = Fault(change=shifted(ahead_s))
    for _ in range(6):
        here.decide()
    here.fleet.may_shrink()
    made = [here.decide() for _ in range(20)]
    assert any(one.direction is Direction.DOWN for one in made), made[-1].detail
    assert all((one.signals["traffic_age_s"] or 0.0) < 60.0 for one in made)


@pytest.mark.parametrize("jump_s", [-7200.0, 7200.0])
def test_when_our_clock_jumps_while_prometheus_is_down_nothing_looks_fresh(world: Make, jump_s: float) -> None:
    here = world()
    here.decide()
    here.proxy.fault = Fault(status=0)
    here.fleet.may_shrink()
    here.now_s += jump_s
    for _ in range(3):
        decision = here.decide()
        assert (decision.direction, decision.reason) == (Direction.HOLD, Reason.NO_SIGNAL)
    assert here.fleet.scalings == []
    assert here.loop.metrics.registry.get_sample_value(
        "wva_errors_total", {"component": "clock", "error_type": "jump"}) == 1  # fmt: skip
    here.proxy.fault = Fault()
    decisions = [here.decide(), here.decide()]
    assert decisions[-1].reason not in DOUBT
    assert here.fleet.scalings[:1] == [2]


def test_a_gpu_that_works_contradicts_an_engine_that_claims_to_idle(world: Make) -> None:
    here = world()
    here.fleet.may_shrink()
    try:
        DCGM[1] = 90.0
        until(lambda: here.activity() == [None, 0.9, None], "Prometheus has scraped DCGM's word")
        decision = here.decide()
        assert (decision.direction, decision.reason, decision.desired) == (Direction.HOLD, Reason.NO_SIGNAL, 3)
        assert "engine-1 claims to idle, but its GPU is 90 % active" in decision.detail
        assert here.fleet.scalings == []
        DCGM[1] = 5.0
        until(lambda: here.activity() == [None, 0.05, None], "and that it rests")
        assert here.decide().reason is Reason.IDLE
    finally:
        DCGM.clear()


def test_a_fault_does_not_change_how_often_prometheus_is_asked(world: Make) -> None:
    here = world()
    here.decide()
    healthy = len(here.proxy.asked)
    here.proxy.fault = Fault(change=valued("NaN"))
    here.decide()
    assert len(here.proxy.asked) == 2 * healthy == 32
