"""The figures that are made for one question: replicas, saturation, predicted against actual. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from dashboards.chart import Figure, scatter
from dashboards.charts import (
    GREY,
    HEIGHT,
    INK,
    OKABE_ITO,
    REPLICAS,
    REQUESTS_PER_S,
    Band,
    Limit,
    TimeAxis,
    Unit,
    bands,
    blank,
    by_variant,
    limits,
    line,
)
from dashboards.queries import broken_at_gaps
from dashboards.words import seconds

PLANNED: Final = "#c2185b"
REQUESTED: Final = GREY


def translucent(colour: str, alpha: float) -> str:
    """A hex colour with an alpha.

    >>> translucent("#0072B2", 0.2)
    'rgba(0,114,178,0.2)'
    """
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def replicas(
    timeline: pd.DataFrame,
    moves: pd.DataFrame,
    axis: TimeAxis,
    palette: Mapping[str, str],
    *,
    width_s: float,
    alerts: Sequence[Band] = (),
    row_height: int = 150,
) -> Any:
    """Planned, requested and observed replicas: one strip a variant, one time axis, scale events as triangles."""
    names = sorted(set(timeline["variant"]) | set(moves["variant"] if len(moves) else ()))
    figure = blank(axis, REPLICAS, height=64 + row_height * max(1, len(names)))
    bands(figure, axis, alerts)
    figure.update_axis("xaxis", anchor="y" if len(names) < 2 else f"y{len(names)}")
    whole = broken_at_gaps(timeline, at="bin_s", by=("variant", "mark"), width_s=width_s)
    parts = dict(iter(whole.groupby("variant", sort=False))) if len(whole) else {}
    for index, name in enumerate(names):
        rows, colour = parts.get(name, whole.iloc[:0]), palette.get(name, GREY)
        _strip_axis(figure, rows, name, colour, index, len(names))
        _marks(figure, axis, rows, colour, index)
        _moves(figure, axis, moves[moves["variant"] == name] if len(moves) else moves, index, legend=index == 0)
    return figure


def _strip_axis(figure: Any, rows: pd.DataFrame, name: str, colour: str, index: int, strips: int) -> None:  # noqa: PLR0917
    number, share = "" if index == 0 else str(index + 1), 1.0 / strips
    top = 1 - index * share  # the variant's name stands above the highest tick
    highest = max(2.0, float(rows["value"].max()) if len(rows) else 0.0)
    strip = {
        "domain": [max(0.0, top - share + (min(0.1, 0.3 * share) if index < strips - 1 else 0.0)), min(1.0, top)],
        "range": [0, highest * 1.45],
        "autorange": False,
        "tickvals": list(range(0, int(highest) + 1, max(1, int(highest // 4)))),
        "title": {"text": "replicas", "font": {"size": 11}},
        "fixedrange": True,
        "zeroline": False,
        "anchor": "x",
    }
    figure.update_axis(f"yaxis{number}", **strip)
    label = f'<span style="color:{colour}">■</span> {name}'
    place = {"x": 0.004, "xref": "paper", "y": 1, "yref": f"y{number} domain", "xanchor": "left", "yanchor": "top"}
    figure.add_annotation(text=label, font={"size": 12}, showarrow=False, **place)


def _marks(figure: Any, axis: TimeAxis, rows: pd.DataFrame, colour: str, index: int) -> None:
    """What runs as a filled step, what was asked for and what was planned as thin ones."""
    number, first = "" if index == 0 else str(index + 1), len(figure.data)
    for segment, observed in enumerate(_segments(rows[rows["mark"] == "observed"])):
        line(
            figure,
            axis,
            observed,
            name="observed",
            colour=colour,
            unit=REPLICAS,
            step=True,
            width=2.5,
            fill="tozeroy",
            fillcolor=translucent(colour, 0.18),
            group="observed",
            show=index == 0 and segment == 0,
        )
    styles: dict[str, dict[str, Any]] = {
        "requested": {"colour": REQUESTED, "width": 1.6},
        "planned": {"colour": PLANNED, "width": 1.6, "dash": "dot"},
    }
    for mark, style in styles.items():
        line(
            figure,
            axis,
            rows[rows["mark"] == mark],
            name=mark,
            unit=REPLICAS,
            step=True,
            group=mark,
            show=index == 0,
            **style,
        )
    for trace in figure.data[first:]:
        trace["yaxis"] = f"y{number}"


def _segments(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Stretches without a gap: plotly fills across a gap within one trace."""
    known = rows["value"].notna()
    if known.all():
        return [rows] if len(rows) else []
    return [part[part["value"].notna()] for _, part in rows.groupby((~known).cumsum()) if part["value"].notna().any()]


