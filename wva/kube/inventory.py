"""GPUs that variants may use, from nodes and ResourceQuotas less what other pods hold. Pure.

A decision books every replica of its variants itself, so GPUs that their pods hold count as theirs to use. A pod of
theirs that is being deleted holds its GPUs until it is gone and counts as another's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from fleet.types import GpuInventory
from wva.inventory import ALL
from wva.kube.objects import GPU_RESOURCES, PRODUCT_LABELS, Object, accelerator_name, gpus

PodKey = tuple[str, str]
"""Namespace and name."""
FINISHED: Final = frozenset({"Succeeded", "Failed"})
EVERY_SERVER: Final = frozenset({"NotTerminating", "NotBestEffort"})
"""Scopes of a quota that a pod with GPUs and without a deadline always falls into."""


def slim_node(node: Object) -> Object:
    """What is kept of a node: its GPUs, their product, whether pods may come."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    labels = meta.get("labels") or {}
    return {
        "metadata": {"name": meta["name"]},
        "product": next((str(labels[each]) for each in PRODUCT_LABELS if labels.get(each)), ""),
        "gpus": gpus(status.get("allocatable") or {}),
        "open": not spec.get("unschedulable") and _is_ready(status),
    }


def slim_quota(quota: Object) -> Object:
    """What is kept of a ResourceQuota: the GPUs that it allows; ``None`` where it says nothing of them."""
    meta, spec = quota["metadata"], quota.get("spec") or {}
    scopes = {*(spec.get("scopes") or ()), *(("selector",) if spec.get("scopeSelector") else ())}
    hard = {name.removeprefix("requests."): amount for name, amount in (spec.get("hard") or {}).items()}
    limited = any(name in hard for name in GPU_RESOURCES)
    return {"metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            "gpus": gpus(hard) if limited and scopes <= EVERY_SERVER else None}  # fmt: skip


def inventory(
    nodes: Sequence[Object] | None, quotas: Sequence[Object], pods: Iterable[Object], owned: frozenset[PodKey]
) -> GpuInventory:
    """What a decision may hand out.

    Args:
        nodes: of the whole cluster, slim; ``None``: nodes do not limit (a cluster autoscaler adds them).
        quotas: slim.
        pods: slim, of all namespaces where ``nodes`` are given.
        owned: pods of the variants.
    """
    foreign_by_node: Counter[str] = Counter()
    own_by_node: Counter[str] = Counter()
    foreign_by_space: Counter[str] = Counter()
    for pod in pods:
        meta, spec = pod["metadata"], pod.get("spec") or {}
        held = int(spec.get("gpus") or 0)
        if not held or (pod.get("status") or {}).get("phase") in FINISHED:
            continue
        own = (meta["namespace"], meta["name"]) in owned and not meta.get("deletionTimestamp")
        (own_by_node if own else foreign_by_node)[str(spec.get("nodeName") or "")] += held
        if not own:
            foreign_by_space[meta["namespace"]] += held
    return GpuInventory(gpus=_on_nodes(nodes or (), foreign_by_node, own_by_node),
                        quotas=_of_quotas(quotas, foreign_by_space))  # fmt: skip


def _on_nodes(nodes: Sequence[Object], foreign: Mapping[str, int], own: Mapping[str, int]) -> dict[str, int]:
    """By accelerator; a node that takes no pods has what is ours on it and no more."""
    found: Counter[str] = Counter()
    for node in nodes:
        name, product = node["metadata"]["name"], node["product"]
        if product and node["gpus"]:
            free = max(node["gpus"] - foreign.get(name, 0), 0)
            found[accelerator_name(product)] += free if node["open"] else min(own.get(name, 0), free)
    return dict(found)


def _of_quotas(quotas: Sequence[Object], foreign: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """The tightest quota of each namespace, less what others hold there."""
    found: dict[str, dict[str, int]] = {}
    for quota in quotas:
        if quota["gpus"] is not None:
            space = quota["metadata"]["namespace"]
            left = max(quota["gpus"] - foreign.get(space, 0), 0)
            found[space] = {ALL: min(left, found.get(space, {}).get(ALL, left))}
    return found


def _is_ready(status: Object) -> bool:
    conditions: list[Object] = status.get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
