"""What must hold for any fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.types import FleetSnapshot, ReplicaState, VariantObservation
from tests.wva.wva_builders import AT_ONCE, NOW, decided, seen, snapshot, spec
from wva import saturation
from wva.decide import decide
from wva.types import Count, Learned, Policy, VariantState, WvaState

STATES = st.sampled_from([ReplicaState.READY] * 4 + [ReplicaState.STARTING, ReplicaState.STOPPING, ReplicaState.FAILED])
RATIOS = st.floats(0, 1)
AGES = st.one_of(st.none(), st.floats(0, 200))


@st.composite
def variants(draw: Any, name: str, *, ages: st.SearchStrategy[Any] = AGES) -> VariantObservation:
    low = draw(st.integers(0, 4))
    high = low + draw(st.integers(0, 12))
    replicas = [
        seen(index, draw(RATIOS), draw(st.floats(0, 40)), variant=name, age_s=draw(ages), state=draw(STATES),
             since_s=NOW - draw(st.floats(0, 900)), running=draw(st.floats(0, 50)), tps=draw(st.floats(0, 5000)),
             kv_tokens=draw(st.sampled_from([None, 20_000.0, 400_000.0])))
        for index in range(draw(st.integers(0, 6)))
    ]  # fmt: skip
    shape = spec(name, min_replicas=low, max_replicas=high, cost_per_hour=draw(st.floats(0, 20)))
    return VariantObservation(spec=shape, requested=draw(st.integers(0, 14)), replicas=tuple(replicas))


@st.composite
def fleets(draw: Any, *, ages: st.SearchStrategy[Any] = AGES) -> FleetSnapshot:
    names = draw(st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]))
    queue = draw(st.dictionaries(st.just("toy"), st.floats(0, 100)))
    return snapshot(*(draw(variants(name, ages=ages)) for name in names), router_queue=queue)


@st.composite
def states(draw: Any) -> WvaState:
    def of_variant() -> VariantState:
        learned = Learned(
            at_s=NOW - 10, running=(Count(at_s=NOW - 10, value=draw(st.floats(0, 50))),),
            best_speed_tps=draw(st.one_of(st.none(), st.floats(0, 500))),
            capacity_tps=draw(st.one_of(st.none(), st.floats(0, 9000))),
        )  # fmt: skip
        return VariantState(
            requested=draw(st.integers(0, 14)), requested_at_s=NOW - draw(st.floats(0, 900)), learned=learned
        )

    return WvaState(variants={f"default/{name}": of_variant() for name in draw(st.sets(st.sampled_from("abc")))})


POLICIES = st.builds(
    Policy, scale_up_stabilisation_s=st.sampled_from([0.0, 30.0]),
    scale_down_stabilisation_s=st.sampled_from([0.0, 60.0]),
    max_down_step=st.integers(1, 4), max_up_fraction=st.floats(0.1, 3), hpa_tolerance=st.floats(0, 0.3),
)  # fmt: skip


@given(fleets(), states(), POLICIES)
def test_bounds_always_hold(fleet: FleetSnapshot, state: WvaState, policy: Policy) -> None:
    for name, decision in decided(fleet, state=state, policy=policy).items():
        shape = next(entry.spec for entry in fleet.variants if entry.spec.name == name)
        assert shape.min_replicas <= decision.desired <= shape.max_replicas
        assert decision.detail


@given(fleets(ages=st.one_of(st.none(), st.floats(60.1, 900))), states(), POLICIES)
def test_nothing_shrinks_on_stale_or_missing_data(fleet: FleetSnapshot, state: WvaState, policy: Policy) -> None:
    for entry in fleet.variants:
        decision = decided(fleet, state=state, policy=policy)[entry.spec.name]
        assert decision.desired >= min(entry.requested, entry.spec.max_replicas)


@given(fleets(), states(), POLICIES)
def test_one_blind_replica_is_enough_not_to_shrink(fleet: FleetSnapshot, state: WvaState, policy: Policy) -> None:
    blind = seen(99, age_s=None, variant=fleet.variants[0].spec.name)
    first = replace(fleet.variants[0], replicas=(*fleet.variants[0].replicas, blind))
    fleet = replace(fleet, variants=(first, *fleet.variants[1:]))
    for entry in fleet.variants:
        decision = decided(fleet, state=state, policy=policy)[entry.spec.name]
        assert decision.desired >= min(entry.requested, entry.spec.max_replicas)


def busier(fleet: FleetSnapshot, index: int, kv: float, waiting: float) -> FleetSnapshot:
    """The same fleet with more in one replica's cache and queue."""
    entry = fleet.variants[index % len(fleet.variants)]
    if not entry.replicas or entry.replicas[0].sample is None:
        return fleet
    first = entry.replicas[0]
    assert first.sample is not None
    sample = replace(
        first.sample,
        kv_utilisation=min((first.sample.kv_utilisation or 0.0) + kv, 1.0),
        waiting=(first.sample.waiting or 0.0) + waiting,
    )
    changed = replace(entry, replicas=(replace(first, sample=sample), *entry.replicas[1:]))
    return replace(fleet, variants=tuple(changed if each is entry else each for each in fleet.variants))


@settings(max_examples=300)
@given(fleets(), states(), POLICIES, st.tuples(st.integers(0, 2), RATIOS, st.floats(0, 30)))
def test_more_load_never_lowers_what_is_wanted(
    fleet: FleetSnapshot, state: WvaState, policy: Policy, more: tuple[int, float, float]
) -> None:
    before = decided(fleet, state=state, policy=policy)
    after = decided(busier(fleet, *more), state=state, policy=policy)
    assert {name: each.desired for name, each in after.items() if each.desired < before[name].desired} == {}


@given(fleets(), states(), POLICIES)
def test_the_same_input_gives_the_same_output_and_the_state_survives_json(
    fleet: FleetSnapshot, state: WvaState, policy: Policy
) -> None:
    specs = [entry.spec for entry in fleet.variants]
    first = decide(fleet, specs, state, NOW, policy)
    again = msgspec.json.decode(msgspec.json.encode(first[1]), type=WvaState)
    assert decide(fleet, specs, state, NOW, policy) == first
    assert again == first[1]


@given(fleets(), states())
def test_one_pass_changes_a_model_in_one_direction_only(fleet: FleetSnapshot, state: WvaState) -> None:
    inside = [
        entry for entry in fleet.variants if entry.spec.min_replicas <= entry.requested <= entry.spec.max_replicas
    ]
    found = decided(replace(fleet, variants=tuple(inside)), state=state)
    moves = {found[entry.spec.name].desired - entry.requested for entry in inside}
    assert not (any(move > 0 for move in moves) and any(move < 0 for move in moves))


@given(st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_saturation_stays_in_its_range(kv: float, queue: float, degradation: float) -> None:
    assert 0.0 <= saturation.saturation(kv, queue, degradation) <= 1.0


def test_at_once_is_what_the_tables_assume() -> None:
    assert (AT_ONCE.scale_up_stabilisation_s, AT_ONCE.scale_down_stabilisation_s) == (0.0, 0.0)
