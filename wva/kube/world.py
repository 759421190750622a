"""Puts variants together from what declares them, what they scale, and the pods that run. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fleet.types import Role, Variant, VariantSpec
from wva.kube.crd import API_VERSION, KIND, TARGET_KINDS
from wva.kube.objects import LWS_NAME, Miss, Object, Target, TargetKey, accelerator_name, map_pods, replica, target

MANAGED, MODEL_ID, COST = "llm-d.ai/managed", "llm-d.ai/model-id", "llm-d.ai/variant-cost"
NUMBERS: Final[Mapping[str, tuple[str, str, float, float]]] = {
    "llm-d.ai/saturation-threshold": ("saturation_threshold", "saturationThreshold", 0.0, 1.0),
    "llm-d.ai/scale-down-threshold": ("scale_down_threshold", "scaleDownThreshold", 0.0, 1.0),
    "llm-d.ai/slo-ttft-seconds": ("slo_ttft_s", "slo.ttftSeconds", 0.000001, 86_400.0),
    "llm-d.ai/slo-tpot-seconds": ("slo_tpot_s", "slo.tpotSeconds", 0.000001, 86_400.0),
    "llm-d.ai/priority": ("priority", "priority", 0.001, 1000.0),
    "llm-d.ai/startup-seconds": ("startup_s", "startupSeconds", 0.0, 86_400.0),
    "llm-d.ai/retention-seconds": ("retention_s", "retentionSeconds", 1.0, 31_536_000.0),
}
"""Annotations of our own: field of :class:`VariantSpec`, the same in a VariantAutoscaling's spec, least, most."""
ACCELERATOR_LABEL = "inference.optimization/acceleratorName"
KEDA_NAME = "scaledobject.keda.sh/name"
DEFAULT_COST = "10.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterObjects:
    """Everything that is read from the cluster, at one time."""

    variant_autoscalings: Sequence[Object] = ()
    autoscalers: Sequence[Object] = ()
    scaled_objects: Sequence[Object] = ()
    deployments: Sequence[Object] = ()
    leader_worker_sets: Sequence[Object] = ()
    replica_sets: Sequence[Object] = ()
    pods: Sequence[Object] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What declares a variant: a VariantAutoscaling, or an annotated HPA or ScaledObject."""

    api_version: str
    kind: str
    item: Object
    target: TargetKey
    spec: VariantSpec | None
    """``None`` when it is invalid; ``problem`` says why."""
    problem: str = ""
    port: int | None = None
    accelerator: str = ""
    role: Role | None = None

    @property
    def name(self) -> str:
        """The variant's name: that of the VariantAutoscaling, else of the workload."""
        return str(self.item["metadata"]["name"]) if self.kind == KIND else self.target[2]

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return self.target[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A declared variant with what was found of it."""

    declared: Declared
    variant: Variant | None
    """``None`` when it is invalid or its workload is missing."""
    reason: str
    """``TargetFound``, ``TargetNotFound`` or ``InvalidConfiguration``."""
    message: str
    scaled_by: tuple[str, ...] = ()
    """HPAs and ScaledObjects that scale the same workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All variants of the cluster."""

    found: tuple[Found, ...] = ()
    misses: tuple[Miss, ...] = ()
    by_name: Mapping[str, Found] = field(default_factory=dict)
    """Those that can be decided for, by variant name."""
    owned: frozenset[tuple[str, str]] = frozenset()
    """Pods of their workloads, a group's workers too: namespace and name."""


def assemble(objects: ClusterObjects) -> World:
    """Variants with their replicas; what is wrong with one does not keep the others from being seen."""
    targets = _targets(objects)
    declared = _once(_declared(objects))
    wanted = [targets[each.target] for each in declared if each.target in targets]
    pods, misses = map_pods(objects.pods, objects.replica_sets, wanted)
    writers = _writers(objects)
    names = Counter(each.name for each in declared)
    found = tuple(
        _found(each, targets.get(each.target), pods.get(each.target, []), writers.get(each.target, ()),
               twice=names[each.name] > 1)
        for each in declared
    )  # fmt: skip
    by_name = {each.declared.name: each for each in found if each.variant}
    return World(found=found, misses=tuple(misses), by_name=by_name, owned=_owned(objects.pods, pods))


def _owned(every: Sequence[Object], mapped: Mapping[TargetKey, Sequence[Object]]) -> frozenset[tuple[str, str]]:
    """Pods that were mapped, and the workers of groups whose leaders were."""
    groups = {(key[0], key[2]) for key in mapped if key[1] == "LeaderWorkerSet"}
    workers = [pod for pod in every if groups and _group_of(pod) in groups]
    return frozenset((pod["metadata"]["namespace"], pod["metadata"]["name"])
                     for pods in (*mapped.values(), workers) for pod in pods)  # fmt: skip


def _group_of(pod: Object) -> tuple[str, str]:
    """Namespace and LeaderWorkerSet that a pod's labels name."""
    return pod["metadata"]["namespace"], str((pod["metadata"].get("labels") or {}).get(LWS_NAME, ""))


def _targets(objects: ClusterObjects) -> dict[TargetKey, Target]:
    both = {"Deployment": objects.deployments, "LeaderWorkerSet": objects.leader_worker_sets}
    every = (target(kind, item) for kind, items in both.items() for item in items)
    return {each.key: each for each in every}


def _declared(objects: ClusterObjects) -> Iterable[Declared]:
    """A VariantAutoscaling comes first: it wins over an annotation on the same workload."""
    yield from (from_variant(item) for item in objects.variant_autoscalings)
    for item in objects.scaled_objects:
        if _managed(item):
            yield from_annotations("keda.sh/v1alpha1", "ScaledObject", item)
    for item in objects.autoscalers:
        if _managed(item) and not by_keda(item):
            yield from_annotations("autoscaling/v2", "HorizontalPodAutoscaler", item)


def _once(declared: Iterable[Declared]) -> list[Declared]:
    """Of several for one workload, the first, marked as invalid where an equal one follows."""
    chosen: dict[TargetKey, Declared] = {}
    for each in declared:
        before = chosen.get(each.target)
        if before is None:
            chosen[each.target] = each
        elif before.kind == each.kind:
            problem = f"{_name(before)} and {_name(each)} declare the same workload"
            chosen[each.target] = Declared(api_version=before.api_version, kind=before.kind, item=before.item,
                                           target=before.target, spec=None, problem=problem)  # fmt: skip
    return sorted(chosen.values(), key=lambda each: (each.namespace, each.name))


def from_variant(item: Object) -> Declared:
    """From a VariantAutoscaling."""
    meta, spec = item["metadata"], item.get("spec") or {}
    ref = spec.get("scaleTargetRef") or {}
    label = (meta.get("labels") or {}).get(ACCELERATOR_LABEL, "")
    common: dict[str, Any] = {
        "api_version": API_VERSION, "kind": KIND, "item": item, "port": spec.get("enginePort"),
        "target": (meta["namespace"], str(ref.get("kind", "")), str(ref.get("name", ""))),
        "accelerator": spec.get("accelerator") or label, "role": Role(spec["role"]) if spec.get("role") else None,
    }  # fmt: skip
    try:
        parsed = VariantSpec(
            name=meta["name"], namespace=meta["namespace"], model=_required(spec, "modelID"), accelerator="",
            cost_per_hour=_cost(spec.get("variantCost", DEFAULT_COST)),
            min_replicas=int(spec.get("minReplicas", 1)), max_replicas=int(spec.get("maxReplicas", 10)),
            saturation_threshold=float(spec.get("saturationThreshold", 0.8)),
            scale_down_threshold=float(spec.get("scaleDownThreshold", 0.3)),
            slo_ttft_s=_seconds(spec, "ttftSeconds"), slo_tpot_s=_seconds(spec, "tpotSeconds"),
            priority=float(spec.get("priority", 1.0)),
            retention_s=None if spec.get("retentionSeconds") is None else float(spec["retentionSeconds"]),
            startup_s=_number(spec, "startupSeconds"),
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        return Declared(**common, spec=None, problem=str(error))
    return Declared(**common, spec=parsed)


def from_annotations(api_version: str, kind: str, item: Object) -> Declared:
    """From an annotated HPA or ScaledObject; the variant takes the workload's name."""
    meta, spec = item["metadata"], item.get("spec") or {}
    notes, ref = meta.get("annotations") or {}, spec.get("scaleTargetRef") or {}
    name = str(ref.get("name", ""))
    common: dict[str, Any] = {
        "api_version": api_version, "kind": kind, "item": item,
        "target": (meta["namespace"], str(ref.get("kind") or "Deployment"), name),
        "accelerator": (meta.get("labels") or {}).get(ACCELERATOR_LABEL, ""),
    }  # fmt: skip
    try:
        low, high = _bounds(kind, spec)
        parsed = VariantSpec(name=name, namespace=meta["namespace"], model=_required(notes, MODEL_ID), accelerator="",
                             cost_per_hour=_cost(notes.get(COST, DEFAULT_COST)), min_replicas=low,
                             max_replicas=high, **_numbers(notes))  # fmt: skip
        if parsed.scale_down_threshold >= parsed.saturation_threshold:
            raise ValueError("llm-d.ai/scale-down-threshold is not below llm-d.ai/saturation-threshold")
    except (ValueError, TypeError) as error:
        return Declared(**common, spec=None, problem=str(error))
    return Declared(**common, spec=parsed)


def _numbers(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that annotations set.

    Raises: ValueError, naming the annotation that is no number in its range.
    """
    found = {}
    for note, (field_name, _, least, most) in NUMBERS.items():
        if note in notes:
            try:
                number = float(notes[note])
            except (TypeError, ValueError):
                number = math.nan
            if not least <= number <= most:
                raise ValueError(f"{note}: {notes[note]!r} is no number from {least:g} to {most:g}")
            found[field_name] = number
    return found


def _bounds(kind: str, spec: Object) -> tuple[int, int]:
    """Minimum and maximum; an absent minimum is 1 for an HPA and 0 for KEDA, and a 0 stays 0."""
    keys = ("minReplicas", "maxReplicas", 1, 10)
    if kind == "ScaledObject":
        keys = ("minReplicaCount", "maxReplicaCount", 0, 100)
    low, high = spec.get(keys[0]), spec.get(keys[1])
    return keys[2] if low is None else int(low), keys[3] if high is None else int(high)


def _required(fields: Mapping[str, Any], name: str) -> str:
    if not fields.get(name):
        raise ValueError(f"{name} is missing")
    return str(fields[name])


def _seconds(spec: Object, name: str) -> float | None:
    value = (spec.get("slo") or {}).get(name)
    return None if value is None else float(value)


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    """A number of seconds that may be absent.

    Raises: ValueError when it is none.
    """
    value = fields.get(name)
    seconds = None if value is None else float(value)
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name} {value!r} is no number >= 0")
    return seconds


def _cost(text: Any) -> float:
    cost = float(text)
    if not math.isfinite(cost) or cost < 0:
        raise ValueError(f"cost {text!r} is no number >= 0")
    return cost


def _managed(item: Object) -> bool:
    return (item["metadata"].get("annotations") or {}).get(MANAGED) == "true"


def by_keda(item: Object) -> bool:
    """Whether KEDA made this HPA for a ScaledObject."""
    meta = item["metadata"]
    owners = meta.get("ownerReferences") or ()
    return KEDA_NAME in (meta.get("labels") or {}) or any(each.get("kind") == "ScaledObject" for each in owners)


def _writers(objects: ClusterObjects) -> dict[TargetKey, tuple[str, ...]]:
    writers: dict[TargetKey, tuple[str, ...]] = {}
    for kind, items in (("HorizontalPodAutoscaler", objects.autoscalers), ("ScaledObject", objects.scaled_objects)):
        for item in items:
            meta, ref = item["metadata"], (item.get("spec") or {}).get("scaleTargetRef") or {}
            key = (meta["namespace"], str(ref.get("kind") or "Deployment"), str(ref.get("name", "")))
            writers[key] = (*writers.get(key, ()), f"{kind} {meta['name']}")
    return writers


def _found(each: Declared, workload: Target | None, pods: list[Object], writers: tuple[str, ...], *,
           twice: bool) -> Found:  # fmt: skip
    _, kind, name = each.target
    problem = each.problem
    if kind not in TARGET_KINDS:
        problem = f"a {kind or 'workload without kind'} cannot be scaled, only {' and '.join(TARGET_KINDS)}"
    if twice:
        problem = f"several namespaces have a variant {each.name}: rename one, or run one wva with --namespace for each"
    if each.spec is None or problem:
        return Found(declared=each, variant=None, reason="InvalidConfiguration", message=problem)
    if workload is None:
        return Found(declared=each, variant=None, reason="TargetNotFound", message=f"there is no {kind} {name}")
    spec = _completed(each, each.spec, workload)
    replicas = tuple(replica(pod, spec.name, port=each.port) for pod in pods)
    variant = Variant(spec=spec, requested=workload.replicas, replicas=replicas)
    return Found(declared=each, variant=variant, reason="TargetFound", message=f"scales {kind} {name}",
                 scaled_by=writers)  # fmt: skip


def _completed(each: Declared, spec: VariantSpec, workload: Target) -> VariantSpec:
    """``spec`` with what only the workload says."""
    return replace(
        spec, accelerator_count=workload.accelerator_count, role=each.role or workload.role or Role.BOTH,
        accelerator=accelerator_name(each.accelerator) if each.accelerator else workload.accelerator or "unresolved",
    )  # fmt: skip


def _name(each: Declared) -> str:
    return f"{each.kind} {each.item['metadata']['name']}"
