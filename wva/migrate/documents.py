"""Kubernetes objects out of YAML text, lists opened up. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from fleet.errors import ConfigError

Object = dict[str, Any]
NAMESPACE: Final = "default"
"""Of an object that names none."""


def objects(text: str, *, where: str) -> list[Object]:
    """Every object of a file, in order; ``List`` kinds are opened up.

    Raises: ConfigError when the text is no YAML, or a document is no Kubernetes object.

    >>> [one["kind"] for one in objects("{apiVersion: v1, kind: Pod, metadata: {name: a}}", where="a.yaml")]
    ['Pod']
    """
    try:
        documents = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        raise ConfigError("is no YAML", where=f"{where}{place}",
                          next_step="Give manifests, as kubectl get -o yaml prints them.") from None  # fmt: skip
    found: list[Object] = []
    for number, document in enumerate(documents, start=1):
        if document is not None:
            found.extend(_opened(document, f"{where} document {number}"))
    return found


def _opened(document: Any, where: str) -> Iterator[Object]:
    if not isinstance(document, dict):
        raise _refused(f"a {_word(document)} is no Kubernetes object", where)
    kind, version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str):
        raise _refused("an object without kind or apiVersion", where)
    if kind.endswith("List") and "items" in document:
        items = document["items"] or []
        if not isinstance(items, list):
            raise _refused("the items of a list are no list", where)
        of = {} if kind == "List" else {"apiVersion": version, "kind": kind.removesuffix("List")}
        for index, item in enumerate(items):
            inner = f"{where} item {index + 1}"
            if not isinstance(item, dict):
                raise _refused(f"a {_word(item)} is no Kubernetes object", inner)
            yield from _opened({**of, **item}, inner)
        return
    meta = document.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str) or not meta["name"]:
        raise _refused(f"a {kind} without metadata.name", where)
    _check(document, f"{kind} {meta['name']}", where)
    yield document


def _check(document: Object, called: str, where: str) -> None:
    meta = document["metadata"]
    parts = {"spec": document.get("spec"), "data": document.get("data"), "labels": meta.get("labels"),
             "annotations": meta.get("annotations")}  # fmt: skip
    for part, value in parts.items():
        if not isinstance(value or {}, dict):
            raise _refused(f"{part} of {called} is a {_word(value)}", where)
    owners = meta.get("ownerReferences") or []
    if not isinstance(meta.get("namespace") or "", str):
        raise _refused(f"the namespace of {called} is a {_word(meta['namespace'])}", where)
    if not isinstance(owners, list) or not all(isinstance(one, dict) for one in owners):
        raise _refused(f"ownerReferences of {called} is no list of objects", where)


def _refused(what: str, where: str) -> ConfigError:
    return ConfigError(what, where=where, next_step="Give manifests, as kubectl get -o yaml prints them.")


def _word(value: Any) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "boolean"}.get(type(value), "value")


def namespace(item: Mapping[str, Any]) -> str:
    """Where an object lives."""
    return str(item["metadata"].get("namespace") or NAMESPACE)


def name(item: Mapping[str, Any]) -> str:
    """Its name."""
    return str(item["metadata"]["name"])


def title(item: Mapping[str, Any]) -> str:
    """How a report names it: ``ConfigMap models/limits``."""
    return f"{item['kind']} {namespace(item)}/{name(item)}"


def mapping(value: Any) -> Object:
    """``value`` where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[Object]:
    """The mappings of a list; whatever else is in it counts as nothing."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
