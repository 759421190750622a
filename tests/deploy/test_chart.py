"""The Helm chart with the real Helm: valid manifests, least privilege, the same system as `fleet up`."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml

from planner.install import RUNS, chart_values, services
from tests.deploy.commands import complaint, own_containers
from tests.deploy.helm import CHART, ROOT, helm, manifests, template, tool
from tests.planner.manifests import need_schemas, problems

EVERYTHING = {
    "wva.externalMetrics": {"enabled": True, "port": 6443, "tlsSecret": "wva-tls", "caBundle": "-----BEGIN"},
    "wva.scaleDirectly": True,
    "monitoring.enabled": True,
    "router.config": "scorers:\n  - {type: prefix-aware, weight: 100}\n",
    "router.engines": "http://gpu1:8000,http://gpu2:8000",
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "cpu", "operator": "Exists"}],
    "podAnnotations": {"team": "serving"},
    "serviceAccount.annotations": {"role": "x"},
    "wva.settings": {"WVA_INTERVAL_S": 10},
    "predictor.routerNamespaces": ["models", "more"],
    "kvIndex.bundled.enabled": True,
    "kvIndex.routerNamespaces": ["models"],
}
VARIATIONS = {
    "as it lies": {},
    "everything": EVERYTHING,
    "one namespace": {"wva.namespace": "models"},
    "nothing but the controller": {f"{part}.enabled": False for part in ("router", "predictor", "alerts", "console")},
    "own database": {"history.existingSecret": "db"},
    "own store of the KV index": {"kvIndex.existingSecret": "store", "kvIndex.bundled.enabled": True},
    "no history": {"history.bundled.enabled": False},
}


def find(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(one for one in found if one["kind"] == kind and one["metadata"]["name"] == name)


def containers(found: list[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By container name: pod spec and container."""
    pods = [one["spec"]["template"]["spec"] for one in found if one["kind"] in ("Deployment", "StatefulSet")]
    return {container["name"]: (pod, container) for pod in pods for container in pod["containers"]}


def test_helm_finds_nothing_to_complain_about():
    found = helm("lint", "--strict", str(CHART))
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_manifest_is_valid(name):
    need_schemas()
    found = manifests(VARIATIONS[name])
    wrong = {(one["kind"], one["metadata"]["name"]): problems(one) for one in found}
    assert {key: value for key, value in wrong.items() if value} == {}
    assert len(wrong) == len(found)  # no name twice
    assert len(found) > 5


def test_the_same_system_as_fleet_up():
    """Both follow from :mod:`planner.install`: parts, commands, ports, health pages and promises."""
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    for key, wanted in chart_values().items():
        assert {name: values[key][name] for name in wanted} == wanted
    found = manifests()
    running = containers(found)
    assert set(RUNS) == set(running) - {"postgres"}
    for service in services():
        _, container = running[service.name]
        args = container["args"]
        assert tuple(args[: len(service.command)]) == service.command
        assert f"--port={service.ports[0]}" in args
        assert [port["containerPort"] for port in container["ports"]] == list(service.ports)
        assert container["livenessProbe"]["httpGet"]["path"] == service.health
    promised = yaml.safe_load(find(found, "ConfigMap", "fleet-slos")["data"]["slos.yaml"])
    assert promised == chart_values()["slos"]


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_command_that_the_chart_renders_is_accepted(name):
    """An option, value or setting that a command refuses would end the pod at once."""
    found = list(own_containers(manifests(VARIATIONS[name])))
    assert {who: wrong for who, one in found if (wrong := complaint(one))} == {}
    assert len(found) == (1 if name == "nothing but the controller" else len(RUNS))


def test_every_command_of_the_kustomize_base_is_accepted():
    text = (ROOT / "deploy/kustomize/base/llm-fleet.yaml").read_text("utf-8")
    found = list(own_containers(one for one in yaml.safe_load_all(text) if one))
    assert {who: wrong for who, one in found if (wrong := complaint(one))} == {}
    assert len(found) == len(RUNS)


