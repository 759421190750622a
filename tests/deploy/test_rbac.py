"""Least privilege: the roles that are shipped grant what the code asks an API server for, and nothing more.

What the code asks for is recorded by a strict fake API server while a controller leads, decides, reports and scales,
and while a router follows a Service and a pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from planner.document import parse
from planner.render import render
from router.discovery.kube import PoolSource, ServiceSource
from tests.deploy.helm import CHART, ROOT, helm, manifests
from tests.fake_kubernetes import FakeKubernetes, serving
from tests.planner.clusters import AGGREGATED
from tests.waiting import until
from tests.wva.kube.kube_cluster import FULL, Controller, add_deployment, add_variant, api_of

Right = tuple[str, str, str]
"""API group, resource, verb."""
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def right_of(method: str, path: str) -> Right:
    """What a request needs, as an API server sees it."""
    url = urlsplit(path)
    parts = url.path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    resource = "/".join([rest[0], *rest[2:3]])
    if method != "GET":
        return group, resource, _VERBS[method]
    watching = parse_qs(url.query).get("watch") == ["true"]
    return group, resource, "get" if len(rest) > 1 else "watch" if watching else "list"


def granted(found: Iterable[dict[str, Any]]) -> set[Right]:
    """What roles allow."""
    rules = [rule for one in found if one["kind"] in ("Role", "ClusterRole") for rule in one["rules"]]
    return {(group, resource, verb) for rule in rules for group in rule["apiGroups"]
            for resource in rule["resources"] for verb in rule["verbs"]}  # fmt: skip


def named(found: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [one for one in found if one["metadata"]["name"] in (name, f"{name}-lease")]


def asked_by_controller(folder: Path, *, gpu_limit: str = "quota") -> set[Right]:
    """A whole life: lead, read, decide, report, scale, hand over."""
    with serving() as fake:
        add_deployment(fake, "a", 1)
        add_variant(fake, "a")
        fake.add("leaderworkersets", {"metadata": {"name": "big"}, "spec": {
            "replicas": 0,
            "leaderWorkerTemplate": {"size": 1, "workerTemplate": {"spec": {"containers": []}}}}})  # fmt: skip
        add_variant(fake, "big", kind="LeaderWorkerSet")
        made = Controller(fake, folder, scale=True, gpu_limit=gpu_limit)
        try:
            made.ready().load.load = FULL
            made.loop.run_once()
            made.elector.step()
            assert fake.get("leaderworkersets", "big")["spec"]["replicas"] == 1
            assert fake.get("deployments", "a")["spec"]["replicas"] == 2  # decided, and scaled by the pass
            until(lambda: fake.count("POST", "events") > 0)
            until(lambda: any("watch=true" in path for _, path in fake.requests))
        finally:
            made.stop()
        return {right_of(method, path) for method, path in fake.requests}


@pytest.mark.parametrize("gpu_limit", ["none", "quota", "nodes"])
def test_the_controller_s_role_is_what_it_asks_for(tmp_path, gpu_limit):
    asked = asked_by_controller(tmp_path, gpu_limit=gpu_limit)
    allowed = granted(named(manifests({"wva.scaleDirectly": True, "wva.gpuLimit": gpu_limit}), "fleet-wva"))
    assert asked - allowed == set(), "the controller would be refused"
    assert allowed - asked == set(), "the role grants more than the code uses"


def test_nodes_limit_only_a_controller_of_all_namespaces():
    told = helm("template", "fleet", str(CHART), "--set", "wva.gpuLimit=nodes,wva.namespace=models")
    assert told.returncode != 0
    assert "wva.gpuLimit nodes needs all namespaces" in told.stderr


def test_without_direct_scaling_nothing_may_be_scaled():
    allowed = granted(named(manifests(), "fleet-wva"))
    assert not any(resource.endswith("/scale") for _, resource, _ in allowed)
    assert {verb for group, resource, verb in allowed if resource in ("deployments", "pods")} == {"list", "watch"}


def test_the_example_s_role_is_the_chart_s():
    text = (ROOT / "deploy/examples/rbac.yaml").read_text("utf-8")
    example = granted(one for one in yaml.safe_load_all(text) if one)
    assert example == granted(named(manifests({"wva.scaleDirectly": True}), "fleet-wva"))


def asked_by_router() -> set[Right]:
    """A router that follows a Service, and one that follows a pool."""

    async def follow(fake: FakeKubernetes) -> None:
        sources = [ServiceSource(api_of(fake), namespace="default", service="engines"),
                   PoolSource(api_of(fake), namespace="default", pool="qwen")]  # fmt: skip
        for source in sources:
            await source.variants()
        await asyncio.to_thread(until, lambda: sum("watch=true" in path for _, path in fake.requests) >= 3)
        for source in sources:
            await source.close()

    with serving() as fake:
        fake.add("inferencepools", {"metadata": {"name": "qwen"}, "spec": {
            "selector": {"matchLabels": {"app": "x"}}, "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}}}})  # fmt: skip
        asyncio.run(follow(fake))
        return {right_of(method, path) for method, path in fake.requests}


def test_the_router_s_role_is_what_it_asks_for():
    asked = asked_by_router()
    allowed = granted(one for one in manifests() if one["metadata"]["name"] == "fleet-router")
    assert asked == allowed


def test_a_rendered_router_may_read_its_pool():
    files = render(parse(AGGREGATED, where="cluster.yaml"), source="cluster.yaml")
    rendered = [one for one in yaml.safe_load_all(files["routing.yaml"]) if one["kind"] == "Role"]
    wanted = {right for right in asked_by_router() if right[1] in ("inferencepools", "pods")}
    assert wanted <= granted(rendered)
    assert {verb for _, _, verb in granted(rendered)} <= {"get", "list", "watch"}
