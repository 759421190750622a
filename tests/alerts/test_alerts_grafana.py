"""Grafana's own generated model of a dashboard takes ours without losing a field, and ours keep our lint."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from alerts.cli import SLO_FILE

OPEN = (".titleFormat", ".textFormat", ".step")
"""What an annotation query may carry for its data source: Grafana's model leaves these to Prometheus."""
FILES = sorted((SLO_FILE.parent / "generated" / "grafana").glob("*.json"))


def lost(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Places of ours that Grafana's model does not know or holds otherwise."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        unknown = [f"{path}.{key}" for key, value in ours.items() if key not in theirs and value is not None]
        shared = [key for key in ours if key in theirs]
        return unknown + [place for key in shared for place in lost(ours[key], theirs[key], f"{path}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            place for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for place in lost(a, b, f"{path}[{i}]")
        ]
    return [] if ours == theirs else [f"{path}: {ours!r} became {theirs!r}"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_grafanas_model_holds_every_field(file: Any) -> None:
    ours = json.loads(file.read_text())
    theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))
    places = [place for place in lost(ours, theirs) if not place.endswith(OPEN)]
    assert places == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_panel_has_unit_description_and_queries_that_keep_to_the_variables(file: Any) -> None:
    board = json.loads(file.read_text())
    assert board["graphTooltip"] == 1
    assert board["editable"] is False
    assert {"datasource", "namespace", "model", "pod"} <= {one["name"] for one in board["templating"]["list"]}
    assert len(board["annotations"]["list"]) >= 2
    for panel in board["panels"]:
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert "[5m]" not in target["expr"] or "increase" in target["expr"], target["expr"]
        if "P95" in panel["title"] or "P99" in panel["title"]:
            assert "bound" in panel["description"], f"{panel['title']} does not say between which bounds it lies"


def test_there_is_a_dashboard_a_layer_and_one_of_slos() -> None:
    assert len(FILES) == 5