@pytest.mark.parametrize(("args", "env", "words"), [
    pytest.param(["router", "picker", "--grpc-port", "9002"], {}, "No such option", id="option"),
    pytest.param(["router", "serve", "--port=http"], {}, "not a valid integer", id="value"),
    pytest.param(["router", "picks"], {}, "no command 'picks'", id="command"),
    pytest.param(["wva", "run"], {"WVA_INTERVL_S": "3"}, "WVA_INTERVL_S", id="setting"),
    pytest.param(["wva", "run", "--interval-s=3"], {"WVA_INTERVAL_S": "3", "HOME": "/"}, "", id="right"),
])  # fmt: skip
def test_a_command_that_would_be_refused_is_found_out(args, env, words):
    wrong = complaint({"args": args, "env": [{"name": name, "value": value} for name, value in env.items()]})
    assert words in wrong
    assert bool(wrong) == bool(words)


@pytest.mark.parametrize("name", VARIATIONS)
def test_pods_keep_the_restricted_standard(name):
    for pod, container in containers(manifests(VARIATIONS[name])).values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False  # Kubernetes would set ROUTER_PORT, which is a setting of ours
        rules = container["securityContext"]
        assert rules["readOnlyRootFilesystem"]
        assert not rules["allowPrivilegeEscalation"]
        assert rules["capabilities"] == {"drop": ["ALL"]}
        assert container["readinessProbe"]
        assert container["livenessProbe"]
        assert container["resources"]["requests"]


def test_only_what_talks_to_the_api_server_gets_a_token():
    found = manifests(EVERYTHING)
    tokens = {one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"
              and one["automountServiceAccountToken"]}  # fmt: skip
    assert tokens == {"fleet-wva", "fleet-router"}


def test_a_change_of_the_promises_restarts_the_pods():
    first, second = (containers_of_template(text) for text in (template(), template({"slos.default.window": "7d"})))
    assert first != second


def containers_of_template(text: str) -> list[str]:
    found = [one for one in yaml.safe_load_all(text) if one and one["kind"] == "Deployment"]
    return [one["spec"]["template"]["metadata"]["annotations"]["checksum/slos"] for one in found]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"wva.replica": 3}, "replica", id="unknown-key"),
        pytest.param({"wva.port": 70000}, "port", id="port"),
        pytest.param({"image.digest": "latest"}, "digest", id="digest"),
        pytest.param({"predictor.replicas": 2}, "replicas", id="two-learners"),
        pytest.param({"kvIndex.bundled.maxMemory": "much"}, "maxMemory", id="no-size"),
        pytest.param({"wva.settings": {"interval": 3}}, "interval", id="no-environment-variable"),
        pytest.param({"wva.externalMetrics.enabled": True}, "tlsSecret is empty", id="no-certificate"),
    ],
)
def test_wrong_values_are_refused(values, words):
    given = [item for key, value in values.items() for item in ("--set-json", f"{key}={json.dumps(value)}")]
    found = helm("template", "fleet", str(CHART), *given)
    assert found.returncode != 0
    assert words in found.stderr


def test_the_crd_is_the_one_that_the_code_knows():
    shipped = yaml.safe_load((CHART / "crds/variantautoscalings.llmd.ai.yaml").read_text("utf-8"))
    assert shipped == yaml.safe_load((ROOT / "deploy/crd/variantautoscalings.llmd.ai.yaml").read_text("utf-8"))


def test_metrics_pages_are_closed_to_clients():
    """Clients reach the router's client port and the console; metrics and admin only we and Prometheus."""
    found = manifests(EVERYTHING)
    for part, closed in (("router", 8081), ("wva", 8070), ("predictor", 8090), ("alerts", 8095)):
        rules = find(found, "NetworkPolicy", f"fleet-{part}")["spec"]["ingress"]
        opened = [rule for rule in rules if any(port["port"] == closed for port in rule["ports"])]
        assert opened
        assert all(rule.get("from") for rule in opened)


