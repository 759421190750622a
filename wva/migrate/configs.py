"""What upstream's ConfigMaps say, of versions 0.5 to 0.9: per-model rules, and settings of the controller. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import yaml

from wva.migrate.documents import Object, entries, mapping, name, namespace
from wva.migrate.report import Notes, Teller

DEFAULT: Final = "default"
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_OTHER_QUANTITY: Final = (
    "ours asks another quantity (0.5 x KV + 0.3 x queue + 0.2 x degradation; saturationThreshold 0.8, "
    "scaleDownThreshold 0.3); WVA_ANALYZER=v1 or v2 decides as upstream did, with upstream's defaults"
)
_SATURATION: Final[Mapping[str, str]] = {
    "scaleUpThreshold": _OTHER_QUANTITY,
    "scaleDownBoundary": _OTHER_QUANTITY,
    "kvCacheThreshold": _OTHER_QUANTITY,
    "kvSpareTrigger": _OTHER_QUANTITY,
    "queueSpareTrigger": _OTHER_QUANTITY,
    "enableRescale": "GPUs that are short are shared by priority at every decision, without a switch",
}
MANAGER: Final[Mapping[str, str]] = {
    "PROMETHEUS_ALLOW_HTTP": "http:// and https:// are both taken",
    "SCALE_FROM_ZERO_ENGINE_MAX_CONCURRENCY": "one variant of a model is woken, not all",
    "EXPERIMENTAL_COORDINATOR_ENABLED": "maxReplicas is never rewritten: GPUs that are short are shared by priority",
    "COORDINATOR_INTERVAL": "maxReplicas is never rewritten: GPUs that are short are shared by priority",
    "PROMETHEUS_METRICS_CACHE_TTL": "nothing is cached: each pass asks anew",
    "PROMETHEUS_METRICS_CACHE_CLEANUP_INTERVAL": "nothing is cached: each pass asks anew",
    "PROMETHEUS_METRICS_CACHE_FETCH_INTERVAL": "nothing is cached: each pass asks anew",
    "PROMETHEUS_METRICS_CACHE_FRESH_THRESHOLD": "there is one limit of age, WVA_STALE_AFTER_S",
    "PROMETHEUS_METRICS_CACHE_UNAVAILABLE_THRESHOLD": "there is one limit of age, WVA_STALE_AFTER_S",
}
"""Settings of upstream's manager without a counterpart, and why."""
CARRIED: Final = frozenset({"PROMETHEUS_BASE_URL", "GLOBAL_OPT_INTERVAL", "WVA_SCALE_TO_ZERO", "WVA_LIMITED_MODE",
                            "PROMETHEUS_METRICS_CACHE_STALE_THRESHOLD"})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is said of a model; ``None``: nothing."""

    priority: float | None = None
    scale_to_zero: bool | None = None
    retention_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def over(self, other: Rules) -> Rules:
        """These, and ``other``'s where these say nothing."""
        mine = {each: value for each in self.__dataclass_fields__ if (value := getattr(self, each)) is not None}
        return replace(other, **mine)


@dataclass(slots=True)
class Configuration:
    """Everything that the ConfigMaps say."""

    rules: dict[tuple[str, str], Rules] = field(default_factory=dict)
    """By model and namespace; either may be empty, which means all."""
    settings: dict[str, str] = field(default_factory=dict)
    """Our controller's environment."""

    def add(self, model: str, space: str, rules: Rules) -> None:
        """Lay ``rules`` over what is known."""
        self.rules[model, space] = rules.over(self.rules.get((model, space), Rules()))

    def of(self, model: str, space: str) -> Rules:
        """What holds for a model in a namespace: the nearest word wins."""
        found = Rules()
        for key in (("", ""), ("", space), (model, ""), (model, space)):
            found = self.rules.get(key, Rules()).over(found)
        return found


def read(items: Iterable[Object], local: Callable[[str], bool], notes: Notes) -> Configuration:
    """From all ConfigMaps.

    Args:
        items: ConfigMaps, upstream's and others.
        local: whether a namespace has variants, so that a default in it is its own and not everybody's.
        notes: takes what could not be carried over.
    """
    found = Configuration()
    for item in items:
        tell = notes.of(item)
        reader = _reader(item)
        if reader is None:
            tell.note("", "no configuration of upstream's autoscaler: left out")
        else:
            space = namespace(item)
            reader(mapping(item.get("data")), space if local(space) else "", found, tell)
    return found


Reader = Callable[[Mapping[str, Any], str, Configuration, Teller], None]


def _reader(item: Object) -> Reader | None:
    called, data = name(item), mapping(item.get("data"))
    for ending, reader in _BY_NAME.items():
        if called.endswith(ending):
            return reader
    if (CARRIED | MANAGER.keys()) & data.keys() or "config.yaml" in data:
        return _manager
    return None


def _documents(data: Mapping[str, Any], tell: Teller) -> Iterable[tuple[str, Object]]:
    for key, text in data.items():
        try:
            parsed = yaml.safe_load(text) if isinstance(text, str) else text
        except yaml.YAMLError:
            parsed = None
        if isinstance(parsed, dict):
            yield key, parsed
        else:
            tell.dropped(f"data[{key}]", "is no YAML mapping")


