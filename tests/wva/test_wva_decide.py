"""One decision at a time: what is seen, and what must come of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.types import Direction, FleetSnapshot, Reason, ReplicaState, Role, VariantObservation
from tests.wva.wva_builders import (
    AT_ONCE,
    MODEL,
    NOW,
    decided,
    seen,
    several,
    snapshot,
    spec,
    starting,
    variant,
)
from wva.decide import decide
from wva.types import Count, Learned, VariantState, WvaState

FULL = {"kv": 1.0, "waiting": 10.0}


def degraded(*names: str, degradation: float = 0.5) -> WvaState:
    """A state in which a request's best speed was so much better than the 10 tokens/s of the builders."""
    learned = Learned(at_s=NOW - 1, running=(Count(at_s=NOW - 1, value=10.0),), best_speed_tps=10 / (1 - degradation))
    return WvaState(
        variants={
            f"default/{name}": VariantState(requested=1, requested_at_s=NOW - 9000, learned=learned) for name in names
        }
    )


@pytest.mark.parametrize(
    ("observed", "desired", "reason"),
    [
        pytest.param(several(2, **FULL), 3, Reason.SATURATED, id="a full fleet gets one more"),
        pytest.param(several(2, 0.7, 1.0), 2, Reason.STEADY, id="inside the band holds"),
        pytest.param(several(2, 0.1), 1, Reason.IDLE, id="an idle fleet gives one back"),
        pytest.param(several(1, 0.1), 1, Reason.AT_MIN, id="the minimum stays"),
        pytest.param(several(10, **FULL), 10, Reason.AT_MAX, id="the maximum stays"),
        pytest.param(
            variant([seen(0, age_s=None), seen(1, age_s=None)]), 2, Reason.NO_SIGNAL, id="blind holds, whatever runs"
        ),
        pytest.param(variant([seen(0, 0.0, age_s=61.0)], max_replicas=2), 1, Reason.STALE, id="stale holds"),
        pytest.param(
            variant([seen(0, 1.0, 10.0, age_s=61.0)]), 1, Reason.STALE, id="stale holds, even where it was full"
        ),
        pytest.param(variant([seen(0, 0.0, kv_tokens=None), seen(1, None, 0.0)]), 2, Reason.NO_SIGNAL,
                     id="a replica that does not give its KV utilisation blocks the way down"),
        pytest.param(variant([seen(0, float("nan")), seen(1, 0.0)]), 2, Reason.NO_SIGNAL, id="NaN is no signal"),
        pytest.param(variant([seen(0, 0.0), seen(1, 0.0, age_s=90.0)]), 2, Reason.STALE,
                     id="one stale replica blocks the way down"),
        pytest.param(variant([seen(0, **FULL), seen(1, age_s=None)]), 3, Reason.SATURATED,
                     id="one unseen replica does not block the way up"),
        pytest.param(variant([seen(0, **FULL), starting(1)]), 2, Reason.PENDING, id="pending replicas are counted"),
        pytest.param(variant([seen(0, **FULL)], requested=2), 2, Reason.PENDING,
                     id="a replica asked for that does not exist yet is pending"),
        pytest.param(variant([seen(0, **FULL), starting(1, since_s=NOW - 301)]), 3, Reason.SATURATED,
                     id="a start that takes too long is not waited for"),
        pytest.param(variant([seen(0, 0.1), seen(1, 0.1), starting(2)]), 3, Reason.PENDING,
                     id="nothing is taken away while something starts"),
        pytest.param(variant([seen(0, 0.1), seen(1, **FULL, state=ReplicaState.FAILED)], requested=1), 1, Reason.AT_MIN,
                     id="dead replicas are left out"),
        pytest.param(variant([starting(0)]), 1, Reason.PENDING, id="a fleet that only starts is waited for"),
        pytest.param(variant([], requested=0), 1, Reason.BELOW_MIN, id="below the minimum is raised, signals or not"),
        pytest.param(several(12, 0.5), 10, Reason.ABOVE_MAX, id="above the maximum is cut, signals or not"),
        pytest.param(several(1, 0.0, min_replicas=0), 1, Reason.NO_HEADROOM, id="the last replica of a model stays"),
        pytest.param(variant([seen(0, 0.58), seen(1, 0.58)]), 2, Reason.NO_HEADROOM,
                     id="idle, but the rest would overflow its KV cache"),
    ],
)  # fmt: skip
def test_one_variant(observed: VariantObservation, desired: int, reason: Reason) -> None:
    # a degradation of 0.02 lifts a full replica just above the threshold
    decision = decided(snapshot(observed), state=degraded("a", degradation=0.02))["a"]
    assert (decision.desired, decision.reason) == (desired, reason), decision.detail


