"""What watches and what fences a model service: monitors, rules, network policies. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml

from alerts.kubernetes import kubernetes_files
from alerts.model import Links
from alerts.rules import rulebook
from fleet.slo import SloBook
from planner.document import InferenceCluster
from planner.render import engine
from planner.render.engine import objectives
from planner.render.parts import ENGINE_PORT, Manifest, manifest, selector
from planner.render.routing import ADMIN_PORT, GRPC_PORT, METRICS_PORT, PROXY_PORT, router_name

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"


def monitors(cluster: InferenceCluster) -> Iterator[Manifest]:
    """PodMonitor of the engines and ServiceMonitor of the router."""
    watched = cluster.spec.monitoring
    if not watched.enabled:
        return
    endpoint = {"port": "http", "path": "/metrics", "interval": watched.interval}
    yield manifest(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        f"{cluster.metadata.name}-engines",
        cluster,
        "engine",
        spec={"selector": {"matchLabels": selector(cluster, "engine")}, "podMetricsEndpoints": [endpoint]},
    )
    yield manifest("monitoring.coreos.com/v1", "ServiceMonitor", router_name(cluster), cluster, "router",
                   spec={"jobLabel": "app.kubernetes.io/name",
                         "selector": {"matchLabels": selector(cluster, "router")},
                         "endpoints": [{"port": "metrics", "interval": watched.interval}]})  # fmt: skip


def rules(cluster: InferenceCluster) -> Iterator[Manifest]:
    """The PrometheusRule objects of the project, for this file's promises."""
    if not cluster.spec.monitoring.enabled:
        return
    slo = objectives(cluster)
    book = SloBook(default=slo, models={slo.model: slo})
    for text in kubernetes_files(rulebook(book), Links(), source=f"{cluster.metadata.name}.yaml").values():
        for found in yaml.safe_load_all(text):
            if found["kind"] == "PrometheusRule":
                found["metadata"] |= {
                    "namespace": cluster.metadata.namespace,
                    "name": f"{cluster.metadata.name}-{found['metadata']['name']}"[:63].rstrip("-"),
                }
                yield found


def network_policies(cluster: InferenceCluster) -> Iterator[Manifest]:
    """Engines are reached by the router, by each other and by Prometheus; nothing else, clients least of all."""
    monitoring = _namespace(cluster.spec.monitoring.namespace)
    router = {"podSelector": {"matchLabels": selector(cluster, "router")}}
    peers = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": cluster.metadata.name}}}
    gateway = {"podSelector": {"matchLabels": {"gateway.networking.k8s.io/gateway-name": cluster.spec.routing.gateway}}}
    anywhere = {"namespaceSelector": {}, **gateway}
    engine_in: list[dict[str, Any]] = [
        {"from": [router, anywhere], "ports": [_port(ENGINE_PORT)]},
        {"from": [router], "ports": [_port(engine.EVENTS_PORT), _port(engine.REPLAY_PORT)]},
        {"from": [monitoring], "ports": [_port(ENGINE_PORT)]},
    ]  # fmt: skip
    if cluster.spec.prefill is not None:  # the proxy asks a Mooncake prefill engine for its id
        engine_in.append({"from": [router], "ports": [_port(engine.BOOTSTRAP_PORT)]})
    if cluster.spec.prefill is not None or any(role.hardware.nodes > 1 for role in cluster.roles().values()):
        engine_in.append({"from": [peers]})  # KV transfers and collectives take ports as they come
    yield manifest("networking.k8s.io/v1", "NetworkPolicy", f"{cluster.metadata.name}-engines", cluster, "engine",
                   spec={"podSelector": {"matchLabels": {"app.kubernetes.io/instance": cluster.metadata.name},
                                         "matchExpressions": [_in("app.kubernetes.io/component",
                                                                  ["engine", "engine-worker"])]},
                         "policyTypes": ["Ingress"], "ingress": engine_in})  # fmt: skip
    picker = cluster.mode == "picker"
    serving = [_port(GRPC_PORT)] if picker else [_port(PROXY_PORT)]
    metrics = _port(METRICS_PORT if picker else ADMIN_PORT)
    router_in = [{"from": [anywhere], "ports": serving}, {"from": [monitoring], "ports": [metrics]}]
    yield manifest("networking.k8s.io/v1", "NetworkPolicy", router_name(cluster), cluster, "router",
                   spec={"podSelector": {"matchLabels": selector(cluster, "router")},
                         "policyTypes": ["Ingress"], "ingress": router_in})  # fmt: skip


def _in(key: str, values: list[str]) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": values}


def _port(number: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": number}


def _namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: name}}}
