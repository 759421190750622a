"""Variants and replicas as a cluster has them, statuses and events as it accepts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fleet.errors import SourceError
from fleet.types import ReplicaState, Role, Variant
from tests.fake_kubernetes import FakeKubernetes
from tests.waiting import until
from tests.wva.kube.kube_cluster import BUSY, FULL, IDLE, Controller, add_deployment, add_pod, add_variant, template

Make = Callable[..., Controller]
LWS = "leaderworkerset.sigs.k8s.io"


def seen(made: Controller) -> dict[str, Variant]:
    return {variant.spec.name: variant for variant in made.platform.variants()}


def condition(fake: FakeKubernetes, name: str, kind: str) -> tuple[str, str]:
    found = fake.get("variantautoscalings", name)["status"]["conditions"]
    return next((each["status"], each["reason"]) for each in found if each["type"] == kind)


def test_a_variant_of_a_deployment_has_its_pods_costs_gpus_and_bounds(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 2, role="decode")
    add_variant(
        fake,
        "a",
        variantCost="7.98",
        saturationThreshold=0.7,
        minReplicas=0,
        slo={"ttftSeconds": 0.4},
        startupSeconds=95,
    )
    variant = seen(controller().ready())["a"]
    assert (variant.spec.model, variant.spec.cost_per_hour, variant.spec.role) == ("toy", 7.98, Role.DECODE)
    assert (variant.spec.accelerator, variant.spec.accelerator_count) == ("h100_sxm", 2)
    assert (variant.spec.min_replicas, variant.spec.max_replicas) == (0, 6)
    assert (variant.spec.saturation_threshold, variant.spec.scale_down_threshold) == (0.7, 0.3)
    assert (variant.spec.slo_ttft_s, variant.spec.slo_tpot_s) == (0.4, None)
    assert variant.spec.startup_s == 95
    assert all(each.created_s > 0 for each in variant.replicas)
    assert variant.requested == 2
    assert [each.url for each in variant.replicas] == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
    assert variant.count(ReplicaState.READY) == 2


def test_of_a_leader_worker_set_each_group_is_one_replica(fake: FakeKubernetes, controller: Make) -> None:
    group = {"size": 2, "workerTemplate": template({"app": "big"})}
    fake.add("leaderworkersets", {"metadata": {"name": "big"}, "spec": {"replicas": 1, "leaderWorkerTemplate": group}})
    for name, index, owner in (("big-0", "0", "big"), ("big-0-1", "1", "big-0")):
        body = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": owner, "uid": owner}}
        add_pod(fake, name, {f"{LWS}/name": "big", f"{LWS}/worker-index": index}, body)
    add_variant(fake, "big", kind="LeaderWorkerSet")
    variant = seen(controller().ready())["big"]
    assert [replica.name for replica in variant.replicas] == ["big-0"]
    assert (variant.spec.accelerator_count, variant.requested) == (4, 1)


@pytest.mark.parametrize(
    ("kind", "spec", "bounds"),
    [
        pytest.param("horizontalpodautoscalers", {"maxReplicas": 5}, (1, 5), id="an HPA without minimum has 1"),
        pytest.param("scaledobjects", {"maxReplicaCount": 5}, (0, 5), id="a ScaledObject without minimum has 0"),
        pytest.param("scaledobjects", {"minReplicaCount": 0}, (0, 100), id="a minimum of 0 stays 0"),
    ],
)
def test_annotations_declare_a_variant(
    fake: FakeKubernetes, controller: Make, kind: str, spec: dict[str, Any], bounds: tuple[int, int]
) -> None:
    add_deployment(fake, "a", 1)
    notes = {
        "llm-d.ai/managed": "true",
        "llm-d.ai/model-id": "toy",
        "llm-d.ai/variant-cost": "2.5",
        "llm-d.ai/startup-seconds": "80",
    }
    ref = {"kind": "Deployment", "name": "a"}
    fake.add(kind, {"metadata": {"name": "scaler", "annotations": notes}, "spec": {"scaleTargetRef": ref, **spec}})
    found = seen(controller().ready())["a"].spec
    assert (found.model, found.cost_per_hour, found.startup_s) == ("toy", 2.5, 80.0)
    assert (found.min_replicas, found.max_replicas) == bounds


def add_annotated(fake: FakeKubernetes, **notes: str) -> None:
    every = {"llm-d.ai/managed": "true", "llm-d.ai/model-id": "toy", **notes}
    spec = {"scaleTargetRef": {"kind": "Deployment", "name": "a"}, "maxReplicas": 5}
    fake.add("horizontalpodautoscalers", {"metadata": {"name": "scaler", "annotations": every}, "spec": spec})


def test_annotations_say_thresholds_targets_priority_and_retention(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 1)
    add_annotated(fake, **{"llm-d.ai/saturation-threshold": "0.7", "llm-d.ai/scale-down-threshold": "0.2",
                           "llm-d.ai/slo-ttft-seconds": "0.5", "llm-d.ai/slo-tpot-seconds": "0.05",
                           "llm-d.ai/priority": "3", "llm-d.ai/retention-seconds": "900"})  # fmt: skip
    found = seen(controller().ready())["a"].spec
    assert (found.saturation_threshold, found.scale_down_threshold) == (0.7, 0.2)
    assert (found.slo_ttft_s, found.slo_tpot_s, found.priority, found.retention_s) == (0.5, 0.05, 3.0, 900.0)


@pytest.mark.parametrize(("note", "value", "said"), [
    ("llm-d.ai/priority", "high", "llm-d.ai/priority: 'high' is no number from 0.001 to 1000"),
    ("llm-d.ai/slo-ttft-seconds", "nan", "llm-d.ai/slo-ttft-seconds: 'nan' is no number"),
    ("llm-d.ai/saturation-threshold", "80", "llm-d.ai/saturation-threshold: '80' is no number from 0 to 1"),
    ("llm-d.ai/saturation-threshold", "0.3", "llm-d.ai/scale-down-threshold is not below"),
])  # fmt: skip
def test_a_wrong_annotation_is_an_event_once_and_nothing_is_guessed(
    fake: FakeKubernetes, controller: Make, note: str, value: str, said: str
) -> None:
    add_deployment(fake, "a", 1)
    add_annotated(fake, **{note: value})
    made = controller(scale=False).ready()
    for _ in range(3):
        made.loop.run_once()
    assert seen(made) == {}
    (event,) = fake.all("events")
    assert (event["reason"], event["type"], event["regarding"]["kind"]) == (
        "OptimizationFailed", "Warning", "HorizontalPodAutoscaler")  # fmt: skip
    assert event["note"].startswith(said)


def test_a_variant_says_priority_and_retention(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 1)
    add_variant(fake, "a", priority=2.5, retentionSeconds=60)
    found = seen(controller().ready())["a"].spec
    assert (found.priority, found.retention_s) == (2.5, 60.0)


def test_a_pod_that_cannot_be_mapped_is_counted_once_and_is_no_replica(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 1)
    add_pod(fake, "stray", {"app": "a"}, None)
    lost = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "gone", "uid": "gone"}}
    add_pod(fake, "orphan", {"app": "a"}, lost)
    add_pod(fake, "foreign", {"app": "other"}, None)
    add_variant(fake, "a")
    made = controller().ready()
    made.loop.run_once()
    made.loop.run_once()
    assert [replica.name for replica in seen(made)["a"].replicas] == ["a-abc-0"]
    count = {reason: made.metric("wva_pod_mapping_miss_total", namespace="default", reason=reason)
             for reason in ("no_owner", "owner_unknown", "other_owner")}  # fmt: skip
    assert count == {"no_owner": 1.0, "owner_unknown": 1.0, "other_owner": None}


def test_pods_come_and_go_by_watch(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 1)
    add_variant(fake, "a")
    made = controller().ready()
    owner = fake.get("replicasets", "a-abc")
    add_pod(fake, "late", {"app": "a"}, owner, ready=False, ip="fd00::1")
    until(lambda: len(seen(made)["a"].replicas) == 2)
    late = seen(made)["a"].replicas[1]
    assert (late.state, late.url) == (ReplicaState.STARTING, "http://[fd00::1]:8000")
    fake.remove("pods", "late")
    until(lambda: len(seen(made)["a"].replicas) == 1)
    assert fake.count("GET", "/api/v1/pods") == 2  # one list, one watch


def test_by_default_nothing_is_scaled(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 1)
    add_variant(fake, "a")
    made = controller(scale=False).ready()
    made.load.load = FULL
    made.loop.run_once()
    status = fake.get("variantautoscalings", "a")["status"]
    assert status["desiredOptimizedAlloc"]["numReplicas"] == 2
    assert status["actuation"] == {"applied": False}
    assert fake.count("PATCH", "/scale") == 0
    assert fake.get("deployments", "a")["spec"]["replicas"] == 1


def test_where_asked_it_scales_and_says_so(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 1)
    add_variant(fake, "a")
    made = controller().ready()
    made.load.load = FULL
    made.loop.run_once()
    assert made.problems() == []
    assert fake.get("deployments", "a")["spec"]["replicas"] == 2
    status = fake.get("variantautoscalings", "a")["status"]
    assert (status["currentReplicas"], status["actuation"]) == (1, {"applied": True})
    assert (status["lastDecision"]["direction"], status["lastDecision"]["reason"]) == ("up", "saturated")
    (event,) = fake.all("events")
    assert (event["reason"], event["type"], event["regarding"]["kind"]) == ("ScaledUp", "Normal", "VariantAutoscaling")
    assert event["note"].startswith("1 to 2 replicas")


def test_an_hpa_on_the_same_workload_is_no_second_writer(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 1)
    add_variant(fake, "a")
    ref = {"kind": "Deployment", "name": "a"}
    fake.add("horizontalpodautoscalers", {"metadata": {"name": "h"}, "spec": {"scaleTargetRef": ref, "maxReplicas": 9}})
    made = controller().ready()
    made.load.load = FULL
    made.loop.run_once()
    assert "is scaled by HorizontalPodAutoscaler h already" in made.problems()[0]
    assert fake.get("deployments", "a")["spec"]["replicas"] == 1


def test_conditions_tell_what_is_wrong_and_are_written_only_on_change(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 1)
    add_variant(fake, "a")
    add_variant(fake, "lonely")
    made = controller(scale=False).ready()
    made.load.load = BUSY
    made.loop.run_once()
    assert condition(fake, "a", "TargetResolved") == ("True", "TargetFound")
    assert condition(fake, "a", "MetricsAvailable") == ("True", "MetricsFound")
    assert condition(fake, "a", "OptimizationReady") == ("True", "OptimizationSucceeded")
    assert condition(fake, "lonely", "TargetResolved") == ("False", "TargetNotFound")
    assert condition(fake, "lonely", "OptimizationReady") == ("False", "SkippedProcessing")
    version = fake.get("variantautoscalings", "a")["metadata"]["resourceVersion"]
    for _ in range(3):
        made.loop.run_once()
    assert fake.get("variantautoscalings", "a")["metadata"]["resourceVersion"] == version
    made.load.load = None
    made.loop._collector.forget(0.0)
    made.loop.run_once()
    assert condition(fake, "a", "MetricsAvailable") == ("False", "MetricsMissing")
    assert condition(fake, "a", "OptimizationReady") == ("False", "MetricsUnavailable")
    assert [event["reason"] for event in fake.all("events")] == ["MetricsUnavailable"]


def test_two_variants_of_one_name_are_refused_not_mixed_up(fake: FakeKubernetes, controller: Make) -> None:
    for namespace in ("x", "y"):
        add_deployment(fake, "a", 1, namespace=namespace)
        add_variant(fake, "a", namespace=namespace)
    made = controller().ready()
    made.loop.run_once()
    assert seen(made) == {}
    status = fake.get("variantautoscalings", "a", "x")["status"]
    assert "several namespaces have a variant a" in status["conditions"][0]["message"]


def test_collections_that_are_not_installed_count_as_empty(fake: FakeKubernetes, controller: Make) -> None:
    fake.absent = {"leaderworkersets", "scaledobjects"}
    add_deployment(fake, "a", 1)
    add_variant(fake, "a")
    assert list(seen(controller().ready())) == ["a"]


def test_what_was_scaled_by_another_meanwhile_is_left_alone(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 3)
    add_variant(fake, "a")
    made = controller().ready()
    made.platform.variants()
    fake.change("deployments", "a", spec={"replicas": 5})
    with pytest.raises(SourceError, match="was changed from 3 to 5 replicas by someone else"):
        made.platform.scale("a", 2)
    assert fake.get("deployments", "a")["spec"]["replicas"] == 5


def test_a_status_change_between_read_and_write_is_no_obstacle(fake: FakeKubernetes, controller: Make) -> None:
    add_deployment(fake, "a", 3)
    add_variant(fake, "a")
    made = controller().ready()
    made.load.load = IDLE
    made.platform.variants()
    changed = []

    def then(method: str, path: str) -> bool:
        if method == "PATCH" and path.endswith("/scale") and not changed:
            changed.append(fake.change("deployments", "a", part="status", status={"replicas": 3}))
        return False

    from tests.fake_kubernetes import Fault

    fake.faults.append(Fault(matches=then))
    made.platform.scale("a", 2)
    assert fake.get("deployments", "a")["spec"]["replicas"] == 2
    assert fake.count("PATCH", "/scale") == 2
