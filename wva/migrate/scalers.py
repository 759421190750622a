"""HPAs and ScaledObjects that read upstream's metric, or an engine's own, turned to ours. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from fleet.signals import WVA_DESIRED
from wva.kube import world
from wva.migrate.documents import Object, entries, mapping, name
from wva.migrate.report import Teller
from wva.migrate.wanted import OURS, metadata, target_of

HPA, SCALED_OBJECT = "HorizontalPodAutoscaler", "ScaledObject"
HPA_VERSION: Final = "autoscaling/v2"
ENGINE: Final = re.compile(
    r"(?<![a-z0-9])(?:(?:vllm|sglang)[:_]|inference_extension_|inference_pool_|llm_d_epp_|(?:wva|inferno)_)", re.I
)
"""What names a metric of an engine, of the router in front of it, or of upstream's autoscaler."""
UPSTREAM: Final = re.compile(r"(?<![a-z0-9])(?:wva|inferno)_(?:desired|current)_\w+")
MODEL: Final = re.compile(r'\b(?:target_model_name|model_name|model)\s*=\s*"([^"]+)"')
_QUANTILE: Final = re.compile(r"^\s*(?:\w+\(\s*)*histogram_quantile\(")
_TARGETS: Final[Mapping[str, str]] = {
    "time_to_first_token_seconds": "ttftSeconds", "time_per_output_token_seconds": "tpotSeconds",
    "inter_token_latency_seconds": "tpotSeconds",
}  # fmt: skip
"""Histograms whose quantile, as a trigger, is a promise."""
_ACCESS: Final = ("serverAddress", "namespace", "customHeaders", "queryParameters", "unsafeSsl", "timeout", "authModes")
_FAST: Final[Object] = {
    "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
        {"type": "Percent", "value": 100, "periodSeconds": 15}, {"type": "Pods", "value": 4, "periodSeconds": 15}]},
    "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [
        {"type": "Percent", "value": 100, "periodSeconds": 15}]},
}  # fmt: skip
"""wva has damped already: an HPA without a behavior would wait five minutes more before each decrease."""


def metrics_of(item: Object) -> list[str]:
    """Names and queries that a scaler follows, one text a metric."""
    spec = mapping(item.get("spec"))
    if item["kind"] == SCALED_OBJECT:
        return [str(mapping(one.get("metadata")).get("query", "")) if one.get("type") == "prometheus" else ""
                for one in entries(spec.get("triggers"))]  # fmt: skip
    return [_metric_name(one) for one in entries(spec.get("metrics"))]


def _metric_name(metric: Object) -> str:
    kind = str(metric.get("type", ""))
    inner = mapping(mapping(metric.get(kind[:1].lower() + kind[1:])).get("metric"))
    return str(inner.get("name", ""))


def concerns(item: Object) -> bool:
    """Whether a scaler is wva's by its annotation, or follows an engine's or wva's metrics."""
    managed = mapping(item["metadata"].get("annotations")).get(world.MANAGED) == "true"
    return managed or any(ENGINE.search(text) for text in metrics_of(item))


def bounds(item: Object) -> tuple[int | None, int | None]:
    """Its minimum and maximum, as its kind reads an absent one."""
    spec = mapping(item.get("spec"))
    low, high = (spec.get("minReplicas", 1), spec.get("maxReplicas"))
    if item["kind"] == SCALED_OBJECT:
        low, high = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
        low = low if spec.get("idleReplicaCount") is None else spec["idleReplicaCount"]
    return _whole(low), _whole(high)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000_000 else None


def model_in(item: Object) -> str:
    """The model that its queries name; empty where they name none, or several."""
    found = {one for text in metrics_of(item) if ENGINE.search(text) for one in MODEL.findall(text)}
    return found.pop() if len(found) == 1 else ""


