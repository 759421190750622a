"""Dashboards as Grafana's JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from alerts.algebra import Expr, Over, duration
from alerts.model import Links
from alerts.panels import IN_NAMESPACE, RATE_S, Dashboard, Panel, dashboards
from alerts.recording import QUEUE
from fleet import promql
from fleet import signals as s
from fleet.slo import SloBook

TAG: Final = "llm-fleet"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 12, 8
_SCHEMA: Final = 39


def query(expr: Expr) -> str:
    """PromQL with Grafana's interval."""
    return expr.promql().replace(f"[{duration(RATE_S)}]", "[$__rate_interval]")


def _thresholds(panel: Panel) -> dict[str, Any]:
    if panel.red is None:
        return {"mode": "absolute", "steps": [{"color": "green", "value": None}]}
    colours = ("red", "green") if panel.low else ("green", "red")
    return {"mode": "absolute", "steps": [{"color": colours[0], "value": None},
                                          {"color": colours[1], "value": panel.red}]}  # fmt: skip


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    style = "off" if panel.red is None else "dashed"
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 0, "spanNulls": False,
              "thresholdsStyle": {"mode": style}}  # fmt: skip
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query(expr), "legendFormat": legend}
        for index, (expr, legend) in enumerate(panel.lines)
    ]
    column, row = number % 2, number // 2
    return {
        "id": number + 1, "type": "timeseries", "title": panel.title, "description": panel.description,
        "datasource": _SOURCE, "targets": targets,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom, "thresholds": _thresholds(panel)},
                        "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }  # fmt: skip


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    chosen = ""
    for name, label in (("namespace", "namespace"), ("model", "model_name"), ("pod", "pod")):
        selected = f"{QUEUE.name}{{{chosen}}}" if chosen else QUEUE.name
        yield {"name": name, "label": name.capitalize(), "type": "query", "datasource": _SOURCE,
               "query": f"label_values({selected}, {label})",
               "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*", "sort": 1,
               "current": {"text": "All", "value": "$__all"}}  # fmt: skip
        chosen = ",".join(part for part in (chosen, f'{label}=~"${name}"') if part)


def _decisions() -> dict[str, Any]:
    """Scale decisions over every panel."""
    changed = Over("changes", s.WVA_DESIRED, RATE_S, IN_NAMESPACE) > 0
    return {"name": "Scale decisions", "enable": True, "iconColor": "blue", "datasource": _SOURCE,
            "expr": query(changed), "titleFormat": "wva changed {{variant_name}}",
            "textFormat": "wanted replicas changed", "step": "30s"}  # fmt: skip


def _firing() -> dict[str, Any]:
    selector = promql.selector(s.ALERTS_STATE, alertstate="firing", severity="critical")
    return {"name": "Pages", "enable": True, "iconColor": "red", "datasource": _SOURCE, "expr": selector,
            "titleFormat": "{{alertname}} {{model_name}}", "step": "30s"}  # fmt: skip


def document(dashboard: Dashboard, links: Links) -> dict[str, Any]:
    """One dashboard."""
    return {
        "uid": dashboard.uid, "title": dashboard.title, "tags": [TAG], "schemaVersion": _SCHEMA, "version": 1,
        "editable": False, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "Layers", "tags": [TAG], "includeVars": True, "keepTime": True,
             "asDropdown": False},
            {"type": "link", "title": "Console", "url": f"{links.console.rstrip('/')}/?model=${{model}}",
             "targetBlank": True},
        ],
        "templating": {"list": list(_variables())},
        "annotations": {"list": [_decisions(), _firing()]},
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }  # fmt: skip


def grafana_files(book: SloBook, links: Links) -> Mapping[str, str]:
    """File name -> JSON text."""
    return {
        f"{dashboard.uid}.json": json.dumps(document(dashboard, links), indent=2) + "\n"
        for dashboard in dashboards(book)
    }