def _subject(key: str, entry: Object, space: str) -> tuple[str, str]:
    """Model and namespace that an entry is about: its fields, else its key ``MODEL#NAMESPACE``, else all."""
    if entry.get("model_id"):
        return str(entry["model_id"]), str(entry.get("namespace") or space)
    model, hash_sign, named = key.rpartition("#")
    return (model, named) if hash_sign else ("", space)


def _saturation(data: Mapping[str, Any], space: str, found: Configuration, tell: Teller) -> None:
    for key, entry in _documents(data, tell):
        model, named = _subject(key, entry, space)
        at = f"data[{key}]."
        found.add(model, named, _rules_of(entry, at, tell))
        for each, value in entry.items():
            if each == "queueLengthThreshold":
                _queue(value, at, found, tell, everywhere=not model)
            elif each in ("limiters", "enableLimiter"):
                _limiter(each, value, at, found, tell)
            elif each == "analyzers":
                _analyzers(value, at, tell)
            elif each in _SATURATION:
                tell.dropped(at + each, f"{value}: {_SATURATION[each]}")
            elif each not in ("priority", "scaleToZero", "model_id", "namespace"):
                tell.dropped(at + each, "is not known to us")


def _rules_of(entry: Object, at: str, tell: Teller) -> Rules:
    priority = _number(entry.get("priority"))
    if priority is not None and priority > 0:
        tell.carried(f"{at}priority", "spec.priority of the model's variants")
    elif "priority" in entry:
        tell.dropped(f"{at}priority", f"{entry['priority']!r} is no number above 0")
        priority = None
    zero = mapping(entry.get("scaleToZero")).get("enabled")
    if isinstance(zero, bool):
        tell.carried(f"{at}scaleToZero", "decides whether spec.minReplicas may be 0")
    return Rules(priority=priority, scale_to_zero=zero if isinstance(zero, bool) else None)


def _queue(value: Any, at: str, found: Configuration, tell: Teller, *, everywhere: bool) -> None:
    number = _number(value)
    if not everywhere:
        tell.dropped(f"{at}queueLengthThreshold", "is one for all models here (WVA_QUEUE_FULL)")
    elif number is None or number <= 0:
        tell.dropped(f"{at}queueLengthThreshold", f"{value!r} is no number above 0")
    else:
        found.settings["WVA_QUEUE_FULL"] = f"{number:g}"
        tell.carried(f"{at}queueLengthThreshold", "WVA_QUEUE_FULL")


def _limiter(each: str, value: Any, at: str, found: Configuration, tell: Teller) -> None:
    if each == "enableLimiter":
        if value:
            tell.changed(at + each, "WVA_GPU_LIMIT: what limits GPUs is a setting of the controller")
        return
    for one in entries(value):
        kind = one.get("type")
        if kind == "quota":
            tell.dropped(f"{at}limiters[quota]", f"{one.get('name', '')}: write it as a ResourceQuota "
                         "(requests.nvidia.com/gpu) of the namespace, which the API server enforces too")  # fmt: skip
        elif kind == "gpu-inventory":
            found.settings["WVA_GPU_LIMIT"] = "nodes"
            tell.changed(f"{at}limiters[{kind}]", "WVA_GPU_LIMIT=nodes (wva.gpuLimit of the chart)")
        else:
            tell.dropped(f"{at}limiters[{kind}]", "is not known to us")


def _analyzers(value: Any, at: str, tell: Teller) -> None:
    for one in entries(value):
        tell.dropped(f"{at}analyzers[{one.get('name')}]", "one analyzer decides for all models (WVA_ANALYZER: "
                     "saturation, slo, or upstream's own v1 and v2); there are no scores")  # fmt: skip


def _to_zero(data: Mapping[str, Any], space: str, found: Configuration, tell: Teller) -> None:
    for key, entry in _documents(data, tell):
        model, named = _subject(key, entry, space)
        if key != DEFAULT and not model:
            model, named = str(entry.get("modelID") or key), space
        at = f"data[{key}]."
        zero = entry.get("enable_scale_to_zero")
        rules = Rules(scale_to_zero=zero) if isinstance(zero, bool) else Rules()
        if isinstance(zero, bool):
            tell.carried(f"{at}enable_scale_to_zero", "decides whether spec.minReplicas may be 0")
        if "retention_period" in entry:
            lasts_s = duration_s(entry["retention_period"])
            if lasts_s:
                rules = replace(rules, retention_s=lasts_s)
                tell.carried(f"{at}retention_period", "spec.retentionSeconds of the model's variants")
            else:
                tell.dropped(f"{at}retention_period", f"{entry['retention_period']!r} is no time above 0")
        for each in entry.keys() - {"model_id", "modelID", "namespace", "enable_scale_to_zero", "retention_period"}:
            tell.dropped(at + each, "is not known to us")
        found.add(model, named, rules)


