"""Pieces that every manifest is made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from planner.document import InferenceCluster

Manifest = dict[str, Any]
PART_OF: Final = "llm-fleet"
ENGINE_PORT: Final = 8000
FLEET_IMAGE: Final = "ghcr.io/llm-fleet/llm-fleet:0.1.0"
"""Built by ``deploy/container/Containerfile``; set your own registry's with ``--fleet-image``."""
VLLM_IMAGE: Final = "vllm/vllm-openai:v0.32.0"
SGLANG_IMAGE: Final = "lmsysorg/sglang:v0.5.6"


def variant(cluster: InferenceCluster, role: str) -> str:
    """Name of a role's workload and variant."""
    return cluster.metadata.name if role == "both" else f"{cluster.metadata.name}-{role}"


def labels(cluster: InferenceCluster, component: str, **more: str) -> dict[str, str]:
    """Recommended labels of an object."""
    return {
        **cluster.metadata.labels,
        "app.kubernetes.io/part-of": PART_OF, "app.kubernetes.io/instance": cluster.metadata.name,
        "app.kubernetes.io/component": component, **more,
    }  # fmt: skip


def selector(cluster: InferenceCluster, component: str, **more: str) -> dict[str, str]:
    """What finds the pods of :func:`labels`; never the user's own labels."""
    return {"app.kubernetes.io/instance": cluster.metadata.name, "app.kubernetes.io/component": component, **more}


def engine_labels(cluster: InferenceCluster, role: str) -> dict[str, str]:
    """Of a role's pods: scraped, pooled and mapped to their variant by them."""
    return labels(cluster, "engine", **{"llm-d.ai/role": role, "llm-d.ai/model": _label(cluster.spec.model.name)})


def manifest(api: str, kind: str, name: str, cluster: InferenceCluster, component: str, **body: Any) -> Manifest:
    """One namespaced object."""
    return {
        "apiVersion": api, "kind": kind,
        "metadata": {"name": name, "namespace": cluster.metadata.namespace, "labels": labels(cluster, component)},
        **body,
    }  # fmt: skip


def restricted(writable: Mapping[str, Any] | None = None) -> Manifest:
    """A container's security context under the restricted pod security standard."""
    return {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]}, **(writable or {}),
    }  # fmt: skip


def pod_security(user: int = 65532) -> Manifest:
    """A pod's security context under the restricted pod security standard."""
    return {"runAsNonRoot": True, "runAsUser": user, "fsGroup": user, "seccompProfile": {"type": "RuntimeDefault"}}


def http_probe(path: str, port: str | int, *, period_s: int = 10, failures: int = 3, delay_s: int = 0) -> Manifest:
    """A probe over HTTP."""
    found: Manifest = {"httpGet": {"path": path, "port": port}, "periodSeconds": period_s, "failureThreshold": failures}
    return {**found, "initialDelaySeconds": delay_s} if delay_s else found


def _label(text: str) -> str:
    """A label value from a model's name.

    >>> _label("meta-llama/Llama-3.1-70B")
    'meta-llama_Llama-3.1-70B'
    """
    kept = "".join(char if char.isalnum() or char in "-_." else "_" for char in text)[:63]
    return kept.strip("-_.")
