"""The generated rules: drift, names, promises, promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from alerts import buckets
from alerts.algebra import Number, Over, Select, duration
from alerts.burn import BURNS, burn_alerts, burn_recordings, entries
from alerts.cli import SLO_FILE
from alerts.cli import alerts as alerts_command
from alerts.lint import series_in, unknown_series
from alerts.model import Links, Rulebook, Severity
from alerts.render import rule_files
from alerts.rules import rulebook
from alerts.runbooks import runbooks
from alerts.trees import TREES
from fleet import signals as s
from fleet.errors import ConfigError
from fleet.settings import load_slos
from fleet.slo import DEFAULT_SLOS, parse_slos

FOLDER = SLO_FILE.parent
PROMTESTS = sorted((FOLDER / "promtests").glob("*.yaml"))
NAMES_OF_THE_DOCUMENTS = {
    "HighTTFT", "KVMemoryPressure", "QueueBacklog", "LowCacheHitRate", "EPPHighLatency", "EPPPodDown",
}  # fmt: skip
PSEUDO_NAMES = {
    "vllm_kv_cache_utilization", "vllm_queue_depth", "vllm_cache_hit_total", "kv_cache_hit_total",
    "epp_scheduling_duration_seconds_bucket",
}  # fmt: skip


@pytest.fixture(scope="module")
def rules() -> Rulebook:
    return rulebook(load_slos(SLO_FILE))


def committed(folder: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in (FOLDER / folder).iterdir() if path.is_file()}


def test_the_shipped_file_says_what_is_built_in() -> None:
    assert load_slos(SLO_FILE) == DEFAULT_SLOS


def test_generated_rules_and_runbooks_are_up_to_date(rules: Rulebook) -> None:
    assert committed("generated") == dict(rule_files(rules, Links(), source=SLO_FILE.name))
    assert committed("runbooks") == dict(runbooks(rules))


def test_every_series_is_in_the_catalogue_or_recorded_by_us(rules: Rulebook) -> None:
    expressions = [rule.expr.promql() for rule in (*rules.recordings, *rules.alerts)]
    assert [name for e in expressions for name in unknown_series(e, rules.recorded_names)] == []


def test_a_recording_only_reads_what_was_recorded_before_it(rules: Rulebook) -> None:
    known: set[str] = set()
    for rule in rules.recordings:
        assert unknown_series(rule.expr.promql(), known) == ()
        known.add(rule.signal.name)


def test_names_that_the_documents_use_are_there(rules: Rulebook) -> None:
    assert {alert.name for alert in rules.alerts} >= NAMES_OF_THE_DOCUMENTS
    assert rules.recorded_names >= PSEUDO_NAMES


def test_every_layer_pages_and_every_alert_says_what_to_do(rules: Rulebook) -> None:
    assert {int(a.layer) for a in rules.alerts if a.severity is Severity.CRITICAL} == {1, 2, 3, 4}
    assert len({alert.key + str(sorted(alert.labels.items())) for alert in rules.alerts}) == len(rules.alerts)
    for alert in rules.alerts:
        assert "<value:" in alert.description or alert.name == "ModelVanished", alert.name  # gone has no figure
        assert alert.check and alert.do and alert.means, alert.name
        assert alert.tree in {"", *TREES}, alert.name


def test_each_label_in_a_sentence_is_one_that_the_alert_can_carry(rules: Rulebook) -> None:
    """A label of the condition or one the rule adds: a sentence with a hole in it tells nobody which pod it is."""
    scraped = {"namespace", "pod", "instance", "job", "container", "Hostname", "modelName", "gpu"}
    for alert in rules.alerts:
        marks = set(re.findall(r"<([a-zA-Z_]+)(?::[a-z]+)?>", alert.summary + alert.description)) - {"value"}
        known = {label for part in alert.expr.walk() if isinstance(part, Select | Over) for label in part.signal.labels}
        assert marks <= known | scraped | set(alert.static_labels), alert.name


@pytest.mark.parametrize(
    ("index", "limits"),
    [
        pytest.param(0, ["0.72", "0.3", "0.15", "0.05"], id="95 percent under 0.2 s: 72, 30, 15, 5 percent"),
        pytest.param(2, ["0.0144", "0.006", "0.003", "0.001"], id="99.9 percent success: 1.44, 0.6, 0.3, 0.1 percent"),
    ],
)
def test_burn_limits_follow_from_objective_and_budget(index: int, limits: list[str]) -> None:
    found = list(burn_alerts(DEFAULT_SLOS))[index * len(BURNS) : (index + 1) * len(BURNS)]
    assert [sorted(set(re.findall(r"> ([0-9.]+)\)", a.expr.promql())) - {"0.1"}) for a in found] == [
        [x] for x in limits
    ]
    assert [alert.severity for alert in found] == ["critical", "critical", "warning", "warning"]


def test_a_shorter_budget_window_burns_faster() -> None:
    week = parse_slos({"default": {"window": "7d"}})
    first = next(iter(burn_alerts(week)))
    assert "> 0.168" in first.expr.promql()  # 2 % of 7 days within an hour is a factor of 3.36


def test_a_limit_above_one_hundred_percent_is_left_out() -> None:
    loose = parse_slos(
        {"default": {"ttft": {"threshold_s": 0.2, "objective": 0.9}, "tpot": None, "success_rate": None}}
    )
    assert [alert.labels["long_window"] for alert in burn_alerts(loose)] == ["6h", "1d", "3d"]


def test_a_window_that_is_no_duration_is_refused() -> None:
    with pytest.raises(ConfigError, match="'soon' is no duration"):
        list(burn_alerts(parse_slos({"default": {"window": "soon"}})))


def test_models_with_promises_of_their_own_are_taken_out_of_the_default() -> None:
    book = parse_slos({"models": {"a.b/c": {"ttft": {"threshold_s": 1.0}}, "d": {"success_rate": None}}})
    assert [(e.label, e.models) for e in entries(book)] == [
        ("default", (("model_name", "!~a\\.b/c|d"),)),
        ("a.b/c", (("model_name", "a.b/c"),)),
        ("d", (("model_name", "d"),)),
    ]
    expressions = {(r.signal.name, r.labels["slo"]): r.expr.promql() for r in burn_recordings(book)}
    assert 'le=~"1([.]0)?"' in expressions["model:ttft_good_rate:5m", "a.b/c"]
    assert 'model_name!~"a\\\\.b/c|d"' in expressions["model:ttft_good_rate:5m", "default"]
    assert ("model:success_requests_rate:5m", "d") not in expressions


def test_no_promise_no_rule() -> None:
    none = parse_slos({"default": {"ttft": None, "tpot": None, "success_rate": None, "output_tps": None}})
    names = {alert.name for alert in rulebook(none).alerts}
    assert not names & {"HighTTFT", "HighTPOT", "TTFTErrorBudgetBurn", "SuccessErrorBudgetBurn", "ThroughputLow"}


def test_the_rate_of_a_gauge_is_refused() -> None:
    with pytest.raises(ValueError, match="is a gauge"):
        Over("rate", s.WAITING, 300)


@pytest.mark.parametrize(
    ("seconds", "text"), [(300, "5m"), (5_400, "90m"), (86_400, "1d"), (0.5, "500ms"), (30, "30s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("expression", "series"),
    [
        pytest.param('rate(a_total{b="c d"}[5m])', {"a_total"}, id="labels and ranges are no series"),
        pytest.param("sum by (x, y) (a) / on (z) group_left (w) b", {"a", "b"}, id="groupings are no series"),
        pytest.param("a offset 15m unless on (model) b", {"a", "b"}, id="offsets"),
        pytest.param("time() - vllm:x > 1e3", {"vllm:x"}, id="functions and numbers"),
        pytest.param('{__name__=~"a|b"}', {"a", "b"}, id="names in a matcher"),
    ],
)
def test_series_are_found_in_promql(expression: str, series: set[str]) -> None:
    assert set(series_in(expression)) == series


# -- bucket bounds -------------------------------------------------------------------------------------------------


def test_default_promises_can_be_measured() -> None:
    buckets.check(DEFAULT_SLOS)


def test_a_promise_between_bounds_is_refused_with_the_flag_that_helps() -> None:
    book = parse_slos({"default": {"ttft": {"threshold_s": 0.22}}})
    with pytest.raises(ConfigError) as caught:
        buckets.check(book, where="my.yaml")
    line = str(caught.value)
    assert line.startswith("my.yaml: default.ttft.threshold_s: no histogram has a bucket bound at 0.22 s")
    assert "llm_d_epp_request_ttft_seconds has 0.2 and 0.4" in line
    assert '--custom-histogram-buckets \'{"time_to_first_token": [0.001' in line
    assert "0.1, 0.22, 0.25" in line
    assert "\n" not in line


def test_bounds_of_the_deployed_engine_count_when_its_page_is_given(tmp_path: Path) -> None:
    slo, page = tmp_path / "slo.yaml", tmp_path / "page.txt"
    slo.write_text("default: {ttft: {threshold_s: 0.22}}\n")
    bucket = 'vllm:time_to_first_token_seconds_bucket{{model_name="m",le="{}"}} 1.0\n'
    page.write_text("".join(bucket.format(bound) for bound in ("0.1", "0.22", "+Inf")))
    assert CliRunner().invoke(alerts_command, ["check", str(slo)]).exit_code == 2
    assert CliRunner().invoke(alerts_command, ["check", str(slo), "--page", str(page)]).exit_code == 0


def test_a_recorded_vllm_page_has_the_default_bounds(data_dir: Path) -> None:
    from alerts.check import deployed_bounds

    found = deployed_bounds(str(data_dir / "vllm_0.32_cpu_metrics.txt"))
    for signal in (s.ENGINE_TTFT, s.ENGINE_TPOT, s.ENGINE_E2E):
        assert found[signal.name] == buckets.BOUNDS[signal.name]


def test_router_bounds_are_those_of_our_router() -> None:
    metrics = pytest.importorskip("router.metrics")
    assert buckets.BOUNDS[s.ROUTER_TTFT.name] == metrics.LATENCY_BOUNDS
    assert buckets.BOUNDS[s.ROUTER_TPOT.name] == metrics.TPOT_BOUNDS


# -- commands ------------------------------------------------------------------------------------------------------


def test_generate_writes_what_check_accepts(tmp_path: Path) -> None:
    slo = tmp_path / "slos.yaml"
    slo.write_text("models: {m: {ttft: {threshold_s: 0.4}}}\n")
    out = tmp_path / "rules"
    links = ["--console-url", "https://fleet.example.org", "--runbook-base", "https://docs/r"]
    made = CliRunner().invoke(alerts_command, ["generate", "--slo", str(slo), "--out", str(out), *links])
    assert made.exit_code == 0, made.output
    text = (out / "l1_business.rules.yaml").read_text()
    assert "https://fleet.example.org/?model={{ $labels.model_name | urlquery }}&alert=HighTTFT" in text
    assert "runbook_url: https://docs/r/HighTTFT.md" in text
    assert CliRunner().invoke(alerts_command, ["check", str(slo), str(out)]).exit_code == 0


def test_check_names_the_rule_with_an_unknown_series(tmp_path: Path) -> None:
    rule = {"alert": "Mine", "expr": "rate(vllm:num_preemptions[5m]) > 0"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}))
    result = CliRunner().invoke(alerts_command, ["check", str(tmp_path)])
    assert result.exit_code == 2
    assert "Mine: series vllm:num_preemptions is not in the catalogue" in result.output


def test_check_passes_on_what_promtool_says(tmp_path: Path, promtool_binary: str) -> None:
    rule = {"alert": "Broken", "expr": "up >>> 1"}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}))
    result = CliRunner().invoke(alerts_command, ["check", str(tmp_path)])
    assert result.exit_code == 2
    assert "promtool: " in result.output


# -- promtool ------------------------------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.needs_prometheus
@pytest.mark.parametrize("path", PROMTESTS, ids=lambda path: path.stem)
def test_rules_behave_as_their_promtests_say(promtool_binary: str, path: Path) -> None:
    result = subprocess.run(
        [promtool_binary, "test", "rules", path.name], cwd=path.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]


@pytest.mark.integration
@pytest.mark.needs_prometheus
def test_promtool_accepts_the_rules(promtool_binary: str) -> None:
    files = sorted(map(str, (FOLDER / "generated").glob("*.yaml")))
    result = subprocess.run([promtool_binary, "check", "rules", "--lint-fatal", *files], capture_output=True, text=True,
                            check=False)  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_promtest_that_fires_and_one_that_does_not(rules: Rulebook) -> None:
    fires, silent = set(), set()
    for path in PROMTESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                (fires if case["exp_alerts"] else silent).add(case["alertname"])
    names = {alert.name for alert in rules.alerts}
    assert names - fires == set()
    assert names - silent == set()


def test_numbers_are_written_as_promql_reads_them() -> None:
    assert Number(0.0144).promql() == "0.0144"
    assert Number(10_000.0).promql() == "10000"
