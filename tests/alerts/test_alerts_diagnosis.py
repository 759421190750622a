"""Trees, evidence from the history, grades, and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from alerts.cli import alerts as command
from alerts.diagnosis import UNDECIDED, Answer, diagnose, outline, questions
from alerts.evidence import Recorded, evidence
from alerts.grades import SCALES, Grade
from alerts.recorded import parse_time
from alerts.trees import EVIDENCE, TREES
from fleet import signals as s
from fleet.errors import ConfigError
from fleet.history import Event, History, RequestOutcome, RequestRecord, SignalSample
from fleet.types import Decision, Direction, Reason


@pytest.mark.parametrize(
    ("tree", "known", "cause"),
    [
        pytest.param("ttft_high", {"hit_ratio": 0.2, "hit_ratio_before": 0.8}, "the prefix hit rate fell", id="hits"),
        pytest.param("ttft_high", {"hit_ratio": 0.8, "hit_ratio_before": 0.8, "queue_imbalance": 40.0},
                     "one endpoint is overloaded while others have room", id="imbalance"),
        pytest.param("ttft_high", {"queue_imbalance": 1.0, "queue_growth": 20.0},
                     "more arrives than the replicas take", id="queue"),
        pytest.param("ttft_high", {"queue_growth": 0.0, "queue_mean": 0.1, "gpu_active": 0.2},
                     "the GPUs wait for something else", id="idle GPUs"),
        pytest.param("ttft_high", {"queue_growth": 0.0, "queue_mean": 0.1, "gpu_active": 0.9},
                     "a hot model or one slow endpoint", id="none of these"),
        pytest.param("throughput_low", {"request_rps": 1.0, "request_rps_before": 5.0}, "less is asked for", id="ebb"),
        pytest.param("throughput_low", {"kv_max": 0.99}, "the KV cache is full: requests wait or are preempted",
                     id="eviction"),
        pytest.param("throughput_low", {"kv_max": 0.5, "network_share": 0.95},
                     "prefill and decode contend for the network", id="network"),
        pytest.param("throughput_low", {"kv_max": 0.5, "queue_total": 300.0}, "over capacity", id="over capacity"),
        pytest.param("throughput_low", {"queue_total": 3.0, "gpu_active": 0.3}, "batches are too small", id="batch"),
        pytest.param("hit_rate_low", {"input_tokens": 900.0, "input_tokens_before": 300.0}, "the workload changed",
                     id="workload"),
        pytest.param("hit_rate_low", {"indexer_up": 0.0}, "the cache index is not healthy", id="indexer"),
        pytest.param("hit_rate_low", {"indexer_up": 1.0, "hash_block_size": 3.0}, "hashBlockSize is too small",
                     id="small blocks"),
        pytest.param("hit_rate_low", {"kv_events_lost": 4.0, "hit_ratio_before": 0.8}, "the cache index missed events",
                     id="lost events"),
        pytest.param("kv_events", {"kv_event_lag_s": 3.0, "kv_events_lost": 4.0, "kv_event_gaps": 2.0},
                     "the reader of KV events cannot keep up", id="late events"),
        pytest.param("kv_events", {"kv_event_lag_s": 0.1, "kv_events_lost": 4.0, "kv_event_gaps": 2.0},
                     "what was missed cannot be played back", id="events given up"),
        pytest.param("kv_events", {"kv_event_lag_s": 0.1, "kv_events_lost": 0.0, "kv_event_gaps": 9.0},
                     "messages are lost on the way and played back", id="gaps that are filled"),
        pytest.param("kv_events", {"kv_events_lost": 0.0, "kv_event_gaps": 0.0}, "KV events arrive whole",
                     id="no gap"),
        pytest.param("scheduling_slow", {"index_lookup_s": 0.02}, "the cache index is slow", id="slow index"),
        pytest.param("scheduling_slow", {"router_cpu": 0.95}, "the router is starved", id="CPU"),
        pytest.param("load_uneven", {"queue_imbalance": 50.0, "prefix_to_load_weight": 10.0},
                     "the prefix weight is too strong", id="100 to 10"),
        pytest.param("load_uneven", {"queue_imbalance": 50.0, "prefix_to_load_weight": 1.0, "hit_ratio": 0.9},
                     "that endpoint really has the cache", id="hot prefix"),
        pytest.param("not_scaling", {"decision_age_s": 2.0, "at_max": 1.0}, "max_replicas is reached", id="at max"),
        pytest.param("not_scaling", {"held_blind": 1.0}, "wva is blind and holds", id="blind"),
        pytest.param("errors_high", {"error_ratio": 0.1, "rejected_ratio": 0.09}, "no endpoint is left to pick",
                     id="refused"),
        pytest.param("errors_high", {"error_ratio": 0.0}, "nothing fails now", id="no failure"),
        pytest.param("errors_high", {"error_ratio": 0.1, "rejected_ratio": 0.0, "one_endpoint_error_share": 0.9},
                     "one engine fails", id="one engine"),
        pytest.param("predictor_off", {"requests_recorded": 5.0}, "too little to learn from", id="cold"),
        pytest.param("deployment", {"out_of_memory": 1.0}, "out of memory", id="killed"),
    ],
)  # fmt: skip
def test_trees_find_the_cause(tree: str, known: dict[str, float], cause: str) -> None:
    assert diagnose(TREES[tree], known).cause == cause


def test_the_path_shows_question_answer_and_values() -> None:
    found = diagnose(TREES["ttft_high"], {"hit_ratio": 0.2, "hit_ratio_before": 0.8})
    (step,) = found.path
    assert step.answer is Answer.YES
    assert step.evidence == (("hit_ratio", 0.2), ("hit_ratio_before", 0.8))
    assert found.unknown == ()


@pytest.mark.parametrize("name", TREES)
def test_without_evidence_no_tree_draws_a_conclusion(name: str) -> None:
    found = diagnose(TREES[name], {})
    assert found.cause == UNDECIDED.cause
    assert found.unknown


@given(st.dictionaries(st.sampled_from(sorted(EVIDENCE)), st.floats(0, 1e6)))
def test_every_walk_ends_with_an_advice(known: dict[str, float]) -> None:
    for tree in TREES.values():
        assert diagnose(tree, known).advice


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES.keys())
def test_trees_ask_only_for_evidence_that_is_defined(tree: Any) -> None:
    for question in questions(tree.root):
        assert question.fact in EVIDENCE
        assert question.other in {"", *EVIDENCE}
        assert question.text in outline(tree)


def test_evidence_that_no_tree_asks_for_is_not_defined() -> None:
    asked = {name for tree in TREES.values() for q in questions(tree.root) for name in (q.fact, q.other) if name}
    # Shown to people and programs beside the path:
    beside = {"tpot_p95_s", "output_tps_before", "saturation"}
    assert set(EVIDENCE) - asked == beside


# -- evidence ------------------------------------------------------------------------------------------------------

NOW_S = 10_000.0


def request(age_s: float, **more: Any) -> RequestRecord:
    given: dict[str, Any] = {
        "at_s": NOW_S - age_s, "request_id": f"r{age_s}", "model": "m", "outcome": RequestOutcome.OK, "status": 200,
        "endpoint": "http://a", "input_tokens": 100, "output_tokens": 50, "cached_tokens": 80, "ttft_s": 0.1,
        "tpot_s": 0.02, "predicted_ttft_s": 0.15,
    }  # fmt: skip
    return RequestRecord(**given | more)


def sample(age_s: float, signal: str, value: float, endpoint: str = "", variant: str = "v") -> SignalSample:
    return SignalSample(at_s=NOW_S - age_s, signal=signal, value=value, model="m", variant=variant, endpoint=endpoint)


@pytest.fixture
def history(tmp_path: Path) -> str:
    """Half an hour of calm, then five minutes in which the queue grew."""
    url = f"sqlite:///{tmp_path / 'h.sqlite3'}"
    rows: list[Any] = [request(age) for age in range(400, 2_000, 100)]
    rows += [request(age, ttft_s=2.0, cached_tokens=79) for age in range(10, 290, 10)]
    rows += [request(5, outcome=RequestOutcome.REJECTED, status=503, endpoint="", ttft_s=None, tpot_s=None)]
    for age, queue in ((1_000, 0.0), (500, 0.0), (200, 30.0), (100, 40.0)):
        rows += [sample(age, s.WAITING.name, queue, endpoint) for endpoint in ("http://a", "http://b")]
        rows.append(sample(age, s.KV_UTILISATION.name, 0.8, "http://a"))
    rows += [sample(50, s.WVA_CURRENT.name, 1.0), sample(50, s.WVA_CURRENT.name, 2.0, variant="w"),
             sample(50, s.WVA_DESIRED.name, 2.0), sample(50, s.WVA_SATURATION.name, 0.9)]  # fmt: skip
    rows.append(Decision(at_s=NOW_S - 60, variant="v", namespace="default", model="m", accelerator="h100_sxm",
                         current=1, desired=1, direction=Direction.HOLD, reason=Reason.AT_MAX, detail=""))  # fmt: skip
    for age, state in ((900, "firing"), (800, "resolved"), (120, "firing")):
        rows.append(
            Event(
                at_s=NOW_S - age, kind="alert", subject="QueueBacklog", message="", data={"state": state, "model": "m"}
            )
        )
    History(url).add(rows)
    return url


def test_evidence_is_read_from_the_history(history: str) -> None:
    rows = {table: History(history).read(table, until_s=NOW_S) for table in ("requests", "samples", "decisions")}
    found = evidence(Recorded(**rows), at_s=NOW_S, window_s=300.0)
    expected = {
        "ttft_p95_s": 2.0, "ttft_p95_before_s": 0.1, "hit_ratio": 0.79, "hit_ratio_before": 0.8, "queue_mean": 35.0,
        "queue_growth": 35.0, "queue_total": 70.0, "queue_max": 35.0, "queue_imbalance": 35 / 36, "kv_max": 0.8,
        "replicas_ready": 3.0, "replicas_desired": 2.0, "saturation": 0.9, "at_max": 1.0, "held_blind": 0.0,
        "decision_age_s": 50.0, "error_ratio": 1 / 29, "rejected_ratio": 1 / 29, "request_rps": 29 / 300,
        "prediction_error": 0.925, "requests_recorded": 45.0, "request_rps_before": 16 / 1_600,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == pytest.approx(expected)
    assert set(found) <= set(EVIDENCE)


def test_a_short_history_is_not_taken_for_little_traffic() -> None:
    rows = [dataclasses.asdict(request(age)) for age in range(1, 401)]
    found = evidence(Recorded(requests=rows), at_s=NOW_S, window_s=300.0)
    assert found["request_rps_before"] == pytest.approx(1.0, rel=0.02)


def test_an_empty_history_knows_nothing_but_that() -> None:
    found = evidence(Recorded(), at_s=NOW_S, window_s=300.0)
    assert {name: value for name, value in found.items() if value is not None} == {"requests_recorded": 0.0}


def test_the_command_explains_the_alert_that_fires(history: str) -> None:
    arguments = ["diagnose", "--history-url", history, "--at", str(NOW_S), "--model", "m"]
    told = CliRunner().invoke(command, arguments)
    assert told.exit_code == 0, told.output
    assert "TTFT is suddenly high? (alert QueueBacklog) m" in told.output
    assert "=> more arrives than the replicas take" in told.output
    assert "requests gained in the queue, mean of an endpoint: 35 requests" in told.output
    document = json.loads(CliRunner().invoke(command, [*arguments, "--json", "--alert", "WVAAtMax"]).output)
    assert document["cause"] == "max_replicas is reached"
    assert document["evidence"]["at_max"] == 1.0


def test_supplied_evidence_counts(history: str) -> None:
    arguments = ["diagnose", "--history-url", history, "--at", str(NOW_S), "--tree", "scheduling_slow"]
    assert "the router is starved" in CliRunner().invoke(command, [*arguments, "--set", "router_cpu=0.9"]).output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["--tree", "nope"], "unknown tree 'nope'", id="tree"),
        pytest.param(["--alert", "Nope"], "unknown alert 'Nope'", id="alert"),
        pytest.param(["--at", "yesterday"], "'yesterday' is no time", id="time"),
        pytest.param(["--set", "moon=1"], "unknown evidence 'moon'", id="evidence"),
        pytest.param(["--set", "router_cpu=high"], "'high' is no number", id="value"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(command, ["diagnose", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert line in str(result.exception)


@pytest.mark.parametrize(
    ("text", "at_s"),
    [
        ("-10m", 9_400.0),
        ("-2h", 2_800.0),
        ("123.5", 123.5),
        ("1970-01-01T01:00", 3_600.0),
        ("1970-01-01T01:00+01:00", 0.0),
    ],
)
def test_times(text: str, at_s: float) -> None:
    assert parse_time(text, now_s=NOW_S) == at_s


# -- grades --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "grade"),
    [
        ("ttft", 0.99, Grade.GOOD), ("ttft", 1.0, Grade.ACCEPTABLE), ("ttft", 4.0, Grade.WEAK),
        ("ttft", 5.1, Grade.TO_IMPROVE), ("tpot", 0.049, Grade.GOOD), ("tpot", 0.08, Grade.ACCEPTABLE),
        ("tpot", 0.15, Grade.WEAK), ("tpot", 0.21, Grade.TO_IMPROVE), ("hit_ratio", 0.31, Grade.GOOD),
        ("hit_ratio", 0.2, Grade.ACCEPTABLE), ("hit_ratio", 0.05, Grade.TO_IMPROVE),
        ("gpu_utilisation", 0.81, Grade.GOOD), ("gpu_utilisation", 0.61, Grade.ACCEPTABLE),
        ("gpu_utilisation", 0.5, Grade.WEAK), ("gpu_utilisation", 0.39, Grade.TO_IMPROVE),
        ("ttft", None, Grade.UNKNOWN), ("ttft", float("nan"), Grade.UNKNOWN),
    ],
)  # fmt: skip
def test_grades(name: str, value: float | None, grade: Grade) -> None:
    assert SCALES[name].grade(value) is grade
