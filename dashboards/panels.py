"""Blocks that pages are made of: a titled chart with its table, empty states, table with download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pandas as pd
import streamlit as st

from dashboards import html, paper
from dashboards.plot import plot
from dashboards.view import View
from dashboards.words import seconds

_TIME_COLUMNS = ("bin_s", "done_s", "at_s", "from_s", "to_s", "first_s")


def section(text: str, note: str = "") -> None:
    """A heading inside a page."""
    paper.html(f'<div class="fl-panel-title"><h2>{text}</h2><p>{note}</p></div>')


def readable(frame: pd.DataFrame, view: View) -> pd.DataFrame:
    """A table for people: times on the viewer's clock instead of Unix seconds."""
    shown = frame.copy()
    for name in shown.columns:
        if name in _TIME_COLUMNS:
            times = pd.to_datetime(shown[name].astype(float), unit="s", utc=True)
            shown[name] = times.dt.tz_convert(view.zone).dt.strftime("%Y-%m-%d %H:%M:%S")
    return shown.rename(
        columns={
            name: "time" if name in {"bin_s", "done_s", "at_s"} else name.removesuffix("_s") for name in _TIME_COLUMNS
        }
    )


def table(frame: pd.DataFrame, view: View, *, key: str, height: int | Literal["auto"] = "auto") -> None:
    """A table with its CSV download; times carry the viewer's zone."""
    shown = readable(frame, view)
    paper.rows(shown, key=f"table-{key}", height=height, alt=f"Table of {key}")
    paper.live(lambda: _download(shown, key))


def _download(shown: pd.DataFrame, key: str) -> None:
    st.download_button(
        "Download CSV",
        data=lambda: shown.to_csv(index=False),
        file_name=f"{key}.csv",
        mime="text/csv",
        key=f"csv-{key}",
        on_click="ignore",
        icon=":material/download:",
        type="tertiary",
    )


def behind(frame: pd.DataFrame, view: View, *, key: str) -> None:
    """The table behind a chart, made only when it is opened."""
    drawer = st.expander("Data and CSV", key=f"data-{key}", on_change="rerun")
    if drawer.open:
        with drawer:
            table(frame, view, key=key)


def panel(
    view: View,
    *,
    key: str,
    heading: str,
    note: str,
    frame: pd.DataFrame,
    figure: Callable[[], Any],
    nothing: str,
    column: str = "value",
    group: str = "time",
    picked: Callable[[str], None] = lambda _: None,
    well: str = "",
) -> None:
    """A chart in its frame: heading, what it shows, the figure, the table behind it.

    Args:
        frame: rows behind the chart; where ``column`` holds no number, ``nothing`` is said instead of an empty chart.
        figure: builds the figure, called only when there is something to draw.
        well: where it is well that there is nothing to draw, what to say instead of ``nothing``.
        picked: told the ``customdata`` of a point that was just clicked.
    """
    with paper.frame(key):
        section(heading, note)
        if column not in frame or not frame[column].notna().any():
            span = f"the last {seconds(view.window.span_s)}"
            quiet = (
                html.empty(well, f"In {span}.", icon="✓")
                if well
                else html.empty(f"Nothing to draw for {span}", nothing)
            )
            paper.html(quiet)
            return
        drawing = figure().to_json()
        paper.live(lambda: _shown(drawing, frame, view, key=key, alt=f"{heading}: {note}", group=group, picked=picked))


def _shown(
    drawing: str, frame: pd.DataFrame, view: View, *, key: str, alt: str, group: str, picked: Callable[[str], None]
) -> None:
    point = plot(drawing, key=key, alt=alt, group=group)
    behind(frame, view, key=key)
    if point is not None:
        picked(point)
