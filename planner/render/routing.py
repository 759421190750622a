"""How requests reach the engines: InferencePool, HTTPRoute and picker behind a Gateway, or our own proxy. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml

from planner.document import InferenceCluster
from planner.render.engine import EVENTS_PORT
from planner.render.parts import (
    ENGINE_PORT,
    Manifest,
    http_probe,
    labels,
    manifest,
    pod_security,
    restricted,
    selector,
)

GRPC_PORT: Final = 9002
METRICS_PORT: Final = 9090
PROXY_PORT: Final = 8080
ADMIN_PORT: Final = 8081
RESOURCES: Final = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
"""Of a picker, as the source documents ask; one process uses one core."""


def routing(cluster: InferenceCluster, image: str) -> Iterator[Manifest]:
    """Everything between a client and the engines."""
    name = router_name(cluster)
    yield manifest("v1", "ServiceAccount", f"{cluster.metadata.name}-engine", cluster, "engine",
                   automountServiceAccountToken=False)  # fmt: skip
    yield manifest("v1", "ServiceAccount", name, cluster, "router")
    yield from _access(cluster)
    yield _profile(cluster)
    yield _pool(cluster)
    yield _router(cluster, image)
    yield _service(cluster)
    if cluster.spec.routing.replicas > 1:
        yield manifest(
            "policy/v1",
            "PodDisruptionBudget",
            name,
            cluster,
            "router",
            spec={"maxUnavailable": 1, "selector": {"matchLabels": selector(cluster, "router")}},
        )
    yield _route(cluster)


def router_name(cluster: InferenceCluster) -> str:
    """Of the picker's or the proxy's objects."""
    return f"{cluster.metadata.name}-{'epp' if cluster.mode == 'picker' else 'router'}"


def _access(cluster: InferenceCluster) -> Iterator[Manifest]:
    """What the router reads: pods and slices of its own namespace, and the pool with its objectives."""
    name = router_name(cluster)
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"],
         "verbs": ["list", "watch"]},
        {"apiGroups": ["llm-d.ai"], "resources": ["inferenceobjectives", "inferencemodelrewrites"],
         "verbs": ["list", "watch"]},
    ]  # fmt: skip
    yield manifest("rbac.authorization.k8s.io/v1", "Role", name, cluster, "router", rules=rules)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": cluster.metadata.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    yield manifest("rbac.authorization.k8s.io/v1", "RoleBinding", name, cluster, "router", roleRef=role,
                   subjects=[subject])  # fmt: skip


def _profile(cluster: InferenceCluster) -> Manifest:
    """The scheduling profile and the promises, as the router reads them."""
    slo = cluster.spec.slo
    promises = {"models": {cluster.spec.model.name: {
        "ttft": {"threshold_s": slo.ttft_seconds, "objective": 0.95},
        "tpot": {"threshold_s": slo.tpot_seconds, "objective": 0.95}}}}  # fmt: skip
    return manifest("v1", "ConfigMap", router_name(cluster), cluster, "router",
                    data={"slos.yaml": yaml.safe_dump(promises, sort_keys=False),
                         "router.yaml": yaml.safe_dump({"profile": cluster.spec.routing.profile})})  # fmt: skip


def _pool(cluster: InferenceCluster) -> Manifest:
    """All engines of the model; groups of several pods are reached through their leader."""
    body: dict[str, Any] = {
        "selector": {"matchLabels": selector(cluster, "engine")},
        "targetPorts": [{"number": ENGINE_PORT}], "appProtocol": "http",
    }  # fmt: skip
    if cluster.mode == "picker":
        body["endpointPickerRef"] = {
            "group": "", "kind": "Service", "name": router_name(cluster), "port": {"number": GRPC_PORT},
            "failureMode": "FailOpen" if cluster.spec.routing.fail_open else "FailClose",
        }  # fmt: skip
    return manifest(
        "inference.networking.k8s.io/v1", "InferencePool", cluster.metadata.name, cluster, "router", spec=body
    )


def _router(cluster: InferenceCluster, image: str) -> Manifest:
    spec = {
        "serviceAccountName": router_name(cluster), "securityContext": pod_security(), "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60, "containers": [_container(cluster, image)],
        "volumes": [{"name": "config", "configMap": {"name": router_name(cluster)}},
                    {"name": "home", "emptyDir": {"sizeLimit": "2Gi"}}],
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(cluster, "router")}}],
    }  # fmt: skip
    template = {"metadata": {"labels": _labels(cluster)}, "spec": spec}
    body = {"replicas": cluster.spec.routing.replicas, "selector": {"matchLabels": selector(cluster, "router")},
            "template": template}  # fmt: skip
    return manifest("apps/v1", "Deployment", router_name(cluster), cluster, "router", spec=body)


def _labels(cluster: InferenceCluster) -> dict[str, str]:
    return labels(cluster, "router", **{"app.kubernetes.io/name": "fleet-router"})


def _container(cluster: InferenceCluster, image: str) -> Manifest:
    picker = cluster.mode == "picker"
    pool = ["--discover", f"kube-pool://{cluster.metadata.namespace}/{cluster.metadata.name}"]
    shared = ["--config", "/etc/fleet/router.yaml", "--home", "/var/lib/fleet"]
    shared += ["--kv-events", _events(cluster)]
    if (how := _disaggregation(cluster)) is not None:
        shared += ["--disaggregation", how]
    if cluster.spec.routing.predictor_url:
        shared += ["--predictor-url", cluster.spec.routing.predictor_url]
    if picker:
        args = ["router", "picker", *pool, *shared, "--host", "0.0.0.0", "--port", str(GRPC_PORT),
                "--admin-port", str(METRICS_PORT)]  # fmt: skip
        ports = [("grpc", GRPC_PORT), ("metrics", METRICS_PORT)]
        ready: Manifest = {"grpc": {"port": GRPC_PORT}, "periodSeconds": 5}
        alive: Manifest = {"grpc": {"port": GRPC_PORT, "service": "liveness"}, "periodSeconds": 15}
    else:
        args = ["router", "serve", *pool, *shared, "--host", "0.0.0.0", "--port", str(PROXY_PORT),
                "--admin-port", str(ADMIN_PORT)]  # fmt: skip
        ports = [("http", PROXY_PORT), ("metrics", ADMIN_PORT)]
        # Ready without an engine too: it holds requests while the first one starts.
        ready, alive = (http_probe("/healthz", "metrics", period_s=seconds) for seconds in (5, 15))
    return {
        "name": "router", "image": image, "args": args, "resources": RESOURCES, "securityContext": restricted(),
        "env": _environment(cluster),
        "ports": [{"name": name, "containerPort": port} for name, port in ports],
        "readinessProbe": ready, "livenessProbe": alive,
        "volumeMounts": [{"name": "config", "mountPath": "/etc/fleet", "readOnly": True},
                         {"name": "home", "mountPath": "/var/lib/fleet"}],
    }  # fmt: skip


def _environment(cluster: InferenceCluster) -> list[Manifest]:
    found: list[Manifest] = [{"name": "FLEET_SLO_FILE", "value": "/etc/fleet/slos.yaml"}]
    if name := cluster.spec.routing.history_secret:
        found.append(_secret("FLEET_HISTORY_URL", name))
    if name := cluster.spec.routing.kv_index_secret:
        found.append(_secret("ROUTER_KV_BACKEND", name))
    return found


def _secret(variable: str, name: str) -> Manifest:
    """A variable out of a Secret's key ``url``: the address holds a password."""
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": "url"}}}