@pytest.mark.parametrize("part", ["router", "wva"])
def test_who_uses_the_model_fetches_it_from_the_predictor_where_there_is_one(part):
    """Pods share no folder."""
    (url,) = (word for word in containers(manifests())[part][1]["args"] if word.startswith("--predictor-url"))
    assert url == "--predictor-url=http://fleet-predictor.llm-fleet.svc:8090"
    alone = containers(manifests({"predictor.enabled": False}))[part][1]["args"]
    assert not [word for word in alone if word.startswith("--predictor-url")]


def test_routers_of_named_namespaces_reach_the_predictor():
    rules = find(manifests(EVERYTHING), "NetworkPolicy", "fleet-predictor")["spec"]["ingress"]
    router = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "fleet-router"}}}
    wanted = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}, **router}
              for name in ("models", "more")]  # fmt: skip
    assert {"from": wanted, "ports": [{"protocol": "TCP", "port": 8090}]} in rules
    assert len(find(manifests(), "NetworkPolicy", "fleet-predictor")["spec"]["ingress"]) == 1


def environment(found: list[dict[str, Any]], part: str) -> dict[str, Any]:
    """A part's variables: value, or Secret and key."""
    env = containers(found)[part][1]["env"]
    secrets = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in env if "valueFrom" in one}
    plain = {one["name"]: one["value"] for one in env if "value" in one}
    return plain | {name: (ref["name"], ref["key"]) for name, ref in secrets.items()}


def test_routers_share_a_kv_index_where_they_are_given_a_store():
    """Its address holds a password, so it comes from a Secret; events are listened to, else nothing were to share."""
    bundled = environment(manifests({"kvIndex.bundled.enabled": True}), "router")
    assert (bundled["ROUTER_KV_BACKEND"], bundled["ROUTER_KV_EVENTS"]) == (("fleet-kvindex", "url"), "auto")
    own = manifests(VARIATIONS["own store of the KV index"])
    assert environment(own, "router")["ROUTER_KV_BACKEND"] == ("store", "url")
    assert "valkey" not in containers(own)
    set_by_hand = {"kvIndex.existingSecret": "store", "router.settings": {"ROUTER_KV_EVENTS": "connect:5557"}}
    text = template(set_by_hand)
    assert text.count("ROUTER_KV_EVENTS") == 1
    assert "ROUTER_KV_BACKEND" not in environment(manifests(), "router")
    assert "ROUTER_KV_BACKEND" not in environment(own, "console")


def test_the_bundled_store_has_a_password_that_no_argument_tells_and_only_routers_reach_it():
    found = manifests(EVERYTHING)
    secret = find(found, "Secret", "fleet-kvindex")["stringData"]
    assert len(secret["password"]) == 32
    assert secret["url"] == f"redis://:{secret['password']}@fleet-kvindex.llm-fleet.svc:6379/0"
    _, store = containers(found)["valkey"]
    assert secret["password"] not in json.dumps(store)
    assert "requirepass" in store["args"][0]
    (rule,) = find(found, "NetworkPolicy", "fleet-kvindex")["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6379}]
    assert [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in rule["from"]] == [
        "fleet-router"
    ] * 2
    assert rule["from"][1]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "models"}


def test_the_kustomize_base_is_what_the_chart_renders():
    base = ROOT / "deploy/kustomize/base"
    built = subprocess.run([tool("kubectl"), "kustomize", str(base)], check=True, capture_output=True, text=True).stdout
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(built)}
    rendered = manifests({"history.existingSecret": "llm-fleet-history"})
    wanted = {(one["kind"], one["metadata"]["name"]) for one in rendered}
    assert set(found) == wanted | {
        ("CustomResourceDefinition", "variantautoscalings.llmd.ai"),
        ("Namespace", "llm-fleet"),
    }
    for one in rendered:
        if one["kind"] == "Deployment":
            assert found[one["kind"], one["metadata"]["name"]]["spec"] == one["spec"]
