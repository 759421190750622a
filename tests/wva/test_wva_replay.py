"""Recorded history decided again: the same policy decides the same, another one differs where it should."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fleet.cli import fleet
from fleet.errors import FleetError
from fleet.hardware import GPUS
from fleet.history import History, RequestOutcome, RequestRecord
from fleet.types import (
    EngineSample,
    FittedLaw,
    FleetSnapshot,
    Replica,
    ReplicaObservation,
    ReplicaState,
    Role,
    VariantObservation,
    VariantSpec,
)
from wva.decide import decide
from wva.record import Recorder
from wva.recorded import spec_inputs
from wva.replay import Arrivals, Change, Comparison, compare, snapshots, specs_of
from wva.types import Policy, WvaState

START_S, STEP_S, PASSES = 1_800_000_000.0, 15.0, 120
STARTUP_S = 40.0
POLICY = Policy(scale_down_stabilisation_s=60.0)
SPEC = VariantSpec(name="a", model="toy", accelerator="h100_sxm", cost_per_hour=4.0, min_replicas=1, max_replicas=6,
                   accelerator_count=2, priority=2.0, slo_ttft_s=1.5, slo_tpot_s=0.08, startup_s=45.0,
                   retention_s=900.0, saturation_threshold=0.75, scale_down_threshold=0.25)  # fmt: skip
ANALYZERS = ("saturation", "v1", "v2", "slo")


def _requests() -> list[RequestRecord]:
    """Arrivals that rise and fall twice."""
    found, at_s = [], START_S
    while at_s < START_S + PASSES * STEP_S:
        number = len(found)
        found.append(RequestRecord(at_s=at_s, request_id=str(number), model="toy", outcome=RequestOutcome.OK,
                                   status=200, input_tokens=100 + number % 50, output_tokens=50,
                                   ttft_s=0.1 if number % 4 else 9.0, tpot_s=0.02, e2e_s=6.0))  # fmt: skip
        at_s += 1.0 / (0.4 + 16.0 * _load(at_s))
    return found


def _load(at_s: float) -> float:
    """0..1."""
    return (1 - math.cos((at_s - START_S) / (PASSES * STEP_S) * 4 * math.pi)) / 2


class Waves:
    """Load that rises and falls twice over replicas that start when they are asked for; sees it every 15 s.

    Every third reading of an engine is the one before it: it is scraped less often than it is looked at.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.arrivals, self.began = Arrivals(rows), {0: START_S - 500.0}
        self.read: dict[int, tuple[float, ReplicaObservation]] = {}

    def scale(self, replicas: int, at_s: float) -> None:
        self.began = dict(list(self.began.items())[:replicas])
        while len(self.began) < replicas:
            self.began[max(self.began, default=-1) + 1] = at_s

    def see(self, index: int) -> FleetSnapshot:
        at_s = START_S + index * STEP_S
        ready = [n for n, begun in self.began.items() if at_s - begun >= STARTUP_S]
        load, queue = 4 * _load(at_s) / max(len(ready), 1), {"toy": float(index % 3)}
        traffic = self.arrivals.until(at_s)
        return FleetSnapshot(
            at_s=at_s, variants=(VariantObservation(spec=SPEC, requested=len(self.began), replicas=tuple(
                self._engine(n, load, index, at_s) if n in ready else self._starting(n) for n in self.began)),),
            router_queue=queue, router_ages_s={"toy": 3.0}, router_age_s=3.0,
            traffic={"toy": traffic} if traffic else {},
        )  # fmt: skip

    def _starting(self, n: int) -> ReplicaObservation:
        return ReplicaObservation(replica=Replica(name=f"http://a{n}", url=f"http://a{n}", variant="a",
                                                  state=ReplicaState.STARTING, since_s=self.began[n] + 2.0,
                                                  created_s=self.began[n]))  # fmt: skip

    def _engine(self, n: int, load: float, index: int, at_s: float) -> ReplicaObservation:
        if n in self.read and index % 3 == 2:
            read_s, old = self.read[n]
            return replace(old, age_s=at_s - read_s)
        share = min(load, 1.0)
        sample = EngineSample(at_s=at_s - 1.0, waiting=20.0 * max(load - 1, 0.0), running=25 * share,
                              kv_utilisation=0.95 * share, kv_capacity_tokens=50_000.0)  # fmt: skip
        replica = Replica(name=f"http://a{n}", url=f"http://a{n}", variant="a", since_s=self.began[n] + STARTUP_S)
        seen = ReplicaObservation(replica=replica, sample=sample, age_s=1.0, generation_tps=900 * share,
                                  prompt_tps=1800 * share, request_rps=4.2 * share)  # fmt: skip
        self.read[n] = at_s - 1.0, seen
        return seen


