"""Reads what wva needs from workloads, pods and their owners. Pure: dictionaries in, records out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleet.types import Replica, ReplicaState, Role

Object = dict[str, Any]

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "habana.ai/gaudi", "gpu.intel.com/i915", "gpu.intel.com/xe")
PRODUCT_LABELS = (
    "nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "amd.com/gpu.product-name",
    "habana.ai/product.name", "gpu.intel.com/product",
)  # fmt: skip
ROLE_LABEL = "llm-d.ai/role"
LWS_NAME, LWS_WORKER = "leaderworkerset.sigs.k8s.io/name", "leaderworkerset.sigs.k8s.io/worker-index"
BROKEN = frozenset({"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName",
                    "CreateContainerConfigError"})  # fmt: skip
"""Reasons for which a waiting container does not start by itself soon."""
ENGINE_PORT = 8000
"""vLLM's own default."""

TargetKey = tuple[str, str, str]
"""Namespace, kind, name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A Deployment or a LeaderWorkerSet."""

    key: TargetKey
    uid: str
    replicas: int
    """``spec.replicas``: pods of a Deployment, groups of a LeaderWorkerSet."""
    selector: Mapping[str, str]
    accelerator: str
    """GPU product, as in :mod:`fleet.hardware` where that knows it; empty: not said."""
    accelerator_count: int
    role: Role | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A pod that a target selects, but that does not belong to it."""

    namespace: str
    pod: str
    reason: str
    """``no_owner``, ``owner_unknown`` or ``other_owner``."""


def target(kind: str, item: Object) -> Target:
    """From a Deployment or LeaderWorkerSet as the API gives it."""
    meta, spec = item["metadata"], item.get("spec") or {}
    size, templates = 1, [spec.get("template") or {}]
    selector: Mapping[str, str] = (spec.get("selector") or {}).get("matchLabels") or {}
    if kind == "LeaderWorkerSet":
        group = spec.get("leaderWorkerTemplate") or {}
        size = int(group.get("size") or 1)
        templates = [group[name] for name in ("leaderTemplate", "workerTemplate") if group.get(name)]
        selector = {LWS_NAME: meta["name"], LWS_WORKER: "0"}
    count = _gpus(templates[0]) + (size - 1) * _gpus(templates[-1]) if templates else 0
    products = [name for template in templates if (name := _product(template))]
    return Target(
        key=(meta.get("namespace", ""), kind, meta["name"]), uid=meta.get("uid", ""), selector=selector,
        replicas=1 if spec.get("replicas") is None else int(spec["replicas"]), accelerator_count=max(count, 1),
        accelerator=accelerator_name(products[0]) if products else "", role=_role(templates),
    )  # fmt: skip


def accelerator_name(product: str) -> str:
    """Our name of a GPU product as node labels spell it; other names stay, in lower case.

    >>> accelerator_name("NVIDIA-H100-80GB-HBM3"), accelerator_name("nvidia-l4"), accelerator_name("h100_sxm")
    ('h100_sxm', 'l4', 'h100_sxm')
    """
    plain = product.lower().replace("_", "-").removeprefix("nvidia-").removeprefix("tesla-")
    first = plain.split("-")[0]
    if first in ("h100", "h200", "a100", "b200"):
        return f"{first}_{'pcie' if 'pcie' in plain else 'sxm'}"
    return first if first in ("l4", "l40s", "mi300x") else product.lower()


def _gpus(template: Object) -> int:
    return pod_gpus((template.get("spec") or {}).get("containers") or ())


def _product(template: Object) -> str:
    chosen = (template.get("spec") or {}).get("nodeSelector") or {}
    return next((str(chosen[label]) for label in PRODUCT_LABELS if chosen.get(label)), "")


def _role(templates: Iterable[Object]) -> Role | None:
    for template in templates:
        said = ((template.get("metadata") or {}).get("labels") or {}).get(ROLE_LABEL)
        if said in set(Role):
            return Role(said)
    return None


def slim_pod(pod: Object) -> Object:
    """What is kept of a pod in memory: a tenth."""
    meta, status = pod["metadata"], pod.get("status") or {}
    keep = ("name", "namespace", "uid", "labels", "ownerReferences", "creationTimestamp", "deletionTimestamp")
    spec = pod.get("spec") or {}
    containers = spec.get("containers") or ()
    return {
        "metadata": {name: meta[name] for name in keep if name in meta},
        "spec": {
            "containers": [{"ports": each.get("ports") or []} for each in containers],
            "gpus": pod_gpus(containers), "nodeName": spec.get("nodeName"),
        },
        "status": {
            "phase": status.get("phase"), "podIP": status.get("podIP"),
            "conditions": [each for each in status.get("conditions") or () if each.get("type") == "Ready"],
            "containerStatuses": [{"state": each.get("state")} for each in status.get("containerStatuses") or ()],
        },
    }  # fmt: skip


def pod_gpus(containers: Iterable[Object]) -> int:
    """GPUs that a pod with these containers holds; they come whole, and a request is its limit."""
    return sum(gpus((each.get("resources") or {}).get("limits") or {}) for each in containers)


def gpus(amounts: Mapping[str, Any]) -> int:
    """GPUs in a list of resources.

    >>> gpus({"nvidia.com/gpu": "8", "cpu": "500m"})
    8
    """
    return sum(int(str(amounts[name])) for name in GPU_RESOURCES if str(amounts.get(name, "")).isdigit())


def slim_replica_set(item: Object) -> Object:
    """What is kept of a ReplicaSet: who it is and whose."""
    keep = ("name", "namespace", "uid", "ownerReferences")
    return {"metadata": {name: item["metadata"][name] for name in keep if name in item["metadata"]}}


def map_pods(
    pods: Iterable[Object], replica_sets: Iterable[Object], targets: Iterable[Target]
) -> tuple[dict[TargetKey, list[Object]], list[Miss]]:
    """Pods by the target that owns them, and those that a target only selects; of a group, its leader alone."""
    owners = {item["metadata"].get("uid"): _controller(item) for item in replica_sets}
    known = {target.key: target for target in targets}
    spaces, selecting = {key[0] for key in known}, _by_label(known.values())
    mapped: dict[TargetKey, list[Object]] = {key: [] for key in known}
    misses = []
    for pod in pods:
        meta = pod["metadata"]
        if meta["namespace"] not in spaces:
            continue
        if found := _owner(pod, owners, known):
            mapped[found].append(pod)
        elif reason := _miss(pod, owners, selecting):
            misses.append(Miss(namespace=meta["namespace"], pod=meta["name"], reason=reason))
    return mapped, misses


Selecting = Mapping[tuple[str, str, str], list[Target]]
"""Targets by namespace and one label of their selector: a pod need not be held against each of them."""


def _by_label(targets: Iterable[Target]) -> Selecting:
    found: dict[tuple[str, str, str], list[Target]] = {}
    for each in targets:
        if each.selector:
            label = min(each.selector.items())
            found.setdefault((each.key[0], *label), []).append(each)
    return found


def _controller(item: Object) -> Object | None:
    references: list[Object] = item["metadata"].get("ownerReferences") or []
    return next((each for each in references if each.get("controller")), None)


def _owner(pod: Object, owners: Mapping[Any, Object | None], known: Mapping[TargetKey, Target]) -> TargetKey | None:
    meta, owner = pod["metadata"], _controller(pod)
    namespace, labels = meta.get("namespace", ""), meta.get("labels") or {}
    if owner is None:
        return None
    if owner.get("kind") == "StatefulSet" and labels.get(LWS_WORKER) == "0":
        key = (namespace, "LeaderWorkerSet", labels.get(LWS_NAME, ""))
        return key if key in known and owner.get("name") == key[2] else None
    if owner.get("kind") == "ReplicaSet" and (above := owners.get(owner.get("uid"))):
        key = (namespace, str(above.get("kind")), str(above.get("name")))
        return key if key in known and known[key].uid == above.get("uid") else None
    return None


def _miss(pod: Object, owners: Mapping[Any, Object | None], selecting: Selecting) -> str:
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    near = [each for label in labels.items() for each in selecting.get((pod["metadata"]["namespace"], *label), ())]
    selected = any(each.selector.items() <= labels.items() for each in near)
    if not selected or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return ""
    owner = _controller(pod)
    if owner is None:
        return "no_owner"
    lost = owner.get("kind") == "ReplicaSet" and owner.get("uid") not in owners
    return "owner_unknown" if lost else "other_owner"


def replica(pod: Object, variant: str, *, port: int | None = None) -> Replica:
    """A pod as a replica; ``port`` overrides the one its containers declare."""
    state, since = _state(pod)
    host = str((pod.get("status") or {}).get("podIP") or "")
    if state is ReplicaState.READY and not host:
        state = ReplicaState.STARTING
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{port or engine_port(pod)}" if host else ""
    created = pod["metadata"].get("creationTimestamp")
    return Replica(name=pod["metadata"]["name"], url=url, variant=variant, state=state, since_s=unix_s(since),
                   created_s=unix_s(created))  # fmt: skip


def _state(pod: Object) -> tuple[ReplicaState, str | None]:
    meta, status = pod["metadata"], pod.get("status") or {}
    conditions: list[Object] = status.get("conditions") or []
    ready = next((each for each in conditions if each.get("type") == "Ready"), Object())
    if meta.get("deletionTimestamp"):
        return ReplicaState.STOPPING, meta["deletionTimestamp"]
    if status.get("phase") in ("Failed", "Succeeded") or _broken(status):
        return ReplicaState.FAILED, meta.get("creationTimestamp")
    if ready.get("status") == "True":
        return ReplicaState.READY, ready.get("lastTransitionTime") or meta.get("creationTimestamp")
    return ReplicaState.STARTING, meta.get("creationTimestamp")


def _broken(status: Object) -> bool:
    states = [each.get("state") or {} for each in status.get("containerStatuses") or ()]
    return any((state.get("waiting") or {}).get("reason") in BROKEN for state in states)


def engine_port(pod: Object) -> int:
    """The container port named ``http``, else the first one declared, else vLLM's default."""
    containers = (pod.get("spec") or {}).get("containers") or ()
    ports = [port for container in containers for port in container.get("ports") or ()]
    named = [port for port in ports if port.get("name") == "http"]
    return int((named or ports or [{"containerPort": ENGINE_PORT}])[0]["containerPort"])


def unix_s(time: str | None) -> float:
    """Unix time of an RFC 3339 time; 0 where there is none."""
    return datetime.fromisoformat(time).timestamp() if time else 0.0
