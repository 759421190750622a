"""What the external metrics API says: discovery, values, errors. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet import signals as s
from fleet.types import Decision
from wva.external_metrics import selector

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
GROUP_VERSION = f"{GROUP}/{VERSION}"
ROOT = f"/apis/{GROUP_VERSION}"
_QUERY = re.compile(rf"^{re.escape(ROOT)}/namespaces/(?P<namespace>[^/]+)/(?P<metric>[^/]+)$")

Object = dict[str, Any]

METRICS: dict[str, Callable[[Decision], float]] = {
    s.WVA_DESIRED.name: lambda decision: float(decision.desired),
    s.WVA_CURRENT.name: lambda decision: float(decision.current),
    s.WVA_RATIO.name: lambda decision: decision.desired / decision.current if decision.current else decision.desired,
}
"""Served metrics, under the names that ``/metrics`` has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question for values."""

    namespace: str
    metric: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status code with its document."""

    status: int
    body: Object


def query_of(path: str) -> Query | None:
    """The question in a path; ``None`` where it is none."""
    match = _QUERY.match(path)
    return Query(namespace=match["namespace"], metric=match["metric"]) if match else None


def discovery(path: str) -> Answer | None:
    """The document of a discovery path; ``None`` where it is none."""
    version = {"groupVersion": GROUP_VERSION, "version": VERSION}
    group = {"name": GROUP, "versions": [version], "preferredVersion": version}
    documents: dict[str, Object] = {
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
        f"/apis/{GROUP}": {"kind": "APIGroup", "apiVersion": "v1", **group},
        ROOT: {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION,
               "resources": [_resource(name) for name in sorted(METRICS)]},
    }  # fmt: skip
    found = documents.get(path.rstrip("/"))
    return Answer(status=200, body=found) if found else None


def values(
    query: Query, label_selector: str, decisions: Sequence[Decision] | None, *, time: str
) -> Answer:  # fmt: skip
    """The values of a metric in a namespace.

    Args:
        query: the question.
        label_selector: as in the query; empty: everything.
        decisions: of the last pass; ``None`` when there is none that may be trusted.
        time: RFC 3339 time of that pass.
    """
    value = METRICS.get(query.metric)
    if value is None:
        return not_found(f"the server could not find the metric {query.metric} for {query.namespace}")
    try:
        wanted = selector.parse(label_selector)
    except ValueError as error:
        return failure(400, "BadRequest", str(error))
    if decisions is None:
        return failure(503, "ServiceUnavailable", "no decision that may be trusted: not leading, or no pass of late")
    items = [
        {"metricName": query.metric, "metricLabels": labels, "timestamp": time, "value": quantity(value(decision))}
        for decision in decisions
        if decision.namespace == query.namespace and selector.select(wanted, labels := labels_of(decision))
    ]
    body = {"kind": "ExternalMetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": items}
    return Answer(status=200, body=body)


def labels_of(decision: Decision) -> Mapping[str, str]:
    """What a selector can ask for; label values cannot hold a slash, so the model is not among them."""
    return {
        "variant_name": decision.variant,
        "namespace": decision.namespace,
        "accelerator_type": decision.accelerator or "unresolved",
    }


def quantity(value: float) -> str:
    """A Kubernetes quantity; fractions are rounded up to a thousandth.

    >>> quantity(3.0), quantity(1.5), quantity(2 / 3)
    ('3', '1500m', '667m')

    Raises: ValueError when ``value`` is not finite or negative.
    """
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value} is no quantity")
    return str(int(value)) if value == int(value) else f"{math.ceil(value * 1000)}m"


def not_found(message: str) -> Answer:
    """404."""
    return failure(404, "NotFound", message)


def failure(status: int, reason: str, message: str) -> Answer:
    """A Status document."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
            "code": status, "message": message}  # fmt: skip
    return Answer(status=status, body=body)


def _resource(name: str) -> Object:
    return {"name": name, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
