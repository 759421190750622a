"""Plotly figures from frames. Pure: no I/O, no clock, no Streamlit.

Colour has three jobs: identity (a variant keeps its Okabe-Ito colour on every page), state (good, attention, breach,
always with a word or a shape) and quantity (viridis). All else is grey. Text and grid take the page's theme in the
browser (``static/plot.js``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

import numpy as np
import pandas as pd

from dashboards.chart import Figure, bar, heatmap, scatter
from dashboards.queries import broken_at_gaps
from dashboards.words import endpoint_name

OKABE_ITO: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
GREY: Final = "#8a94a3"
INK: Final = "#5b6b82"
"""Of the one line that matters on a chart without variants; readable on light and dark."""
FAINT: Final = "rgba(138,148,163,0.18)"
LIMIT: Final = "#b3261e"
"""Of the thin line that a value should not cross; the browser lightens it on dark pages, see ``static/plot.js``."""
STATE_COLOURS: Final = {"error": LIMIT, "timeout": "#8a5a00", "rejected": "#6b4f9e", "aborted": GREY}

SHADES: Final = {True: "rgba(192,57,43,0.10)", False: "rgba(185,119,14,0.07)"}
"""Behind a chart while an alert fires: critical, and less."""

HEIGHT: Final = 250
_CLOCK_STANDS_S: Final = 30 * 86_400.0
"""Clocks are not moved there and back within so long."""


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
        moments = np.asarray(at_s, dtype=float)
        first, last = (datetime.fromtimestamp(end, self.zone).utcoffset() for end in (self.since_s, self.until_s))
        if first == last and first is not None and self.until_s - self.since_s < _CLOCK_STANDS_S:
            known = np.isfinite(moments)
            moved = np.rint((np.where(known, moments, 0.0) + first.total_seconds()) * 1000).astype("datetime64[ms]")
            return np.where(known, moved, np.datetime64("NaT"))
        times = pd.to_datetime(moments, unit="s", utc=True)
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
    """A stretch of time in which an alert fired."""

    from_s: float
    to_s: float
    severe: bool = True


def blank(axis: TimeAxis, unit: Unit, *, height: int = HEIGHT) -> Figure:
    """An empty time chart: axes, margins, crosshair, no data yet."""
    figure = Figure()
    figure.update_layout(
        height=height,
        margin={"l": 58, "r": 14, "t": 34, "b": 30},
        hovermode="x unified",
        uirevision=axis.revision,
        showlegend=True,
        dragmode="zoom",
        font={"size": 12},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        hoverlabel={"namelength": -1},
        xaxis={
            "type": "date",
            "range": axis.range(),
            "showgrid": False,
            "ticks": "outside",
            "nticks": 7,
            "hoverformat": "%H:%M:%S",
            "tickformatstops": _TICKS,
        },
        yaxis=_y_axis(unit),
    )
    return figure


_TICKS: Final = [
    {"dtickrange": [None, 60_000], "value": "%H:%M:%S"},
    {"dtickrange": [60_000, 86_400_000], "value": "%H:%M"},
    {"dtickrange": [86_400_000, None], "value": "%d %b"},
]


def _y_axis(unit: Unit) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "title": {"text": unit.title, "standoff": 8, "font": {"size": 11}},
        "tickformat": unit.ticks,
        "nticks": 5,
        "ticksuffix": unit.suffix,
        "zeroline": False,
        "gridwidth": 1,
        "fixedrange": True,
        "automargin": False,
    }
    if unit.floor is not None:
        axis |= {"rangemode": "tozero", "autorangeoptions": {"minallowed": unit.floor}}
    if unit.ceiling is not None:
        axis |= {"range": [unit.floor, unit.ceiling * 1.04], "autorange": False}
    return axis


def line(
    figure: Figure,
    axis: TimeAxis,
    frame: pd.DataFrame,
    *,
    name: str,
    colour: str,
    unit: Unit,
    y: str = "value",
    x: str = "bin_s",
    dash: str | None = None,
    width: float = 2.0,
    step: bool = False,
    fill: str | None = None,
    fillcolor: str | None = None,
    group: str | None = None,
    show: bool = True,
) -> None:
    """Add one series; NaN breaks it."""
    figure.add_trace(
        scatter(
            x=axis.local(frame[x]),
            y=frame[y].to_numpy(dtype=float),
            name=name,
            mode="lines",
            connectgaps=False,
            line={"color": colour, "width": width, "dash": dash, "shape": "hv" if step else "linear"},
            fill=fill,
            fillcolor=fillcolor,
            legendgroup=group,
            showlegend=show,
            hovertemplate=f"%{{y:{unit.hover}}}{unit.suffix}",
        )
    )


def limits(figure: Figure, marks: Sequence[Limit]) -> None:
    """Thin horizontal lines with their word; an unseen point stretches the axis so that each one shows."""
    ends = list(figure.layout["xaxis"]["range"])
    for mark in marks:
        figure.add_hline(y=mark.value, line={"color": mark.colour, "width": 1, "dash": "dot"})
        if mark.label:
            figure.add_annotation(
                name="limit",
                text=mark.label,
                font={"size": 11, "color": mark.colour},
                x=1,
                xref="x domain",
                y=mark.value,
                xanchor="right",
                yanchor="bottom",
                showarrow=False,
                borderpad=1,
            )
        figure.add_trace(
            scatter(
                x=ends,
                y=[mark.value * 1.04] * 2,
                mode="markers",
                marker={"opacity": 0},
                showlegend=False,
                hoverinfo="skip",
            )
        )


def bands(figure: Figure, axis: TimeAxis, stretches: Sequence[Band]) -> None:
    """Shade stretches of time, cut to the window."""
    for stretch in stretches:
        if stretch.to_s <= axis.since_s or stretch.from_s >= axis.until_s:
            continue
        ends = axis.local([max(stretch.from_s, axis.since_s), min(stretch.to_s, axis.until_s)])
        figure.add_vrect(x0=str(ends[0]), x1=str(ends[1]), fillcolor=SHADES[stretch.severe])


def by_variant(
    frame: pd.DataFrame,
    axis: TimeAxis,
    unit: Unit,
    palette: Mapping[str, str],
    *,
    width_s: float,
    marks: Sequence[Limit] = (),
    alerts: Sequence[Band] = (),
    y: str = "value",
    height: int = HEIGHT,
    step: bool = False,
) -> Any:
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
    fleet: pd.DataFrame,
    variants: pd.DataFrame,
    axis: TimeAxis,
    palette: Mapping[str, str],
    *,
    marks: Sequence[Limit] = (),
    alerts: Sequence[Band] = (),
    height: int = HEIGHT,
) -> Any:
    """P95 a variant, in its colour, over the fleet's band from P50 to P99 in grey."""
    figure = blank(axis, SECONDS, height=height)
    bands(figure, axis, alerts)
    if len(fleet):
        line(
            figure, axis, fleet, name="P50, all", colour=GREY, unit=SECONDS, y="p50", width=1.2, group="all", show=False
        )
        shade: dict[str, Any] = {"fill": "tonexty", "fillcolor": FAINT, "dash": "dot", "width": 1.0, "group": "all"}
        line(figure, axis, fleet, name="P99, all", colour=GREY, unit=SECONDS, y="p99", show=False, **shade)
        _key(figure, name="all, P50 to P99", colour=GREY, group="all")
    for name, rows in variants.groupby("variant", sort=True) if len(variants) else ():
        line(figure, axis, rows, name=str(name), colour=palette.get(str(name), GREY), unit=SECONDS, y="p95")
    limits(figure, marks)
    return figure


