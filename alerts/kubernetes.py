"""Manifests for the Prometheus operator: the rules as PrometheusRule, and monitors that scrape all parts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from alerts.model import Links, Rulebook
from alerts.render import HEADER, rule_groups

PART_OF: Final = {"app.kubernetes.io/part-of": "llm-fleet"}
_API: Final = "monitoring.coreos.com/v1"
ENGINE_LABELS: Final = {"app.kubernetes.io/component": "engine"}
"""What an engine's pods must carry to be scraped."""
_SERVICES: Final = ("fleet-router", "fleet-wva", "fleet-predictor", "fleet-alerts")
"""``app.kubernetes.io/name`` of our own services, and thereby their ``job``."""


def _manifest(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": _API, "kind": kind, "metadata": {"name": name, "labels": dict(PART_OF)}, "spec": dict(spec)}


def prometheus_rule(group: str, rules: Mapping[str, Any]) -> dict[str, Any]:
    """One rule file as a PrometheusRule."""
    return _manifest("PrometheusRule", f"fleet-{group.replace('_', '-')}", rules)


def _service_monitor(name: str, labels: Mapping[str, str], port: str, **endpoint: Any) -> dict[str, Any]:
    spec = {
        "jobLabel": "app.kubernetes.io/name",
        "namespaceSelector": {"any": True},
        "selector": {"matchLabels": dict(labels)},
        "endpoints": [{"port": port, "interval": "15s", **endpoint}],
    }
    return _manifest("ServiceMonitor", name, spec)


def monitors() -> Iterator[dict[str, Any]]:
    """What scrapes engines, our own parts and the exporters.

    Engines are found by their label. DCGM's own ``pod`` and ``namespace`` are kept (``honorLabels``), for they
    name the workload; without it layer 3 could not say whose GPU hangs.
    """
    endpoint = {"port": "http", "path": "/metrics", "interval": "15s"}
    spec = {
        "namespaceSelector": {"any": True},
        "selector": {"matchLabels": dict(ENGINE_LABELS)},
        "podMetricsEndpoints": [endpoint],
    }
    yield _manifest("PodMonitor", "fleet-engines", spec)
    for service in _SERVICES:
        yield _service_monitor(service, {"app.kubernetes.io/name": service}, "metrics")
    dcgm = {"app.kubernetes.io/name": "dcgm-exporter"}
    yield _service_monitor("fleet-dcgm", dcgm, "metrics", honorLabels=True)


def _text(documents: list[dict[str, Any]], title: str, source: str) -> str:
    body = yaml.safe_dump_all(documents, sort_keys=False, width=10**6, allow_unicode=True)
    return HEADER.format(title=title, source=source) + body


def kubernetes_files(rules: Rulebook, links: Links, *, source: str) -> Mapping[str, str]:
    """File name -> text."""
    groups = rule_groups(rules, links)
    files = {
        f"{name}.yaml": _text([prometheus_rule(name, document)], f"PrometheusRule: {title}", source)
        for name, (title, document) in groups.items()
    }
    return {**files, "monitors.yaml": _text(list(monitors()), "PodMonitor and ServiceMonitor objects.", source)}
