"""Validates manifests against Kubernetes' own schemas and the published CustomResourceDefinitions."""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from wva.kube.crd import crd

KUBERNETES = "1.35"
SCHEMAS = Path(os.environ.get("FLEET_SCHEMAS", Path(__file__).parents[3] / "shared/schemas"))


def documents(text: str) -> list[dict[str, Any]]:
    """The manifests of a file."""
    return [one for one in yaml.safe_load_all(text) if one]


@cache
def published() -> dict[tuple[str, str], dict[str, Any]]:
    """Schema by API version and kind, of all resource definitions that are at hand."""
    files = SCHEMAS.glob("*.yaml") if SCHEMAS.is_dir() else ()
    found = [one for path in files for one in documents(path.read_text(encoding="utf-8"))]
    own = [one for one in found if one["spec"]["group"] != "llmd.ai"] + [crd()]
    return {
        (f"{one['spec']['group']}/{version['name']}", one["spec"]["names"]["kind"]): _strict(
            version["schema"]["openAPIV3Schema"]
        )
        for one in own
        for version in one["spec"]["versions"]
    }


def need_schemas() -> None:
    """Skip where the published definitions are not at hand: custom kinds cannot be validated without them."""
    if not SCHEMAS.is_dir():
        pytest.skip(f"no resource definitions in {SCHEMAS} (FLEET_SCHEMAS names their folder)")


def problems(manifest: dict[str, Any]) -> list[str]:
    """What a real API server would refuse or drop; unknown fields included."""
    key = (manifest["apiVersion"], manifest["kind"])
    if key in published():
        validator = jsonschema.Draft202012Validator(published()[key])
        return [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(manifest)
        ]
    if "." in key[0].split("/")[0] and not key[0].startswith(BUILT_IN):
        return [f"no schema of {key}"]
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


BUILT_IN = ("networking.k8s.io/", "rbac.authorization.k8s.io/", "apiregistration.k8s.io/", "apiextensions.k8s.io/",
            "admissionregistration.k8s.io/", "scheduling.k8s.io/", "coordination.k8s.io/")  # fmt: skip


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with every unknown field refused: a server would drop it silently."""
    closed = copy.deepcopy(schema)
    stack: list[Any] = [closed]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            keeps = node.get("x-kubernetes-preserve-unknown-fields")
            if "properties" in node and "additionalProperties" not in node and not keeps:
                node["additionalProperties"] = False
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    closed["properties"]["metadata"] = {"type": "object"}
    return closed
