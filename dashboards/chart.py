"""A Plotly figure as plain records: what ``plotly.graph_objects`` builds, without checking every property in Python.

A page of seven charts spent most of its time in those checks. Tests put every figure through
``plotly.graph_objects`` instead, so a property that does not exist is found there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

Record = dict[str, Any]


def scatter(**properties: Any) -> Record:
    """A trace of points or lines."""
    return {"type": "scatter", **properties}


def bar(**properties: Any) -> Record:
    """A trace of bars."""
    return {"type": "bar", **properties}


def heatmap(**properties: Any) -> Record:
    """A matrix of coloured cells."""
    return {"type": "heatmap", **properties}


@dataclass(slots=True)
class Figure:
    """Traces and a layout, as plotly.js reads them; what is None is left to its default."""

    data: list[Record] = field(default_factory=list)
    layout: Record = field(default_factory=dict)

    def add_trace(self, trace: Record) -> None:
        """One more trace."""
        self.data.append(trace)

    def update_layout(self, **changes: Any) -> None:
        """Change some of the layout; records inside are merged."""
        _merge(self.layout, changes)

    def update_axis(self, name: str, **changes: Any) -> None:
        """Change some of an axis (``xaxis``, ``yaxis2``)."""
        _merge(self.layout.setdefault(name, {}), changes)

    def add_hline(self, *, y: float, line: Record) -> None:
        """A line over the whole width."""
        ends = {"x0": 0, "x1": 1, "xref": "x domain", "y0": y, "y1": y, "yref": "y"}
        self.layout.setdefault("shapes", []).append({"type": "line", "line": line, **ends})

    def add_vrect(self, *, x0: str, x1: str, fillcolor: str) -> None:
        """A shade over the whole height, below the data."""
        ends = {"x0": x0, "x1": x1, "xref": "x", "y0": 0, "y1": 1, "yref": "y domain"}
        shade = {"fillcolor": fillcolor, "line": {"width": 0}, "layer": "below"}
        self.layout.setdefault("shapes", []).append({"type": "rect", **shade, **ends})

    def add_annotation(self, **properties: Any) -> None:
        """A piece of text."""
        self.layout.setdefault("annotations", []).append(properties)

    def to_dict(self) -> Record:
        """Lists, strings and numbers; times as ISO 8601, NaN as it is."""
        found: Record = _plain({"data": self.data, "layout": self.layout})
        return found

    def to_json(self) -> str:
        """For the browser; what is not finite becomes null, a gap."""
        return msgspec.json.encode(self.to_dict()).decode()


def _merge(into: Record, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items() if one is not None}
    if isinstance(value, np.ndarray):
        return value.astype(str).tolist() if value.dtype.kind == "M" else value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
