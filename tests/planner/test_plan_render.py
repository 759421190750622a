"""One file in, valid manifests out; a wrong file gets its line and the nearest right word."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from fleet.cli import fleet
from fleet.errors import ConfigError
from planner.document import parse, schema
from planner.render import engine, render
from tests.deploy.commands import complaint, own_containers
from tests.deploy.helm import tool
from tests.planner.clusters import AGGREGATED, ALL, EXAMPLE, NODES, SGLANG, TEXT
from tests.planner.manifests import documents, need_schemas, problems

GOLDEN = EXAMPLE.parent / "cluster-rendered"


def _rendered(text):
    files = render(parse(text, where="cluster.yaml"), source="cluster.yaml")
    return [one for name, body in files.items() if name != "kustomization.yaml" for one in documents(body)]


def _one(text, kind, name=None):
    found = [one for one in _rendered(text) if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    assert len(found) == 1, [one["metadata"]["name"] for one in found]
    return found[0]


@pytest.mark.parametrize("name", ALL)
def test_every_manifest_is_valid(name):
    need_schemas()
    found = {(one["kind"], one["metadata"]["name"]): problems(one) for one in _rendered(ALL[name])}
    assert {key: wrong for key, wrong in found.items() if wrong} == {}
    assert len(found) > 8


@pytest.mark.parametrize("name", ALL)
def test_names_are_unique_and_selectors_find_their_pods(name):
    manifests = _rendered(ALL[name])
    keys = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(keys) == len(set(keys))
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in manifests if one["kind"] == "Deployment"]
    groups = [one["spec"]["leaderWorkerTemplate"] for one in manifests if one["kind"] == "LeaderWorkerSet"]
    pods += [one["leaderTemplate"]["metadata"]["labels"] for one in groups]
    for one in manifests:
        if one["kind"] in ("Service", "InferencePool", "PodMonitor", "PodDisruptionBudget", "Deployment"):
            wanted = one["spec"]["selector"]
            wanted = wanted.get("matchLabels", wanted)
            assert any(wanted.items() <= labels.items() for labels in pods), one["metadata"]["name"]


def test_the_committed_example_is_what_is_rendered_today():
    files = render(parse(TEXT, where=EXAMPLE.name), source=EXAMPLE.name)
    assert {path.name: path.read_text(encoding="utf-8") for path in GOLDEN.iterdir()} == files


def test_an_hpa_takes_the_average_value_and_an_autoscaled_workload_names_no_replicas():
    hpa = _one(TEXT, "HorizontalPodAutoscaler", "llama-70b-decode")["spec"]
    assert hpa["metrics"][0]["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    assert hpa["behavior"]["scaleUp"]["policies"][0] == {"type": "Percent", "value": 100, "periodSeconds": 15}
    assert hpa["behavior"]["scaleDown"]["policies"][0] == {"type": "Percent", "value": 10, "periodSeconds": 300}
    assert "replicas" not in _one(TEXT, "Deployment", "llama-70b-decode")["spec"]
    off = TEXT.replace("scaler: hpa", "enabled: false")
    assert _one(off, "Deployment", "llama-70b-prefill")["spec"]["replicas"] == 4
    assert not [one for one in _rendered(off) if one["kind"] in ("HorizontalPodAutoscaler", "VariantAutoscaling")]


def test_prefill_and_decode_scale_apart():
    prefill = _one(TEXT, "VariantAutoscaling", "llama-70b-prefill")["spec"]
    assert (prefill["role"], prefill["minReplicas"], prefill["maxReplicas"]) == ("prefill", 2, 10)
    assert prefill["variantCost"] == "15.96"
    assert prefill["slo"] == {"ttftSeconds": 1.0, "tpotSeconds": 0.05}


def test_an_hpa_cannot_scale_to_zero_and_keda_never_reads_nothing_as_zero():
    with pytest.raises(ConfigError, match="does not scale to zero"):
        _rendered(SGLANG.replace("scaler: keda", "scaler: hpa"))
    scaled = _one(SGLANG, "ScaledObject")["spec"]
    assert scaled["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    assert scaled["minReplicaCount"] == 0


def test_a_replica_of_several_nodes_is_a_leader_worker_set():
    group = _one(NODES, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 2
    leader, worker = (group[key]["spec"]["containers"][0] for key in ("leaderTemplate", "workerTemplate"))
    assert "--headless" in worker["command"]
    assert "--headless" not in leader["command"]
    assert "readinessProbe" in leader
    assert "readinessProbe" not in worker
    target = _one(NODES, "VariantAutoscaling")["spec"]["scaleTargetRef"]
    assert target["kind"] == "LeaderWorkerSet"


def _flag(command, name):
    return command[command.index(name) + 1]


def test_tiers_and_transport_share_one_transfer_config():
    command = engine.command(parse(TEXT, where="c"), "decode")
    found = json.loads(_flag(command, "--kv-transfer-config"))
    connectors = found["kv_connector_extra_config"]["connectors"]
    assert found["kv_connector"] == "MultiConnector"
    assert [one["kv_connector"] for one in connectors] == ["NixlConnector", "OffloadingConnector"]
    tiers = connectors[1]["kv_connector_extra_config"]
    assert tiers["cpu_bytes_to_use"] == 256_000_000_000
    assert tiers["secondary_tiers"] == [{"type": "fs", "root_dir": "/var/cache/kv"}]
    assert _flag(command, "--kv-cache-dtype") == "fp8"
    container = _one(TEXT, "Deployment", "llama-70b-decode")["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["memory"] == "309677Mi"  # 64Gi and the 256 GB tier


def test_a_promise_that_no_bucket_shows_gets_its_bucket():
    command = engine.command(parse(AGGREGATED, where="c"), "both")
    assert 0.2 in json.loads(_flag(command, "--custom-histogram-buckets"))["time_to_first_token"]
    exact = AGGREGATED + "  slo: {ttftSeconds: 0.25, tpotSeconds: 0.1}\n"
    assert "--custom-histogram-buckets" not in engine.command(parse(exact, where="c"), "both")


@pytest.mark.parametrize(("name", "mode"), [
    (name, mode) for name in ALL for mode in ("picker", "proxy") if (name, mode) != ("example", "picker")
])  # fmt: skip
def test_every_command_of_ours_is_accepted(name, mode):
    other = {"picker": "mode: proxy", "proxy": "mode: picker"}[mode]
    text = ALL[name].replace(other, f"mode: {mode}")
    if f"mode: {mode}" not in text:
        text += f"  routing: {{mode: {mode}}}\n"
    found = list(own_containers(_rendered(text)))
    assert {who: wrong for who, one in found if (wrong := complaint(one))} == {}
    assert [one["args"][1] for _, one in found] == [{"picker": "picker", "proxy": "serve"}[mode]]


def test_the_picker_is_probed_where_it_listens():
    container = _one(AGGREGATED, "Deployment", "qwen-epp")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["containerPort"] for port in container["ports"]}
    assert ports == {int(_flag(container["args"], "--port")), int(_flag(container["args"], "--admin-port"))}
    assert container["readinessProbe"]["grpc"] == {"port": 9002}
    assert container["livenessProbe"]["grpc"] == {"port": 9002, "service": "liveness"}


def test_the_router_follows_a_predictor_and_writes_to_its_history_where_asked():
    url = "http://fleet-predictor.llm-fleet.svc:8090"
    told = AGGREGATED + f"  routing: {{predictorUrl: '{url}', historySecret: history}}\n"
    ((_, container),) = own_containers(_rendered(told))
    assert complaint(container) == ""
    assert _flag(container["args"], "--predictor-url") == url
    assert {"name": "FLEET_HISTORY_URL", "valueFrom": {"secretKeyRef": {"name": "history", "key": "url"}}} in container[
        "env"
    ]
    ((_, plain),) = own_containers(_rendered(AGGREGATED))
    assert "--predictor-url" not in plain["args"]
    assert [one["name"] for one in plain["env"]] == ["FLEET_SLO_FILE"]


def test_routers_share_their_kv_index_where_asked():
    ((_, container),) = own_containers(_rendered(AGGREGATED + "  routing: {kvIndexSecret: fleet-kvindex}\n"))
    assert complaint(container) == ""
    wanted = {"name": "ROUTER_KV_BACKEND", "valueFrom": {"secretKeyRef": {"name": "fleet-kvindex", "key": "url"}}}
    assert wanted in container["env"]


@pytest.mark.parametrize(("text", "events", "disaggregation"), [
    pytest.param(TEXT, "auto", "nixl", id="vllm-split"),
    pytest.param(AGGREGATED, "auto", None, id="vllm-whole"),
    pytest.param(SGLANG, "connect:5557", None, id="sglang"),
    pytest.param(TEXT.replace("protocol: nixl", "protocol: mooncake"), "auto", "mooncake", id="mooncake"),
    pytest.param(TEXT.replace("protocol: nixl", "protocol: shared-storage"), "auto", "shared-storage", id="storage"),
])  # fmt: skip
def test_the_router_hears_the_engines_and_splits_as_they_do(text, events, disaggregation):
    (args,) = (one["args"] for _, one in own_containers(_rendered(text)))
    assert _flag(args, "--kv-events") == events
    assert (_flag(args, "--disaggregation") if "--disaggregation" in args else None) == disaggregation


def test_pods_keep_the_restricted_standard():
    for one in _rendered(TEXT):
        if one["kind"] != "Deployment":
            continue
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            rules = container["securityContext"]
            assert rules["readOnlyRootFilesystem"]
            assert not rules["allowPrivilegeEscalation"]
            assert rules["capabilities"] == {"drop": ["ALL"]}
            assert container["readinessProbe"]
            assert container["resources"]["limits"]


def test_engines_are_reached_by_router_gateway_and_prometheus_only():
    policy = _one(AGGREGATED, "NetworkPolicy", "qwen-engines")["spec"]
    reached = [sorted(source) for rule in policy["ingress"] for source in rule["from"]]
    assert [] not in reached
    assert all(rule["from"] for rule in policy["ingress"])
    events = [rule for rule in policy["ingress"] if {"protocol": "TCP", "port": 5557} in rule["ports"]]
    assert len(events) == 1
    assert events[0]["from"] == [{"podSelector": {"matchLabels": {
        "app.kubernetes.io/instance": "qwen", "app.kubernetes.io/component": "router"}}}]  # fmt: skip


WRONG = [
    pytest.param("  decode:\n    replicas: 2", "  decode:\n    replica: 2", "Did you mean 'replicas'", id="key"),
    pytest.param("protocol: nixl", "protocol: nixel", "Did you mean 'nixl'", id="word"),
    pytest.param("gpu: h100_sxm", "gpu: h100", "Did you mean 'h100_sxm'", id="gpu"),
    pytest.param("bandwidth: 200Gbps", "bandwidth: fast", "should match pattern", id="bandwidth"),
    pytest.param("kvCompression: 0.5", "kvCompression: 0.7", r"0.5 \(fp8\) or 1", id="compression"),
    pytest.param("  name: llama-70b\n", "  title: llama-70b\n", "metadata", id="missing"),
    pytest.param("- {nvme: 2TB}", "- {nvme: 2TB, cpu: 1TB}", "one of gpu, cpu, nvme", id="tier"),
    pytest.param("prefill: {min: 2, max: 10}", "prefill: {min: 12, max: 10}", "min 12 is above max 10", id="bounds"),
    pytest.param("kind: InferenceCluster", "kind: Cluster", "Did you mean 'InferenceCluster'", id="kind"),
    pytest.param("transport: {protocol", "transport: {{protocol", "not YAML|must be", id="yaml"),
]


@pytest.mark.parametrize(("right", "wrong", "words"), WRONG)
def test_a_wrong_key_is_refused_with_its_line_and_the_nearest_word(right, wrong, words):
    changed = TEXT.replace(right, wrong, 1)
    pairs = zip(TEXT.splitlines(), changed.splitlines(), strict=True)
    line = next(number for number, (old, new) in enumerate(pairs, 1) if old != new)
    with pytest.raises(ConfigError, match=words) as refused:
        parse(changed, where="cluster.yaml")
    near = range(line - 1, line + 2)  # a missing key is said at its mapping, broken YAML where it breaks
    assert any(f"line {number}:" in str(refused.value) for number in near), refused.value
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(TEXT.replace("count: 4", "count: 1"), "out of memory", id="weights-larger-than-memory"),
        pytest.param(TEXT.replace("- {cpu: 256GB}", ""), "nvme without cpu", id="disk-without-host-memory"),
        pytest.param(AGGREGATED.replace("Qwen/Qwen3-32B", "mystery"), "no shape is known", id="unknown-model"),
    ],
)
def test_what_cannot_run_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        _rendered(text)


def test_the_shipped_schema_accepts_the_example_and_refuses_a_wrong_key():
    shipped = json.loads((EXAMPLE.parents[2] / "deploy/schema/inferencecluster.schema.json").read_text("utf-8"))
    assert shipped == schema()
    validator = jsonschema.Draft202012Validator(shipped)
    assert list(validator.iter_errors(yaml.safe_load(TEXT))) == []
    assert list(validator.iter_errors(yaml.safe_load(TEXT.replace("tiering:", "tiers:")))) != []


def test_the_command_writes_a_folder_that_kubectl_takes(tmp_path):
    out = tmp_path / "manifests"
    answer = CliRunner().invoke(fleet, ["plan", "render", str(EXAMPLE), "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    built = subprocess.run([tool("kubectl"), "kustomize", str(out)], check=True, capture_output=True, text=True).stdout
    assert len(documents(built)) == len(_rendered(TEXT))


def test_a_file_that_is_not_there_gets_one_line():
    answer = CliRunner().invoke(fleet, ["plan", "render", str(Path("no/such/file.yaml"))])
    assert isinstance(answer.exception, ConfigError)
    assert "cannot be read" in str(answer.exception)


def test_prefill_and_decode_apart_are_routed_by_our_proxy_unless_told_otherwise():
    apart = TEXT.replace("  routing: {mode: proxy, replicas: 2}\n", "")
    assert apart != TEXT
    assert parse(apart, where="x").mode == "proxy"
    assert parse(AGGREGATED, where="x").mode == "picker"
    (args,) = (one["args"] for _, one in own_containers(_rendered(apart)))
    assert args[:2] == ["router", "serve"]


def test_a_picker_in_front_of_prefill_and_decode_is_refused_with_what_to_use_instead():
    text = TEXT.replace("mode: proxy", "mode: picker")
    with pytest.raises(ConfigError, match=r"line 31: .*needs a sidecar, which is not rendered.*mode: proxy"):
        parse(text, where="cluster.yaml")


def test_the_proxy_reaches_the_bootstrap_servers_of_prefill_engines():
    text = TEXT.replace("protocol: nixl", "protocol: mooncake")
    policies = [one for one in _rendered(text) if one["kind"] == "NetworkPolicy"]
    reached = [port["port"] for one in policies for rule in one["spec"]["ingress"] for port in rule.get("ports", [])]
    assert 8998 in reached


def test_keda_asks_for_the_label_under_which_prometheus_has_it():
    """As the examples and the migration have it: without honorLabels a scraped namespace becomes exported_namespace."""
    text = AGGREGATED + "  autoscaling: {scaler: keda}\n"
    (found,) = [one for one in _rendered(text) if one["kind"] == "ScaledObject"]
    query = found["spec"]["triggers"][0]["metadata"]["query"]
    assert "exported_namespace=" in query