def _moves(figure: Any, axis: TimeAxis, moves: pd.DataFrame, index: int, *, legend: bool) -> None:
    number = "" if index == 0 else str(index + 1)
    for direction, symbol, word in (("up", "triangle-up", "scaled up"), ("down", "triangle-down", "scaled down")):
        rows = moves[moves["direction"] == direction] if len(moves) else moves
        figure.add_trace(
            scatter(
                x=axis.local(rows["at_s"]) if len(rows) else [],
                y=rows["desired"].tolist() if len(rows) else [],
                mode="markers",
                name=word,
                legendgroup=direction,
                showlegend=legend,
                cliponaxis=False,
                yaxis=f"y{number}",
                customdata=rows["id"].tolist() if len(rows) else [],
                text=rows["reason"].tolist() if len(rows) else [],
                marker={"symbol": symbol, "size": 12, "color": PLANNED, "line": {"width": 1, "color": "white"}},
                hovertemplate=f"{word} to %{{y:d}}: %{{text}}",
            )
        )


def saturation(
    frame: pd.DataFrame,
    axis: TimeAxis,
    palette: Mapping[str, str],
    *,
    width_s: float,
    thresholds: tuple[float, float] | None,
    alerts: Sequence[Band] = (),
    height: int = HEIGHT,
) -> Any:
    """Saturation of each variant, between the two thresholds where the controller goes by them."""
    unit = Unit(title="saturation, 0 to 1", ticks=".1f", hover=".2f", ceiling=1.0)
    marks: tuple[Limit, ...] = ()
    if thresholds is not None:
        low, high = thresholds
        marks = (
            Limit(value=high, label=f"scale up above {high:g}"),
            Limit(value=low, label=f"scale down below {low:g}", colour="#1f618d"),
        )
    return by_variant(frame, axis, unit, palette, width_s=width_s, marks=marks, alerts=alerts, height=height)


def demand(
    frame: pd.DataFrame,
    axis: TimeAxis,
    palette: Mapping[str, str],
    *,
    alerts: Sequence[Band] = (),
    height: int = HEIGHT,
    y: str = "requests",
    unit: Unit = REQUESTS_PER_S,
) -> Any:
    """Rates of the variants on top of each other: what the fleet carried, and who carried it."""
    figure = blank(axis, unit, height=height)
    bands(figure, axis, alerts)
    for name, all_rows in frame.groupby("variant", sort=True) if len(frame) else ():
        rows, colour = all_rows.dropna(subset=[y]), palette.get(str(name), GREY)  # plotly would stack gaps as zeros
        figure.add_trace(
            scatter(
                x=axis.local(rows["bin_s"]),
                y=rows[y].to_numpy(dtype=float),
                name=str(name) or "no endpoint",
                mode="lines",
                stackgroup="all",
                line={"color": colour, "width": 1},
                fillcolor=translucent(colour, 0.45),
                hovertemplate=f"%{{y:{unit.hover}}}{unit.suffix}",
            )
        )
    return figure


def predicted_against_actual(pairs: pd.DataFrame, palette: Mapping[str, str], *, what: str, height: int = 340) -> Any:
    """Every dot a request; on the diagonal the guess was right."""
    ends = _log_ends(pairs)
    figure, dotted = Figure(), {"color": GREY, "width": 1, "dash": "dot"}
    figure.add_trace(scatter(x=ends, y=ends, mode="lines", name="a perfect guess", hoverinfo="skip", line=dotted))
    for name, rows in pairs.groupby("variant", sort=True) if len(pairs) else ():
        figure.add_trace(
            scatter(
                x=rows["actual"].to_numpy(),
                y=rows["predicted"].to_numpy(),
                mode="markers",
                name=str(name),
                marker={"color": palette.get(str(name), GREY), "size": 5, "opacity": 0.45},
                hovertemplate="actual %{x:.3s}s, predicted %{y:.3s}s",
            )
        )
    figure.update_layout(
        height=height,
        uirevision=what,
        margin={"l": 64, "r": 14, "t": 34, "b": 46},
        font={"size": 12},
        hovermode="closest",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis=_log_axis(f"actual {what}, seconds", ends),
        yaxis=_log_axis(f"predicted {what}, seconds", ends),
    )
    return figure


