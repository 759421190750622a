"""The same tests on the fake and on a real cluster, so that the fake cannot drift from what it stands for.

For the real one set KUBECONFIG, install the resource (``fleet wva crd | kubectl apply -f -``), and name a namespace in
KUBE_TEST_NAMESPACE (default ``default``); everything that is made there is deleted again. No node is needed.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.history import History
from fleet.kube.api import (
    DEPLOYMENTS,
    EVENTS,
    LEASES,
    VARIANT_AUTOSCALINGS,
    KubeApi,
    KubeError,
    Object,
    Resource,
    connect,
)
from tests.fake_kubernetes import serving
from tests.waiting import until
from tests.wva.kube.kube_cluster import Load, api_of, template
from wva.collect import Collector
from wva.kube.lease import Elector
from wva.kube.parts import KubeParts
from wva.loop import ControlLoop
from wva.settings import WvaSettings
from wva.types import Policy

KINDS = {DEPLOYMENTS: "Deployment", VARIANT_AUTOSCALINGS: "VariantAutoscaling"}


class Cluster:
    """A namespace, and what a test made in it."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.name = f"wva-test-{uuid.uuid4().hex[:6]}"
        self.made: list[str] = []

    def create(self, resource: Resource, spec: Object) -> Object:
        version = "/".join(part for part in (resource.group, resource.version) if part)
        meta = {"name": self.name, "namespace": self.namespace}
        body = {"apiVersion": version, "kind": KINDS[resource], "metadata": meta, "spec": spec}
        made = self.api.create(resource.path(self.namespace), body)
        self.made.append(resource.path(self.namespace, self.name))
        return made

    def get(self, resource: Resource) -> Object:
        return self.api.get(resource.path(self.namespace, self.name))

    def deployment(self, replicas: int) -> None:
        labels = {"app": self.name}
        pod = template(labels)
        pod["spec"] |= {"schedulerName": "nobody", "terminationGracePeriodSeconds": 0}
        self.create(DEPLOYMENTS, {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod})

    def variant(self, **spec: Any) -> Object:
        ref = {"kind": "Deployment", "name": self.name}
        return self.create(VARIANT_AUTOSCALINGS, {"modelID": "toy", "scaleTargetRef": ref, **spec})

    def clean(self) -> None:
        for path in [*self.made, LEASES.path(self.namespace, self.name)]:
            try:
                self.api._json(self.api._call("DELETE", path), path)
            except KubeError as error:
                if error.status != 404:
                    raise


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.needs_cluster)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "fake":
        with serving() as fake:
            yield Cluster(api_of(fake), "default")
        return
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG is not set")
    made = Cluster(connect(kubeconfig=os.environ["KUBECONFIG"]), os.environ.get("KUBE_TEST_NAMESPACE", "default"))
    try:
        yield made
    finally:
        made.clean()


@pytest.fixture
def parts(cluster: Cluster) -> Iterator[KubeParts]:
    settings = WvaSettings(kube=True, namespace=cluster.namespace, scale_directly=True, lease_name=cluster.name,
                           lease_namespace=cluster.namespace)  # fmt: skip
    made = KubeParts(settings, cluster.api, identity="one")
    yield made
    made.platform.stop()
    made.elector.stop()


@pytest.fixture
def loop(parts: KubeParts, tmp_path: Path) -> Iterator[ControlLoop]:
    made = ControlLoop(Collector(parts.platform, Load()), parts.platform, History(f"sqlite:///{tmp_path}/h.sqlite3"),
                       policy=Policy(), state_file=tmp_path / "state.json", leads=parts.elector.leads)  # fmt: skip
    parts.start(made)
    yield made
    made.stop()


