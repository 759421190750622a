"""What is asked of each workload, from whatever declares it, and our VariantAutoscaling for it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from wva.kube import world
from wva.kube.crd import API_VERSION, KIND, TARGET_KINDS
from wva.kube.objects import TargetKey
from wva.migrate.configs import Rules
from wva.migrate.documents import Object, entries, mapping, name, namespace
from wva.migrate.report import Teller

INSTANCE: Final = "wva.llmd.ai/controller-instance"
APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
OURS: Final = "llm-d.ai/"
COST: Final = re.compile(r"^\d{1,12}(\.\d{1,12})?$")
MODEL_LENGTH: Final = 512
LEAST_PRIORITY, MOST_PRIORITY = 0.001, 1000.0
_KNOWN: Final = frozenset({"scaleTargetRef", "modelID", "variantCost", "minReplicas", "maxReplicas"})
_OWN: Final = frozenset({"accelerator", "role", "saturationThreshold", "scaleDownThreshold", "enginePort", "slo",
                         "priority", "retentionSeconds"})  # fmt: skip
"""Fields that upstream's objects never had: one that was migrated already keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A workload that is to be scaled."""

    name: str
    item: Object
    """What declares it."""
    target: Object
    """``scaleTargetRef``."""
    model: str
    cost: str
    low: int | None
    """``None``: not said."""
    high: int | None
    accelerator: str = ""
    slo: Mapping[str, float] | None = None
    extra: Mapping[str, Any] | None = None
    """Fields of our own that the object has already."""

    @property
    def key(self) -> TargetKey:
        """The workload."""
        return key_of(self.item, self.target)


def key_of(item: Object, ref: Mapping[str, Any]) -> TargetKey:
    """Names the workload that an object of ``item``'s namespace refers to."""
    return namespace(item), str(ref.get("kind") or "Deployment"), str(ref.get("name") or "")


def target_of(item: Object) -> Object:
    """``scaleTargetRef`` as ours writes it; kind and API version filled in."""
    ref = mapping(mapping(item.get("spec")).get("scaleTargetRef"))
    kind = str(ref.get("kind") or "Deployment")
    version = ref.get("apiVersion") or TARGET_KINDS.get(kind)
    return {**({"apiVersion": str(version)} if version else {}), "kind": kind, "name": str(ref.get("name") or "")}


def from_variant(item: Object, tell: Teller) -> Wanted | None:
    """From upstream's VariantAutoscaling (version 0.5 to 0.8)."""
    spec = mapping(item.get("spec"))
    target, model = target_of(item), spec.get("modelID")
    if not _usable(target, model, "spec.modelID", tell):
        return None
    for each in spec.keys() - _KNOWN - _OWN:
        tell.dropped(f"spec.{each}", "is no field of ours")
    labels = mapping(item["metadata"].get("labels"))
    accelerator = str(labels.get(world.ACCELERATOR_LABEL) or "")
    if accelerator:
        tell.changed(f"metadata.labels[{world.ACCELERATOR_LABEL}]", f"spec.accelerator: {accelerator}")
    for path in ("spec.scaleTargetRef", "spec.modelID"):
        tell.carried(path, "the same")
    return Wanted(
        name=name(item), item=item, target=target, model=str(model), cost=cost(spec.get("variantCost"), tell),
        low=count(spec.get("minReplicas"), "spec.minReplicas", tell), accelerator=accelerator,
        high=count(spec.get("maxReplicas"), "spec.maxReplicas", tell),
        extra={each: spec[each] for each in sorted(_OWN & spec.keys())},
    )  # fmt: skip


def from_scaler(item: Object, model: str, bounds: tuple[int | None, int | None], tell: Teller) -> Wanted | None:
    """From an HPA or ScaledObject: one with upstream's annotations, or one that reads engine metrics itself."""
    target = target_of(item)
    notes = mapping(item["metadata"].get("annotations"))
    if not _usable(target, model, f"metadata.annotations[{world.MODEL_ID}]", tell):
        return None
    for each in (world.MODEL_ID, world.COST):
        if each in notes:
            tell.changed(f"metadata.annotations[{each}]", f"VariantAutoscaling {target['name']}")
    extra: dict[str, Any] = {}
    for note in (each for each in world.NUMBERS if each in notes):
        if (number := _noted(note, notes[note], tell)) is not None:
            where, dot, inner = world.NUMBERS[note][1].partition(".")
            extra[where] = {**extra.get(where, {}), inner: number} if dot else number
    return Wanted(
        name=target["name"], item=item, target=target, model=model, low=bounds[0], high=bounds[1], extra=extra,
        cost=cost(notes.get(world.COST), tell, f"metadata.annotations[{world.COST}]"),
        accelerator=str(mapping(item["metadata"].get("labels")).get(world.ACCELERATOR_LABEL) or ""),
    )  # fmt: skip


def _noted(note: str, value: Any, tell: Teller) -> float | None:
    """The number of an annotation of our own, where it is one."""
    _, ours, least, most = world.NUMBERS[note]
    path = f"metadata.annotations[{note}]"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not least <= number <= most:
        tell.dropped(path, f"{value!r} is no number from {least:g} to {most:g}")
        return None
    tell.changed(path, f"spec.{ours} of the VariantAutoscaling")
    return number


