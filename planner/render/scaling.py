"""What wva decides for, and what carries it out: VariantAutoscaling with an HPA or a ScaledObject. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fleet.errors import ConfigError
from fleet.hardware import GPUS
from planner.document import InferenceCluster, Role
from planner.render.parts import Manifest, manifest, variant
from wva.kube.crd import API_VERSION, KIND

UP: Final[Mapping[str, Any]] = {
    "stabilizationWindowSeconds": 0, "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15},
                 {"type": "Pods", "value": 4, "periodSeconds": 15}],
}  # fmt: skip
DOWN: Final[Mapping[str, Any]] = {
    "stabilizationWindowSeconds": 0, "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 10, "periodSeconds": 300},
                 {"type": "Pods", "value": 1, "periodSeconds": 300}],
}  # fmt: skip
"""The source documents' policies; one pod always may go, since 10 % of few replicas is none."""


def scaling(cluster: InferenceCluster) -> Iterator[Manifest]:
    """Per role the variant and its scaler; nothing when autoscaling is off."""
    if not cluster.spec.autoscaling.enabled:
        return
    for role, spec in cluster.roles().items():
        yield _variant(cluster, role, spec)
        yield _hpa(cluster, role, spec) if cluster.spec.autoscaling.scaler == "hpa" else _keda(cluster, role, spec)


def _target(cluster: InferenceCluster, role: str, spec: Role) -> dict[str, str]:
    kind = ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet") if spec.hardware.nodes > 1 else ("apps/v1", "Deployment")
    return {"apiVersion": kind[0], "kind": kind[1], "name": variant(cluster, role)}


def _variant(cluster: InferenceCluster, role: str, spec: Role) -> Manifest:
    rules, bounds, slo = cluster.spec.autoscaling, cluster.bounds(role), cluster.spec.slo
    gpus = spec.hardware.count * spec.hardware.nodes
    body = {
        "scaleTargetRef": _target(cluster, role, spec), "modelID": cluster.spec.model.name, "role": role,
        "accelerator": spec.hardware.gpu, "variantCost": f"{GPUS[spec.hardware.gpu].price_per_hour * gpus:.2f}",
        "saturationThreshold": rules.saturation_threshold, "scaleDownThreshold": rules.scale_down_threshold,
        "minReplicas": bounds.min, "maxReplicas": bounds.max,
        "slo": {"ttftSeconds": slo.ttft_seconds, "tpotSeconds": slo.tpot_seconds},
    }  # fmt: skip
    return manifest(API_VERSION, KIND, variant(cluster, role), cluster, "autoscaling", spec=body)


def _hpa(cluster: InferenceCluster, role: str, spec: Role) -> Manifest:
    """AverageValue 1: as many replicas as the metric says. Value would multiply by the ready replicas."""
    name, bounds = variant(cluster, role), cluster.bounds(role)
    if bounds.min == 0:
        raise ConfigError("an HPA does not scale to zero", where=f"{cluster.metadata.name}: spec.autoscaling",
                          next_step="Write scaler: keda, or min: 1.")  # fmt: skip
    metric = {"name": "wva_desired_replicas", "selector": {"matchLabels": {"variant_name": name}}}
    body = {
        "scaleTargetRef": _target(cluster, role, spec), "minReplicas": bounds.min, "maxReplicas": bounds.max,
        "metrics": [{"type": "External",
                     "external": {"metric": metric, "target": {"type": "AverageValue", "averageValue": "1"}}}],
        "behavior": {"scaleUp": dict(UP), "scaleDown": dict(DOWN)},
    }  # fmt: skip
    return manifest("autoscaling/v2", "HorizontalPodAutoscaler", name, cluster, "autoscaling", spec=body)


def _keda(cluster: InferenceCluster, role: str, spec: Role) -> Manifest:
    """``ignoreNullValues: "false"``: KEDA would read an empty answer as 0 and scale down on dead metrics."""
    name, bounds, rules = variant(cluster, role), cluster.bounds(role), cluster.spec.autoscaling
    # Scraped, wva's label namespace is called exported_namespace: the chart's ServiceMonitor honours no labels.
    query = f'max(wva_desired_replicas{{variant_name="{name}",exported_namespace="{cluster.metadata.namespace}"}})'
    trigger = {"type": "prometheus", "metricType": "AverageValue", "metadata": {
        "serverAddress": rules.prometheus_url, "query": query, "threshold": "1", "activationThreshold": "0",
        "ignoreNullValues": "false"}}  # fmt: skip
    body = {
        "scaleTargetRef": _target(cluster, role, spec), "pollingInterval": 5, "cooldownPeriod": 300,
        "minReplicaCount": bounds.min, "maxReplicaCount": bounds.max, "triggers": [trigger],
        "fallback": {"failureThreshold": 3, "replicas": max(bounds.min, 1), "behavior": "currentReplicasIfHigher"},
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": dict(UP), "scaleDown": dict(DOWN)}}},
    }  # fmt: skip
    return manifest("keda.sh/v1alpha1", "ScaledObject", name, cluster, "autoscaling", spec=body)
