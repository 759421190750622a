"""What on-call reads of engines that die, fall silent or hang, and come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fleet.history import Event
from fleet.types import FleetSnapshot, ReplicaObservation, ReplicaState, VariantObservation
from tests.wva.fake_platform import FakePlatform, serving
from tests.wva.test_wva_loop import START, Rig
from tests.wva.wva_builders import NOW, seen, snapshot, spec, starting, variant
from wva.build import silent_after_s
from wva.incidents import Incidents
from wva.settings import WvaSettings
from wva.types import Policy

PASS_S = 15.0
WELL = [seen(0), seen(1)]


def told(*passes: Sequence[ReplicaObservation] | VariantObservation, read: bool = True) -> list[Event]:
    """Events of passes over one variant, whose clock stands (ages are in the observations)."""
    incidents = Incidents(Policy())
    return [event for number, one in enumerate(passes)
            for event in incidents.of_pass(_fleet(one, number), read=read)]  # fmt: skip


def _fleet(one: Sequence[ReplicaObservation] | VariantObservation, number: int) -> FleetSnapshot:
    entry = one if isinstance(one, VariantObservation) else variant(one)
    return snapshot(entry, at_s=NOW + number * PASS_S)


def lines(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    return [(event.subject, event.message, event.severity) for event in events]


def in_state(index: int, state: ReplicaState, since_s: float = NOW) -> ReplicaObservation:
    return seen(index, age_s=None, state=state, since_s=since_s)


def test_a_quiet_fleet_says_nothing() -> None:
    assert told(WELL, WELL, [*WELL, starting(2)], [*WELL, seen(2, since_s=NOW)]) == []


def test_one_that_dies_and_comes_back() -> None:
    events = told(WELL, [seen(0), in_state(1, ReplicaState.FAILED)], [seen(0), in_state(1, ReplicaState.STARTING)],
                  [seen(0), seen(1, since_s=NOW + 40)])  # fmt: skip
    assert lines(events) == [
        ("a-1", "http://a-1:8000 is down; 1 of 2 replicas serve", "warning"),
        ("a-1", "http://a-1:8000 is ready again after 30 s; 2 of 2 replicas serve", "info"),
    ]
    assert [event.at_s for event in events] == [NOW + PASS_S, NOW + 3 * PASS_S]
    assert [event.data["state"] for event in events] == ["open", "resolved"]
    assert events[0].data["endpoints"] == ["http://a-1:8000"]


def test_the_last_one_is_critical() -> None:
    assert lines(told([seen(0)], [in_state(0, ReplicaState.FAILED)]))[0][1:] == (
        "http://a-0:8000 is down; 0 of 1 replicas serve", "critical")  # fmt: skip


def test_a_crash_loop_is_told_once() -> None:
    failed, starts = in_state(1, ReplicaState.FAILED), in_state(1, ReplicaState.STARTING)
    assert len(told(WELL, *[[seen(0), one] for one in [failed, starts] * 5])) == 1


def test_one_that_went_down_and_up_between_two_passes() -> None:
    events = told(WELL, [seen(0), seen(1, since_s=NOW + 10)])
    assert lines(events) == [("a-1", "http://a-1:8000 went down and is ready again; 2 of 2 replicas serve", "warning")]


def test_one_that_is_gone_though_nobody_asked() -> None:
    events = told(WELL, variant([seen(0), starting(2)], requested=2))
    assert lines(events) == [
        ("a-1", "http://a-1:8000 is gone, though nobody asked for fewer; 1 of 2 replicas serve", "warning")
    ]


def test_a_loss_ends_when_another_takes_the_place() -> None:
    events = told(WELL, variant([seen(0), starting(2)], requested=2), variant([seen(0), starting(2)], requested=2),
                  [seen(0), seen(2, since_s=NOW + 40)], [seen(0), seen(2, since_s=NOW + 40)])  # fmt: skip
    assert lines(events)[1:] == [("a", "a has all its replicas again after 30 s; 2 of 2 replicas serve", "info")]
    assert (events[1].data["turn"], events[1].data["engines"]) == ("whole", ["a-1"])


def test_one_that_died_and_is_replaced_under_another_name() -> None:
    failed = in_state(1, ReplicaState.FAILED)
    events = told(WELL, [seen(0), failed], variant([seen(0), starting(2)], requested=2), [seen(0), seen(2)])
    assert [event.data["turn"] for event in events] == ["down", "whole"]
    assert events[1].message == "a has all its replicas again after 30 s; 2 of 2 replicas serve"


def test_a_decrease_is_no_loss() -> None:
    stopping = replace(seen(1), replica=replace(seen(1).replica, state=ReplicaState.STOPPING))
    assert told(WELL, variant([seen(0), stopping], requested=1), variant([seen(0)], requested=1)) == []
    assert told(WELL, variant([seen(0)], requested=1)) == [], "gone before a pass saw it stop"
    assert told([seen(0), seen(1), seen(2)], variant([seen(1), seen(2)], requested=2)) == [], "an update's surplus"


def test_one_that_falls_silent_and_answers_again() -> None:
    events = told(WELL, [seen(0), seen(1, age_s=61.0)], [seen(0), seen(1, age_s=76.0)], WELL)
    assert lines(events) == [
        ("a-1", "http://a-1:8000 does not answer: nothing heard for 61 s; 1 of 2 replicas serve", "warning"),
        ("a-1", "http://a-1:8000 answers again after 91 s; 2 of 2 replicas serve", "info"),
    ]


def test_one_that_never_answered() -> None:
    assert "nothing heard for 83 min" in told([seen(0), seen(1, age_s=None)])[0].message


def test_one_of_a_list_of_engines_that_never_answered() -> None:
    """Nobody knows since when such an engine is there: from the first pass on."""
    never = seen(1, age_s=None, since_s=0.0)
    events = told(*[[seen(0), never]] * 6)
    assert [event.message for event in events] == [
        "http://a-1:8000 does not answer: nothing heard for 75 s; 1 of 2 replicas serve"
    ]


def test_silence_is_told_sooner_where_we_ask_the_engines_ourselves() -> None:
    late = [seen(0), seen(1, age_s=11.0)]
    assert [
        len(list(Incidents(Policy(), silent_after_s=limit).of_pass(_fleet(late, 0)))) for limit in (10.0, None)
    ] == [1, 0]
    settings = [WvaSettings(interval_s=2.0), WvaSettings(), WvaSettings(stale_after_s=30.0),
                WvaSettings(source="prometheus", interval_s=2.0)]  # fmt: skip
    assert [silent_after_s(one) for one in settings] == [10.0, 60.0, 30.0, 60.0]


def test_silence_says_nothing_while_the_source_is_silent() -> None:
    assert told(WELL, [seen(0, age_s=90.0), seen(1, age_s=90.0)], WELL, read=False) == []


def test_one_that_hangs_and_computes_again() -> None:
    hung = replace(seen(1, running=12.0), still_s=31.0)
    events = told(WELL, [seen(0), hung], [seen(0), replace(hung, still_s=46.0)], WELL)
    assert lines(events) == [
        (
            "a-1",
            "http://a-1:8000 hangs: 12 requests under way, and no token for 31 s; 1 of 2 replicas serve",
            "warning",
        ),
        ("a-1", "http://a-1:8000 computes again after 61 s; 2 of 2 replicas serve", "info"),
    ]


def test_many_at_once_are_one_entry() -> None:
    many = [seen(index, age_s=70.0) for index in range(5)]
    assert lines(told(many)) == [
        (
            "a",
            "5 engines (a-0, a-1, a-2 and 2 more) do not answer: nothing heard for 70 s; 0 of 5 replicas serve",
            "critical",
        )
    ]


def test_a_controller_that_takes_over_reports_no_old_losses() -> None:
    incidents = Incidents(Policy())
    list(incidents.of_pass(_fleet(WELL, 0)))
    incidents.forget()
    assert list(incidents.of_pass(_fleet([seen(0)], 1))) == []


def test_the_loop_records_them(tmp_path: Path) -> None:
    platform = FakePlatform(spec(min_replicas=1))
    with serving(platform) as running:
        rig = Rig(running, tmp_path)
        rig.passes(2)
        platform.standing = True
        rig.passes(4)
        platform.standing = False
        rig.passes(1)
        events = [row for row in rig.rows("events") if row["kind"] == "engine"]
    assert [row["data"]["turn"] for row in events] == ["hung", "computes"]
    assert "hangs: 8 requests under way, and no token for" in events[0]["message"]
    assert [row["severity"] for row in events] == ["critical", "info"]
    assert events[0]["at_s"] - START <= 15.0 + 45.0, "three samples without a token, or four where one came late"