@pytest.mark.parametrize(
    ("saturation_of_fleet", "reason"),
    [
        pytest.param(0.79, Reason.STEADY, id="0.79 is steady"),
        pytest.param(0.80, Reason.STEADY, id="0.80 itself is not above the threshold"),
        pytest.param(0.81, Reason.SATURATED, id="0.81 is saturated"),
        pytest.param(0.30, Reason.STEADY, id="0.30 itself is not below the threshold"),
        pytest.param(0.29, Reason.IDLE, id="0.29 is idle"),
    ],
)
def test_thresholds_are_exact(saturation_of_fleet: float, reason: Reason) -> None:
    if saturation_of_fleet > 0.5:  # queue full: 0.3, KV the rest up to 0.5, degradation what is left
        degradation = max(saturation_of_fleet - 0.8, 0.0) / 0.2
        observed = several(4, min((saturation_of_fleet - 0.3) / 0.5, 1.0), 5.0)
    else:
        observed, degradation = several(4, saturation_of_fleet / 0.5), 0.0
    decision = decided(snapshot(observed), state=degraded("a", degradation=degradation))["a"]
    assert decision.saturation == pytest.approx(saturation_of_fleet, abs=2e-3)
    assert decision.reason is reason


def test_per_variant_thresholds_are_used() -> None:
    assert decided(snapshot(several(2, 0.9, saturation_threshold=0.4)))["a"].direction is Direction.UP
    assert decided(snapshot(several(4, 0.4, scale_down_threshold=0.1)))["a"].reason is Reason.STEADY


def test_requests_at_the_router_count_as_waiting() -> None:
    quiet = decided(snapshot(several(2, 1.0)), state=degraded("a"))["a"]
    queued = decided(snapshot(several(2, 1.0), router_queue={MODEL: 12.0}), state=degraded("a"))["a"]
    other = decided(snapshot(several(2, 1.0), router_queue={"another": 12.0}), state=degraded("a"))["a"]
    assert (quiet.reason, other.reason) == (Reason.STEADY, Reason.STEADY)
    assert queued.reason is Reason.SATURATED
    assert queued.signals["waiting_per_replica"] == 6.0


def test_a_router_that_cannot_be_read_blocks_the_way_down_only() -> None:
    idle, full = several(2, 0.1), several(2, **FULL)
    assert decided(snapshot(idle, router_age_s=61.0))["a"].reason is Reason.STALE
    assert decided(snapshot(full, router_age_s=61.0), state=degraded("a"))["a"].desired == 3


def test_an_old_snapshot_is_stale_data() -> None:
    decision = decided(snapshot(several(2, 0.0)), now_s=NOW + 120)["a"]
    assert (decision.desired, decision.reason) == (2, Reason.STALE)
    assert decision.signals["age_s"] == 121.0


def test_the_sentence_carries_the_numbers() -> None:
    decision = decided(snapshot(several(2, **FULL)), state=degraded("a"))["a"]
    for part in ("0.900", "KV 1.00", "10.0 waiting", "degradation 0.50", "above 0.80", "2 -> 3"):
        assert part in decision.detail


def two(cheap: VariantObservation, dear: VariantObservation, **changes: object) -> FleetSnapshot:
    return snapshot(cheap, dear, **changes)


def test_the_cheapest_variant_grows_first() -> None:
    fleet = two(several(1, **FULL, name="cheap"), several(1, **FULL, name="dear", cost_per_hour=3.0))
    found = decided(fleet, state=degraded("cheap", "dear"))
    assert (found["cheap"].desired, found["cheap"].reason) == (2, Reason.SATURATED)
    assert (found["dear"].desired, found["dear"].reason) == (1, Reason.OTHER_VARIANT)
    assert "cheap takes it" in found["dear"].detail