def promises(item: Object, tell: Teller) -> dict[str, float]:
    """Latency targets that its triggers hold: a quantile of TTFT or TPOT against a threshold in seconds."""
    found: dict[str, float] = {}
    for index, trigger in enumerate(entries(mapping(item.get("spec")).get("triggers"))):
        about = mapping(trigger.get("metadata"))
        query = str(about.get("query", ""))
        named = next((ours for metric, ours in _TARGETS.items() if metric in query), None)
        if not named or not _QUANTILE.match(query) or re.search(r"[-+*/]", re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", query)):
            continue
        try:
            seconds = float(str(about.get("threshold")))
        except ValueError:
            continue
        if 0 < seconds <= 86_400:  # a day
            found[named] = seconds
            tell.changed(f"spec.triggers[{index}].metadata.threshold", f"spec.slo.{named}: {seconds:g} of the "
                         "VariantAutoscaling; WVA_ANALYZER=slo holds it")  # fmt: skip
    return found


def converted(item: Object, variant: str, tell: Teller, *, scaler: str = "keep") -> Object:
    """A scaler that follows ``wva_desired_replicas`` of ``variant``.

    Args:
        item: an HPA or ScaledObject that :func:`concerns` us.
        scaler: ``keep``, or ``hpa``: an HPA on the external metric in place of a ScaledObject.
    """
    if item["kind"] == HPA:
        return _hpa(item, variant, tell)
    return _hpa_instead(item, variant, tell) if scaler == "hpa" else _scaled_object(item, variant, tell)


def desired(variant: str) -> Object:
    """The external metric; AverageValue 1: as many replicas as it says."""
    return {"type": "External", "external": {
        "metric": {"name": WVA_DESIRED.name, "selector": {"matchLabels": {"variant_name": variant}}},
        "target": {"type": "AverageValue", "averageValue": "1"}}}  # fmt: skip


def _meta(item: Object, tell: Teller) -> Object:
    if mapping(item["metadata"].get("annotations")).get(world.MANAGED):
        tell.changed(f"metadata.annotations[{world.MANAGED}]", "a VariantAutoscaling declares the workload")
    notes = mapping(item["metadata"].get("annotations"))
    for each in notes:
        if each.startswith(OURS) and each not in (world.MANAGED, world.MODEL_ID, world.COST, *world.NUMBERS):
            tell.dropped(f"metadata.annotations[{each}]", "is not known to us")
        if each.startswith("autoscaling.keda.sh/paused"):
            tell.note(f"metadata.annotations[{each}]", "kept: KEDA does nothing until it is taken away")
    return metadata(item, tell)


def _hpa(item: Object, variant: str, tell: Teller) -> Object:
    spec = mapping(item.get("spec"))
    if item["apiVersion"] != HPA_VERSION:
        tell.changed("apiVersion", f"{item['apiVersion']} becomes {HPA_VERSION}")
    found: list[Object] = []
    for index, metric in enumerate(entries(spec.get("metrics"))):
        path, called = f"spec.metrics[{index}]", _metric_name(metric)
        if not ENGINE.search(called):
            found.append(metric)
            tell.note(path, "kept: the HPA takes the highest of its metrics, so this one can keep replicas up")
            continue
        _tell_metric(metric, called, path, tell)
    kept = {each: value for each, value in spec.items() if each != "metrics"}
    behavior = kept.setdefault("behavior", _FAST)
    if behavior is _FAST:
        tell.changed("spec.behavior", "no window of its own: wva has damped already")
    _tell_window(mapping(behavior), "spec.behavior", tell)
    return {"apiVersion": HPA_VERSION, "kind": HPA, "metadata": _meta(item, tell),
            "spec": {**kept, "scaleTargetRef": target_of(item), "metrics": [desired(variant), *found]}}  # fmt: skip


def _tell_metric(metric: Object, called: str, path: str, tell: Teller) -> None:
    inner = mapping(metric.get(str(metric.get("type", ""))[:1].lower() + str(metric.get("type", ""))[1:]))
    target = mapping(inner.get("target"))
    if called != WVA_DESIRED.name:
        lost = f": its target {_target_text(target)} has no counterpart, wva decides by saturation or SLO"
        tell.changed(path, f"{called} becomes {WVA_DESIRED.name}{'' if UPSTREAM.search(called) else lost}")
    if "averageValue" not in target:
        why = "Value multiplies by the ready pods"
        tell.changed(f"{path}.target", f"{_target_text(target)} becomes AverageValue 1: {why}")
    elif UPSTREAM.search(called) and str(target["averageValue"]) != "1":
        tell.changed(f"{path}.target", f"{_target_text(target)} becomes AverageValue 1")
    labels = mapping(mapping(mapping(inner.get("metric")).get("selector")).get("matchLabels"))
    for label in labels.keys() - {"variant_name"}:
        tell.changed(f"{path}.selector[{label}]", "left out: the variant's name is enough")
    if called == WVA_DESIRED.name and "averageValue" in target:
        tell.carried(path, WVA_DESIRED.name)


def _target_text(target: Mapping[str, Any]) -> str:
    value = target.get("averageValue", target.get("value", "?"))
    return f"{target.get('type', 'Value')} {value}"


def _tell_window(behavior: Mapping[str, Any], path: str, tell: Teller) -> None:
    down = mapping(behavior.get("scaleDown"))
    if (seconds := down.get("stabilizationWindowSeconds")) != 0:
        said = "300 s (the HPA's default)" if seconds is None else f"{seconds} s"
        tell.note(f"{path}.scaleDown", f"kept: its window of {said} comes on top of wva's own "
                  "(WVA_SCALE_DOWN_STABILISATION_S); 0 is enough")  # fmt: skip


def _scaled_object(item: Object, variant: str, tell: Teller) -> Object:
    spec = mapping(item.get("spec"))
    triggers = entries(spec.get("triggers"))
    ours = [index for index, text in enumerate(metrics_of(item)) if ENGINE.search(text)]
    replaced: Object = triggers[ours[0]] if ours else {}
    about = mapping(replaced.get("metadata"))
    trigger: Object = {each: replaced[each] for each in ("name", "authenticationRef") if each in replaced}
    access: Object = {each: str(about[each]) for each in _ACCESS if each in about}
    trigger |= {"type": "prometheus", "metricType": "AverageValue", "metadata": {
        **access, "query": query(variant, about.get("query")), "threshold": "1", "activationThreshold": "0",
        "ignoreNullValues": "false"}}  # fmt: skip
    if "serverAddress" not in about:
        trigger["metadata"]["serverAddress"] = "http://prometheus-operated.monitoring.svc:9090"
        tell.note("spec.triggers", f"no Prometheus is named: {trigger['metadata']['serverAddress']}; put yours there")
    others = []
    for index, one in enumerate(triggers):
        if index in ours:
            _tell_trigger(one, f"spec.triggers[{index}]", variant, tell)
        else:
            others.append(one)
            tell.note(f"spec.triggers[{index}]", f"kept: KEDA takes the highest, so this {one.get('type')} trigger can "
                      "keep replicas up")  # fmt: skip
    kept = {each: value for each, value in spec.items() if each not in ("triggers", "advanced", "fallback")}
    if advanced := _advanced(mapping(spec.get("advanced")), tell):
        kept["advanced"] = advanced
    kept["fallback"] = _fallback(spec, tell)
    if spec.get("idleReplicaCount") is not None:
        tell.changed("spec.idleReplicaCount", "spec.minReplicas of the VariantAutoscaling; kept here too")
    return {"apiVersion": item["apiVersion"], "kind": SCALED_OBJECT, "metadata": _meta(item, tell),
            "spec": {**kept, "triggers": [trigger, *others]}}  # fmt: skip


def query(variant: str, before: Any = None) -> str:
    """The PromQL of a ScaledObject; the label that held upstream's namespace is kept as it was spelled.

    >>> query("llama")
    'max(wva_desired_replicas{variant_name="llama"})'
    """
    label = ""
    if isinstance(before, str) and UPSTREAM.search(before):
        found = re.search(r'\b((?:exported_)?namespace)\s*=\s*"([^"]*)"', before)
        label = f',{found[1]}="{found[2]}"' if found else ""
    return f'max({WVA_DESIRED.name}{{variant_name="{variant}"{label}}})'


def _tell_trigger(trigger: Object, path: str, variant: str, tell: Teller) -> None:
    about = mapping(trigger.get("metadata"))
    before, threshold = str(about.get("query", "")), about.get("threshold")
    if before == query(variant, before):
        tell.carried(f"{path}.metadata.query", before)
    elif UPSTREAM.search(before):
        tell.changed(f"{path}.metadata.query", f"asks for {WVA_DESIRED.name} of {variant}")
        if trigger.get("metricType") == "Value":
            tell.changed(f"{path}.metricType", "Value becomes AverageValue: Value multiplies by the ready pods")
    else:
        tell.changed(f"{path}.metadata.query", f"{before} with threshold {threshold} becomes {WVA_DESIRED.name} of "
                     f"{variant}: wva decides by saturation or SLO, there is no threshold")  # fmt: skip
    if str(about.get("ignoreNullValues", "true")).lower() != "false":
        tell.changed(f"{path}.metadata.ignoreNullValues", '"false": KEDA read a lost metric as 0, and scaled down')


def _advanced(advanced: Mapping[str, Any], tell: Teller) -> Object:
    kept, path = dict(advanced), "spec.advanced.horizontalPodAutoscalerConfig"
    if kept.pop("scalingModifiers", None):
        tell.dropped("spec.advanced.scalingModifiers", "its formula names the triggers that were replaced")
    config = dict(mapping(kept.get("horizontalPodAutoscalerConfig")))
    if not mapping(config.get("behavior")):
        config["behavior"] = _FAST
        tell.changed(f"{path}.behavior", "no window of its own: wva has damped already")
    _tell_window(mapping(config["behavior"]), f"{path}.behavior", tell)
    return {**kept, "horizontalPodAutoscalerConfig": config}


def _fallback(spec: Mapping[str, Any], tell: Teller) -> Object:
    before = mapping(spec.get("fallback"))
    if not before:
        tell.changed("spec.fallback", "currentReplicas: without one a Prometheus that is down is an error for ever")
        return {"failureThreshold": 3, "replicas": max(_whole(spec.get("minReplicaCount")) or 1, 1),
                "behavior": "currentReplicas"}  # fmt: skip
    if before.get("behavior", "static") == "static":
        tell.note("spec.fallback", f"kept: on lost metrics KEDA goes to {before.get('replicas')} replicas; behavior "
                  "currentReplicas would hold")  # fmt: skip
    return dict(before)


def _hpa_instead(item: Object, variant: str, tell: Teller) -> Object:
    spec = mapping(item.get("spec"))
    low, high = bounds(item)
    for index, text in enumerate(metrics_of(item)):
        trigger = entries(spec.get("triggers"))[index]
        if ENGINE.search(text):
            _tell_trigger(trigger, f"spec.triggers[{index}]", variant, tell)
        else:
            tell.dropped(f"spec.triggers[{index}]", f"an HPA has no {trigger.get('type')} trigger")
    for each in sorted(spec.keys() - {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers", "advanced"}):
        tell.dropped(f"spec.{each}", "is KEDA's alone; an HPA holds when its metric is lost")
    if not low:
        tell.changed("spec.minReplicaCount", "0 becomes 1 in the HPA, which does not scale to zero")
    tell.changed("kind", f"HorizontalPodAutoscaler on {WVA_DESIRED.name}: delete the ScaledObject first, two fight")
    config = mapping(mapping(spec.get("advanced")).get("horizontalPodAutoscalerConfig"))
    if mapping(spec.get("advanced")).get("scalingModifiers"):
        tell.dropped("spec.advanced.scalingModifiers", "its formula names the triggers that were replaced")
    behavior = mapping(config.get("behavior")) or _FAST
    _tell_window(behavior, "spec.behavior", tell)
    body = {"scaleTargetRef": target_of(item), "minReplicas": max(low or 1, 1), "maxReplicas": max(high or 10, 1),
            "metrics": [desired(variant)], "behavior": behavior}  # fmt: skip
    return {"apiVersion": HPA_VERSION, "kind": HPA, "metadata": {**_meta(item, tell), "name": name(item)}, "spec": body}
