"""The CustomResourceDefinition: what an API server demands of a structural schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from wva.cli import wva
from wva.kube.crd import CONDITION_TYPES, REASON_PATTERN, crd

VERSION = crd()["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]
SPEC = ROOT["properties"]["spec"]
REPOSITORY = Path(__file__).parents[3]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def at(path: str) -> dict[str, Any]:
    return dict(nodes(ROOT))[path]


def test_every_node_has_a_type_and_objects_list_their_fields() -> None:
    for path, node in nodes(ROOT):
        assert node.get("type") in {"object", "array", "string", "integer", "number", "boolean"}, path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert set(node.get("required", ())) <= set(node.get("properties", ())), path


def test_arrays_are_bounded_and_what_a_rule_reads_has_a_default() -> None:
    assert all("maxItems" in node for _, node in nodes(ROOT) if node["type"] == "array")
    for rule in SPEC["x-kubernetes-validations"]:
        read = {word.removeprefix("self.") for word in rule["rule"].split() if word.startswith("self.")}
        assert read
        assert all("default" in SPEC["properties"][name] for name in read)
        assert rule["fieldPath"].removeprefix(".") in read


def test_strings_that_a_user_writes_are_bounded() -> None:
    for path, node in nodes(SPEC):
        assert node["type"] != "string" or "maxLength" in node or "enum" in node, path


def test_the_name_is_plural_dot_group_and_one_version_is_stored() -> None:
    spec = crd()["spec"]
    assert crd()["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
    assert (spec["names"]["shortNames"], spec["scope"]) == (["va"], "Namespaced")
    assert [version["storage"] for version in spec["versions"]] == [True]
    assert VERSION["subresources"] == {"status": {}}


def test_printer_columns_point_at_fields_of_their_type() -> None:
    fields = dict(nodes(ROOT))
    for column in VERSION["additionalPrinterColumns"]:
        path = column["jsonPath"]
        if path.startswith(".metadata") or "[?" in path:
            continue
        assert fields[path]["type"] == column["type"], path


@pytest.mark.parametrize(
    ("path", "default"),
    [
        (".spec.saturationThreshold", 0.8),
        (".spec.scaleDownThreshold", 0.3),
        (".spec.variantCost", "10.0"),
        (".spec.minReplicas", 1),
        (".spec.maxReplicas", 10),
    ],
)
def test_defaults_are_those_of_the_design(path: str, default: Any) -> None:
    assert at(path)["default"] == default


def test_conditions_are_a_map_by_type() -> None:
    conditions = at(".status.conditions")
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])
    assert conditions["items"]["properties"]["reason"]["pattern"] == REASON_PATTERN
    assert CONDITION_TYPES == ("TargetResolved", "MetricsAvailable", "OptimizationReady")


def test_the_command_prints_it_and_the_committed_file_is_the_same() -> None:
    printed = CliRunner().invoke(wva, ["crd"])
    assert printed.exit_code == 0
    assert yaml.safe_load(printed.output) == crd()
    committed = REPOSITORY / "deploy" / "crd" / "variantautoscalings.llmd.ai.yaml"
    assert committed.read_text() == printed.output
