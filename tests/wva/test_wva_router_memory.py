"""How old the router's queues are: a router that is not scraped any more is no empty queue."""

from __future__ import annotations

import pytest

from fleet.errors import SourceError
from fleet.sources import EngineReading, RouterQueue
from fleet.types import Direction, EngineSample, FleetSnapshot, Reason, Replica, Variant
from tests.wva.wva_builders import spec
from wva.collect import Collector
from wva.decide import decide
from wva.router_memory import RouterMemory
from wva.types import Policy, WvaState

NOW = 1_000_000.0


def heard(*told: RouterQueue | None, every_s: float = 30.0) -> tuple[RouterMemory, float]:
    """A memory after hearing each in turn (``None``: nobody answered), and the time of the last."""
    memory, now_s = RouterMemory(), NOW - every_s
    for one in told:
        now_s += every_s
        if one is None:
            memory.miss(now_s)
        else:
            memory.hear(one, now_s)
    return memory, now_s


def by_model(ages: dict[str, float], **waiting: float) -> RouterQueue:
    return RouterQueue(waiting=waiting, ages_s=ages)


@pytest.mark.parametrize(
    ("told", "waiting", "ages", "age"),
    [
        pytest.param((), {}, {}, None, id="nobody was asked"),
        pytest.param((by_model({}),), {}, {}, None, id="a Prometheus without a router"),
        pytest.param((None, None), {}, {}, 30.0, id="a router that never answered"),
        pytest.param((None, by_model({})), {}, {}, None, id="a Prometheus that was down, without a router"),
        pytest.param((RouterQueue(waiting={"a": 2.0}),), {"a": 2.0}, {}, 0.0, id="its own page"),
        pytest.param((RouterQueue(waiting={"a": 2.0}), None), {"a": 2.0}, {}, 30.0, id="its page fails"),
        pytest.param((RouterQueue(waiting={"a": 2.0}), RouterQueue(waiting={})), {}, {}, 0.0, id="its page forgets"),
        pytest.param((by_model({"a": 5.0}, a=2.0),), {"a": 2.0}, {"a": 5.0}, 5.0, id="through Prometheus"),
        pytest.param((by_model({"a": 5.0}, a=2.0), by_model({})), {"a": 2.0}, {"a": 35.0}, 35.0, id="it vanished"),
        pytest.param((by_model({"a": 5.0}, a=2.0), None), {"a": 2.0}, {"a": 35.0}, 35.0, id="Prometheus is down"),
        pytest.param((by_model({"a": 5.0}, a=2.0), by_model({"a": 1.0})), {"a": 2.0}, {"a": 35.0}, 35.0, id="NaN"),
        pytest.param((by_model({"a": 1.0}), by_model({"a": 1.0})), {}, {"a": 30.0}, 30.0, id="NaN from the start"),
        pytest.param((by_model({"a": 5.0, "b": 5.0}, a=2.0, b=1.0), by_model({"b": 6.0}, b=0.0)),
                     {"a": 2.0, "b": 0.0}, {"a": 35.0, "b": 6.0}, 35.0, id="one model of two vanished"),
        pytest.param((by_model({"a": 5.0}, a=2.0), by_model({}), by_model({"a": 1.0}, a=0.0)),
                     {"a": 0.0}, {"a": 1.0}, 1.0, id="it came back"),
    ],
)  # fmt: skip
def test_ages(
    told: tuple[RouterQueue | None, ...], waiting: dict[str, float], ages: dict[str, float], age: float | None
) -> None:
    memory, now_s = heard(*told)
    assert (memory.waiting, memory.ages_s(now_s), memory.age_s(now_s)) == (waiting, ages, age)


def test_a_model_that_nobody_serves_does_not_age_and_a_jump_of_the_clock_moves_all() -> None:
    memory, now_s = heard(by_model({"a": 5.0, "gone": 5.0}, a=2.0, gone=0.0))
    memory.keep(["a"])
    memory.shift(100.0)
    assert memory.ages_s(now_s + 100.0) == {"a": 5.0}


def test_an_age_is_a_model_s_own_where_each_has_one() -> None:
    def seen(**fields: object) -> FleetSnapshot:
        return FleetSnapshot(at_s=NOW, variants=(), **fields)  # type: ignore[arg-type]

    assert seen(router_age_s=9.0).router_age_of("a") == 9.0
    assert seen(router_age_s=9.0, router_ages_s={"b": 9.0}).router_age_of("a") is None
    assert seen(router_age_s=9.0, router_ages_s={"a": 1.0, "b": 9.0}).router_age_of("a") == 1.0


class Fleet:
    """Two models with three idle replicas each, and a router that Prometheus may lose."""

    name, can_scale = "fake", False

    def __init__(self) -> None:
        self.now_s, self.told = NOW, by_model({"org/a": 2.0, "org/b": 2.0}, **{"org/a": 0.0, "org/b": 0.0})

    def variants(self) -> tuple[Variant, ...]:
        return tuple(
            Variant(spec=spec(name, model=f"org/{name}"), requested=3, replicas=tuple(
                Replica(name=f"{name}{i}", url=f"http://{name}{i}", variant=name, since_s=NOW - 3600)
                for i in range(3)))
            for name in ("a", "b")
        )  # fmt: skip

    def scale(self, variant: str, replicas: int) -> None:
        raise AssertionError((variant, replicas))

    def read(self, replicas: object, *, now_s: float) -> dict[str, EngineReading]:
        sample = EngineSample(
            at_s=now_s - 1.0, kv_utilisation=0.05, waiting=0.0, running=1.0, kv_capacity_tokens=100_000.0
        )
        return {replica.url: EngineReading(sample=sample, generation_tps=50.0, prompt_tps=100.0, request_rps=1.0)
                for variant in self.variants() for replica in variant.replicas}  # fmt: skip

    def queue(self) -> RouterQueue:
        if self.told is None:
            raise SourceError("down", where="prometheus")
        return self.told


@pytest.mark.parametrize("analyzer", ["saturation", "v1", "v2", "slo"])
def test_only_the_models_of_the_lost_router_are_held(analyzer: str) -> None:
    fleet = Fleet()
    collector = Collector(fleet, fleet, fleet.queue)
    rules, state = Policy(analyzer=analyzer, scale_down_stabilisation_s=30.0), WvaState()
    made = {}
    for index in range(20):
        if index == 1:
            fleet.told = by_model({"org/b": 2.0}, **{"org/b": 0.0})
        now_s = NOW + 15.0 * index
        snapshot, problems = collector.collect(now_s)
        assert problems == ()
        specs = tuple(entry.spec for entry in snapshot.variants)
        decisions, state = decide(snapshot, specs, state, now_s, rules)
        made = {one.variant: one for one in decisions}
    assert (made["a"].direction, made["a"].reason) == (Direction.HOLD, Reason.STALE)
    assert made["b"].direction is Direction.DOWN
