"""Recorded history decided again: the same policy decides the same, another one differs where it should."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fleet.cli import fleet
from fleet.errors import FleetError
from fleet.history import History, RequestOutcome, RequestRecord
from fleet.types import EngineSample, FleetSnapshot, Replica, ReplicaObservation, VariantObservation, VariantSpec
from wva.decide import decide
from wva.record import Recorder
from wva.replay import Change, Comparison, compare, snapshots, specs_of
from wva.types import Policy, WvaState

START_S, STEP_S, PASSES = 1_800_000_000.0, 15.0, 120
POLICY = Policy(scale_down_stabilisation_s=60.0)
SPEC = VariantSpec(name="a", model="toy", accelerator="h100_sxm", cost_per_hour=4.0, min_replicas=1, max_replicas=6)


def _waves() -> Iterator[FleetSnapshot]:
    """Load that rises and falls twice; replicas follow what was asked for."""
    replicas = 1
    for index in range(PASSES):
        at_s = START_S + index * STEP_S
        load = (1 - math.cos(index / PASSES * 4 * math.pi)) / 2 * 4
        share = min(load / replicas, 1.0)
        seen = tuple(
            ReplicaObservation(
                replica=Replica(name=f"a-{n}", url=f"http://a{n}", variant="a"), age_s=1.0, generation_tps=900 * share,
                sample=EngineSample(at_s=at_s - 1.0, waiting=20.0 * max(load / replicas - 1, 0.0), running=50 * share,
                                    kv_utilisation=share),
            ) for n in range(replicas)
        )  # fmt: skip
        snapshot = FleetSnapshot(
            at_s=at_s, variants=(VariantObservation(spec=SPEC, requested=replicas, replicas=seen),)
        )
        replicas = yield snapshot  # type: ignore[misc]


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Half an hour as the controller records it."""
    kept, recorder, state = History(f"sqlite:///{tmp_path}/h.sqlite3"), Recorder(30.0), WvaState()
    waves = _waves()
    snapshot = next(waves)
    while True:
        decisions, state = decide(snapshot, [SPEC], state, snapshot.at_s, POLICY)
        kept.add(list(recorder.rows(snapshot, decisions, ())))
        try:
            snapshot = waves.send(decisions[0].desired)  # type: ignore[attr-defined]
        except StopIteration:
            break
    kept.add([RequestRecord(at_s=START_S + n * 3, request_id=str(n), model="toy", outcome=RequestOutcome.OK, status=200,
                            input_tokens=100, output_tokens=50, ttft_s=0.1 if n % 4 else 9.0, tpot_s=0.02, e2e_s=1.1)
              for n in range(600)])  # fmt: skip
    return kept


def _compared(history: History, change: Change) -> Comparison:
    return compare(history.read("samples"), history.read("requests"), history.read("decisions"), change)


def test_the_same_policy_decides_the_same(history):
    found = _compared(history, Change(policy=POLICY))
    (course,) = found.courses
    assert len(course.at_s) == PASSES
    assert max(course.recorded) > 2, "there was something to decide"
    assert course.differing == 0
    assert found.cost[0] == found.cost[1] > 0


def test_a_lower_threshold_wants_more_and_a_price_is_paid(history):
    found = _compared(history, Change(policy=POLICY, thresholds=(0.4, 0.1), cost_per_hour={"a": 8.0}))
    (course,) = found.courses
    assert course.differing > 0
    assert sum(course.replayed) > sum(course.recorded)
    hours = course.replica_hours(course.recorded)
    assert found.cost[0] == pytest.approx(8.0 * hours)


def test_the_recorded_requests_are_judged_by_the_changed_targets(history):
    assert _compared(history, Change(policy=POLICY, slo_ttft_s=1.0, slo_tpot_s=0.1)).attainment == pytest.approx(0.75)
    assert _compared(history, Change(policy=POLICY, slo_ttft_s=10.0, slo_tpot_s=0.1)).attainment == 1.0


def test_specs_come_from_the_rows_and_traffic_from_the_requests(history):
    specs = specs_of(history.read("decisions"))
    assert (specs["a"].cost_per_hour, specs["a"].min_replicas, specs["a"].max_replicas) == (4.0, 1, 6)
    found = list(snapshots(history.read("samples"), history.read("requests"), specs))
    traffic = [one.traffic["toy"] for one in found]
    arrived = [one.arrived_total for one in traffic]
    assert arrived == sorted(arrived)
    assert traffic[-1].arrived_total == pytest.approx(600, abs=5)
    assert all(one.in_flight == one.arrived_total - one.finished_total >= 0 for one in traffic)
    assert traffic[-1].ttft.count == traffic[-1].finished_total


def test_a_replica_that_went_silent_is_missing_not_idle(history):
    samples = [row for row in history.read("samples") if row["endpoint"] != "http://a0"]
    found = list(snapshots(samples, [], specs_of(history.read("decisions"))))
    assert all(any(seen.sample is None for seen in one.variants[0].replicas) for one in found)


def _run(history: History, *arguments: str) -> Any:
    return CliRunner().invoke(fleet, ["wva", "replay", "--history-url", history.url, "--hours", "1000000", *arguments])


def test_the_command_shows_what_would_have_differed(history):
    found = json.loads(_run(history, "--up", "0.4", "--down", "0.1", "--json").output)
    assert found["variants"]["a"]["differing"] > 0
    assert found["cost_replayed_usd"] > found["cost_recorded_usd"]
    assert "differing" in _run(history, "--analyzer", "v1").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--up", "0.3", "--down", "0.5"], "is not below", id="thresholds"),
        pytest.param(["--analyzer", "magic"], "WVA_ANALYZER", id="analyzer"),
        pytest.param(["--cost", "a=cheap"], "VARIANT=USD", id="cost"),
    ],
)
def test_bad_questions_get_one_line(history, arguments, words):
    answer = _run(history, *arguments)
    assert isinstance(answer.exception, FleetError)
    assert words in str(answer.exception)


def test_an_empty_history_says_so(tmp_path):
    answer = _run(History(f"sqlite:///{tmp_path}/empty.sqlite3"))
    assert isinstance(answer.exception, FleetError)
    assert "no decision" in str(answer.exception)
