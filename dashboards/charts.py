"""Plotly figures from frames. Pure: no I/O, no clock, no Streamlit.

Colour has three jobs: identity (a variant keeps its Okabe-Ito colour on every page), state (good, attention, breach,
always with a word or a shape) and quantity (viridis). All else is grey. Text and grid take the page's theme in the
browser (``static/plot.js``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.queries import broken_at_gaps
from dashboards.words import endpoint_name

OKABE_ITO: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
GREY: Final = "#8a94a3"
INK: Final = "#5b6b82"
"""Of the one line that matters on a chart without variants; readable on light and dark."""
FAINT: Final = "rgba(138,148,163,0.18)"
LIMIT: Final = "#c0392b"
"""Of the thin line that a value should not cross."""
STATE_COLOURS: Final = {"error": "#c0392b", "timeout": "#b9770e", "rejected": "#7d3c98", "aborted": GREY}

HEIGHT: Final = 250


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, by its place in the sorted list, so that every page gives the same.

    >>> colours(["b", "a"])
    {'a': '#0072B2', 'b': '#E69F00'}
    """
    return {name: OKABE_ITO[index % len(OKABE_ITO)] for index, name in enumerate(sorted(set(names)))}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeAxis:
    """The x axis that all charts of a page share."""

    since_s: float
    until_s: float
    zone: tzinfo = UTC
    revision: str = "live"
    """Zoom is kept while this stays the same."""

    def local(self, at_s: Any) -> Any:
        """Unix seconds as the viewer's wall-clock times (plotly knows no zones)."""
        times = pd.to_datetime(np.asarray(at_s, dtype=float), unit="s", utc=True)
        return times.tz_convert(self.zone).tz_localize(None).to_numpy().astype("datetime64[ms]")

    def range(self) -> list[str]:
        """Both ends for ``xaxis.range``."""
        return [str(moment) for moment in self.local([self.since_s, self.until_s])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """How values of a y axis are written."""

    title: str
    ticks: str = "~s"
    hover: str = ".3~s"
    suffix: str = ""
    floor: float | None = 0.0
    """Lowest end of the axis; None: where the data end."""
    ceiling: float | None = None


SECONDS: Final = Unit(title="seconds", suffix="s", hover=".3s")
RATIO: Final = Unit(title="percent", ticks=".0%", hover=".2%", ceiling=1.0)
FINE_RATIO: Final = Unit(title="percent", ticks=".1~%", hover=".3%", floor=None)
TOKENS_PER_S: Final = Unit(title="tokens per second", hover=".3s")
REQUESTS_PER_S: Final = Unit(title="requests per second")
REQUESTS: Final = Unit(title="requests")
REPLICAS: Final = Unit(title="replicas", ticks="d", hover="d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A thin line with its word."""

    value: float
    label: str
    colour: str = LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A stretch of time with something to know about it, such as a firing alert."""

    from_s: float
    to_s: float
    label: str
    colour: str = "rgba(192,57,43,0.10)"


def blank(axis: TimeAxis, unit: Unit, *, height: int = HEIGHT) -> Any:
    """An empty time chart: axes, margins, crosshair, no data yet."""
    figure = go.Figure()
    figure.update_layout(
        height=height, margin={"l": 58, "r": 14, "t": 10, "b": 30}, hovermode="x unified", template="none",
        uirevision=axis.revision, showlegend=True, dragmode="zoom", font={"size": 12},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        hoverlabel={"namelength": -1},
        xaxis={"type": "date", "range": axis.range(), "showgrid": False, "ticks": "outside", "nticks": 7,
               "hoverformat": "%H:%M:%S", "tickformatstops": _TICKS},
        yaxis=_y_axis(unit),
    )  # fmt: skip
    figure.update_layout(margin_t=34)
    return figure


_TICKS: Final = [
    {"dtickrange": [None, 60_000], "value": "%H:%M:%S"},
    {"dtickrange": [60_000, 86_400_000], "value": "%H:%M"},
    {"dtickrange": [86_400_000, None], "value": "%d %b"},
]


def _y_axis(unit: Unit) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "title": {"text": unit.title, "standoff": 8, "font": {"size": 11}}, "tickformat": unit.ticks, "nticks": 5,
        "ticksuffix": unit.suffix, "zeroline": False, "gridwidth": 1, "fixedrange": True, "automargin": False,
    }  # fmt: skip
    if unit.floor is not None:
        axis |= {"rangemode": "tozero", "autorangeoptions": {"minallowed": unit.floor}}
    if unit.ceiling is not None:
        axis |= {"range": [unit.floor, unit.ceiling * 1.04], "autorange": False}
    return axis


def line(
    figure: Any, axis: TimeAxis, frame: pd.DataFrame, *, name: str, colour: str, unit: Unit, y: str = "value",
    x: str = "bin_s", dash: str | None = None, width: float = 2.0, step: bool = False, fill: str | None = None,
    fillcolor: str | None = None, group: str | None = None, show: bool = True,
) -> None:  # fmt: skip
    """Add one series; NaN breaks it."""
    figure.add_trace(
        go.Scatter(
            x=axis.local(frame[x]), y=frame[y].to_numpy(dtype=float), name=name, mode="lines", connectgaps=False,
            line={"color": colour, "width": width, "dash": dash, "shape": "hv" if step else "linear"}, fill=fill,
            fillcolor=fillcolor, legendgroup=group, showlegend=show,
            hovertemplate=f"%{{y:{unit.hover}}}{unit.suffix}",
        )
    )  # fmt: skip


def limits(figure: Any, marks: Sequence[Limit]) -> None:
    """Thin horizontal lines; the axis is stretched so that each one is seen."""
    for mark in marks:
        figure.add_hline(
            y=mark.value, line={"color": mark.colour, "width": 1, "dash": "dot"},
            annotation={"text": mark.label, "font": {"size": 11, "color": mark.colour}, "xanchor": "right",
                        "yanchor": "bottom", "showarrow": False},
            annotation_position="top right",
        )  # fmt: skip
        x = figure.layout.xaxis.range
        figure.add_trace(go.Scatter(x=list(x), y=[mark.value] * 2, mode="markers", marker={"opacity": 0},
                                    showlegend=False, hoverinfo="skip"))  # fmt: skip


def bands(figure: Any, axis: TimeAxis, stretches: Sequence[Band]) -> None:
    """Shade stretches of time, cut to the window."""
    for stretch in stretches:
        if stretch.to_s <= axis.since_s or stretch.from_s >= axis.until_s:
            continue
        ends = axis.local([max(stretch.from_s, axis.since_s), min(stretch.to_s, axis.until_s)])
        figure.add_vrect(x0=str(ends[0]), x1=str(ends[1]), fillcolor=stretch.colour, line_width=0, layer="below")


def by_variant(
    frame: pd.DataFrame, axis: TimeAxis, unit: Unit, palette: Mapping[str, str], *, width_s: float,
    marks: Sequence[Limit] = (), alerts: Sequence[Band] = (), y: str = "value", height: int = HEIGHT,
    step: bool = False,
) -> Any:  # fmt: skip
    """One line a variant, in its colour."""
    figure = blank(axis, unit, height=height)
    bands(figure, axis, alerts)
    table = frame.rename(columns={y: "value"}) if y != "value" else frame
    whole = broken_at_gaps(table, at="bin_s", by=("variant",), width_s=width_s)
    for name, rows in whole.groupby("variant", sort=True) if len(whole) else ():
        line(figure, axis, rows, name=str(name), colour=palette.get(str(name), GREY), unit=unit, step=step)
    limits(figure, marks)
    return figure


def latency(
    fleet: pd.DataFrame, variants: pd.DataFrame, axis: TimeAxis, palette: Mapping[str, str], *,
    marks: Sequence[Limit] = (), alerts: Sequence[Band] = (), height: int = HEIGHT,
) -> Any:  # fmt: skip
    """P95 a variant, in its colour, over the fleet's band from P50 to P99 in grey."""
    figure = blank(axis, SECONDS, height=height)
    bands(figure, axis, alerts)
    if len(fleet):
        line(figure, axis, fleet, name="all, P50", colour=GREY, unit=SECONDS, y="p50", width=1.2, group="all")
        line(figure, axis, fleet, name="all, P99", colour=GREY, unit=SECONDS, y="p99", width=1.2, dash="dot",
             fill="tonexty", fillcolor=FAINT, group="all")  # fmt: skip
    for name, rows in variants.groupby("variant", sort=True) if len(variants) else ():
        line(figure, axis, rows, name=f"{name}, P95", colour=palette.get(str(name), GREY), unit=SECONDS, y="p95")
    limits(figure, marks)
    return figure


def stacked(
    frame: pd.DataFrame, axis: TimeAxis, unit: Unit, columns: Mapping[str, str], *, height: int = HEIGHT
) -> Any:
    """Areas on top of each other: column -> colour."""
    figure = blank(axis, unit, height=height)
    for column, colour in columns.items():
        figure.add_trace(
            go.Bar(x=axis.local(frame["bin_s"]), y=frame[column].to_numpy(dtype=float), name=column,
                   marker={"color": colour, "line": {"width": 0}},
                   hovertemplate=f"%{{y:{unit.hover}}}{unit.suffix}")
        )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0)
    return figure


def heat(table: pd.DataFrame, axis: TimeAxis, *, title: str, highest: float | None = None, percent: bool = True) -> Any:
    """One row an endpoint, worst at the top, viridis; an empty cell is a gap."""
    unit = Unit(title="", ticks="")
    figure = blank(axis, unit, height=max(110, 62 + 24 * len(table)))
    labels = [f"{variant}  {endpoint_name(endpoint)}" for variant, endpoint in table.index]
    figure.add_trace(
        go.Heatmap(
            x=axis.local(table.columns), y=labels, z=table.to_numpy(dtype=float), zmin=0, zmax=highest,
            colorscale="Viridis", ygap=2, hoverongaps=False,
            colorbar={"title": {"text": title, "side": "right", "font": {"size": 11}}, "thickness": 10, "outlinewidth": 0,
                      "tickformat": ".0%" if percent else "~s", "len": 1.0, "nticks": 4},
            hovertemplate=f"%{{y}}<br>%{{x|%H:%M:%S}}<br>%{{z:{'.1%' if percent else '.3~s'}}}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(
        showlegend=False, hovermode="closest", margin={"l": 190, "t": 8}, yaxis={"autorange": "reversed", "title": None,
        "type": "category", "showgrid": False, "rangemode": "normal", "tickformat": "", "automargin": True, "nticks": 60},
    )  # fmt: skip
    return figure