def _usable(target: Object, model: Any, path: str, tell: Teller) -> bool:
    if target["kind"] not in TARGET_KINDS:
        tell.dropped("", f"scales a {target['kind']}; ours scale {' and '.join(TARGET_KINDS)}: left out")
    elif not target["name"]:
        tell.dropped("", "spec.scaleTargetRef.name is missing: left out")
    elif not isinstance(model, str) or not model or len(model) > MODEL_LENGTH:
        step = f"give --model {target['name']}=NAME"
        tell.dropped("", f"{path} does not say which model {target['name']} serves: left out ({step})")
    else:
        return True
    return False


def cost(value: Any, tell: Teller, path: str = "spec.variantCost") -> str:
    """``variantCost`` as the schema takes it."""
    if value is None:
        return world.DEFAULT_COST
    text = str(value)
    if not COST.match(text):
        tell.dropped(path, f"{text!r} is no cost: {world.DEFAULT_COST}, upstream's default")
        return world.DEFAULT_COST
    tell.carried(path, text)
    return text


def count(value: Any, path: str, tell: Teller) -> int | None:
    """A number of replicas."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1_000_000:
        tell.dropped(path, f"{value!r} is no number of replicas")
        return None
    tell.carried(path, str(value))
    return value


def variant(wanted: Wanted, rules: Rules, tell: Teller) -> Object:
    """Our VariantAutoscaling."""
    low, high = _bounds(wanted, rules, tell)
    slo = dict(wanted.slo or {})
    slo |= {each: value for each, value in (("ttftSeconds", rules.ttft_s), ("tpotSeconds", rules.tpot_s)) if value}
    spec: Object = {"scaleTargetRef": wanted.target, "modelID": wanted.model}
    if len(wanted.accelerator) > 1:
        spec["accelerator"] = wanted.accelerator
    spec |= {"variantCost": wanted.cost, "minReplicas": low, "maxReplicas": high}
    if rules.priority is not None and rules.priority != 1.0:
        spec["priority"] = min(max(rules.priority, LEAST_PRIORITY), MOST_PRIORITY)
    if low == 0:
        tell.note("spec.minReplicas", "0: the analyzer slo (WVA_ANALYZER) takes a model to zero, the others do not")
        if rules.retention_s is not None:
            spec["retentionSeconds"] = min(max(rules.retention_s, 1.0), 31_536_000.0)
    extra = dict(wanted.extra or {})
    if slo := {**slo, **mapping(extra.get("slo"))} if isinstance(extra.get("slo", {}), dict) else {}:
        extra["slo"] = slo
    spec |= extra
    declares = wanted.item["kind"] == KIND
    meta = metadata(wanted.item, tell) if declares else {"name": wanted.name}
    if not declares and wanted.item["metadata"].get("namespace"):
        meta["namespace"] = namespace(wanted.item)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": spec}


def _bounds(wanted: Wanted, rules: Rules, tell: Teller) -> tuple[int, int]:
    low = 1 if wanted.low is None else wanted.low
    high = max(10, low) if wanted.high is None else max(wanted.high, 1)
    if wanted.high is None:
        tell.note("spec.maxReplicas", f"is not said anywhere: {high}")
    if low == 0 and rules.scale_to_zero is False:
        tell.changed("spec.minReplicas", "0 becomes 1: scaling to zero was switched off")
        low = 1
    if wanted.low is None and rules.scale_to_zero:
        tell.changed("spec.minReplicas", "0: scaling to zero was switched on")
        low = 0
    if low > high:
        tell.changed("spec.minReplicas", f"{low} is above maxReplicas: {high}")
        low = high
    return low, high


def completed(wanted: Wanted, bounds: tuple[int | None, int | None]) -> Wanted:
    """``wanted`` with the bounds of its scaler where its own object says none."""
    low = bounds[0] if wanted.low is None else wanted.low
    return replace(wanted, low=low, high=bounds[1] if wanted.high is None else wanted.high)


def metadata(item: Object, tell: Teller) -> Object:
    """Name, namespace, labels and annotations; what a server sets, and what only upstream reads, is left out."""
    meta = item["metadata"]
    labels = {each: value for each, value in mapping(meta.get("labels")).items()
              if each not in (INSTANCE, world.ACCELERATOR_LABEL)}  # fmt: skip
    notes = {each: value for each, value in mapping(meta.get("annotations")).items()
             if each != APPLIED and not each.startswith(OURS)}  # fmt: skip
    if INSTANCE in mapping(meta.get("labels")):
        tell.dropped(f"metadata.labels[{INSTANCE}]", "which of several controllers decides is said by its --namespace "
                     "and --lease-name")  # fmt: skip
    for owner in entries(meta.get("ownerReferences")):
        tell.dropped("metadata.ownerReferences", f"{owner.get('kind')} {owner.get('name')} made this object and may "
                     "write it again: change it there")  # fmt: skip
    found = {"name": name(item), "namespace": meta.get("namespace"), "labels": labels, "annotations": notes}
    return {each: value for each, value in found.items() if value}
