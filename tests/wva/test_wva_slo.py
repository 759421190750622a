"""The ``slo`` analyzer in a toy fleet: what it wants, the regression cases, what it never does."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.types import Decision, Direction, Reason
from tests.wva.slo_fleet import RULES, SPEC, START, ToyFleet
from wva import snapshot_file
from wva.explain import in_words
from wva.types import WvaState

BEARS = 60 / (15.0 + 0.45 * 60)
"""Requests a second of a full toy replica."""


def test_steady_load_settles_near_what_it_needs() -> None:
    fleet = ToyFleet(replicas=8)
    fleet.run(1800, 4.0)
    assert math.ceil(4.0 / BEARS) <= fleet.requested <= math.ceil(4.0 / BEARS) + 1
    assert fleet.bad == 0


def test_a_step_is_answered_in_one_decision() -> None:
    fleet = ToyFleet(replicas=3)
    fleet.run(600, 2.0)
    ups = [each.desired for each in fleet.run(60, 6.0) if each.direction is Direction.UP]
    assert ups and ups[0] >= math.ceil(6.0 / BEARS), "the first increase already covers the new load"


def test_steps_seen_before_are_provided_for() -> None:
    """After several steps of the same size the next one finds its replicas there: the forecast's upper part."""
    fleet = ToyFleet(replicas=3)
    for stage, rate in enumerate((2.0, 4.0, 6.0, 8.0)):
        fleet.run(360, rate)
        if stage >= 2:
            assert fleet.replicas * BEARS >= rate + 1.0, "room for most of another step of two"


def test_prompts_that_grow_are_demand() -> None:
    """Longer prompts at the same rate of requests need more replicas."""
    fleet = ToyFleet(replicas=4)
    fleet.run(900, 4.0)
    before = fleet.requested
    fleet.prompt, fleet.work_s, fleet.full = 12_000.0, 1.1, 24.0
    fleet.kv_per_request = 1 / 25
    fleet.run(600, 4.0)
    assert fleet.requested > before


def test_a_backlog_is_worked_off() -> None:
    """Beside the arrivals the queue counts: with replicas for the arrivals alone it would never shrink."""
    fleet = ToyFleet(replicas=3)
    fleet.run(300, 4.0)
    fleet.in_flight += 200
    fleet.run(600, 4.0)
    assert fleet.in_flight / fleet.replicas < fleet.full, "no queue is left after ten minutes"


# ---- regression cases


def test_queueing_at_sixteen_percent_of_kv_never_drains() -> None:
    """Upstream #1500: long answers fill the batch at 16 % KV, requests wait, and V2 drains to one replica."""
    fleet = ToyFleet(replicas=4, full=30.0, kv_per_request=0.16 / 30)
    fleet.spec = replace(SPEC, max_replicas=8)
    fleet.run(1200, 5.0)
    assert fleet.requested >= 4
    assert all(each.desired >= 4 for each in fleet.run(600, 5.0))


def test_capacity_is_not_learnt_too_low_from_an_idle_replica() -> None:
    """Upstream #1269: what a replica does under little load says nothing of what it can do."""
    fleet = ToyFleet(replicas=4, follow=False)
    fleet.run(300, 2.0)
    loaded = fleet.last.signals["capacity_rps"] if fleet.last else None
    fleet.run(3600, 0.2)
    idle = fleet.last.signals["capacity_rps"] if fleet.last else None
    assert loaded is not None and idle is not None
    assert idle >= 0.8 * loaded


def test_one_bad_minute_does_not_halve_the_capacity_for_good() -> None:
    fleet = ToyFleet(replicas=4)
    fleet.run(1800, 4.0)
    before = fleet.last.signals["capacity_rps"] if fleet.last else None
    fleet.in_flight += 400
    fleet.run(3600, 4.0)
    after = fleet.last.signals["capacity_rps"] if fleet.last else None
    assert before is not None and after is not None
    assert after >= 0.7 * before


def test_a_maximum_that_flips_is_followed_without_more_movement() -> None:
    """Upstream #1427: a coordinator patches maxReplicas every 15 s."""
    fleet = ToyFleet(replicas=3)
    fleet.run(600, 4.0)
    seen = set()
    for index in range(40):
        fleet.spec = replace(SPEC, max_replicas=20 if index % 2 else 19)
        seen.update(each.desired for each in fleet.run(15, 4.0))
    assert len(seen) <= 2, "both maxima are above the need: they change nothing"


@pytest.mark.parametrize(("standing", "rate"), [(10, 15.4), (12, 18.0), (16, 25.0)])
def test_steps_survive_the_hpa_tolerance_from_ten_replicas_on(standing: int, rate: float) -> None:
    """An HPA with AverageValue 1 and 10 % tolerance ignores desired 11 of 10: no such step is published."""
    fleet = ToyFleet(replicas=standing, follow=False)
    for each in fleet.run(900, rate):
        assert each.desired == standing or abs(each.desired / standing - 1.0) > 0.1


