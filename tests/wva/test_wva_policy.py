"""Stabilisation over time: several passes with a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fleet.types import Decision, Reason
from tests.wva.wva_builders import NOW, several, snapshot, spec, variant
from wva.decide import decide
from wva.policy import bounded, damp, stabilise
from wva.types import Policy, Proposal, Recommendation, VariantState, WvaState

MINUTE = Policy(scale_down_stabilisation_s=60.0)


def passes(
    utilisations: Sequence[float], *, every_s: float = 15.0, policy: Policy = MINUTE, ready: int = 3,
    times: Sequence[float] | None = None,
) -> list[Decision]:  # fmt: skip
    """Decisions of consecutive passes on a fleet that nobody scales."""
    state, found = WvaState(), []
    for index, kv in enumerate(utilisations):
        now_s = times[index] if times else NOW + index * every_s
        fleet = snapshot(several(ready, kv), at_s=now_s)
        (decision,), state = decide(fleet, [spec("a")], state, now_s, policy)
        found.append(decision)
    return found


def test_a_decrease_must_be_wanted_for_the_whole_window() -> None:
    found = passes([0.1] * 6)
    assert [each.desired for each in found] == [3, 3, 3, 3, 3, 2]
    assert [each.reason for each in found] == [Reason.STABILISING] * 5 + [Reason.IDLE]
    assert "not for all of the last 60 s" in found[0].detail


def test_a_window_shorter_than_a_pass_is_told_in_passes() -> None:
    """Two passes must want it, however little of its window a decrease has to wait for."""
    wanted = Proposal(replicas=1, reason=Reason.IDLE, detail="idle", patience=0.1)
    before = (Recommendation(at_s=NOW - 15.0, replicas=3),)
    state = VariantState(requested=3, requested_at_s=NOW - 60.0, recommendations=before)
    told = damp(spec("a"), state, wanted, now_s=NOW, policy=MINUTE)
    assert told.proposal.detail == "idle; not in all of the last 2 passes, so 3 for now"


def test_one_busy_pass_starts_the_window_again() -> None:
    found = passes([0.1, 0.1, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert [each.desired for each in found] == [3, 3, 3, 3, 3, 3, 3, 2]


def test_the_window_is_in_seconds_not_in_passes() -> None:
    slow = passes([0.1] * 4, every_s=30.0)
    fast = passes([0.1] * 32, every_s=2.0)
    assert [each.desired for each in slow] == [3, 3, 3, 2]
    assert [each.desired for each in fast].index(2) == 31


def test_without_a_window_a_decrease_comes_at_once() -> None:
    assert passes([0.1], policy=Policy(scale_down_stabilisation_s=0.0))[0].desired == 2


def test_a_pause_longer_than_the_window_starts_it_again() -> None:
    found = passes([0.1] * 7, times=[NOW + t for t in (0, 15, 3600, 3615, 3630, 3645, 3661)])
    assert [each.desired for each in found] == [3, 3, 3, 3, 3, 3, 2]


def test_a_clock_that_goes_back_starts_the_window_again() -> None:
    found = passes([0.1] * 7, times=[NOW + t for t in (0, 15, -5000, -4985, -4970, -4955, -4939)])
    assert [each.desired for each in found] == [3, 3, 3, 3, 3, 3, 2]


def test_an_increase_can_be_made_to_wait_too() -> None:
    policy = Policy(scale_up_stabilisation_s=30.0, scale_down_stabilisation_s=0.0)
    state, found = WvaState(), []
    for index in range(4):
        now_s = NOW + index * 15.0
        fleet = snapshot(several(3, 1.0, 10.0, saturation_threshold=0.7), at_s=now_s)
        (decision,), state = decide(fleet, [fleet.variants[0].spec], state, now_s, policy)
        found.append((decision.desired, decision.reason))
    assert found == [(3, Reason.STABILISING)] * 3 + [(4, Reason.SATURATED)]


def test_a_hold_for_want_of_data_restarts_the_way_down() -> None:
    state = WvaState()
    for index in range(8):
        now_s = NOW + index * 15.0
        blind = index == 3
        fleet = snapshot(variant([], requested=3) if blind else several(3, 0.1), at_s=now_s)
        (decision,), state = decide(fleet, [spec("a")], state, now_s, MINUTE)
        assert decision.desired == 3, index


@pytest.mark.parametrize(
    ("requested", "wanted", "up_s", "down_s", "stable"),
    [
        pytest.param(4, [4, 4, 2], 0, 60, 4, id="down takes the highest of its window"),
        pytest.param(4, [3, 2, 2], 0, 60, 3, id="down as far as the whole window agrees"),
        pytest.param(4, [3, 2, 2], 0, 0, 2, id="no window takes the last"),
        pytest.param(4, [5, 6, 6], 0, 60, 6, id="up is not damped by the window of the way down"),
        pytest.param(4, [5, 6, 6], 60, 60, 5, id="up takes the lowest of its window"),
        pytest.param(4, [4, 6, 6], 60, 60, 4, id="up waits while the window disagrees"),
    ],
)
def test_stabilise(requested: int, wanted: list[int], up_s: float, down_s: float, stable: int) -> None:
    history = tuple(Recommendation(at_s=NOW + 15 * i, replicas=count) for i, count in enumerate(wanted))
    now_s = NOW + 15 * (len(wanted) - 1)
    assert stabilise(requested, history, now_s=now_s, up_s=up_s, down_s=down_s) == stable


@pytest.mark.parametrize(
    ("wanted", "patience", "desired"),
    [
        pytest.param([4, 4, 2, 2], 1.0, 4, id="all of the window"),
        pytest.param([4, 4, 2, 2], 0.0, 2, id="two passes where nothing speaks against it"),
        pytest.param([4, 4, 4, 2], 0.0, 4, id="one pass is never enough"),
        pytest.param([4, 4, 2, 2], 0.5, 4, id="half of the window reaches back to the four"),
    ],
)
def test_a_decrease_waits_for_its_share_of_the_window(wanted: list[int], patience: float, desired: int) -> None:
    history = tuple(Recommendation(at_s=NOW + 15 * i, replicas=count) for i, count in enumerate(wanted[:-1]))
    state = VariantState(requested=4, requested_at_s=NOW - 500, recommendations=history)
    proposal = Proposal(replicas=wanted[-1], reason=Reason.IDLE, detail="", patience=patience)
    now_s = NOW + 15 * (len(wanted) - 1)
    assert damp(spec(), state, proposal, now_s=now_s, policy=MINUTE).proposal.replicas == desired


def test_a_variant_that_flaps_is_patient_whatever_its_proposal_says() -> None:
    turns = tuple(NOW - 100.0 * i for i in range(12))
    history = tuple(Recommendation(at_s=NOW - 15 * i, replicas=2 if i < 3 else 4) for i in reversed(range(1, 6)))
    state = VariantState(requested=4, requested_at_s=NOW - 500, recommendations=history, turns_s=turns)
    found = damp(
        spec(), state, Proposal(replicas=2, reason=Reason.IDLE, detail="", patience=0.0), now_s=NOW, policy=MINUTE
    )
    assert (found.proposal.replicas, found.proposal.reason) == (4, Reason.FLAPPING)


@pytest.mark.parametrize(
    ("start_s", "wanted_s", "desired"),
    [
        pytest.param(None, 120.0, 4, id="four windows where nobody knows what a start takes"),
        pytest.param(100.0, 75.0, 4, id="not yet for as long as a start takes"),
        pytest.param(100.0, 105.0, 2, id="a replica that stood idle for a start has cost one"),
        pytest.param(10.0, 45.0, 4, id="a quick start does not shorten the window"),
        pytest.param(10.0, 60.0, 2, id="and the window is enough for it"),
        pytest.param(600.0, 240.0, 2, id="a slow one does not lengthen it beyond four"),
    ],
)
def test_a_variant_that_flaps_waits_no_longer_than_a_start(
    start_s: float | None, wanted_s: float, desired: int
) -> None:
    turns = tuple(NOW - 100.0 * i for i in range(12))
    history = tuple(Recommendation(at_s=NOW - 15.0 * i, replicas=2 if 15.0 * i <= wanted_s else 4)
                    for i in reversed(range(1, 20)))  # fmt: skip
    state = VariantState(requested=4, requested_at_s=NOW - 500, recommendations=history, turns_s=turns)
    proposal = Proposal(replicas=2, reason=Reason.IDLE, detail="", patience=0.0, start_s=start_s)
    assert damp(spec(), state, proposal, now_s=NOW, policy=MINUTE).proposal.replicas == desired


def test_bounds_say_which_one_held() -> None:
    high = bounded(spec(max_replicas=3), Proposal(replicas=5, reason=Reason.SATURATED, detail=""))
    low = bounded(spec(min_replicas=2), Proposal(replicas=1, reason=Reason.IDLE, detail=""))
    assert (high.replicas, high.reason) == (3, Reason.AT_MAX)
    assert (low.replicas, low.reason) == (2, Reason.AT_MIN)
