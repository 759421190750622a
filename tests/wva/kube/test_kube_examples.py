"""The example manifests: every name in them is one that the code knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.kube import api as k
from fleet.signals import BY_ANY_NAME, WVA_DESIRED
from tests.fake_kubernetes_store import check_variant
from wva.cli import run
from wva.external_metrics.answers import GROUP, METRICS, VERSION
from wva.kube import world
from wva.kube.platform import _COLLECTIONS, WORKLOADS

FOLDER = Path(__file__).parents[3] / "deploy" / "examples"


def documents(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((FOLDER / name).read_text()) if each]


def one(name: str, kind: str) -> dict[str, Any]:
    return next(each for each in documents(name) if each.get("kind") == kind)


def names(text: str) -> set[str]:
    return set(re.findall(r"\bwva_[a-z_]+", text))


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_every_metric_in_an_example_is_in_the_catalogue(file: str) -> None:
    assert documents(file)
    assert {name for name in names((FOLDER / file).read_text()) if name not in BY_ANY_NAME} == set()


def test_the_variants_are_accepted_by_the_schema() -> None:
    for body in documents("variant.yaml"):
        before = yaml.safe_dump(body["spec"])
        check_variant(body)
        assert yaml.safe_load(before).items() <= body["spec"].items()  # nothing was pruned


def test_the_hpa_reads_our_metric_as_an_average_and_selects_one_variant() -> None:
    hpa = one("hpa.yaml", "HorizontalPodAutoscaler")
    (metric,) = hpa["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] in METRICS
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    chosen = metric["external"]["metric"]["selector"]["matchLabels"]
    assert set(chosen) <= set(WVA_DESIRED.labels)
    declared = {each["metadata"]["name"]: each["spec"] for each in documents("variant.yaml")}
    variant = declared[chosen["variant_name"]]
    assert hpa["spec"]["scaleTargetRef"] == variant["scaleTargetRef"]
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (variant["minReplicas"], variant["maxReplicas"])


def test_the_api_service_leads_to_the_port_that_the_deployment_opens() -> None:
    registered = one("external-metrics.yaml", "APIService")
    assert registered["metadata"]["name"] == f"{VERSION}.{GROUP}"
    assert (registered["spec"]["group"], registered["spec"]["version"]) == (GROUP, VERSION)
    service, deployment = one("external-metrics.yaml", "Service"), one("external-metrics.yaml", "Deployment")
    assert registered["spec"]["service"]["name"] == service["metadata"]["name"]
    assert registered["spec"]["service"]["port"] == service["spec"]["ports"][0]["port"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert f"--external-metrics-port={ports[service['spec']['ports'][0]['targetPort']]}" in container["args"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_the_deployments_flags_exist() -> None:
    container = one("external-metrics.yaml", "Deployment")["spec"]["template"]["spec"]["containers"][0]
    known = {option for parameter in run.params for option in parameter.opts}
    assert container["args"][:2] == ["wva", "run"]
    assert {argument.split("=")[0] for argument in container["args"][2:]} <= known


def test_the_role_grants_what_is_read_and_written_and_no_more() -> None:
    rules = one("rbac.yaml", "ClusterRole")["rules"]
    granted = {(rule["apiGroups"][0], resource): set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    read = {(each.group, each.plural): {"list", "watch"} for each in _COLLECTIONS.values()}
    scaled = {(each.group, f"{each.plural}/scale"): {"get", "patch"} for each in WORKLOADS.values()}
    read[k.RESOURCE_QUOTAS.group, k.RESOURCE_QUOTAS.plural] = {"list", "watch"}
    status = (k.VARIANT_AUTOSCALINGS.group, f"{k.VARIANT_AUTOSCALINGS.plural}/status")
    assert granted == {**read, **scaled, status: {"patch"}, (k.EVENTS.group, k.EVENTS.plural): {"create"}}
    (lease,) = one("rbac.yaml", "Role")["rules"]
    assert (lease["apiGroups"], lease["resources"]) == ([k.LEASES.group], [k.LEASES.plural])
    assert set(lease["verbs"]) == {"get", "create", "update"}


def test_keda_holds_when_the_metric_is_lost() -> None:
    scaled = one("keda.yaml", "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert trigger["metadata"]["threshold"] == "1"
    assert scaled["spec"]["fallback"]["behavior"] == "currentReplicas"
    assert names(trigger["metadata"]["query"]) == {WVA_DESIRED.name}
    found = world.from_annotations("keda.sh/v1alpha1", "ScaledObject", scaled)
    assert found.spec is not None
    assert (found.name, found.spec.cost_per_hour, found.spec.max_replicas) == ("llama-8b-h100", 3.99, 12)
    assert 'variant_name="llama-8b-h100"' in trigger["metadata"]["query"]


def test_the_adapters_rule_names_our_series() -> None:
    (rule,) = documents("prometheus-adapter.yaml")[0]["externalRules"]
    assert rule["name"] == {"matches": WVA_DESIRED.name, "as": WVA_DESIRED.name}
    assert rule["metricsQuery"].startswith("max(")
    assert "variant_name" in WVA_DESIRED.labels
    assert "by (variant_name)" in rule["metricsQuery"]
