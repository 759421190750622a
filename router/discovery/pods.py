"""Engines from what Kubernetes says of pods and endpoint slices. Pure: objects in, engines out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from fleet.errors import SourceError
from fleet.types import ReplicaState, Role
from router.discovery.dns import address
from router.discovery.listed import Found

Object = Mapping[str, Any]

ROLE_LABEL: Final = "llm-d.ai/role"
MODEL_LABELS: Final = ("llm-d.ai/model", "llmd.ai/model")
VARIANT_LABEL: Final = "llm-d.ai/variant"
SERVICE_LABEL: Final = "kubernetes.io/service-name"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
HOST_LABEL: Final = "kubernetes.io/hostname"
_ROLES: Final = {
    "prefill": Role.PREFILL, "encode-prefill": Role.PREFILL,
    "decode": Role.DECODE, "encode-decode": Role.DECODE,
}  # fmt: skip


def slim_pod(pod: Object) -> dict[str, Any]:
    """Of a pod only what :func:`from_pods` reads: thousands of whole ones fill the memory."""
    meta, status, spec = pod["metadata"], pod.get("status") or {}, pod.get("spec") or {}
    kept = ("name", "namespace", "labels", "deletionTimestamp", "creationTimestamp", "ownerReferences", "uid")
    return {
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"nodeName": spec.get("nodeName")},
        "status": {key: status.get(key) for key in ("phase", "podIP", "conditions", "containerStatuses")},
    }


def role_of(labels: Mapping[str, str]) -> Role:
    """``llm-d.ai/role`` as a role; without the label, or with one that names both: the whole request."""
    return _ROLES.get(labels.get(ROLE_LABEL, ""), Role.BOTH)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Do the labels match? A selector without terms matches nothing: it would take every pod of the namespace."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def from_pods(pods: Iterable[Object], selector: Mapping[str, str], ports: Iterable[int]) -> Iterator[Found]:
    """One engine for each port of each pod that ``selector`` takes and that has an address."""
    numbers = tuple(ports)
    for pod in pods:
        labels = dict(pod["metadata"].get("labels") or {})
        status = pod.get("status") or {}
        if not status.get("podIP") or not selects(selector, labels):
            continue
        if node := (pod.get("spec") or {}).get("nodeName"):
            labels.setdefault(HOST_LABEL, str(node))
        name = str(pod["metadata"]["name"])
        for number in numbers:
            yield Found(
                url=f"http://{address(str(status['podIP']))}:{number}",
                name=f"{name}:{number}" if len(numbers) > 1 else name,
                variant=labels.get(VARIANT_LABEL) or _owner(pod),
                model=next((labels[key] for key in MODEL_LABELS if key in labels), ""),
                role=role_of(labels),
                state=_state(pod),
                since_s=_started_s(pod),
                labels=labels,
            )


def _owner(pod: Object) -> str:
    """The workload's name: a ReplicaSet's without the hash that its Deployment appends."""
    meta = pod["metadata"]
    owner = next((each for each in meta.get("ownerReferences") or () if each.get("controller")), None)
    if owner is None:
        return str(meta["name"])
    digest = (meta.get("labels") or {}).get("pod-template-hash")
    return str(owner["name"]).removesuffix(f"-{digest}") if digest else str(owner["name"])


def _state(pod: Object) -> ReplicaState:
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return ReplicaState.STOPPING
    if status.get("phase") in ("Failed", "Succeeded"):
        return ReplicaState.FAILED
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in status.get("conditions") or ())
    return ReplicaState.READY if ready else ReplicaState.STARTING


def _started_s(pod: Object) -> float:
    """When its youngest container started: then its cache was empty."""
    running = [
        (each.get("state") or {}).get("running") or {}
        for each in (pod.get("status") or {}).get("containerStatuses") or ()
    ]
    times = [str(each["startedAt"]) for each in running if each.get("startedAt")]
    text = max(times, default=str(pod["metadata"].get("creationTimestamp") or ""))
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def pool_of(pool: Object, where: str) -> tuple[Mapping[str, str], tuple[int, ...]]:
    """Selector and target ports of an InferencePool.

    Raises: SourceError when it has none.
    """
    spec = pool.get("spec") or {}
    selector = spec.get("selector") or {}
    labels = selector.get("matchLabels", selector)  # v1alpha2 had the labels at the top
    numbers = [each.get("number") for each in spec.get("targetPorts") or ()] or [spec.get("targetPortNumber")]
    ports = tuple(int(number) for number in numbers if isinstance(number, int))
    if not labels or not ports:
        raise SourceError("the InferencePool has no selector or no target port", where=where,
                          next_step="Give spec.selector.matchLabels and spec.targetPorts.")  # fmt: skip
    return {str(key): str(value) for key, value in labels.items()}, ports


def from_slices(slices: Iterable[Object], service: str, port: str = "") -> Iterator[Found]:
    """One engine for each address of the service's endpoint slices.

    Args:
        slices: EndpointSlices of its namespace.
        service: the Service's name.
        port: name or number of its port; empty: the first.
    """
    seen: set[str] = set()
    for each in slices:
        if (each["metadata"].get("labels") or {}).get(SERVICE_LABEL) != service:
            continue
        number = _port(each, port)
        for endpoint in each.get("endpoints") or () if number else ():
            for one in _of_slice(endpoint, number, service):
                if one.url not in seen:  # while a slice is split, an address may be in both
                    seen.add(one.url)
                    yield one


def _port(each: Object, wanted: str) -> int:
    for entry in each.get("ports") or ():
        if not wanted or wanted in (str(entry.get("name")), str(entry.get("port"))):
            return int(entry.get("port") or 0)
    return 0


def _of_slice(endpoint: Object, number: int, service: str) -> Iterator[Found]:
    conditions = endpoint.get("conditions") or {}
    if conditions.get("terminating"):
        state = ReplicaState.STOPPING
    else:  # unknown counts as ready, says the API
        state = ReplicaState.STARTING if conditions.get("ready") is False else ReplicaState.READY
    labels = {ZONE_LABEL: endpoint.get("zone"), HOST_LABEL: endpoint.get("nodeName")}
    for host in endpoint.get("addresses") or ():
        yield Found(
            url=f"http://{address(str(host))}:{number}",
            name=str((endpoint.get("targetRef") or {}).get("name") or ""),
            variant=service,
            state=state,
            labels={key: str(value) for key, value in labels.items() if value},
        )
