"""Engines as Deployments or LeaderWorkerSets, with their service and disruption budget. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from planner.document import Hardware, InferenceCluster, Role, size_bytes
from planner.render import engine
from planner.render.parts import (
    ENGINE_PORT,
    SGLANG_IMAGE,
    VLLM_IMAGE,
    Manifest,
    engine_labels,
    http_probe,
    manifest,
    pod_security,
    restricted,
    selector,
    variant,
)

START_S: Final = 1800
"""A first start downloads and compiles; the start-up probe waits so long."""
DRAIN_S: Final = 120
"""Answers in flight may end before a pod goes."""
_PRODUCTS: Final = {
    "h100_sxm": "NVIDIA-H100-80GB-HBM3", "h200_sxm": "NVIDIA-H200", "b200_sxm": "NVIDIA-B200",
    "a100_sxm": "NVIDIA-A100-SXM4-80GB", "l40s": "NVIDIA-L40S", "l4": "NVIDIA-L4",
}  # fmt: skip
"""Values of the label nvidia.com/gpu.product, as GPU feature discovery writes it."""


def workloads(cluster: InferenceCluster) -> Iterator[Manifest]:
    """Each role's engines."""
    for role, spec in cluster.roles().items():
        yield _leader_worker_set(cluster, role, spec) if spec.hardware.nodes > 1 else _deployment(cluster, role, spec)
        if spec.replicas > 1:
            yield _budget(cluster, role)
    yield _service(cluster)


def _deployment(cluster: InferenceCluster, role: str, spec: Role) -> Manifest:
    rollout = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    body = {
        "replicas": spec.replicas,
        "selector": {"matchLabels": _selector(cluster, role)},
        "strategy": rollout,
        "template": {"metadata": {"labels": engine_labels(cluster, role)}, "spec": _pod(cluster, role, spec)},
    }
    return manifest("apps/v1", "Deployment", variant(cluster, role), cluster, "engine", spec=_unmanaged(cluster, body))


def _leader_worker_set(cluster: InferenceCluster, role: str, spec: Role) -> Manifest:
    """One group of pods is one replica; only the leader serves."""
    leader, worker = _pod(cluster, role, spec), _pod(cluster, role, spec)
    leader["containers"][0]["command"] += ["--nnodes", str(spec.hardware.nodes), "--node-rank", "0",
                                           "--master-addr", "$(LWS_LEADER_ADDRESS)"]  # fmt: skip
    main = worker["containers"][0]
    main["command"] += ["--nnodes", str(spec.hardware.nodes), "--node-rank", "$(LWS_WORKER_INDEX)",
                        "--master-addr", "$(LWS_LEADER_ADDRESS)", "--headless"]  # fmt: skip
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        main.pop(probe)
    template = {
        "size": spec.hardware.nodes, "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": {"metadata": {"labels": engine_labels(cluster, role)}, "spec": leader},
        "workerTemplate": {"metadata": {"labels": {**engine_labels(cluster, role),
                                                   "app.kubernetes.io/component": "engine-worker"}}, "spec": worker},
    }  # fmt: skip
    body = {"replicas": spec.replicas, "leaderWorkerTemplate": template, "startupPolicy": "LeaderCreated",
            "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": {"maxSurge": 1}}}  # fmt: skip
    return manifest("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", variant(cluster, role), cluster, "engine",
                    spec=_unmanaged(cluster, body))  # fmt: skip


def _unmanaged(cluster: InferenceCluster, body: Manifest) -> Manifest:
    """Under an autoscaler the manifest must not say how many: each apply would undo its work."""
    if cluster.spec.autoscaling.enabled:
        body.pop("replicas")
    return body


def _pod(cluster: InferenceCluster, role: str, spec: Role) -> dict[str, Any]:
    hardware = spec.hardware
    found: dict[str, Any] = {
        "serviceAccountName": f"{cluster.metadata.name}-engine", "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(1000), "terminationGracePeriodSeconds": DRAIN_S + 30,
        "nodeSelector": _nodes(hardware),
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [_container(cluster, role, spec)], "volumes": _volumes(cluster, spec),
    }  # fmt: skip
    if hardware.spot:
        found["tolerations"].append({"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"})
    return found


