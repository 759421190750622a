"""One ``InferenceCluster`` file as Kubernetes manifests. Pure: a file in, file names and texts out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import yaml

from planner.document import InferenceCluster
from planner.memory import Hardware, require_fit
from planner.render.guards import monitors, network_policies, rules
from planner.render.parts import FLEET_IMAGE, Manifest
from planner.render.routing import routing
from planner.render.scaling import scaling
from planner.render.workloads import workloads

__all__ = ["FLEET_IMAGE", "render"]
HEADER: Final = "# {title}\n# Rendered from {source} by `fleet plan render`; change that file, not this one.\n"


def render(cluster: InferenceCluster, *, source: str, image: str = FLEET_IMAGE) -> Mapping[str, str]:
    """File name -> YAML text, with a kustomization that names them all.

    Args:
        cluster: the description.
        source: name of its file, for the headers.
        image: of our own parts.
    Raises: ConfigError when the model does not fit its GPUs, or the parts contradict each other.
    """
    _check_memory(cluster)
    parts: dict[str, tuple[str, Iterable[Manifest]]] = {
        "engines.yaml": ("Engines.", workloads(cluster)),
        "routing.yaml": ("Pool, route and router.", routing(cluster, image)),
        "autoscaling.yaml": ("Variants and what scales them.", scaling(cluster)),
        "monitoring.yaml": ("Monitors.", monitors(cluster)),
        "rules.yaml": ("Recording rules and alerts for this file's promises.", rules(cluster)),
        "network.yaml": ("Who may talk to whom.", network_policies(cluster)),
    }
    files = {name: _text(list(found), title, source) for name, (title, found) in parts.items()}
    kept = {name: text for name, text in files.items() if text}
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(kept)}
    return {**kept, "kustomization.yaml": _text([kustomization], "kubectl apply -k takes this folder.", source)}


def _check_memory(cluster: InferenceCluster) -> None:
    model = cluster.spec.model
    for role in cluster.roles().values():
        hardware = Hardware(
            model=cluster.shape.name, gpu=role.hardware.gpu, tensor_parallel=role.hardware.count * role.hardware.nodes,
            precision="fp8" if model.quantization != "none" else "bf16",
            kv_bytes_per_value=1 if role.optimization.kv_compression < 1 else 2,
            gpu_memory_utilization=role.gpu_memory_utilization,
        )  # fmt: skip
        require_fit(hardware, model.max_model_len or 1)


def _text(documents: list[Manifest], title: str, source: str) -> str:
    if not documents:
        return ""
    body = yaml.safe_dump_all(documents, sort_keys=False, width=10**6, allow_unicode=True)
    return HEADER.format(title=title, source=source) + body
