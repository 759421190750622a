"""Figures: colours, units, gaps, limits, zoom."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import charts, figures
from dashboards.chart import Figure
from dashboards.charts import Band, Limit, TimeAxis

T0 = 1_790_000_000.0
AXIS = TimeAxis(since_s=T0, until_s=T0 + 100, revision="5m")
SERIES = pd.DataFrame({"bin_s": [T0, T0 + 10, T0 + 20, T0 + 90], "variant": "a", "value": [1.0, 2.0, 3.0, 1.0]})
PALETTE = charts.colours(["a", "b"])


def checked(make: Callable[..., Figure], *args: Any, **options: Any) -> Any:
    """The figure, put through plotly's own checks of every property; its JSON must be readable."""
    figure = make(*args, **options)
    assert set(json.loads(figure.to_json())) == {"data", "layout"}
    return go.Figure(figure.to_dict())


def shown(figure) -> list[str]:
    return [trace.name for trace in figure.data if trace.showlegend is not False]


@given(st.sets(st.text(min_size=1, max_size=5), max_size=12))
def test_a_variant_has_one_okabe_ito_colour_whatever_the_order(names: set[str]):
    palette = charts.colours(names)
    assert palette == charts.colours(sorted(names, reverse=True))
    assert set(palette.values()) <= set(charts.OKABE_ITO)
    assert len(set(palette.values())) == min(len(names), len(charts.OKABE_ITO))


def test_times_are_the_viewers_wall_clock():
    berlin = TimeAxis(since_s=0.0, until_s=3600.0, zone=ZoneInfo("Europe/Berlin"))
    assert berlin.range()[0].startswith("1970-01-01T01:00:00")


def test_a_line_has_its_variants_colour_breaks_at_the_gap_and_keeps_its_zoom():
    figure = checked(charts.by_variant, SERIES, AXIS, charts.REQUESTS, PALETTE, width_s=5)
    trace = figure.data[0]
    assert trace.line.color == PALETTE["a"]
    assert trace.connectgaps is False
    assert np.isnan(trace.y).sum() == 1
    assert figure.layout.uirevision == "5m"
    assert list(figure.layout.xaxis.range) == AXIS.range()


@pytest.mark.parametrize(
    "unit", [charts.SECONDS, charts.RATIO, charts.TOKENS_PER_S, charts.REQUESTS_PER_S, charts.REQUESTS]
)
def test_every_axis_names_its_unit(unit: charts.Unit):
    figure = checked(charts.by_variant, SERIES, AXIS, unit, PALETTE, width_s=5)
    assert figure.layout.yaxis.title.text == unit.title
    assert unit.title


def test_a_limit_is_a_thin_line_with_its_word_and_is_always_in_sight():
    figure = checked(
        charts.by_variant,
        SERIES,
        AXIS,
        charts.SECONDS,
        PALETTE,
        width_s=5,
        marks=(Limit(value=9.0, label="limit 9 s"),),
    )
    assert figure.layout.shapes[0].y0 == 9.0
    assert figure.layout.shapes[0].line.width == 1
    assert figure.layout.annotations[0].text == "limit 9 s"
    assert max(max(trace.y) for trace in figure.data if trace.y is not None) >= 9.0


def test_alerts_are_shaded_and_cut_to_the_window():
    inside = Band(from_s=T0 - 50, to_s=T0 + 20)
    outside = Band(from_s=T0 - 50, to_s=T0 - 20, severe=False)
    figure = checked(charts.by_variant, SERIES, AXIS, charts.REQUESTS, PALETTE, width_s=5, alerts=(inside, outside))
    assert len(figure.layout.shapes) == 1
    assert str(figure.layout.shapes[0].x0) == AXIS.range()[0]


def test_latency_shows_p95_of_variants_over_the_band_of_all():
    table = pd.DataFrame({"bin_s": [T0], "p50": 0.1, "p95": 0.2, "p99": 0.3, "n": 5})
    figure = checked(charts.latency, table, table.assign(variant="b"), AXIS, PALETTE)
    assert shown(figure) == ["all, P50 to P99", "b"]
    assert figure.data[1].fill == "tonexty"


