"""Everything beside rule files: manifests against their schemas, Alertmanager by amtool, dashboards by their rules."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from alerts.alertmanager import INHIBITIONS, configuration
from alerts.cli import SLO_FILE
from alerts.cli import alerts as command
from alerts.lint import unknown_series
from alerts.model import Links, Rulebook, Severity
from alerts.outputs import ALL, Format, Webhooks, outputs
from alerts.rules import rulebook
from fleet.errors import ConfigError
from fleet.settings import load_slos
from fleet.slo import parse_slos

FOLDER = SLO_FILE.parent / "generated"
DASHBOARDS = sorted((FOLDER / "grafana").glob("*.json"))
UNITS = {"s", "none", "short", "reqps", "ops", "percentunit", "celsius", "watt"}


@pytest.fixture(scope="module")
def rules() -> Rulebook:
    return rulebook(load_slos(SLO_FILE))


def made(wanted: str, rules: Rulebook, links: Links | None = None) -> dict[str, str]:
    return outputs(wanted, load_slos(SLO_FILE), rules, links=links or Links(), webhooks=Webhooks(),
                   source=SLO_FILE.name)  # fmt: skip


def test_everything_generated_is_up_to_date(rules: Rulebook) -> None:
    committed = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*.*")}
    assert committed == made(ALL, rules)


@pytest.mark.parametrize("wanted", list(Format))
def test_a_format_alone_writes_its_own_files(wanted: Format, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["generate", "--out", str(tmp_path), "--format", wanted])
    assert result.exit_code == 0, result.output
    folders = {path.relative_to(tmp_path).parent.name for path in tmp_path.rglob("*.*")}
    assert folders == {"" if wanted is Format.PROMETHEUS else wanted.value}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(command, ["generate", "--out", str(tmp_path / "file")])
    assert isinstance(result.exception, ConfigError)
    assert "cannot be written" in str(result.exception)


# -- Kubernetes ----------------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    return [doc for path in (FOLDER / "kubernetes").glob("*.yaml") for doc in yaml.safe_load_all(path.read_text())]


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, as the API server warns of (and prunes) them."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and schema.get("type"):
        found["additionalProperties"] = False
    return found


def test_manifests_fit_the_operators_schemas(schemas_dir: Path) -> None:
    kinds = set()
    for manifest in manifests():
        name = f"{manifest['kind'].lower()}s.monitoring.coreos.com.yaml"
        versions = yaml.safe_load((schemas_dir / name).read_text())["spec"]["versions"]
        schema = versions[0]["schema"]["openAPIV3Schema"]
        # Without a check of the schema itself: Go takes a pattern in it that Python does not.
        jsonschema.Draft202012Validator(closed(schema["properties"]["spec"])).validate(manifest["spec"])
        kinds.add(manifest["kind"])
    assert kinds == {"PrometheusRule", "PodMonitor", "ServiceMonitor"}


def test_manifests_carry_the_very_rules(rules: Rulebook) -> None:
    files = made(Format.PROMETHEUS, rules)
    plain = [group for text in files.values() for group in yaml.safe_load(text)["groups"]]
    packed = [g for m in manifests() if m["kind"] == "PrometheusRule" for g in m["spec"]["groups"]]
    assert sorted(plain, key=lambda g: g["name"]) == sorted(packed, key=lambda g: g["name"])


def test_a_cluster_is_on_every_alert(rules: Rulebook) -> None:
    for name, text in made(Format.PROMETHEUS, rules, Links(cluster="eu-1")).items():
        for rule in yaml.safe_load(text)["groups"][0]["rules"]:
            if "alert" in rule:
                assert rule["labels"]["cluster"] == "eu-1", name


# -- Alertmanager --------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_amtool_accepts_the_configuration(amtool_binary: str) -> None:
    path = FOLDER / "alertmanager" / "alertmanager.yaml"
    result = subprocess.run([amtool_binary, "check-config", str(path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.integration
@pytest.mark.parametrize(("severity", "receiver"), [("critical", "page"), ("warning", "ticket"), ("info", "quiet")])
def test_each_severity_goes_where_it_should(amtool_binary: str, severity: str, receiver: str) -> None:
    path = FOLDER / "alertmanager" / "alertmanager.yaml"
    routes = [amtool_binary, "config", "routes", "test", f"--config.file={path}", f"severity={severity}", "layer=2"]
    assert subprocess.run(routes, capture_output=True, text=True, check=True).stdout.strip() == receiver


def test_inhibitions_name_alerts_that_exist(rules: Rulebook) -> None:
    names = {alert.name for alert in rules.alerts}
    for rule in INHIBITIONS:
        for side in (rule.source, rule.target):
            for text in side:
                pattern = re.search(r'alertname=~?"(.*)"', text)
                assert pattern is None or all(
                    any(re.fullmatch(part, name) for name in names) for part in pattern[1].split("|")
                ), text


def test_a_label_that_both_lack_inhibits_nothing() -> None:
    """Where ``equal`` tells subjects apart, both sides must carry the label: two missing ones would be equal."""
    for rule in INHIBITIONS:
        subjects = {"model_name", "pod"} & set(rule.equal)
        assert subjects == set(rule.present), rule.why
        for side in ("source_matchers", "target_matchers"):
            assert {f'{label}=~".+"' for label in subjects} <= set(rule.to_json()[side])


def test_no_two_alerts_silence_each_other(rules: Rulebook) -> None:
    def hits(texts: tuple[str, ...], name: str, severity: Severity) -> bool:
        labels = {"alertname": name, "severity": severity.value}
        parts = [re.fullmatch(r'(\w+)=~?"(.*)"', text) for text in texts]
        return all(part is not None and re.fullmatch(part[2], labels[part[1]]) for part in parts)

    who = {(alert.name, alert.severity) for alert in rules.alerts}
    mutes = {
        (a, b) for rule in INHIBITIONS for a in who for b in who if hits(rule.source, *a) and hits(rule.target, *b)
    }
    assert mutes and not {(a, b) for a, b in mutes if (b, a) in mutes}


def test_webhooks_are_called_where_they_are_given() -> None:
    receivers = {item["name"]: item for item in configuration(page="http://p", ticket="")["receivers"]}
    assert receivers["page"]["webhook_configs"][0]["url"] == "http://p"
    assert receivers["ticket"] == {"name": "ticket"}


# -- Grafana -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text())
    return found


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]] + [
        annotation["expr"] for annotation in dashboard["annotations"]["list"]
    ]


def test_there_is_one_dashboard_for_each_layer_and_one_of_the_slos() -> None:
    assert [path.stem for path in DASHBOARDS] == ["fleet-l1", "fleet-l2", "fleet-l3", "fleet-l4", "fleet-slo"]
    assert len({json.loads(path.read_text())["uid"] for path in DASHBOARDS}) == 5


def test_dashboards_share_the_crosshair_variables_and_links(dashboard: dict[str, Any]) -> None:
    assert dashboard["graphTooltip"] == 1
    assert [v["name"] for v in dashboard["templating"]["list"]] == ["datasource", "namespace", "model", "pod"]
    assert {link["type"] for link in dashboard["links"]} == {"dashboards", "link"}
    assert dashboard["annotations"]["list"][0]["name"] == "Scale decisions"


def test_panels_say_what_they_show_in_which_unit(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for panel in panels:
        assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_quantiles_say_their_bucket_bounds(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        if any("histogram_quantile" in t["expr"] or ":p9" in t["expr"] for t in panel["targets"]):
            assert "Interpolated inside a bucket" in panel["description"], panel["title"]


def test_dashboards_read_only_series_of_the_catalogue(dashboard: dict[str, Any], rules: Rulebook) -> None:
    for query in queries(dashboard):
        assert unknown_series(query, rules.recorded_names) == (), query


def test_counters_are_read_over_grafanas_interval(dashboard: dict[str, Any]) -> None:
    for query in queries(dashboard):
        assert "ms]" not in query
        assert "rate(" not in query or "[$__rate_interval]" in query, query


@pytest.mark.integration
@pytest.mark.needs_prometheus
def test_prometheus_can_read_every_query(dashboard: dict[str, Any], promtool_binary: str, tmp_path: Path) -> None:
    plain = [query.replace("$__rate_interval", "1m") for query in queries(dashboard)]
    some = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(plain)]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": some}]}))
    result = subprocess.run([promtool_binary, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_thresholds_follow_the_slo_file(rules: Rulebook) -> None:
    book = parse_slos({"default": {"ttft": {"threshold_s": 0.4}}})
    files = outputs(Format.GRAFANA, book, rules, links=Links(), webhooks=Webhooks(), source="x")
    panels = {panel["title"]: panel for panel in json.loads(files["grafana/fleet-l1.json"])["panels"]}
    steps = panels["TTFT at the router"]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[-1] == {"color": "red", "value": 0.4}
    assert (
        "Around 0.4 s the buckets are router: 0.2 s to 0.4 s, engine: 0.25 s to 0.5 s."
        in (panels["TTFT at the router"]["description"])
    )


# -- vLLM's buckets ------------------------------------------------------------------------------------------------


def test_the_flag_adds_every_promise_and_nothing_that_is_there(tmp_path: Path) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text("models: {m: {ttft: {threshold_s: 3}, e2e: {threshold_s: 5}}}\n")
    told = CliRunner().invoke(command, ["buckets", "--slo", str(slo)]).output
    families = json.loads(told.split("'")[1])
    assert set(families) == {"time_to_first_token"}  # 0.1 s of TPOT and 5 s of a request are bounds already
    assert {0.2, 3, 0.25, 2560} <= set(families["time_to_first_token"])
    assert families["time_to_first_token"] == sorted(families["time_to_first_token"])


def test_no_flag_where_the_engine_shows_all(tmp_path: Path) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text("default: {ttft: {threshold_s: 0.25}}\n")
    assert CliRunner().invoke(command, ["buckets", "--slo", str(slo)]).output == "\n"
