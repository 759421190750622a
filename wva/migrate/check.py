"""Whether an API server would take a VariantAutoscaling: our own schema, as far as it uses JSON Schema. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from wva.kube.crd import crd

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,),
}  # fmt: skip


def problem(spec: Any) -> str:
    """The first thing that is wrong with a ``spec``; empty: nothing."""
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for one in _faults(spec, schema, "spec"):
        return one
    if spec.get("scaleDownThreshold", 0.3) >= spec.get("saturationThreshold", 0.8):
        return "spec.scaleDownThreshold is not below saturationThreshold"
    return ""


def _faults(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    kind = schema["type"]
    fits: bool = isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
    if not fits:
        yield f"{path} is no {kind}"
    elif kind == "object":
        yield from _inside(value, schema, path)
    elif kind in ("integer", "number"):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield f"{path} is {value}, outside {schema.get('minimum')} to {schema.get('maximum')}"
    elif kind == "string":
        short_enough = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        known = value in schema.get("enum", (value,))
        if not (short_enough and known and re.search(schema.get("pattern", ""), value)):
            yield f"{path} cannot be {value[:40]!r}"


def _inside(value: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[str]:
    fields = schema.get("properties", {})
    yield from (f"{path}.{each} is missing" for each in schema.get("required", ()) if each not in value)
    yield from (f"{path}.{each} is not known" for each in value.keys() - fields.keys())
    if len(value) < schema.get("minProperties", 0):
        yield f"{path} is empty"
    for each, inner in value.items():
        if each in fields:
            yield from _faults(inner, fields[each], f"{path}.{each}")
