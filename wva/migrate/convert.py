"""From upstream's objects to ours, with an account of what was lost. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fleet.errors import ConfigError
from wva.kube import world
from wva.kube.crd import GROUP, KIND
from wva.kube.objects import TargetKey
from wva.migrate import scalers
from wva.migrate.check import problem
from wva.migrate.configs import Configuration, read
from wva.migrate.documents import Object, entries, mapping, name, namespace
from wva.migrate.report import Notes, Teller
from wva.migrate.wanted import Wanted, completed, from_scaler, from_variant, key_of, target_of, variant

WORKLOADS: Final = ("Deployment", "LeaderWorkerSet")
_SCALERS: Final = (scalers.SCALED_OBJECT, scalers.HPA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What a cluster is to get."""

    manifests: tuple[Object, ...]
    settings: Mapping[str, str]
    """Our controller's environment."""
    notes: Notes
    read: int
    """Objects that were looked at."""

    def written(self) -> Mapping[str, int]:
        """How many of each kind."""
        return Counter(str(one["kind"]) for one in self.manifests)


@dataclass(slots=True)
class _Cluster:
    """The objects by what they are to us."""

    variants: list[Object] = field(default_factory=list)
    scalers: list[Object] = field(default_factory=list)
    configs: list[Object] = field(default_factory=list)
    workloads: dict[TargetKey, Object] = field(default_factory=dict)


def migrate(items: Sequence[Object], *, models: Mapping[str, str] | None = None, scaler: str = "keep") -> Migration:
    """Our manifests for what ``items`` declare.

    Args:
        items: upstream's objects of versions 0.5 to 0.9, or KEDA's and HPAs alone, in any order.
        models: model by workload, where no object says it.
        scaler: see :func:`wva.migrate.scalers.converted`.

    Raises: ConfigError when nothing in ``items`` scales a model service.
    """
    notes = Notes()
    cluster = _sorted(items, notes)
    if not (cluster.variants or cluster.scalers):
        raise ConfigError(f"none of {len(items)} objects says how a model service scales", where="fleet wva migrate",
                          limit="VariantAutoscaling, HorizontalPodAutoscaler, ScaledObject",
                          next_step="Give kubectl get va,hpa,scaledobject,configmap -A -o yaml.")  # fmt: skip
    homes = {namespace(item) for item in (*cluster.variants, *cluster.scalers)}
    rules = read(cluster.configs, homes.__contains__, notes)
    wanted = _wanted(cluster, models or {}, notes)
    manifests = tuple(_manifests(wanted, cluster, rules, notes, scaler))
    _tell_names(wanted.values(), notes)
    return Migration(manifests=manifests, settings=dict(sorted(rules.settings.items())), notes=notes, read=len(items))


def _sorted(items: Iterable[Object], notes: Notes) -> _Cluster:
    found = _Cluster()
    last = {(one["kind"], namespace(one), name(one)): one for one in items}
    for item in last.values():
        kind, tell = item["kind"], notes.of(item)
        group = str(item["apiVersion"]).partition("/")[0]
        if kind == KIND and group == GROUP:
            found.variants.append(item)
        elif kind in _SCALERS and _follows(item):
            found.scalers.append(item)
        elif kind == "ConfigMap":
            found.configs.append(item)
        elif kind in WORKLOADS:
            found.workloads[namespace(item), kind, name(item)] = item
        else:
            _tell_other(item, tell)
    return found


def _follows(item: Object) -> bool:
    return scalers.concerns(item) and not world.by_keda(item)


def _tell_other(item: Object, tell: Teller) -> None:
    labels, notes = mapping(item["metadata"].get("labels")), mapping(item["metadata"].get("annotations"))
    if item["kind"] == "Namespace" and ("wva.llmd.ai/config-enabled" in labels or "wva.llmd.ai/exclude" in notes):
        tell.dropped("metadata", "namespaces are not chosen by labels: one wva looks at all, or at one (--namespace)")
    elif item["kind"] in _SCALERS and world.by_keda(item):
        tell.note("", "KEDA made it: left out")
    elif item["kind"] in _SCALERS:
        tell.note("", "follows no metric of a model service: left alone")
    else:
        tell.note("", "no part of autoscaling: left out")