def _log_axis(title: str, ends: Sequence[float]) -> dict[str, Any]:
    spread = ends[1] / ends[0]
    digits = (1, 3) if spread > 30 else (1, 2, 5) if spread > 8 else (1, 2, 3, 5, 7)
    ticks = [digit * 10.0**power for power in range(-4, 4) for digit in digits]
    named = {"text": title, "font": {"size": 11}}
    return {"type": "log", "zeroline": False, "tickvals": ticks, "ticktext": [seconds(tick) for tick in ticks],
            "title": named, "tickangle": 0}  # fmt: skip


def _log_ends(pairs: pd.DataFrame) -> list[float]:
    if pairs.empty:
        return [0.01, 1.0]
    values = pd.concat([pairs["actual"], pairs["predicted"]])
    values = values[values > 0]
    return [float(values.min()), float(values.max())] if len(values) else [0.01, 1.0]


def learning_curve(points: pd.DataFrame, names: Mapping[str, str], *, height: int = HEIGHT) -> Any:
    """Error by rows trained on, a colour for each method (``names``: method -> its words), TPOT dashed."""
    sizes = sorted(points["n"].dropna().unique()) if len(points) else []
    figure = Figure()
    for index, (method, rows) in enumerate(points.groupby("method", sort=False) if len(points) else ()):
        colour = INK if method == "ours" else OKABE_ITO[index % len(OKABE_ITO)]
        for target, own in rows.groupby("target", sort=False):
            first = target == "ttft"
            figure.add_trace(
                scatter(
                    x=own["n"].to_numpy(dtype=float),
                    y=own["mape"].to_numpy(dtype=float),
                    mode="lines+markers",
                    name=names.get(str(method), str(method)),
                    legendgroup=str(method),
                    showlegend=first,
                    line={
                        "color": colour,
                        "width": 2.5 if method == "ours" else 1.3,
                        "dash": None if first else "dash",
                    },
                    hovertemplate=f"{str(target).upper()} %{{y:.1%}}",
                )
            )
    named = {"text": "requests trained on", "font": {"size": 11}}
    figure.update_layout(
        height=height,
        uirevision="learning",
        margin={"l": 58, "r": 14, "t": 34, "b": 42},
        font={"size": 12},
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis={"type": "log", "tickvals": sizes, "ticktext": [f"{size:.0f}" for size in sizes], "title": named},
        yaxis={"tickformat": ".0%", "rangemode": "tozero", "zeroline": False, "nticks": 5,
               "title": {"text": "mean error", "font": {"size": 11}}},
    )  # fmt: skip
    return figure


def prediction_error(table: pd.DataFrame, axis: TimeAxis, *, height: int = HEIGHT) -> Any:
    """How far off the predictor was: size, and which way."""
    unit = Unit(title="error, percent of actual", ticks=".0%", hover=".1%", floor=None)
    figure = blank(axis, unit, height=height)
    line(figure, axis, table, name="size", colour="#0072B2", unit=unit, y="absolute")
    line(
        figure,
        axis,
        table,
        name="direction (+ is too slow)",
        colour=GREY,
        unit=unit,
        y="signed",
        width=1.3,
        dash="dash",
    )
    limits(figure, (Limit(value=0.0, label="", colour=GREY),))
    return figure


def demand_and_plan(
    served: pd.DataFrame, plan: pd.DataFrame, axis: TimeAxis, *, alerts: Sequence[Band] = (), height: int = HEIGHT
) -> Any:
    """What came against what was expected and what can be borne: one axis, requests per second."""
    figure = blank(axis, REQUESTS_PER_S, height=height)
    bands(figure, axis, alerts)
    told = plan.dropna(subset=["forecast", "high"]) if len(plan) else plan
    if len(told):
        line(figure, axis, told, name="forecast", colour=PLANNED, unit=REQUESTS_PER_S, y="forecast", dash="dot")
        line(figure, axis, told, name="forecast, 90 % bound", colour=PLANNED, unit=REQUESTS_PER_S, y="high", width=0.6,
             fill="tonexty", fillcolor=translucent(PLANNED, 0.15))  # fmt: skip
    bears = plan.dropna(subset=["capacity"]) if len(plan) else plan
    if len(bears):
        line(figure, axis, bears, name="capacity of ready replicas", colour=GREY, unit=REQUESTS_PER_S, y="capacity",
             step=True)  # fmt: skip
    line(figure, axis, served, name="finished", colour=INK, unit=REQUESTS_PER_S, y="requests")
    return figure