def test_a_heat_map_is_viridis_from_nothing_to_all():
    index = pd.MultiIndex.from_tuples([("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2")])
    table = pd.DataFrame([[0.5, np.nan], [0.1, 0.2]], index=index, columns=[T0, T0 + 10])
    figure = checked(charts.heat, table, AXIS, title="of blocks")
    heat = figure.data[0]
    assert (heat.zmin, heat.zmax) == (0, 1)
    assert heat.colorscale[0][1] == "#440154"
    assert list(figure.layout.yaxis.ticktext) == ["a  :1", "b  :2"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]


def test_planned_requested_and_observed_are_three_marks_on_a_strip_a_variant():
    timeline = pd.DataFrame([
        {"bin_s": T0 + 10 * i, "variant": v, "mark": m, "value": 1.0}
        for v in ("a", "b") for m in ("observed", "requested", "planned") for i in range(3)
    ])  # fmt: skip
    moves = pd.DataFrame(
        {"at_s": [T0 + 5], "variant": "a", "direction": "up", "desired": 2, "id": 7, "reason": "saturated"}
    )
    figure = checked(figures.replicas, timeline, moves, AXIS, PALETTE, width_s=5)
    assert shown(figure)[:3] == ["observed", "requested", "planned"]
    marks = [trace for trace in figure.data if trace.mode == "markers" and len(trace.x)]
    assert [(list(mark.customdata), mark.marker.symbol) for mark in marks] == [([7], "triangle-up")]
    assert {trace.yaxis for trace in figure.data} == {"y", "y2"}


def test_replicas_without_moves_or_rows_still_make_a_figure():
    empty = pd.DataFrame(columns=["bin_s", "variant", "mark", "value"])
    assert checked(figures.replicas, empty, pd.DataFrame(), AXIS, PALETTE, width_s=5).layout.height > 0


def test_saturation_has_both_thresholds_where_the_controller_goes_by_them():
    figure = checked(figures.saturation, SERIES, AXIS, PALETTE, width_s=5, thresholds=(0.25, 0.7))
    assert sorted(shape.y0 for shape in figure.layout.shapes) == [0.25, 0.7]
    assert {note.text for note in figure.layout.annotations} == {"scale up above 0.7", "scale down below 0.25"}
    assert not checked(figures.saturation, SERIES, AXIS, PALETTE, width_s=5, thresholds=None).layout.shapes


def test_the_diagonal_of_the_scatter_spans_the_data():
    pairs = pd.DataFrame({"variant": "a", "actual": [0.1, 2.0], "predicted": [0.2, 1.0]})
    figure = checked(figures.predicted_against_actual, pairs, PALETTE, what="TTFT")
    assert list(figure.data[0].x) == [0.1, 2.0]
    assert "seconds" in figure.layout.xaxis.title.text
    assert (
        checked(figures.predicted_against_actual, pairs.iloc[:0], PALETTE, what="TTFT").data[0].name
        == "a perfect guess"
    )


@pytest.mark.parametrize(("low", "high", "most"), [(0.03, 0.1, 5), (0.02, 0.5, 5), (0.01, 2.0, 5)])
def test_a_log_axis_names_few_enough_values_to_be_read(low: float, high: float, most: int):
    pairs = pd.DataFrame({"variant": ["a", "a"], "actual": [low, high], "predicted": [low, high], "outcome": "ok"})
    ticks = figures.predicted_against_actual(pairs, PALETTE, what="TTFT").layout["xaxis"]["tickvals"]
    assert 2 <= sum(low <= tick <= high for tick in ticks) <= most


def test_error_over_time_has_size_and_direction():
    table = pd.DataFrame({"bin_s": [T0], "absolute": [0.1], "signed": [-0.1], "n": [9]})
    assert len(shown(checked(figures.prediction_error, table, AXIS))) >= 2


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 12, 40])
def test_replicas_of_any_number_of_variants_have_strips_inside_the_figure(count: int):
    names = [f"v{i:02}" for i in range(count)]
    timeline = pd.DataFrame([{"bin_s": T0, "variant": name, "mark": "observed", "value": 1.0} for name in names])
    figure = checked(figures.replicas, timeline, pd.DataFrame(), AXIS, charts.colours(names), width_s=5)
    spans = [figure.layout[f"yaxis{'' if i == 0 else i + 1}"].domain for i in range(count)]
    assert all(0 <= low < high <= 1 for low, high in spans)
