"""Upstream's analyzers V1 and V2: their formulas, and the published regressions that they keep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.types import FleetSnapshot, Reason
from tests.wva.wva_builders import AT_ONCE, NOW, decided, seen, snapshot, starting, variant
from wva.analyzers import peaks, v1, v2
from wva.decide import decide
from wva.types import Policy, WvaState

V1 = replace(AT_ONCE, analyzer="v1", hpa_tolerance=0.0)
V2 = replace(AT_ONCE, analyzer="v2", hpa_tolerance=0.0)


@pytest.mark.parametrize(("loads", "short", "fewer"), [
    pytest.param([(0.75, 0.0), (0.76, 0.0)], True, False, id="kv-spare-under-a-tenth-grows"),
    pytest.param([(0.2, 2.5)], True, False, id="queue-spare-under-three-grows"),
    pytest.param([(0.2, 0.0), (0.2, 0.0)], False, True, id="two-idle-ones-need-one"),
    pytest.param([(0.4, 0.0), (0.4, 0.0)], False, False, id="the-rest-would-have-no-spare"),
    pytest.param([(0.1, 0.0)], False, False, id="the-only-calm-replica-stays"),
    pytest.param([(0.8, 0.0), (0.3, 5.0)], True, False, id="all-saturated-is-no-spare"),
])  # fmt: skip
def test_v1_spare(loads: list[tuple[float, float]], short: bool, fewer: bool) -> None:
    left = v1.spare(loads)
    assert (left.short, left.allows_fewer) == (short, fewer)


def standing(name: str, cost: float, current: int, desired: int | None = None, pending: int = 0) -> v1.Standing:
    return v1.Standing(name=name, cost=cost, current=current, desired=current if desired is None else desired,
                       pending=pending)  # fmt: skip


@pytest.mark.parametrize(("variants", "loads", "wanted"), [
    pytest.param([standing("a", 9, 2), standing("b", 4, 1)], [(0.75, 0)] * 3, {"a": 2, "b": 2}, id="cheapest-grows"),
    pytest.param([standing("b", 4, 1), standing("a", 4, 1)], [(0.75, 0)] * 2, {"a": 2, "b": 1}, id="tie-by-name-up"),
    pytest.param([standing("a", 9, 2), standing("b", 4, 2)], [(0.1, 0)] * 4, {"a": 1, "b": 2}, id="dearest-shrinks"),
    pytest.param([standing("a", 4, 2), standing("b", 4, 2)], [(0.1, 0)] * 4, {"a": 2, "b": 1}, id="tie-by-name-down"),
    pytest.param([standing("a", 9, 2), standing("b", 4, 1, 2, 1)], [(0.79, 9)], {"a": 2, "b": 2}, id="frozen-moving"),
])  # fmt: skip
def test_v1_targets(variants: list[v1.Standing], loads: list[tuple[float, float]], wanted: dict[str, int]) -> None:
    assert v1.targets(variants, loads) == wanted


def test_v2_capacities() -> None:
    calm = v2.Replica(kv_usage=0.5, kv_tokens=655_000, queue=0)
    assert v2.capacity(calm, 0.0, 0.0, ()) == pytest.approx(524_000), "memory bound k1 is 80 %"
    assert v2.capacity(calm, 4000.0, 1000.0, ()) == pytest.approx(524_000), "derived k2 is 256 x 4500, above k1"
    assert v2.capacity(calm, 1000.0, 10.0, ()) == pytest.approx(8192 * 10 / 1010 * 1005), "few sequences fit a batch"
    full = replace(calm, queue=5.0)
    assert v2.capacity(full, 4000.0, 1000.0, ()) == pytest.approx(327_500), "a full queue: what is in use"


def test_v2_keeps_the_published_weakness_of_its_history() -> None:
    """Issue 1269: 337k against 524k tokens, because one queue under low use stays in the average."""
    history = v2.learned((), [v2.Replica(kv_usage=0.515, kv_tokens=655_000, queue=6)])
    calm = v2.Replica(kv_usage=0.3, kv_tokens=655_000, queue=0)
    assert v2.capacity(calm, 4000.0, 1000.0, history) == pytest.approx(337_325)


def member(name: str, cost: float, count: int, kv: float, high: int = 10) -> v2.Standing:
    replicas = [v2.Replica(kv_usage=kv, kv_tokens=100_000, queue=0)] * count
    return v2.Standing(name=name, cost=cost, current=count, pending=0, low=1, high=high, replicas=replicas, history=())


@pytest.mark.parametrize(("variants", "queued", "wanted"), [
    pytest.param([member("a", 1, 2, 0.78)], 0.0, {"a": 3}, id="156k-over-0.85-needs-24k-more"),
    pytest.param([member("a", 1, 4, 0.1)], 0.0, {"a": 1}, id="40k-over-0.70-leaves-three-spare"),
    pytest.param([member("a", 1, 2, 0.6)], 0.0, {"a": 2}, id="between-the-two"),
    pytest.param([member("a", 1, 2, 0.6)], 20.0, {"a": 3}, id="the-routers-queue-counts-in-and-out"),
    pytest.param([member("a", 1, 2, 0.9, 3), member("b", 5, 1, 0.9)], 0.0, {"a": 3, "b": 1}, id="cheapest-first"),
    pytest.param([member("a", 1, 2, 1.0, 2), member("b", 5, 1, 1.0)], 0.0, {"a": 2, "b": 3}, id="spills-over"),
    pytest.param([member("a", 1, 2, 0.1), member("b", 5, 2, 0.1)], 0.0, {"a": 1, "b": 1}, id="dearest-shrinks-first"),
])  # fmt: skip
def test_v2_targets(variants: list[v2.Standing], queued: float, wanted: dict[str, int]) -> None:
    assert v2.targets(variants, mean_in=1000, mean_out=1000, queued=queued, decodes=True, prefills=True) == wanted


def test_peaks_are_of_the_last_minute() -> None:
    gauges = peaks.remembered({}, [seen(0, 0.9, 7.0)], NOW)
    gauges = peaks.remembered(gauges, [seen(0, 0.2, 0.0)], NOW + 30)
    assert peaks.of(gauges["a-0"]) == (0.9, 7.0)
    assert peaks.of(peaks.remembered(gauges, [seen(0, 0.3, 0.0)], NOW + 61)["a-0"]) == (0.3, 0.0)


def test_both_run_by_name() -> None:
    fleet = snapshot(variant([seen(index, 0.78, kv_tokens=100_000.0) for index in range(2)]))
    assert decided(fleet, policy=V1)["a"].desired == 3
    assert decided(fleet, policy=V2)["a"].desired == 3
    assert decided(fleet, policy=V2)["a"].reason is Reason.SATURATED


@pytest.mark.parametrize("policy", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("fleet", [
    pytest.param(snapshot(variant([seen(0, 0.1), seen(1, 0.1, age_s=900)])), id="one-is-stale"),
    pytest.param(snapshot(variant([seen(0, 0.1), seen(1, age_s=None)])), id="one-never-reported"),
    pytest.param(snapshot(variant([starting(0)])), id="none-serves"),
])  # fmt: skip
def test_missing_data_holds(fleet: FleetSnapshot, policy: Policy) -> None:
    decision = decided(fleet, policy=policy)["a"]
    assert decision.desired == fleet.variants[0].requested
    assert decision.reason in {Reason.STALE, Reason.NO_SIGNAL}


def test_v2_remembers_full_queues_between_passes() -> None:
    fleet = snapshot(variant([seen(0, 0.5, 6.0, kv_tokens=100_000.0)]))
    _, state = decide(fleet, [fleet.variants[0].spec], WvaState(), NOW, V2)
    assert state.variants["default/a"].upstream.full["short"] == (50_000.0,)