def _queueing(data: Mapping[str, Any], space: str, found: Configuration, tell: Teller) -> None:
    for key, entry in _documents(data, tell):
        model, named = _subject(key, entry, space)
        at = f"data[{key}]."
        targets: dict[str, Any] = {}
        for each, ours in (("targetTTFT", "ttft_s"), ("targetITL", "tpot_s")):
            if each in entry:
                targets |= _target(entry[each], at + each, ours, tell)
        found.add(model, named, Rules(**targets))
        for each in ("sloMultiplier", "tuningEnabled"):
            if each in entry:
                tell.dropped(at + each, "the analyzer slo learns its law online, and sizes by the cost of a miss "
                             "(WVA_MISS_COST, WVA_SLO_OBJECTIVE)")  # fmt: skip


def _target(value: Any, path: str, ours: str, tell: Teller) -> dict[str, float]:
    """A latency target in milliseconds as a rule in seconds."""
    target_ms = _number(value)
    if target_ms is None or not 0.001 <= target_ms <= 86_400_000:
        tell.dropped(path, f"{value!r} is no time in milliseconds")
        return {}
    tell.changed(path, f"spec.slo of the model's variants: {target_ms / 1000:g} seconds; WVA_ANALYZER=slo holds it")
    return {ours: target_ms / 1000}


def _classes(data: Mapping[str, Any], space: str, found: Configuration, tell: Teller) -> None:
    for key, entry in _documents(data, tell):
        at = f"data[{key}]."
        if "priority" in entry:
            tell.dropped(f"{at}priority", f"{entry['priority']}: classes counted downwards; spec.priority counts "
                         "upwards (twice the priority, twice the share of scarce GPUs): set it")  # fmt: skip
        for one in entries(entry.get("data")):
            model = str(one.get("model") or "")
            if model in ("", DEFAULT, "default/default"):
                tell.dropped(f"{at}data[{model}]", "names no model; see WVA_SLO_TTFT_S and WVA_SLO_TPOT_S")
                continue
            rules: dict[str, Any] = {}
            for each, ours in (("slo-ttft", "ttft_s"), ("slo-tpot", "tpot_s")):
                if each in one:
                    rules |= _target(one[each], f"{at}data[{model}].{each}", ours, tell)
            if (model, space) in found.rules and found.rules[model, space].ttft_s:
                tell.note(f"{at}data[{model}]", "several classes name this model: the last counts")
            found.add(model, space, Rules(**rules))


def _unit_costs(data: Mapping[str, Any], _space: str, _found: Configuration, tell: Teller) -> None:
    for key in data:
        tell.dropped(f"data[{key}]", "a cost belongs to a variant (spec.variantCost), not to a GPU")


def _manager(data: Mapping[str, Any], _space: str, found: Configuration, tell: Teller) -> None:
    settings = {key: value for key, value in data.items() if key != "config.yaml"}
    if isinstance(data.get("config.yaml"), str):
        settings |= next((each for _, each in _documents({"config.yaml": data["config.yaml"]}, tell)), {})
    for key, value in settings.items():
        path = f"data[{key}]"
        if key in MANAGER:
            tell.dropped(path, MANAGER[key])
        elif key in CARRIED:
            _setting(key, value, path, found, tell)
        else:
            tell.dropped(path, "is not known to us")


def _setting(key: str, value: Any, path: str, found: Configuration, tell: Teller) -> None:
    if key == "WVA_SCALE_TO_ZERO":
        found.add("", "", Rules(scale_to_zero=str(value).lower() == "true"))
        tell.carried(path, "decides whether spec.minReplicas may be 0")
    elif key == "WVA_LIMITED_MODE":
        if str(value).lower() == "true":
            found.settings["WVA_GPU_LIMIT"] = "nodes"
            tell.carried(path, "WVA_GPU_LIMIT=nodes (wva.gpuLimit of the chart)")
    elif key == "PROMETHEUS_BASE_URL":
        found.settings |= {"WVA_SOURCE": "prometheus", "WVA_PROMETHEUS_URL": str(value)}
        tell.carried(path, "WVA_PROMETHEUS_URL")
    else:
        ours = "WVA_INTERVAL_S" if key == "GLOBAL_OPT_INTERVAL" else "WVA_STALE_AFTER_S"
        lasts_s = duration_s(value)
        if lasts_s:
            found.settings[ours] = f"{lasts_s:g}"
            tell.carried(path, ours)
        else:
            tell.dropped(path, f"{value!r} is no time above 0")


def duration_s(text: Any) -> float | None:
    """Seconds of a duration as Go writes it; ``None`` for anything else.

    >>> duration_s("1h30m"), duration_s("15s"), duration_s("soon")
    (5400.0, 15.0, None)
    """
    if not isinstance(text, str) or not re.fullmatch(r"(\d+(\.\d+)?(h|ms|m|s))+", text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


_BY_NAME: Final[Mapping[str, Reader]] = {
    "saturation-scaling-config": _saturation,
    "scale-to-zero-config": _to_zero,
    "queueing-model-config": _queueing,
    "service-classes-config": _classes,
    "accelerator-unit-costs": _unit_costs,
}
"""By the end of the name: releases put their own word before it."""
