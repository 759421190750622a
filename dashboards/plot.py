"""A chart that stays: our Streamlit component around plotly.js.

Streamlit's own ``st.plotly_chart`` gives every new figure a new identity, so that each refresh throws the old chart
away: it flickers and a zoom is lost. This one keeps its place by key, updates in place, and shares zoom and crosshair
with the other charts of the page.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

import streamlit as st

PLOTLY_PATH: Final = f"/assets/plotly-{version('plotly')}.min.js"
"""Where :mod:`dashboards.server` serves plotly.js; the version in it lets browsers keep it."""

_NAME: Final = "fleet_plot"


@st.cache_resource(show_spinner=False)
def _component() -> Any:
    javascript = (files("dashboards") / "static" / "plot.js").read_text(encoding="utf-8")
    return st.components.v2.component(_NAME, js=javascript, isolate_styles=False)


def plot(figure: str, *, key: str, alt: str, group: str = "time") -> str | None:
    """Draw a figure in place.

    Args:
        figure: JSON of one from :mod:`dashboards.charts` or :mod:`dashboards.figures`.
        key: the chart's identity on its page.
        alt: what a screen reader says of it.
        group: charts of the same group share zoom and crosshair along x; empty: this one stands alone.
    Returns: the ``customdata`` of a point that was just clicked, else ``None``.
    """
    data = {"figure": figure, "plotly": PLOTLY_PATH, "alt": alt, "group": group}
    result = _component()(key=f"plot-{key}", data=data, on_picked_change=lambda: None)
    picked = result.picked
    return None if picked is None else str(picked)