def _wanted(cluster: _Cluster, models: Mapping[str, str], notes: Notes) -> dict[TargetKey, Wanted]:
    """Each workload once; a VariantAutoscaling wins over annotations, as in the controller."""
    found: dict[TargetKey, Wanted] = {}
    for item in cluster.variants:
        tell = notes.of(item)
        wanted = from_variant(item, tell)
        if wanted is None:
            continue
        if wanted.key in found:
            tell.dropped("", f"VariantAutoscaling {found[wanted.key].name} declares the same workload: left out")
        else:
            found[wanted.key] = wanted
    for item in cluster.scalers:
        tell, key = notes.of(item), key_of(item, target_of(item))
        if key in found:
            found[key] = _with_scaler(found[key], item, tell)
        elif wanted := from_scaler(item, _model(item, cluster, models, tell), scalers.bounds(item), tell):
            taken = {(each.key[0], each.name) for each in found.values()}
            if (key[0], wanted.name) in taken:
                wanted = replace(wanted, name=f"{wanted.name}-{key[1].lower()}")
                tell.changed("metadata.name", f"the variant is {wanted.name}: another one has the workload's name")
            found[key] = replace(wanted, slo=scalers.promises(item, tell))
    return found


def _with_scaler(wanted: Wanted, item: Object, tell: Teller) -> Wanted:
    if wanted.item is not item:
        for each in (world.MODEL_ID, world.COST):
            if each in mapping(item["metadata"].get("annotations")):
                tell.dropped(f"metadata.annotations[{each}]", f"{wanted.item['kind']} {wanted.name} says it")
    return replace(completed(wanted, scalers.bounds(item)), slo={**scalers.promises(item, tell), **(wanted.slo or {})})


def _model(item: Object, cluster: _Cluster, models: Mapping[str, str], tell: Teller) -> str:
    """From the annotation, the option, a query, or the workload's command line."""
    target = target_of(item)
    noted = mapping(item["metadata"].get("annotations")).get(world.MODEL_ID)
    said = noted or models.get(target["name"])
    if said:
        return str(said)
    if found := scalers.model_in(item):
        tell.note("spec", f"model {found}, as its query names it")
        return found
    if found := served(cluster.workloads.get(key_of(item, target), {})):
        tell.note("spec", f"model {found}, as {target['kind']} {target['name']} serves it")
    return found


def served(workload: Object) -> str:
    """The model that a workload's engine serves, by its command line: the served name first; empty: not said.

    >>> container = {"args": ["serve", "meta/Llama", "--served-model-name=llama"]}
    >>> served({"spec": {"template": {"spec": {"containers": [container]}}}})
    'llama'
    """
    spec = mapping(workload.get("spec"))
    group = mapping(spec.get("leaderWorkerTemplate"))
    template = spec.get("template") or group.get("leaderTemplate") or group.get("workerTemplate")
    for container in entries(mapping(mapping(template).get("spec")).get("containers")):
        words = [str(word) for part in ("command", "args") for word in container.get(part) or ()]
        words = [piece for word in words for piece in (word.split("=", 1) if word.startswith("--") else [word])]
        for option in ("--served-model-name", "--model", "serve"):
            after = words[words.index(option) + 1 :] if option in words else []
            if after and not after[0].startswith("-"):
                return after[0]
    return ""


def _manifests(
    wanted: Mapping[TargetKey, Wanted], cluster: _Cluster, rules: Configuration, notes: Notes, scaler: str
) -> Iterator[Object]:
    by_target: dict[TargetKey, list[Object]] = {}
    for item in cluster.scalers:
        by_target.setdefault(key_of(item, target_of(item)), []).append(item)
    for key in sorted(wanted):
        one = wanted[key]
        made = variant(one, rules.of(one.model, key[0]), notes.of(one.item))
        if wrong := problem(made["spec"]):
            notes.of(one.item).dropped("", f"{wrong}: left out")
            continue
        yield made
        own = by_target.get(key, [])
        for item in own:
            yield scalers.converted(item, one.name, notes.of(item), scaler=scaler)
        if len(own) > 1:
            notes.of(own[-1]).note("", f"several scalers of {key[1]} {key[2]} fight: keep one")
        if not own:
            notes.of(one.item).note("", f"no HPA or ScaledObject of {key[1]} {key[2]} was given: nothing acts on what "
                                    "wva publishes until there is one")  # fmt: skip


def _tell_names(wanted: Iterable[Wanted], notes: Notes) -> None:
    """wva names a variant by its name alone."""
    found = list(wanted)
    names: Mapping[str, Any] = Counter(one.name for one in found)
    for one in found:
        if names[one.name] > 1:
            notes.of(one.item).note("metadata.name", f"several namespaces have a variant {one.name}: rename one, or "
                                    "run one wva for each with --namespace")  # fmt: skip
