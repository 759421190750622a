"""Router and predictor: where requests went and why, and how good the guesses were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboards import data, figures, html, queries
from dashboards.pages.infrastructure import unreachable
from dashboards.panels import panel, section, table
from dashboards.parts import Answer
from dashboards.summary import Level
from dashboards.view import View
from dashboards.words import clock, endpoint_name, percent, seconds, si, significant

_DOTS = 1_500
_RECENT = "/debug/decisions?last=60"
_NO_GUESS = (
    "No request with a prediction finished. The router records one as soon as the predictor has learnt from "
    "some hundred requests."
)


def render(view: View) -> None:
    """Draw the page."""
    latencies, step = view.latencies()
    pairs = {what: queries.prediction_pairs(latencies, what) for what in ("ttft", "tpot")}
    status = data.ask("predictor", "/status")
    st.html(html.tiles(tiles(latencies, pairs, status)))
    _split(view)
    note = f"one request in {step} is read; " if step > 1 else ""
    for column, what in zip(st.columns(2, gap="small"), pairs, strict=True):
        with column:
            _scatter(view, pairs[what], what.upper(), note)
            _error(view, pairs[what], what.upper())
    left, right = st.columns([3, 2], gap="small")
    with left:
        _recent(view)
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
        html.tile("TTFT error", percent(queries.mean_absolute_error(pairs["ttft"])), limit="mean, of the actual value"),
        html.tile("TPOT error", percent(queries.mean_absolute_error(pairs["tpot"])), limit="mean, of the actual value"),
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


def _split(view: View) -> None:
    bins = view.request_bins()
    grouped = queries.summed(bins, by=("variant",), columns=("requests",))
    window = view.window
    rates = queries.rates(grouped, ("requests",), since_s=window.since_s, until_s=window.until_s, width_s=view.width_s)
    panel(
        view,
        key="split",
        heading="Where requests went",
        note="finished per second, by variant",
        frame=rates,
        column="requests",
        nothing="No request finished. Send traffic through the router.",
        figure=lambda: figures.demand(rates, view.axis, view.palette, height=200),
    )


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
    over_time = queries.error_over_time(pairs, view.starts, view.width_s)
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


def recent_decisions(document: object) -> pd.DataFrame:
    """The router's newest picks as a table; entries of another shape are left out."""
    entries = document if isinstance(document, Sequence) and not isinstance(document, str | bytes) else ()
    return pd.DataFrame([_pick(entry) for entry in entries if isinstance(entry, Mapping)])


def _pick(entry: Mapping[str, Any]) -> dict[str, Any]:
    url = entry.get("endpoint") or ""
    raw = entry.get("scores")
    scores: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    mine = scores.get(url)
    own: Mapping[str, Any] = mine if isinstance(mine, Mapping) else {}
    predictions = entry.get("predictions")
    guess = predictions.get(url) if isinstance(predictions, Mapping) else None
    ttft = _number(guess.get("ttft_s")) if isinstance(guess, Mapping) else None
    row: dict[str, Any] = {
        "at_s": _number(entry.get("at_s")),
        "endpoint": endpoint_name(str(url)) if url else "none",
        "reason": str(entry.get("reason", "")),
        "tokens in": entry.get("input_tokens"),
        "cached": entry.get("matched_tokens"),
    }
    row |= {name: significant(_number(value)) for name, value in own.items()}
    dropped = entry.get("dropped")
    return row | {
        "predicted TTFT": seconds(ttft),
        "took": seconds(_number(entry.get("took_s"))),
        "candidates": len(scores),
        "dropped": len(dropped) if isinstance(dropped, Mapping) else 0,
    }


def _recent(view: View) -> None:
    with st.container(border=True, key="panel-picks"):
        section("Recent picks", "the router's own memory, newest first: the chosen endpoint with its scores")
        answer = data.ask("router", _RECENT)
        if answer is None:
            st.html(
                html.empty("No router is configured", "Give its admin address.", command="fleet console --router URL")
            )
        elif not answer.reachable:
            st.html(unreachable(answer, view))
        else:
            picks = recent_decisions(answer.document)
            if picks.empty:
                st.html(html.empty("The router has picked nothing yet", answer.problem or "Send it a request."))
            else:
                picks["at_s"] = [clock(moment, view.zone) for moment in picks["at_s"]]
                table(picks.rename(columns={"at_s": "picked at"}), view, key="picks", height=420)


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