def _nodes(hardware: Hardware) -> dict[str, str]:
    return dict(hardware.node_selector) or {"nvidia.com/gpu.product": _PRODUCTS[hardware.gpu]}


def _container(cluster: InferenceCluster, role: str, spec: Role) -> dict[str, Any]:
    image = spec.image or (SGLANG_IMAGE if spec.engine == "sglang" else VLLM_IMAGE)
    amount = {"cpu": spec.hardware.cpu, "memory": _memory(cluster, spec), "nvidia.com/gpu": str(spec.hardware.count)}
    ports = [{"name": "http", "containerPort": ENGINE_PORT}, {"name": "kv-events", "containerPort": engine.EVENTS_PORT},
             {"name": "kv-replay", "containerPort": engine.REPLAY_PORT}]  # fmt: skip
    if cluster.spec.prefill is not None:
        ports.append({"name": "kv-side", "containerPort": engine.NIXL_PORT})
        ports.append({"name": "kv-bootstrap", "containerPort": engine.BOOTSTRAP_PORT})
    return {
        "name": "engine", "image": image, "command": engine.command(cluster, role),
        "env": engine.environment(cluster, role), "ports": ports, "resources": {"requests": amount, "limits": amount},
        "securityContext": restricted(), "volumeMounts": _mounts(cluster),
        "startupProbe": http_probe("/health", "http", failures=START_S // 10),
        "readinessProbe": http_probe("/health", "http", period_s=5),
        "livenessProbe": http_probe("/health", "http", period_s=15, failures=6),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(DRAIN_S)]}}},
    }  # fmt: skip


def _memory(cluster: InferenceCluster, spec: Role) -> str:
    """Of the container: the host tier of the KV cache is part of it."""
    tier = cluster.spec.cache.tier("cpu")
    if tier is None or cluster.spec.cache.backend == "lmcache":
        return spec.hardware.memory
    return f"{math.ceil((size_bytes(spec.hardware.memory) + size_bytes(tier)) / 2**20)}Mi"


def _volumes(cluster: InferenceCluster, spec: Role) -> list[dict[str, Any]]:
    shared = {"medium": "Memory", "sizeLimit": "16Gi"}
    found: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": shared}, {"name": "tmp", "emptyDir": {"sizeLimit": "64Gi"}},
    ]  # fmt: skip
    if (name := engine.claim(cluster)) is not None:
        found.append({"name": "model", "persistentVolumeClaim": {"claimName": name, "readOnly": True}})
    if (disk := cluster.spec.cache.tier("nvme")) is not None:
        found.append({"name": "kv", "emptyDir": {"sizeLimit": str(size_bytes(disk))}})
    return found


def _mounts(cluster: InferenceCluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - emptyDirs
    ]  # fmt: skip
    if engine.claim(cluster) is not None:
        found.append({"name": "model", "mountPath": engine.MODEL_DIR, "readOnly": True})
    if cluster.spec.cache.tier("nvme") is not None:
        found.append({"name": "kv", "mountPath": engine.CACHE_DIR})
    return found


def _selector(cluster: InferenceCluster, role: str) -> dict[str, str]:
    return selector(cluster, "engine", **{"llm-d.ai/role": role})


def _budget(cluster: InferenceCluster, role: str) -> Manifest:
    body = {"maxUnavailable": 1, "selector": {"matchLabels": _selector(cluster, role)}}
    if cluster.roles()[role].hardware.nodes > 1:  # its pods belong to StatefulSets without a scale of their own
        body = {"minAvailable": 1, "selector": body["selector"]}
    return manifest("policy/v1", "PodDisruptionBudget", variant(cluster, role), cluster, "engine", spec=body)


def _service(cluster: InferenceCluster) -> Manifest:
    """Headless: names for all engines; the router chooses among them."""
    body = {"clusterIP": "None", "selector": selector(cluster, "engine"),
            "ports": [{"name": "http", "port": ENGINE_PORT, "targetPort": "http"}]}  # fmt: skip
    return manifest("v1", "Service", f"{cluster.metadata.name}-engines", cluster, "engine", spec=body)