def _key(figure: Figure, *, name: str, colour: str, group: str) -> None:
    """One legend entry for a group of traces."""
    ghost = {"color": colour, "symbol": "square", "size": 11, "opacity": 0.5}
    figure.add_trace(
        scatter(x=[None], y=[None], mode="markers", marker=ghost, name=name, legendgroup=group, hoverinfo="skip")
    )


def stacked(
    frame: pd.DataFrame, axis: TimeAxis, unit: Unit, columns: Mapping[str, str], *, height: int = HEIGHT
) -> Any:
    """Counts on top of each other as bars: column -> colour."""
    figure = blank(axis, unit, height=height)
    for column, colour in columns.items():
        figure.add_trace(
            bar(
                x=axis.local(frame["bin_s"]),
                y=frame[column].to_numpy(dtype=float),
                name=column,
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate=f"%{{y:{unit.hover}}}{unit.suffix}",
            )
        )
    highest = float(frame[list(columns)].sum(axis=1).max()) if len(frame) else 0.0
    figure.update_layout(barmode="stack", bargap=0)
    figure.update_axis(
        "yaxis", dtick=max(1, math.ceil(highest / 4)), range=[0, max(1.0, highest) * 1.08], tickformat="d"
    )
    return figure


def heat(table: pd.DataFrame, axis: TimeAxis, *, title: str) -> Any:
    """Ratios: one row an endpoint, worst at the top, viridis from 0 to 100 %; an empty cell is a gap."""
    figure = blank(axis, Unit(title="", ticks=""), height=66 + 26 * max(1, len(table)))
    scale = {"title": {"text": title, "side": "right", "font": {"size": 11}}, "thickness": 10, "outlinewidth": 0}
    figure.add_trace(
        heatmap(
            x=axis.local(table.columns),
            y=list(range(len(table))),
            z=table.to_numpy(dtype=float),
            customdata=[[_endpoint_label(row)] * table.shape[1] for row in table.index],
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            ygap=2,
            hoverongaps=False,
            colorbar=scale | {"tickformat": ".0%", "tickvals": [0, 0.5, 1]},
            hovertemplate="%{customdata}<br>%{x|%H:%M:%S}<br>%{z:.1%}<extra></extra>",
        )
    )
    rows = {"tickvals": list(range(len(table))), "ticktext": [_endpoint_label(row) for row in table.index]}
    figure.update_layout(
        showlegend=False,
        hovermode="closest",
        margin={"l": 175, "t": 8},
        yaxis=rows | {"range": [len(table) - 0.5, -0.5], "autorange": False, "title": None, "showgrid": False},
    )
    figure.update_axis("yaxis", rangemode="normal", tickformat="", nticks=0)
    return figure


def _endpoint_label(row: tuple[str, str]) -> str:
    return f"{row[0]}  {endpoint_name(row[1])}"
