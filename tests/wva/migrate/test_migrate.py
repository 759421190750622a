"""``fleet wva migrate``: what comes out is what our CRD, our loader and Kubernetes take; what is lost is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from fleet.types import VariantSpec
from tests.deploy.helm import CHART
from tests.fake_kubernetes import serving
from tests.fake_kubernetes_store import check_variant
from tests.planner.manifests import SCHEMAS, documents, need_schemas, problems
from tests.wva.kube.kube_cluster import add_deployment, template
from tests.wva.migrate.upstream import KEDA, V05, V09
from tests.wva.test_wva_cli import fleet
from wva.kube.crd import crd
from wva.kube.world import ClusterObjects, assemble
from wva.migrate import wanted
from wva.migrate.cli import chart_values
from wva.migrate.convert import Migration, migrate
from wva.migrate.documents import objects
from wva.migrate.report import Outcome

ALL = {"v0.5": V05, "v0.9": V09, "keda": KEDA}


def of(text: str, **options: Any) -> Migration:
    return migrate(objects(text, where="test"), **options)


def only(found: Migration, kind: str, name: str) -> dict[str, Any]:
    (one,) = [each for each in found.manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return one


def said(found: Migration, name: str) -> dict[str, tuple[Outcome, str]]:
    """The report on one object, by field."""
    return {one.field: (one.outcome, one.detail) for one in found.notes.entries if one.object == name}


def loaded(manifest: dict[str, Any]) -> VariantSpec:
    """As the controller reads it, its workload beside it."""
    item = json.loads(json.dumps(manifest))
    check_variant(item)
    kind, name = (item["spec"]["scaleTargetRef"][each] for each in ("kind", "name"))
    space = item["metadata"]["namespace"]
    meta, labels = {"name": name, "namespace": space, "uid": "u"}, {"app": name}
    pods = template(labels)
    plain = {"metadata": meta, "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pods}}
    grouped = {"metadata": meta, "spec": {"replicas": 1, "leaderWorkerTemplate": {"workerTemplate": pods}}}
    world = assemble(ClusterObjects(
        variant_autoscalings=[item], deployments=[plain] if kind == "Deployment" else [],
        leader_worker_sets=[grouped] if kind == "LeaderWorkerSet" else []))  # fmt: skip
    (found,) = world.found
    assert found.variant is not None, found.message
    return found.variant.spec


@pytest.mark.parametrize("scaler", ["keep", "hpa"])
@pytest.mark.parametrize("name", ALL)
def test_every_manifest_is_one_that_a_server_takes(name: str, scaler: str) -> None:
    need_schemas()
    found = of(ALL[name], scaler=scaler)
    assert {f"{one['kind']} {one['metadata']['name']}": problems(one) for one in found.manifests if problems(one)} == {}
    assert found.manifests


@pytest.mark.parametrize("name", ALL)
def test_what_comes_out_is_read_by_our_own_loader(name: str) -> None:
    variants = [one for one in of(ALL[name]).manifests if one["kind"] == "VariantAutoscaling"]
    assert variants
    for one in variants:
        spec = loaded(one)
        assert (spec.name, spec.model) == (one["metadata"]["name"], one["spec"]["modelID"])


@pytest.mark.parametrize("name", ALL)
def test_a_second_migration_changes_nothing(name: str) -> None:
    first = of(ALL[name])
    again = migrate([json.loads(json.dumps(one)) for one in first.manifests])
    assert again.manifests == first.manifests
    lost = [one for one in again.notes.entries if one.outcome in (Outcome.CHANGED, Outcome.DROPPED)]
    assert lost == []


def test_what_an_api_server_takes_is_what_was_written() -> None:
    with serving() as fake:
        add_deployment(fake, "llama-h100", 2, namespace="models")
        for one in of(V05).manifests:
            made = fake.add(f"{one['kind'].lower()}s", one, "models")
            assert one["spec"].items() <= made["spec"].items()  # nothing was pruned


def test_version_05_in_full() -> None:
    found = of(V05)
    spec = loaded(only(found, "VariantAutoscaling", "llama-h100"))
    assert (spec.cost_per_hour, spec.min_replicas, spec.max_replicas) == (80.0, 2, 8)
    assert (spec.accelerator, spec.slo_ttft_s, spec.slo_tpot_s) == ("h100_sxm", 1.5, 0.04)
    meta = only(found, "VariantAutoscaling", "llama-h100")["metadata"]
    assert meta == {"name": "llama-h100", "namespace": "models", "labels": {"team": "search"}}
    assert found.settings == {"WVA_INTERVAL_S": "60", "WVA_PROMETHEUS_URL": "https://prometheus.monitoring.svc:9090",
                              "WVA_SOURCE": "prometheus", "WVA_STALE_AFTER_S": "120"}  # fmt: skip


def test_an_hpa_reads_our_metric_as_an_average_and_keeps_the_rest() -> None:
    found = of(V05)
    spec = only(found, "HorizontalPodAutoscaler", "llama-h100-hpa")["spec"]
    ours, cpu = spec["metrics"]
    assert ours["external"] == {
        "metric": {"name": "wva_desired_replicas", "selector": {"matchLabels": {"variant_name": "llama-h100"}}},
        "target": {"type": "AverageValue", "averageValue": "1"},
    }
    assert cpu["resource"]["name"] == "cpu"
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 8)
    report = said(found, "HorizontalPodAutoscaler models/llama-h100-hpa")
    assert report["spec.metrics[0].target"] == (
        Outcome.CHANGED, "Value 1 becomes AverageValue 1: Value multiplies by the ready pods")  # fmt: skip
    assert report["spec.metrics[0].selector[accelerator_type]"][0] is Outcome.CHANGED
    assert "240 s comes on top" in report["spec.behavior.scaleDown"][1]


@pytest.mark.parametrize(("name", "field"), [
    ("VariantAutoscaling models/llama-h100", "metadata.labels[wva.llmd.ai/controller-instance]"),
    ("ConfigMap wva-system/workload-variant-autoscaler-variantautoscaling-config", "data[COORDINATOR_INTERVAL]"),
    ("ConfigMap wva-system/service-classes-config", "data[premium.yaml].priority"),
    ("ConfigMap wva-system/service-classes-config", "data[premium.yaml].data[default/default]"),
    ("ConfigMap wva-system/accelerator-unit-costs", "data[H100]"),
])  # fmt: skip
def test_version_05_says_what_it_could_not_carry_over(name: str, field: str) -> None:
    outcome, detail = said(of(V05), name)[field]
    assert outcome is Outcome.DROPPED
    assert detail


def test_version_09_in_full() -> None:
    found = of(V09)
    spec = loaded(only(found, "VariantAutoscaling", "qwen"))
    assert (spec.model, spec.cost_per_hour, spec.min_replicas, spec.max_replicas) == ("Qwen/Qwen3-32B", 7.98, 0, 6)
    assert (spec.priority, spec.retention_s, spec.slo_ttft_s, spec.slo_tpot_s) == (3.0, 1200.0, 0.8, 0.06)
    assert found.settings == {"WVA_GPU_LIMIT": "nodes", "WVA_QUEUE_FULL": "8"}
    assert chart_values(found)["wva"]["gpuLimit"] == "nodes"
    scaled = only(found, "ScaledObject", "qwen-scaler")
    ours, cron = scaled["spec"]["triggers"]
    assert ours["metricType"] == "AverageValue"
    assert ours["authenticationRef"] == {"name": "prom-auth"}
    assert ours["metadata"] == {
        "serverAddress": "https://thanos:9091", "unsafeSsl": "true", "authModes": "bearer", "threshold": "1",
        "query": 'max(wva_desired_replicas{variant_name="qwen",exported_namespace="models"})',
        "activationThreshold": "0", "ignoreNullValues": "false"}  # fmt: skip
    assert cron["type"] == "cron"
    assert scaled["spec"]["fallback"]["behavior"] == "currentReplicas"
    assert "annotations" not in scaled["metadata"]  # else two objects declare it
    assert {one["kind"] for one in found.manifests} == {"VariantAutoscaling", "ScaledObject"}  # not KEDA's own HPA


@pytest.mark.parametrize(("name", "field"), [
    ("ConfigMap wva-system/wva-saturation-scaling-config", "data[default].scaleUpThreshold"),
    ("ConfigMap wva-system/wva-saturation-scaling-config", "data[default].analyzers[saturation]"),
    ("ConfigMap wva-system/wva-saturation-scaling-config", "data[default].limiters[quota]"),
    ("ConfigMap wva-system/wva-saturation-scaling-config", "data[Qwen/Qwen3-32B#models].kvCacheThreshold"),
    ("ConfigMap wva-system/wva-queueing-model-config", "data[default].sloMultiplier"),
    ("Namespace default/models", "metadata"),
])  # fmt: skip
def test_version_09_says_what_it_could_not_carry_over(name: str, field: str) -> None:
    assert said(of(V09), name)[field][0] is Outcome.DROPPED


def test_keda_alone_becomes_a_variant_and_a_trigger_on_our_metric() -> None:
    found = of(KEDA)
    spec = loaded(only(found, "VariantAutoscaling", "llama"))
    assert (spec.model, spec.min_replicas, spec.max_replicas, spec.slo_ttft_s) == ("llama", 1, 5, 1.5)
    (trigger,) = only(found, "ScaledObject", "llama")["spec"]["triggers"]
    assert trigger["metadata"]["query"] == 'max(wva_desired_replicas{variant_name="llama"})'
    report = said(found, "ScaledObject chat/llama")
    assert report["spec.advanced.scalingModifiers"][0] is Outcome.DROPPED
    assert "with threshold 5 becomes" in report["spec.triggers[0].metadata.query"][1]
    assert report["spec.triggers[0].metadata.ignoreNullValues"][0] is Outcome.CHANGED
    assert "goes to 4 replicas" in report["spec.fallback"][1]
    assert said(found, "ScaledObject chat/worker")[""] == (
        Outcome.NOTE, "follows no metric of a model service: left alone")  # fmt: skip


def test_keda_can_become_an_hpa_on_our_external_metric() -> None:
    found = of(KEDA, scaler="hpa")
    spec = only(found, "HorizontalPodAutoscaler", "llama")["spec"]
    (metric,) = spec["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 5)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llama"}
    assert said(found, "ScaledObject chat/llama")["spec.fallback"][0] is Outcome.DROPPED
    assert not [one for one in found.manifests if one["kind"] == "ScaledObject"]


def test_the_model_comes_from_the_workload_or_from_the_option() -> None:
    assert loaded(only(of(KEDA), "VariantAutoscaling", "mistral")).model == "mistral-7b"
    bare = KEDA.split("---")[-1]
    with pytest.raises(ConfigError, match="objects"):
        of(KEDA.split("---")[2])  # a Deployment alone
    assert of(bare).manifests == ()
    assert "give --model mistral=NAME" in said(of(bare), "HorizontalPodAutoscaler chat/mistral")[""][1]
    assert loaded(only(of(bare, models={"mistral": "m"}), "VariantAutoscaling", "mistral")).model == "m"


def test_our_own_annotations_move_into_the_variant() -> None:
    notes = 'llm-d.ai/priority: "2"\n      llm-d.ai/slo-ttft-seconds: "0.5"\n      llm-d.ai/scale-down-threshold: x'
    text = V09.replace('llm-d.ai/variant-cost: "7.98"', f'llm-d.ai/variant-cost: "7.98"\n      {notes}')
    spec = loaded(only(of(text), "VariantAutoscaling", "qwen"))
    assert (spec.priority, spec.slo_ttft_s, spec.slo_tpot_s, spec.scale_down_threshold) == (2.0, 0.5, 0.06, 0.3)
    wrong = said(of(text), "ScaledObject models/qwen-scaler")["metadata.annotations[llm-d.ai/scale-down-threshold]"]
    assert wrong == (Outcome.DROPPED, "'x' is no number from 0 to 1")


def test_a_ratio_between_quantiles_is_no_target() -> None:
    text = KEDA.replace("histogram_quantile(0.9,", "1/3 * histogram_quantile(0.9,")
    assert loaded(only(of(text), "VariantAutoscaling", "llama")).slo_ttft_s is None


@pytest.mark.parametrize(("change", "low", "retention"), [
    pytest.param(("", ""), 0, 1200.0, id="switched-on-for-the-model"),
    pytest.param(("enable_scale_to_zero: true", "enable_scale_to_zero: false"), 1, None, id="switched-off"),
])  # fmt: skip
def test_zero_replicas_only_where_it_was_on(change: tuple[str, str], low: int, retention: float | None) -> None:
    text = V09.replace(*change) if change[0] else V09
    spec = loaded(only(of(text.replace("scaleToZero: {enabled: true}", "priority: 3") if low else text),
                       "VariantAutoscaling", "qwen"))  # fmt: skip
    assert (spec.min_replicas, spec.retention_s) == (low, retention)


def test_two_workloads_of_one_name_are_two_variants() -> None:
    text = V05 + "---\n" + V05.split("---")[1].replace("name: llama-h100}", "name: x}").replace("llama-h100-hpa", "x")
    twice = V05.replace("kind: Deployment, name: llama-h100}\n  modelID", "kind: Deployment, name: y}\n  modelID")
    names = [one["metadata"]["name"] for one in of(twice, models={"llama-h100": "m"}).manifests
             if one["kind"] == "VariantAutoscaling"]  # fmt: skip
    assert names == ["llama-h100-deployment", "llama-h100"]
    assert of(text)


def test_upstream_s_schema_holds_no_field_that_ours_lacks() -> None:
    """Their objects and their controller's statuses stay valid under our definition."""
    need_schemas()
    (theirs,) = documents((SCHEMAS / "reference-variantautoscalings.llmd.ai.yaml").read_text(encoding="utf-8"))
    ours = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        fields = theirs["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part]["properties"]
        assert fields.keys() <= ours[part]["properties"].keys()
    fields = theirs["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert fields.keys() <= wanted._KNOWN


def test_the_chart_takes_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for text in ALL.values():
        values = chart_values(of(text))
        assert values["wva"]["dryRun"] is True
        for part, given_ in values.items():
            jsonschema.Draft7Validator(schema).validate({**defaults, part: {**defaults[part], **given_}})


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def command(*argv: str) -> tuple[int, str, str]:
        return fleet("migrate", *argv, capsys=capsys, monkeypatch=monkeypatch)

    return command


def test_a_folder_goes_in_and_manifests_values_and_a_report_come_out(run: Any, tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "deep").mkdir(parents=True)
    (old / "a.yaml").write_text(V05)
    (old / "deep" / "b.yml").write_text(V09)
    (old / "README.md").write_text("not yaml: [")
    out, values, report = tmp_path / "new.yaml", tmp_path / "values.yaml", tmp_path / "report.json"
    code, printed, told = run("-f", str(old), "--out", str(out), "--values", str(values), "--report", str(report))
    assert (code, printed) == (0, "")
    assert [one["kind"] for one in documents(out.read_text())] == [
        "VariantAutoscaling", "HorizontalPodAutoscaler", "VariantAutoscaling", "ScaledObject"]  # fmt: skip
    assert yaml.safe_load(values.read_text())["prometheus"] == {"url": "https://prometheus.monitoring.svc:9090"}
    entries = json.loads(report.read_text())
    assert {"carried", "changed", "dropped", "note"} == {one["outcome"] for one in entries}
    assert "VariantAutoscaling models/llama-h100\n" in told
    assert told.splitlines()[-1].startswith("12 objects read; 2 VariantAutoscaling, 1 HorizontalPodAutoscaler,")
    dropped = sum(one["outcome"] == "dropped" for one in entries)
    assert told.splitlines()[-1].endswith(f"{dropped} dropped")
    assert sum(line.startswith("  dropped ") for line in told.splitlines()) == dropped


def test_json_is_one_object_and_variants_alone_can_be_written(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(KEDA)
    code, printed, _ = run("-f", str(tmp_path / "a.yaml"), "--json", "--only", "variants")
    found = json.loads(printed)
    assert code == 0
    assert {one["kind"] for one in found["manifests"]} == {"VariantAutoscaling"}
    assert found.keys() == {"manifests", "settings", "report"}


@pytest.mark.parametrize(("text", "word"), [
    pytest.param("a: [", "is no YAML", id="no-yaml"),
    pytest.param("- a\n- b\n", "a list is no Kubernetes object", id="a-list"),
    pytest.param("hello", "a text is no Kubernetes object", id="a-word"),
    pytest.param("{kind: Pod}", "without kind or apiVersion", id="no-version"),
    pytest.param("{apiVersion: v1, kind: Pod}", "without metadata.name", id="no-name"),
    pytest.param("{apiVersion: v1, kind: Pod, metadata: {name: a, labels: 3}}", "labels of Pod a is a", id="labels"),
    pytest.param("{apiVersion: v1, kind: List, items: 3}", "items of a list are no list", id="items"),
    pytest.param("{apiVersion: v1, kind: Pod, metadata: {name: a}}", "how a model service scales", id="nothing-to-do"),
    pytest.param("", "says how a model service scales", id="empty"),
    pytest.param("\x00\x01", "is no YAML", id="control-characters"),
])  # fmt: skip
def test_garbage_is_refused_with_one_line(run: Any, tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    code, out, told = run("-f", str(file))
    assert (code, out) == (2, "")
    assert word in told
    assert len(told.strip().splitlines()) == 1


def test_files_that_are_not_there_or_no_text_are_refused(run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, word in (("none.yaml", "cannot be read"), ("empty", "holds no manifest"), ("binary.yaml", "not UTF-8")):
        code, _, told = run("-f", str(tmp_path / name))
        assert code == 2
        assert word in told
    (tmp_path / "a.yaml").write_text(V05)
    code, _, told = run("-f", str(tmp_path / "a.yaml"), "--out", str(tmp_path / "no" / "where.yaml"))
    assert code == 2
    assert "cannot be written" in told
    assert run("-f", str(tmp_path / "a.yaml"), "--model", "llama")[0] == 2


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
        ["true", "wva_desired_replicas", "vllm:num_requests_waiting", "Deployment", "prometheus", "10m", "External"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "scaleTargetRef", "kind", "name", "modelID", "variantCost", "minReplicas", "maxReplicas", "metrics", "external",
        "metric", "selector", "matchLabels", "target", "type", "triggers", "metadata", "query", "threshold", "behavior",
        "scaleDown", "fallback", "advanced", "minReplicaCount", "idleReplicaCount", "slo", "priority", "role",
        "retentionSeconds", "saturationThreshold", "horizontalPodAutoscalerConfig"]), inner, max_size=4),
    max_leaves=12)  # fmt: skip
KIND = st.sampled_from([("llmd.ai/v1alpha1", "VariantAutoscaling"), ("autoscaling/v2", "HorizontalPodAutoscaler"),
                        ("keda.sh/v1alpha1", "ScaledObject")])  # fmt: skip


@given(kind=KIND, spec=st.dictionaries(st.sampled_from(["modelID", "minReplicas", "maxReplicas", "metrics", "triggers",
                                                        "advanced", "fallback", "slo", "role", "priority", "behavior"]),
                                       ANYTHING),
       data=st.dictionaries(st.sampled_from(["default", "a#b", "config.yaml", "PROMETHEUS_BASE_URL"]), ANYTHING),
       config=st.sampled_from(["wva-saturation-scaling-config", "wva-model-scale-to-zero-config",
                               "wva-queueing-model-config", "service-classes-config", "manager"]))  # fmt: skip
def test_no_value_in_a_field_breaks_it(kind: tuple[str, str], spec: Any, data: Any, config: str) -> None:
    """Whatever a field holds: a report and valid variants come out, never a defect."""
    meta = {"name": "a", "namespace": "n", "annotations": {"llm-d.ai/managed": "true", "llm-d.ai/model-id": "m"}}
    target = {"scaleTargetRef": {"kind": "Deployment", "name": "a"}}
    items = [{"apiVersion": kind[0], "kind": kind[1], "metadata": meta, "spec": {**spec, **target}},
             {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": config}, "data": data}]  # fmt: skip
    found = migrate(items)
    assert found.read == len(items)
    assert all(loaded(one).model for one in found.manifests if one["kind"] == "VariantAutoscaling")
