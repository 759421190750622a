"""Predictor: how good the guesses were, how sure, which model made them, and whether it still fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any, Final

import numpy as np
import pandas as pd

from dashboards import charts, data, evaluated, figures, html, paper, predictions, queries
from dashboards.pages.infrastructure import unreachable
from dashboards.panels import panel, section, table
from dashboards.parts import Answer
from dashboards.summary import Level
from dashboards.view import View
from dashboards.words import clock, percent, percents, si, significant

TARGETS: Final = ("ttft", "tpot")
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
    pairs = {what: predictions.prediction_pairs(latencies, what) for what in TARGETS}
    status, measured = data.ask("predictor", "/status"), data.ask("predictor", "/evaluation")
    document = measured.document if measured is not None else None
    points = evaluated.curve(document)
    paper.html(html.tiles(tiles(latencies, pairs, status, points)))
    note = f"one request in {step} is read; " if step > 1 else ""
    for column, what in zip(paper.columns(2), pairs, strict=True):
        with column:
            _scatter(view, pairs[what], what.upper(), note)
            _error(view, pairs[what], what.upper())
    left, right = paper.columns(2)
    with left:
        _coverage(view, pairs, document)
        _drift(view, pairs, _document(status))
    with right:
        _learning(view, points)
        _model(view, status)
    _evaluation(view, points, document)


def tiles(
    latencies: pd.DataFrame, pairs: Mapping[str, pd.DataFrame], status: Answer | None, points: pd.DataFrame
) -> list[str]:
    """How far off, how many, how cold."""
    document = _document(status)
    share = len(pairs["ttft"]) / len(latencies) if len(latencies) else None
    cold = document.get("cold")
    state = (
        "not configured"
        if status is None
        else "not reachable"
        if not status.reachable
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
        html.tile(
            "90 % interval held",
            percents(evaluated.figure_of(points, what, "coverage") for what in TARGETS),
            limit="TTFT / TPOT, newest evaluation",
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


def _coverage(view: View, pairs: Mapping[str, pd.DataFrame], document: object) -> None:
    """How often the actual value lay inside the 90 % interval, bin by bin; without one, how many guesses were close."""
    ends = {what: evaluated.interval(document, what) for what in pairs}
    known = {what: found for what, found in ends.items() if found is not None}
    if known:
        series = {what: evaluated.share_inside(pairs[what], view.starts, view.width_s, found)
                  for what, found in known.items()}  # fmt: skip
        said = "; ".join(f"{what.upper()} {significant(low, 2)} to {significant(high, 2)} times the prediction"
                         for what, (low, high) in known.items())  # fmt: skip
        note = f"share of requests inside the 90 % interval as wide as the newest evaluation found it: {said}"
        marks: tuple[charts.Limit, ...] = (charts.Limit(value=0.9, label="promised 90 %"),)
    else:
        series = {what: predictions.close_share(rows, view.starts, view.width_s, within=_WITHIN)
                  for what, rows in pairs.items()}  # fmt: skip
        note = f"share of guesses within {percent(_WITHIN)} of the actual value; no evaluation tells the interval yet"
        marks = ()
    whole = pd.concat([rows.assign(target=what) for what, rows in series.items()])

    def figure() -> Any:
        chart = charts.blank(view.axis, charts.RATIO, height=220)
        for what, rows in series.items():
            dash = None if what == "ttft" else "dash"
            charts.line(chart, view.axis, rows, name=what.upper(), colour=charts.INK, unit=charts.RATIO, dash=dash)
        charts.limits(chart, marks)
        return chart

    panel(view, key="coverage", heading="Coverage", frame=whole, figure=figure, nothing=_NO_GUESS, note=note)


def _learning(view: View, points: pd.DataFrame) -> None:
    """Error on later requests by the number of requests trained on, beside other methods."""
    frame = points[points["regime"] == "all"]
    panel(view, key="learning", heading="Learning curve", frame=frame, column="mape", group="",
          note="mean error on the newest 40 % of requests, trained on so many before; TPOT dashed",
          nothing="Nothing was measured yet: the predictor does so some minutes after its first fit.",
          figure=lambda: figures.learning_curve(frame, evaluated.METHODS, height=220))  # fmt: skip


def _evaluation(view: View, points: pd.DataFrame, document: object) -> None:
    """The figures of ``fleet predictor evaluate``, of the newest measurement."""
    with paper.frame("evaluation"):
        at_s = _number(document.get("at_s")) if isinstance(document, Mapping) else None
        when = f", measured at {clock(at_s, view.zone)}" if at_s and len(points) else ""
        section("Evaluation", f"as fleet predictor evaluate prints it: the largest training, later requests{when}")
        if points.empty:
            paper.html(html.empty(
                "Nothing was measured yet", "The predictor measures itself some minutes after its first fit; or run it "
                "over the history:", command="fleet predictor evaluate",
            ))  # fmt: skip
            return
        table(_in_words(evaluated.newest(points)), view, key="evaluation")
        own = evaluated.by_endpoint(document)
        if len(own):
            paper.html('<p class="fl-sub">By endpoint; unseen: left out of training, then after 10 of its requests</p>')
            table(_in_words(own.drop(columns=["width", "pinball_s"])), view, key="evaluation-endpoints")


_HEADS: Final = {"n": "trained on", "rows": "predicted", "mape": "MAPE", "median_ape": "median", "bias": "bias",
                 "coverage": "90 % interval held", "width": "width, log", "pinball_s": "pinball, ms",
                 "unseen": "MAPE unseen", "after": "MAPE after 10"}  # fmt: skip


def _in_words(rows: pd.DataFrame) -> pd.DataFrame:
    """Ratios as percentages, seconds as milliseconds, heads for people."""
    shown = rows.copy()
    for name in shown.columns:
        if name in {"mape", "median_ape", "bias", "coverage", "unseen", "after"}:
            shown[name] = [percent(value) if math.isfinite(value) else "–" for value in rows[name].astype(float)]
        elif name == "width":
            shown[name] = [significant(value) if math.isfinite(value) else "–" for value in rows[name]]
        elif name == "pinball_s":
            shown[name] = [significant(1000 * value) if math.isfinite(value) else "–" for value in rows[name]]
        elif name in {"n", "rows"}:
            shown[name] = [f"{value:.0f}" if math.isfinite(value) else "–" for value in rows[name]]
        elif name == "method":
            shown[name] = [evaluated.METHODS.get(value, value) for value in rows[name]]
        elif name == "target":
            shown[name] = rows[name].str.upper()
    return shown.rename(columns=_HEADS)


def _drift(view: View, pairs: Mapping[str, pd.DataFrame], document: Mapping[str, Any]) -> None:
    """The newest quarter of the range against the first, and endpoints whose scale began anew."""
    with paper.frame("drift"):
        section("Drift", "error of the newest quarter of this range against the quarters before")
        rows = predictions.drift(pairs, view.window.since_s, view.window.until_s)
        if rows.empty:
            paper.html(html.empty("Drift cannot be judged", _NO_GUESS))
            return
        said = [_verdict(a, b) for a, b in zip(rows["before"], rows["newest"], strict=True)]
        words = {name: [percent(value) for value in rows[name]] for name in ("before", "newest")}
        table(rows.assign(**words, verdict=said), view, key="drift")
        lines = evaluated.changed(document)
        if lines:
            paper.html(html.feed([html.happening("", "predictor", line, mark="▲") for line in lines], label="Drift"))


def _verdict(before: float, newest: float) -> str:
    if not np.isfinite(before) or not np.isfinite(newest):
        return "too few requests"
    return "drifting: it should refit" if newest > max(1.5 * before, before + 0.1) else "steady"


def _model(view: View, status: Answer | None) -> None:
    with paper.frame("model"):
        section("Predictor", "the model in use")
        if status is None:
            paper.html(
                html.empty("No predictor is configured", "Give its address.", command="fleet console --predictor URL")
            )
            return
        if not status.reachable:
            paper.html(unreachable(status, view))
            return
        rows = model_facts(_document(status), view)
        facts = pd.DataFrame(rows, columns=["fact", "value"])
        paper.rows(facts, key="model-facts", height="content", alt="State of the predictor")
        if note := _document(status).get("last_fit"):
            paper.html(f'<p class="fl-sub">Last fit: {escape(str(note))}</p>')


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
        ("model", _rungs(document)),
        ("version", f"{document.get('version') or '–'}{' (pinned)' if document.get('pinned') else ''}"),
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
    facts += [("drifts found", str(document["drifts"]))] if "drifts" in document else []
    facts += [
        (
            name.replace("_", " ").replace("mape", "error").replace("ttft", "TTFT").replace("tpot", "TPOT"),
            percent(_number(value)),
        )
        for name, value in errors.items()
        if name.endswith("mape")
    ]
    facts += [("last error", str(document["last_error"]))] if document.get("last_error") else []
    return facts


def _rungs(document: Mapping[str, Any]) -> str:
    """Which model answers for each target: boosted, physics, prior, heuristic."""
    rung = document.get("rung")
    found = {str(value) for value in rung.values()} if isinstance(rung, Mapping) else set()
    if len(found) == 1:
        return found.pop()
    return ", ".join(f"{name.upper()} {value}" for name, value in rung.items()) if isinstance(rung, Mapping) else "–"