def test_published_replicas_are_a_fixed_point_of_average_value_and_not_of_value() -> None:
    """Why the HPA examples say AverageValue: ``Value`` with target 1 multiplies by what runs, up to the maximum."""

    def average_value(total: float, _replicas: int) -> int:
        return math.ceil(total)

    def value(total: float, replicas: int) -> int:
        return math.ceil(total * replicas)

    desired, runs = 2, {average_value: 2, value: 2}
    for _ in range(3):
        runs = {rule: rule(desired, replicas) for rule, replicas in runs.items()}
    assert list(runs.values()) == [2, 16]


# ---- data that is missing


@pytest.mark.parametrize("broken", ["stale-engines", "silent-replica", "stale-router"])
def test_nothing_shrinks_on_doubt(broken: str) -> None:
    fleet = ToyFleet(replicas=6)
    fleet.run(300, 6.0)
    held = fleet.requested
    fleet.follow = False
    for _ in range(20):
        for _second in range(15):
            fleet._second(0.2)
        snap = fleet.snapshot()
        entry = snap.variants[0]
        if broken == "stale-engines":
            old = tuple(replace(seen, age_s=900.0) for seen in entry.replicas)
        elif broken == "silent-replica":
            old = (replace(entry.replicas[0], sample=None, age_s=None), *entry.replicas[1:])
        else:
            old = entry.replicas
        traffic = snap.traffic
        if broken == "stale-router":
            traffic = {SPEC.model: replace(traffic[SPEC.model], at_s=fleet.now_s - 900)}
        decision = fleet.step(variants=(replace(entry, replicas=old),), traffic=traffic)
        assert decision.desired >= held


def test_nothing_shrinks_while_an_engine_hangs_whose_page_still_answers() -> None:
    fleet = ToyFleet(replicas=6)
    fleet.run(300, 6.0)
    held, found = fleet.requested, []
    fleet.follow = False
    for number in range(20):
        for _second in range(15):
            fleet._second(6.0 if number < 6 else 0.2)
        entry = fleet.snapshot().variants[0]
        first = entry.replicas[0]
        hung = replace(first, sample=replace(first.sample, running=4.0), still_s=15.0 * (number + 1))
        found.append(fleet.step(variants=(replace(entry, replicas=(hung, *entry.replicas[1:])),)))
    assert min(one.desired for one in found) >= held
    assert found[-1].reason is Reason.NO_SIGNAL and "compute no token" in found[-1].detail
    assert fleet.run(60, 0.2)[-1].desired < held, "it computes again"


def _blinded(fleet: ToyFleet, age_s: float | None) -> Decision:
    """A pass in which every signal is so old, or was never there."""
    entry = fleet.snapshot().variants[0]
    seen = tuple(replace(one, age_s=age_s, sample=one.sample if age_s else None) for one in entry.replicas)
    traffic = {} if age_s is None else {SPEC.model: replace(fleet._traffic(), at_s=fleet.now_s - age_s)}
    return fleet.step(variants=(replace(entry, replicas=seen),), traffic=traffic)


@pytest.mark.parametrize(("age_s", "reason", "words"), [
    pytest.param(900.0, Reason.STALE, "the newest sample is 900 s old, its requests were last counted 900 s ago",
                 id="all-old"),
    pytest.param(None, Reason.NO_SIGNAL, "none of 6 ready replica(s) reports, nobody counts its requests",
                 id="all-gone")])  # fmt: skip
def test_blind_holds_says_why_and_learns_nothing(age_s: float | None, reason: Reason, words: str) -> None:
    fleet = ToyFleet(replicas=6, follow=False)
    fleet.run(600, 5.0)
    before = fleet.state.groups
    for _ in range(20):
        fleet.now_s += 15.0
        blind = _blinded(fleet, age_s)
        assert (blind.direction, blind.desired, blind.reason) == (Direction.HOLD, 6, reason)
        assert blind.detail == f"holds 6: {words}; older than 60 s is stale"
        assert blind.signals["demand_rps"] is None and blind.signals["in_flight"] is None, "not known is not 0"
    told = "\n".join(in_words(asdict(blind)))
    assert blind.detail in told and "requests in flight: not known" in told
    (old,), (now,) = before.values(), fleet.state.groups.values()
    assert replace(now, readings=old.readings) == old, "silence is no load of 0"
    assert fleet.run(30, 5.0)[-1].signals["demand_rps"] == pytest.approx(5.0, rel=0.1), "two passes are enough"