def test_a_variant_is_completed_with_defaults(cluster: Cluster) -> None:
    spec = cluster.variant()["spec"]
    assert (spec["saturationThreshold"], spec["scaleDownThreshold"], spec["variantCost"]) == (0.8, 0.3, "10.0")
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"minReplicas": 3, "maxReplicas": 2}, id="minimum above maximum"),
        pytest.param({"scaleDownThreshold": 0.9}, id="thresholds the wrong way round"),
        pytest.param({"saturationThreshold": 1.5}, id="threshold above 1"),
        pytest.param({"variantCost": "-1"}, id="negative cost"),
        pytest.param({"scaleTargetRef": {"kind": "Job", "name": "x"}}, id="a kind that cannot be scaled"),
        pytest.param({"slo": {}}, id="an empty override"),
        pytest.param({"role": "judge"}, id="an unknown role"),
    ],
)
def test_a_wrong_variant_is_refused(cluster: Cluster, wrong: dict[str, Any]) -> None:
    with pytest.raises(KubeError) as refused:
        cluster.variant(**wrong)
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")


def test_the_lease_goes_from_one_to_the_other(cluster: Cluster) -> None:
    now = [0.0]
    one, two = (
        Elector(cluster.api, namespace=cluster.namespace, name=cluster.name, identity=name, steady=lambda: now[0],
                clock=lambda: 1_800_000_000.0)
        for name in ("one", "two")
    )  # fmt: skip
    assert (one.step(), two.step()) == (True, False)
    assert one.step()
    one.release()
    assert (two.step(), one.step()) == (True, False)
    now[0] += 16.0
    assert (two.leads(), one.step()) == (False, True)
    lease = cluster.get(LEASES)["spec"]
    assert (lease["holderIdentity"], lease["renewTime"]) == ("one", "2027-01-15T08:00:00.000000Z")


def test_a_pass_scales_writes_the_status_and_an_event(cluster: Cluster, parts: KubeParts, loop: ControlLoop) -> None:
    cluster.deployment(1)
    cluster.variant(minReplicas=2)
    until(lambda: cluster.name in {variant.spec.name for variant in parts.platform.variants()})
    loop.run_once()
    assert loop.last is not None
    assert [problem.line for problem in loop.last.problems] == []
    assert cluster.get(DEPLOYMENTS)["spec"]["replicas"] == 2
    status = cluster.get(VARIANT_AUTOSCALINGS)["status"]
    assert status["desiredOptimizedAlloc"]["numReplicas"] == 2
    assert (status["lastDecision"]["reason"], status["actuation"]) == ("below_min", {"applied": True})
    conditions = {each["type"]: each["reason"] for each in status["conditions"]}
    assert conditions["TargetResolved"] == "TargetFound"
    events = cluster.api.get(EVENTS.path(cluster.namespace))["items"]
    ours = [event["reason"] for event in events if event["regarding"]["name"] == cluster.name]
    assert "ScaledUp" in ours
    until(lambda: next(each.requested for each in parts.platform.variants() if each.spec.name == cluster.name) == 2)


def test_another_one_that_scales_meanwhile_is_respected(cluster: Cluster, parts: KubeParts, loop: ControlLoop) -> None:
    cluster.deployment(1)
    cluster.variant()
    until(lambda: cluster.name in {variant.spec.name for variant in parts.platform.variants()})
    cluster.api.merge(DEPLOYMENTS.path(cluster.namespace, cluster.name, "scale"), {"spec": {"replicas": 4}})
    with pytest.raises(Exception, match="by someone else"):
        parts.platform.scale(cluster.name, 2)
    assert cluster.get(DEPLOYMENTS)["spec"]["replicas"] == 4


def test_a_stale_write_is_a_conflict(cluster: Cluster) -> None:
    version = cluster.variant()["metadata"]["resourceVersion"]
    path = VARIANT_AUTOSCALINGS.path(cluster.namespace, cluster.name)
    body = {"metadata": {"resourceVersion": version, "labels": {"a": "b"}}}
    cluster.api.merge(path, body)
    body["metadata"]["labels"] = {"a": "c"}
    with pytest.raises(KubeError) as refused:
        cluster.api.merge(path, body)
    assert (refused.value.conflict, refused.value.reason) == (True, "Conflict")