def _recorded(
    folder: Path, policy: Policy, *, fitted: Callable[[int], Mapping[str, FittedLaw]] = lambda _index: {}
) -> History:  # fmt: skip
    """Half an hour as the controller records it; the predictor tells laws by pass."""
    kept, recorder, state = History(f"sqlite:///{folder}/h.sqlite3"), Recorder(30.0), WvaState()
    kept.add(_requests())
    waves = Waves(kept.read("requests", limit=1_000_000))
    for index in range(PASSES):
        snapshot = replace(waves.see(index), fitted=fitted(index))
        decisions, state = decide(snapshot, [SPEC], state, snapshot.at_s, policy)
        kept.add(list(recorder.rows(snapshot, decisions, ())))
        waves.scale(decisions[0].desired, snapshot.at_s)
    return kept


@pytest.fixture
def history(tmp_path: Path) -> History:
    """By the analyzer ``saturation``."""
    return _recorded(tmp_path, POLICY)


def _compared(history: History, change: Change) -> Comparison:
    return compare(*(history.read(name, limit=1_000_000) for name in ("samples", "requests", "decisions")), change)


@pytest.mark.parametrize("analyzer", ANALYZERS)
def test_the_same_policy_decides_the_same(tmp_path, analyzer):
    policy = replace(POLICY, analyzer=analyzer)
    found = _compared(_recorded(tmp_path, policy), Change(policy=policy))
    (course,) = found.courses
    assert len(course.at_s) == PASSES
    assert max(course.recorded) > 2, "there was something to decide"
    assert course.differing == 0
    assert found.cost[0] == found.cost[1] > 0


def test_the_predictors_law_is_there_in_a_replay(tmp_path):
    first = FittedLaw(step_s=0.01, request_s=0.001, context_token_s=1e-7, prompt_token_s=1e-5, prompt_square_s=0.0,
                      uncached_tokens=120.0, output_tokens=50.0, rows=200, error=0.1, in_flight_most=20.0,
                      fitted_at_s=START_S)  # fmt: skip
    second = replace(first, rows=900, request_s=0.0015, fitted_at_s=START_S + 900.0)
    policy = replace(POLICY, analyzer="slo")
    kept = _recorded(
        tmp_path, policy, fitted=lambda index: {} if index < 10 else {"a": first if index < 80 else second}
    )
    samples = kept.read("samples", limit=1_000_000)
    found = list(snapshots(samples, [], specs_of(kept.read("decisions"))))
    assert [one.fitted for one in found] == [{}] * 10 + [{"a": first}] * 70 + [{"a": second}] * (PASSES - 80)
    assert sum(row["signal"] == "law_step_s" for row in samples) == 3, "when it changed, and after a quarter of an hour"
    replayed = _compared(kept, Change(policy=policy))
    assert replayed.decisions[-1].signals["prior_fitted_rows"] == second.rows
    assert replayed.courses[0].differing == 0


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


@pytest.mark.parametrize("analyzer", ANALYZERS)
@pytest.mark.parametrize("role", list(Role))
def test_a_spec_comes_back_whole_from_what_any_analyzer_recorded(analyzer, role):
    wanted = replace(SPEC, role=role)
    seen = Waves([]).see(3)
    seen = replace(seen, variants=tuple(replace(one, spec=wanted) for one in seen.variants), router_queue={})
    decisions, _ = decide(seen, [wanted], WvaState(), seen.at_s, replace(POLICY, analyzer=analyzer))
    assert specs_of([asdict(one) for one in decisions]) == {"a": wanted}


def test_rows_of_an_older_version_give_what_they_have():
    row = {"variant": "a", "model": "toy", "accelerator": "h100_sxm", "namespace": "default", "signals": {"ready": 1.0}}
    found = specs_of([row])["a"]
    assert (found.cost_per_hour, found.min_replicas, found.max_replicas) == (GPUS["h100_sxm"].price_per_hour, 0, 100)
    assert (found.role, found.slo_ttft_s, found.accelerator_count) == (Role.BOTH, None, 1)


def test_a_minimum_of_zero_and_a_free_replica_are_told():
    spec = replace(SPEC, min_replicas=0, cost_per_hour=0.0)
    row = {"variant": "a", "model": "toy", "accelerator": "h100_sxm", "namespace": "default",
           "signals": spec_inputs(spec)}  # fmt: skip
    assert specs_of([row])["a"] == spec


def test_queues_and_traffic_come_back_from_the_rows(history):
    specs = specs_of(history.read("decisions"))
    requests = history.read("requests", limit=1_000_000)
    found = list(snapshots(history.read("samples", limit=1_000_000), requests, specs))
    assert [one.router_queue for one in found[:4]] == [{"toy": float(n % 3)} for n in range(4)]
    assert found[0].router_age_of("toy") == 3.0
    traffic = [one.traffic["toy"] for one in found]
    arrived = [one.arrived_total for one in traffic]
    assert arrived == sorted(arrived)
    assert traffic[-1].arrived_total == pytest.approx(len(requests), rel=0.01)
    assert all(one.in_flight == one.arrived_total - one.finished_total >= 0 for one in traffic)
    assert traffic[-1].ttft.count == traffic[-1].finished_total


def test_a_replica_that_went_silent_is_missing_not_idle(history):
    samples = [row for row in history.read("samples", limit=1_000_000) if row["endpoint"] != "http://a0"]
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
