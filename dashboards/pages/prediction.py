"""Predictor: how good the guesses were, how sure, which model made them, and whether it still fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboards import charts, data, figures, html, metricspage, predictions, queries
from dashboards.pages.infrastructure import unreachable
from dashboards.panels import panel, section, table
from dashboards.parts import Answer
from dashboards.source import Reader
from dashboards.summary import Level
from dashboards.view import View
from dashboards.words import clock, percent, si

_DOTS = 1_500
_NO_GUESS = (
    "No request with a prediction finished. The router records one as soon as the predictor has learnt from "
    "some hundred requests."
)
_WITHIN = 0.25
"""A guess within so much of the actual value counts as close."""


def render(view: View) -> None:
    """Draw the page."""
    latencies, step = view.latencies()
    pairs = {what: predictions.prediction_pairs(latencies, what) for what in ("ttft", "tpot")}
    status, page = data.ask("predictor", "/status"), data.page("predictor")
    st.html(html.tiles(tiles(latencies, pairs, status)))
    note = f"one request in {step} is read; " if step > 1 else ""
    for column, what in zip(st.columns(2, gap="small"), pairs, strict=True):
        with column:
            _scatter(view, pairs[what], what.upper(), note)
            _error(view, pairs[what], what.upper())
    left, right = st.columns(2, gap="small")
    with left:
        _coverage(view, pairs, page)
    with right:
        _learning(view)
    left, right = st.columns(2, gap="small")
    with left:
        _drift(view, pairs, page)
    with right:
        _model(view, status)


def tiles(latencies: pd.DataFrame, pairs: Mapping[str, pd.DataFrame], status: Answer | None) -> list[str]:
    """How far off, how many, how cold."""
    document = _document(status)
    share = len(pairs["ttft"]) / len(latencies) if len(latencies) else None
    cold = document.get("cold")
    state = (
        "not reachable"
        if status is None or not status.reachable
        else "cold"
        if cold
        else "warm"
        if cold is False
        else "–"
    )
    return [
        html.tile(
            "TTFT error", percent(predictions.mean_absolute_error(pairs["ttft"])), limit="mean, of the actual value"
        ),
        html.tile(
            "TPOT error", percent(predictions.mean_absolute_error(pairs["tpot"])), limit="mean, of the actual value"
        ),
        html.tile("Requests with a prediction", percent(share), limit="of those read"),
        html.tile(
            "Predictor",
            state,
            limit=f"{si(_number(document.get('samples')))} samples learnt" if document else "",
            level=Level.GOOD if state == "warm" else Level.ATTENTION if state in {"cold", "not reachable"} else None,
        ),
    ]


def _document(answer: Answer | None) -> Mapping[str, Any]:
    return answer.document if answer is not None and isinstance(answer.document, Mapping) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _scatter(view: View, pairs: pd.DataFrame, what: str, note: str) -> None:
    dots = queries.thinned(pairs, _DOTS)
    many = (
        f"{si(float(len(dots)))} of {si(float(len(pairs)))} shown" if len(dots) < len(pairs) else "every dot a request"
    )
    panel(
        view,
        key=f"scatter-{what}",
        heading=f"{what}: predicted against actual",
        note=f"{note}{many}; on the line = right",
        frame=dots,
        column="predicted",
        nothing=_NO_GUESS,
        group="",
        figure=lambda: figures.predicted_against_actual(dots, view.palette, what=what),
    )


def _error(view: View, pairs: pd.DataFrame, what: str) -> None:
    over_time = predictions.error_over_time(pairs, view.starts, view.width_s)
    panel(
        view,
        key=f"error-{what}",
        heading=f"{what} error over time",
        note="median a bin",
        frame=over_time,
        column="absolute",
        nothing=_NO_GUESS,
        figure=lambda: figures.prediction_error(over_time, view.axis, height=200),
    )


def _coverage(view: View, pairs: Mapping[str, pd.DataFrame], page: metricspage.Page) -> None:
    """How many guesses were close, bin by bin, and what the predictor says of its intervals."""
    series = {
        what: predictions.close_share(rows, view.starts, view.width_s, within=_WITHIN) for what, rows in pairs.items()
    }
    whole = pd.concat([rows.assign(target=what) for what, rows in series.items()])
    told = page.by("fleet_predictor_interval_coverage_ratio", "target")
    said = (
        "; its 90 % intervals held " + ", ".join(f"{n.upper()} {percent(v)}" for n, v in told.items()) if told else ""
    )

    def figure() -> Any:
        chart = charts.blank(view.axis, charts.RATIO, height=220)
        for (what, rows), dash in zip(series.items(), (None, "dash"), strict=True):
            charts.line(chart, view.axis, rows, name=what.upper(), colour=charts.INK, unit=charts.RATIO, dash=dash)
        return chart

    panel(view, key="coverage", heading="Coverage", frame=whole, figure=figure, nothing=_NO_GUESS,
          note=f"share of guesses within {percent(_WITHIN)} of the actual value{said}")  # fmt: skip


def _learning(view: View) -> None:
    """Each fit that was recorded: samples against the error it had on what it had not seen."""
    events = data.read(Reader.events, view.window, ("model",))
    frame = predictions.fits(events)
    unit = charts.Unit(title="error on unseen requests", ticks=".0%", hover=".1%")

    def figure() -> Any:
        chart = charts.blank(view.axis, unit, height=220)
        for what, dash in (("ttft", None), ("tpot", "dash")):
            rows = frame[frame["target"] == what]
            if len(rows):
                charts.line(
                    chart, view.axis, rows, name=what.upper(), colour=charts.INK, unit=unit, dash=dash, x="at_s"
                )
        chart.update_traces(mode="lines+markers")
        return chart

    panel(view, key="learning", heading="Learning curve", frame=frame, figure=figure,
          note="error of each fit on later requests, by the time of the fit",
          nothing="No fit was recorded in this range; the newest one is under Model in use.")  # fmt: skip


def _drift(view: View, pairs: Mapping[str, pd.DataFrame], page: metricspage.Page) -> None:
    """The newest quarter of the range against the first: does the model still fit?"""
    with st.container(border=True, key="panel-drift"):
        section("Drift", "error of the newest quarter of this range against the quarters before")
        rows = predictions.drift(pairs, view.window.since_s, view.window.until_s)
        if rows.empty:
            st.html(html.empty("Drift cannot be judged", _NO_GUESS))
            return
        said = [_verdict(a, b) for a, b in zip(rows["before"], rows["newest"], strict=True)]
        words = {name: [percent(value) for value in rows[name]] for name in ("before", "newest")}
        shown = rows.assign(**words, verdict=said)
        table(shown, view, key="drift")
        known = page.by("fleet_predictor_error_ratio", "target")
        if known:
            told = ", ".join(f"{name.upper()} {percent(value)}" for name, value in known.items())
            st.html(f'<p class="fl-sub">The predictor itself says: {told} over its newest requests.</p>')


def _verdict(before: float, newest: float) -> str:
    if not np.isfinite(before) or not np.isfinite(newest):
        return "too few requests"
    return "drifting: it should refit" if newest > max(1.5 * before, before + 0.1) else "steady"


def _model(view: View, status: Answer | None) -> None:
    with st.container(border=True, key="panel-model"):
        section("Predictor", "the model in use")
        if status is None:
            st.html(
                html.empty("No predictor is configured", "Give its address.", command="fleet console --predictor URL")
            )
            return
        if not status.reachable:
            st.html(unreachable(status, view))
            return
        rows = model_facts(_document(status), view)
        st.dataframe(
            pd.DataFrame(rows, columns=["fact", "value"]),
            hide_index=True,
            key="model-facts",
            height="content",
            alt="State of the predictor",
        )


def model_facts(document: Mapping[str, Any], view: View) -> list[tuple[str, str]]:
    """What the predictor says of itself, in words."""
    error = document.get("error")
    errors: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    cold = document.get("cold")
    fitted = _number(document.get("fitted_at_s"))
    facts = [
        (
            "state",
            "cold, stays neutral" if cold else "warm" if cold is False else "not known",
        ),
        ("model", str(document.get("model_type") or "–")),
        (
            "samples learnt",
            f"{si(_number(document.get('samples')))} (at least {si(_number(document.get('min_samples')))})",
        ),
        ("last fit", clock(fitted, view.zone) if fitted else "none yet"),
        (
            "fits, failed, refused",
            f"{document.get('fits', '–')}, {document.get('fit_failures', '–')}, {document.get('fit_refusals', '–')}",
        ),
    ]
    facts += [
        (name.replace("_", " "), percent(_number(value))) for name, value in errors.items() if name.endswith("mape")
    ]
    facts += [("last note", str(document["last_fit"]))] if document.get("last_fit") else []
    facts += [("last error", str(document["last_error"]))] if document.get("last_error") else []
    return facts