def test_what_the_cheapest_cannot_take_goes_to_the_next() -> None:
    fleet = two(several(1, **FULL, name="cheap", max_replicas=1), several(1, **FULL, name="dear", cost_per_hour=3.0))
    found = decided(fleet, state=degraded("cheap", "dear"))
    assert (found["cheap"].desired, found["cheap"].reason) == (1, Reason.AT_MAX)
    assert (found["dear"].desired, found["dear"].reason) == (2, Reason.SATURATED)


def test_a_variant_that_failed_to_start_is_not_tried_first_again() -> None:
    stuck = variant([seen(0, **FULL, variant="cheap"), starting(1, since_s=NOW - 900, variant="cheap")], name="cheap")
    found = decided(two(stuck, several(1, **FULL, name="dear", cost_per_hour=3.0)), state=degraded("cheap", "dear"))
    assert found["cheap"].desired == 2
    assert found["dear"].desired == 2


def test_the_dearest_variant_shrinks_first() -> None:
    fleet = two(several(2, 0.1, name="cheap"), several(2, 0.1, name="dear", cost_per_hour=3.0))
    found = decided(fleet)
    assert (found["dear"].desired, found["dear"].reason) == (1, Reason.IDLE)
    assert (found["cheap"].desired, found["cheap"].reason) == (2, Reason.OTHER_VARIANT)


def test_a_dear_variant_may_go_to_zero_while_another_serves() -> None:
    fleet = two(several(1, 0.1, name="cheap"), several(1, 0.1, name="dear", cost_per_hour=3.0, min_replicas=0))
    found = decided(fleet)
    assert found["dear"].desired == 0
    assert found["cheap"].reason is Reason.AT_MIN


def test_dear_means_dear_for_what_it_does() -> None:
    """The H100 costs more an hour and less a token (by its step-time coefficients): it grows first, shrinks last."""
    kinds = {"model": "meta-llama/Llama-3.1-8B-Instruct"}
    h100 = {"accelerator": "h100_sxm", "cost_per_hour": 3.99, **kinds}
    a100 = {"accelerator": "a100_sxm", "cost_per_hour": 2.79, **kinds}
    idle = decided(snapshot(several(2, 0.1, name="h100", **h100), several(2, 0.1, name="a100", **a100)))
    assert (idle["h100"].desired, idle["a100"].desired) == (2, 1)
    full = decided(snapshot(several(2, **FULL, name="h100", **h100), several(2, **FULL, name="a100", **a100)))
    assert (full["h100"].desired, full["a100"].desired) == (3, 2)


def test_learned_capacity_overrides_the_hardware_figures() -> None:
    state = WvaState(
        variants={
            f"default/{name}": VariantState(requested=1, requested_at_s=0.0, learned=Learned(capacity_tps=tps))
            for name, tps in (("cheap", 100.0), ("dear", 900.0))
        }
    )
    fleet = two(several(2, 0.1, name="cheap"), several(2, 0.1, name="dear", cost_per_hour=3.0))
    found = decided(fleet, state=state)
    assert (found["cheap"].desired, found["dear"].desired) == (1, 2)


def test_a_replica_that_never_came_is_given_back_when_idle() -> None:
    state = WvaState(variants={"default/a": VariantState(requested=4, requested_at_s=NOW - 301)})
    assert decided(snapshot(several(3, 0.1, requested=4)))["a"].reason is Reason.PENDING
    assert decided(snapshot(several(3, 0.1, requested=4)), state=state)["a"].desired == 3


def test_one_saturated_variant_is_enough() -> None:
    fleet = two(several(1, **FULL, name="cheap"), several(4, 0.1, name="dear", cost_per_hour=3.0))
    found = decided(fleet, state=degraded("cheap", "dear"))
    assert found["cheap"].desired == 2
    assert "of cheap is above its threshold" in found["cheap"].detail


def test_a_blind_variant_holds_while_another_grows() -> None:
    blind = variant([seen(0, age_s=None, variant="cheap")], name="cheap")
    found = decided(two(blind, several(2, **FULL, name="dear", cost_per_hour=3.0)), state=degraded("dear"))
    assert (found["cheap"].desired, found["cheap"].reason) == (1, Reason.NO_SIGNAL)
    assert found["dear"].desired == 3


