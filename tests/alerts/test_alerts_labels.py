"""Labels and types of rules against the catalogue: each mistake is named, and the shipped rules make none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from promql_parser import VectorMatchCardinality, parse

from alerts.cli import SLO_FILE
from alerts.cli import alerts as command
from alerts.labels import problems

SHIPPED = SLO_FILE.parent / "generated"
TTFT = "vllm:time_to_first_token_seconds_bucket"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        pytest.param("rate(vllm:num_requests_waiting[5m])", "rate() of the gauge", id="rate of a gauge"),
        pytest.param("deriv(vllm:num_preemptions_total[5m])", "deriv() of the counter", id="slope of a counter"),
        pytest.param("sum(vllm:num_preemptions_total)", "without rate()", id="sum of a raw counter"),
        pytest.param('up{model_name="m"}', "up carries no label model_name", id="matcher on an unknown label"),
        pytest.param("sum by (tenant) (vllm:num_requests_waiting)", "carries that label", id="grouping by no label"),
        pytest.param(f"histogram_quantile(0.95, sum by (model_name) (rate({TTFT}[5m])))", "needs the label le",
                     id="quantile without le"),
        pytest.param("sum by (pod) (vllm:num_requests_waiting) / sum by (model_name) (vllm:num_requests_running)",
                     "can never match: only one side carries model_name, pod", id="sides of different labels"),
        pytest.param("vllm:num_requests_waiting and on (gpu) vllm:num_requests_running", "the left side carries no",
                     id="on a label that is missing"),
        pytest.param("up * on (pod) group_left (model_name) sum by (job) (vllm:num_requests_waiting)",
                     "the right side carries no such label", id="on a label that was aggregated away"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(expression: str, problem: str) -> None:
    found = [what for _, what in problems([{"record": "x", "expr": expression}])]
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    "expression",
    [
        'sum by (namespace, model_name) (rate(vllm:request_success_total{finished_reason="stop"}[5m]))',
        f"histogram_quantile(0.95, sum by (model_name, le) (rate({TTFT}[5m])))",
        "sum without (pod, instance) (vllm:num_requests_waiting) > 5",
        "topk(3, vllm:num_requests_waiting) > 1",
        "kube_pod_status_ready * on (pod) group_left (model_name) vllm:num_requests_waiting",
        "vllm:num_requests_waiting - vllm:num_requests_running > 1",
        'vllm:num_requests_waiting{server=""}',
        "max_over_time((sum by (pod) (vllm:num_requests_waiting))[5m:1m]) > 1",
        "absent(up)",
        "time() - fleet_wva_last_pass_timestamp_seconds > 60",
        "unheard_of{colour='red'} > 1",
        "this is no PromQL (",
    ],
)
def test_what_is_right_or_not_ours_to_judge_passes(expression: str) -> None:
    assert list(problems([{"record": "x", "expr": expression}])) == []


def test_labels_that_a_recording_drops_are_missing_later() -> None:
    rules = [
        {"alert": "A", "expr": 'kept{pod="p"} > 1'},  # before the rule that it reads
        {"record": "kept", "expr": "sum by (model_name) (vllm:num_requests_waiting)", "labels": {"slo": "x"}},
        {"alert": "B", "expr": 'kept{slo="x"} > 1', "labels": {"namespace": "n"}},
    ]
    assert list(problems(rules)) == [
        ("A", "kept carries no label pod"),
        ("A", "is about a model and drops the label namespace, by which alerts are grouped and silenced"),
    ]


def test_an_alert_keeps_its_model_and_names_only_what_it_carries() -> None:
    rule = {
        "alert": "A", "expr": "sum by (namespace) (vllm:num_requests_waiting) > 1",
        "annotations": {"summary": "{{ $labels.namespace }}", "description": "{{ $labels.pod }} waits"},
    }  # fmt: skip
    assert [what for _, what in problems([rule])] == [
        "is about a model and drops the label model_name, by which alerts are grouped and silenced",
        "its text names the label pod, which it does not carry",
    ]


def test_the_shipped_rules_make_no_mistake() -> None:
    files = sorted(SHIPPED.glob("*.rules.yaml"))
    rules = [rule for path in files for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    assert len(rules) > 90
    assert list(problems(rules)) == []


def test_check_says_them(tmp_path: Path) -> None:
    rule = {"alert": "Mine", "expr": "increase(vllm:num_requests_waiting[5m]) > 0"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}))
    result = CliRunner().invoke(command, ["check", str(tmp_path)])
    assert result.exit_code == 2
    assert "Mine: increase() of the gauge vllm:num_requests_waiting means nothing" in result.output


def test_the_parser_tells_many_to_one_apart() -> None:
    assert parse("a * on (x) group_left (y) b").modifier.card == VectorMatchCardinality.ManyToOne