def _events(cluster: InferenceCluster) -> str:
    """How the router finds engines' KV events: vLLM says itself, by data-parallel rank; SGLang does not."""
    said = all(role.engine == "vllm" for role in cluster.roles().values())
    return "auto" if said else f"connect:{EVENTS_PORT}"


def _disaggregation(cluster: InferenceCluster) -> str | None:
    """The protocol between prefill and decode, as the router names it; ``None``: engines do both."""
    if cluster.spec.prefill is None:
        return None
    if cluster.spec.decode.engine == "sglang":
        return "sglang"
    return cluster.spec.transport.protocol


def _service(cluster: InferenceCluster) -> Manifest:
    if cluster.mode == "picker":
        ports: list[dict[str, Any]] = [
            {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
            {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics"}]  # fmt: skip
    else:
        ports = [{"name": "http", "port": 80, "targetPort": "http"},
                 {"name": "metrics", "port": ADMIN_PORT, "targetPort": "metrics"}]  # fmt: skip
    found = manifest("v1", "Service", router_name(cluster), cluster, "router",
                     spec={"selector": selector(cluster, "router"), "ports": ports})  # fmt: skip
    found["metadata"]["labels"]["app.kubernetes.io/name"] = "fleet-router"
    return found


def _route(cluster: InferenceCluster) -> Manifest:
    """The Gateway's route for this model, by the header that body-based routing sets."""
    match = {"headers": [{"type": "Exact", "name": "X-Gateway-Model-Name", "value": cluster.spec.model.name}],
             "path": {"type": "PathPrefix", "value": "/"}}  # fmt: skip
    if cluster.mode == "picker":
        backend: dict[str, Any] = {"group": "inference.networking.k8s.io", "kind": "InferencePool",
                                   "name": cluster.metadata.name}  # fmt: skip
    else:
        backend = {"kind": "Service", "name": router_name(cluster), "port": 80}
    body: dict[str, Any] = {
        "parentRefs": [{"name": cluster.spec.routing.gateway}],
        "rules": [{"matches": [match], "backendRefs": [backend], "timeouts": {"request": "0s"}}],
    }  # fmt: skip
    if cluster.spec.routing.hostnames:
        body["hostnames"] = list(cluster.spec.routing.hostnames)
    return manifest("gateway.networking.k8s.io/v1", "HTTPRoute", cluster.metadata.name, cluster, "router", spec=body)