def test_replicas_that_all_still_start_in_silence_are_kept() -> None:
    fleet = ToyFleet(replicas=0, requested=4, starting=[START + 250.0] * 4, router=False, startup_s=250.0, follow=False)
    for each in fleet.run(240, 0.0):
        assert (each.desired, each.reason) == (4, Reason.PENDING)
        assert each.detail.startswith("holds 4: 4 replica(s) still start")


def test_without_a_router_completions_and_growth_are_the_arrivals() -> None:
    fleet = ToyFleet(replicas=3, router=False)
    fleet.run(900, 4.0)
    told = fleet.last.signals["demand_rps"] if fleet.last else None
    assert told == pytest.approx(4.0, rel=0.1)
    assert fleet.requested >= math.ceil(4.0 / BEARS)


def test_counters_that_restart_are_no_demand() -> None:
    fleet = ToyFleet(replicas=3)
    fleet.run(600, 4.0)
    held = fleet.requested
    fleet.arrived = fleet.finished = fleet.good = fleet.bad = 0.0
    assert all(abs(each.desired - held) <= 1 for each in fleet.run(120, 4.0))


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_counts_by_another_clock_are_as_old_as_that_clock_says(ahead_s: float) -> None:
    """A constant offset of Prometheus's clock changes no decision; counts that are old by its own clock are old."""

    def told(fleet: ToyFleet, age_s: float = 0.0) -> Decision:
        counts = replace(fleet._traffic(), at_s=fleet.now_s + ahead_s - age_s)
        return fleet.step(traffic={SPEC.model: counts}, traffic_ahead_s={SPEC.model: ahead_s})

    here, there = ToyFleet(replicas=6), ToyFleet(replicas=6)
    for index in range(120):
        for fleet in (here, there):
            for _ in range(15):
                fleet._second(5.0 if index < 60 else 2.0)
        assert told(there) == here.step()
    assert there.requested < 6, "it shrinks"
    assert (old := told(there, 61.0).signals["traffic_age_s"]) is not None and old == pytest.approx(61.0)


# ---- zero and back


def test_to_zero_after_the_retention_period_and_back_with_the_first_request() -> None:
    fleet = ToyFleet(replicas=1, spec=replace(SPEC, min_replicas=0), rules=replace(RULES, retention_s=300.0))
    fleet.run(120, 0.5)
    fleet.run(420, 0.0)
    fleet.in_flight = 0.0
    decisions = fleet.run(600, 0.0)
    assert decisions[-1].desired == 0
    assert Reason.UNUSED in {each.reason for each in decisions}
    woken = fleet.step(router_queue={SPEC.model: 1.0}, router_age_s=0.0)
    assert (woken.desired, woken.reason) == (1, Reason.WAKE)


def test_a_minimum_of_one_is_kept_for_ever() -> None:
    fleet = ToyFleet(replicas=2)
    fleet.run(3600, 0.0)
    assert fleet.requested == 1


# ---- state, bounds, monotony


def test_state_survives_a_restart_in_mid_transition() -> None:
    fleet = ToyFleet(replicas=3)
    fleet.run(600, 2.0)
    fleet.run(45, 6.0)
    text = snapshot_file.to_json(fleet.state)
    restored = snapshot_file.parse(WvaState, text, where="test")
    twin = replace(fleet, state=restored, starting=list(fleet.starting))
    assert [each.desired for each in twin.run(300, 6.0)] == [each.desired for each in fleet.run(300, 6.0)]


def test_lead_times_are_learned() -> None:
    fleet = ToyFleet(replicas=3, startup_s=40.0)
    for _ in range(6):
        fleet.run(300, 6.0)
        fleet.scale(2)
    fleet.run(60, 2.0)
    assert fleet.last is not None
    assert fleet.last.signals["lead_s"] == pytest.approx(60.0, abs=40.0)


@settings(max_examples=25, deadline=None)
@given(rates=st.lists(st.floats(0.0, 30.0), min_size=3, max_size=12), low=st.integers(0, 3), room=st.integers(0, 9))
def test_stays_in_bounds(rates: list[float], low: int, room: int) -> None:
    fleet = ToyFleet(replicas=max(low, 1), spec=replace(SPEC, min_replicas=low, max_replicas=max(low + room, 1)))
    for rate in rates:
        for each in fleet.run(60, rate):
            assert low <= each.desired <= max(low + room, 1)


@settings(max_examples=15, deadline=None)
@given(rate=st.floats(0.5, 6.0), more=st.floats(1.05, 2.5))
def test_more_load_never_wants_fewer_replicas(rate: float, more: float) -> None:
    """Two fleets with the same past; the one that gets more wants at least as many."""

    def wanted(after: float) -> int:
        fleet = ToyFleet(replicas=4, follow=False)
        fleet.run(300, rate)
        return fleet.run(90, after)[-1].desired

    assert wanted(rate * more) >= wanted(rate)


def test_virtual_time_begins_where_unix_time_could() -> None:
    assert ToyFleet().now_s == START