def test_models_and_roles_do_not_stand_in_for_each_other() -> None:
    fleet = snapshot(
        several(1, **FULL, name="one"),
        several(3, 0.1, name="another-model", model="other"),
        several(3, 0.1, name="prefill", role=Role.PREFILL),
    )
    found = decided(fleet, state=degraded("one"))
    assert found["one"].desired == 2
    assert found["another-model"].desired == 2
    assert found["prefill"].desired == 2


def test_steps_survive_the_tolerance_of_an_hpa() -> None:
    """9/10 and 11/10 are within the HPA's 10 %: from ten replicas on a step of one would be lost."""
    down = decided(snapshot(several(10, 0.1)))["a"]
    up = decided(snapshot(several(20, **FULL, max_replicas=40, saturation_threshold=0.899)), state=degraded("a"))["a"]
    assert down.desired == 8
    assert up.desired == 23
    exact = decided(snapshot(several(10, 0.1)), policy=replace(AT_ONCE, hpa_tolerance=0.0))["a"]
    assert exact.desired == 9


def test_the_step_up_is_proportional() -> None:
    """Saturation 0.96 over 0.8 wants 1.2 times the replicas."""
    for ready, wanted in ((2, 3), (8, 10), (9, 11)):
        observed = several(ready, **FULL, max_replicas=20)
        assert decided(snapshot(observed), state=degraded("a", degradation=0.8))["a"].desired == wanted


def test_pending_capacity_is_part_of_a_larger_need() -> None:
    full = [seen(index, **FULL) for index in range(8)]
    one = variant([*full, starting(8)], max_replicas=20)
    both = variant([*full, starting(8), starting(9)], max_replicas=20)
    assert decided(snapshot(one), state=degraded("a", degradation=0.8))["a"].desired == 10
    found = decided(snapshot(both), state=degraded("a", degradation=0.8))["a"]
    assert (found.desired, found.reason) == (10, Reason.PENDING)


def test_a_step_up_is_bounded() -> None:
    policy = replace(AT_ONCE, max_up_fraction=0.5)
    observed = several(4, 0.9, 10.0, saturation_threshold=0.1, max_replicas=99)
    assert decided(snapshot(observed))["a"].desired == 8
    assert decided(snapshot(observed), policy=policy)["a"].desired == 6


def test_several_steps_down_where_allowed_and_safe() -> None:
    policy = replace(AT_ONCE, max_down_step=5)
    assert decided(snapshot(several(6, 0.02)), policy=policy)["a"].desired == 1
    assert decided(snapshot(several(6, 0.3)), policy=policy)["a"].desired == 3, "KV 0.3 * 6 / 3 is 0.6, / 2 is 0.9"


def test_a_given_spec_wins_over_the_observed_one() -> None:
    fleet = snapshot(several(2, 0.1))
    decisions, _ = decide(fleet, [spec("a", min_replicas=2), spec("unknown")], WvaState(), NOW, AT_ONCE)
    assert [(each.variant, each.desired, each.reason) for each in decisions] == [("a", 2, Reason.AT_MIN)]


def test_kv_is_inherited_by_tokens_not_by_replicas() -> None:
    """Removing the big cache leaves the small ones with its tokens."""
    big = variant([seen(0, 0.3, variant="big", kv_tokens=90_000.0)], name="big", cost_per_hour=9.0, min_replicas=0)
    small = variant([seen(0, 0.3, variant="small", kv_tokens=10_000.0)], name="small")
    decision = decided(two(small, big))["big"]
    assert (decision.desired, decision.reason) == (1, Reason.NO_HEADROOM)
    assert "KV 3.00" in decision.detail


def test_a_replica_that_computes_nothing_blocks_the_way_down_once_that_has_lasted() -> None:
    for still_s, reason in (
        (0.0, Reason.IDLE),
        (29.0, Reason.IDLE),
        (30.0, Reason.NO_SIGNAL),
        (600.0, Reason.NO_SIGNAL),
    ):
        found = decided(snapshot(variant([seen(0, 0.05), replace(seen(1, 0.05, running=3.0), still_s=still_s)])))["a"]
        assert found.reason is reason, still_s
    assert found.desired == 2
    assert "1 of 2 ready replica(s) of a have requests under way and compute no token" in found.detail
    assert found.signals["stuck"] == 1
