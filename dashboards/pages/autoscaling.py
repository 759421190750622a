"""Autoscaling: demand, forecast and capacity; what was planned, asked for and got, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import pandas as pd
import streamlit as st

from dashboards import data, figures, html, paper, queries, scaling, world
from dashboards.pages import operating
from dashboards.panels import panel, section, table
from dashboards.source import Reader
from dashboards.view import View
from dashboards.words import clock, percent, plural, si, significant, verbatim
from wva import plain

_NO_COUNTS = "No replica counts yet: the controller writes them with each pass. Check that it runs."
_MOST, _LISTED = 400, 25
"""Decisions in the table, and in the list beside the explanation."""
FORECAST = ("demand_rps", "forecast_rps", "forecast_p90_rps", "capacity_rps", "lead_s")
"""Inputs of a decision that tell what the controller expected."""


def render(view: View) -> None:
    """Draw the page."""
    signals = view.signals(world.DESIRED, world.REQUESTED, world.CURRENT, world.SATURATION)
    _demand(view)
    _replicas(view, signals)
    _saturation(view, signals)
    left, right = paper.columns([3, 2])
    with left:
        _decisions(view)
    with right:
        _chosen(view)
    paper.live(lambda: operating.render(view))


def _demand(view: View) -> None:
    """What came, what was expected, and what the ready replicas bear, on the axis of the replicas below."""
    window = view.window
    bins = queries.summed(view.request_bins(), by=("variant",), columns=("requests",))
    rates = queries.rates(bins, ("requests",), since_s=window.since_s, until_s=window.until_s, width_s=view.width_s)
    served = queries.summed(rates, by=(), columns=("requests",)) if len(rates) else rates
    said = scaling.decision_series(view.read(Reader.plans, window), FORECAST)
    plan = scaling.planned_load(said, width_s=view.width_s)
    bears = plan["capacity"].notna().any() if len(plan) else False
    note = "requests per second: finished, expected by the controller with its 90 % bound, borne by ready replicas"
    panel(
        view, key="demand-plan", heading="Demand, forecast, capacity", frame=served, column="requests",
        note=note if bears else "requests finished per second; forecast and capacity are told by the analyzer `slo` "
        "(fleet wva run --analyzer slo)",
        nothing="No request finished in this range. Send traffic through the router.",
        figure=lambda: figures.demand_and_plan(served, plan, view.axis, alerts=view.alert_bands()),
    )  # fmt: skip


def _replicas(view: View, signals: pd.DataFrame) -> None:
    marks = {"observed": world.CURRENT, "requested": world.REQUESTED, "planned": world.DESIRED}
    timeline, moves = scaling.replica_timeline(signals, marks), view.scalings()
    panel(
        view,
        key="timeline",
        heading="Replicas",
        frame=timeline,
        nothing=_NO_COUNTS,
        note="planned by the controller, requested of the platform, observed; alerts shaded; click a triangle for why",
        figure=lambda: figures.replicas(
            timeline, moves, view.axis, view.palette, width_s=view.width_s, alerts=view.alert_bands()
        ),
        picked=choose,
    )


def _saturation(view: View, signals: pd.DataFrame) -> None:
    frame = queries.pick(signals, world.SATURATION)
    decided = view.read(Reader.last_decisions, view.window).to_dict("records")
    limits = next((found for row in decided if (found := scaling.thresholds(row))), None)
    by_targets = decided and limits is None
    panel(
        view,
        key="saturation",
        heading="Saturation",
        frame=frame,
        nothing=_NO_COUNTS,
        note="demand over what the ready replicas bear within the latency targets"
        if by_targets
        else "0.5 x KV use + 0.3 x queue + 0.2 x lost throughput; the controller acts outside the two lines",
        figure=lambda: figures.saturation(
            frame, view.axis, view.palette, width_s=view.width_s, thresholds=limits, alerts=view.alert_bands()
        ),
    )


def choose(number: str) -> None:
    """Open a decision, and put it into the address."""
    st.query_params["decision"] = number


def _decisions(view: View) -> None:
    with paper.frame("decisions"):
        section("Decisions", "newest first; select one to see its inputs")
        changes = _rows(view, view.read(Reader.decisions, view.window, True, 2_000))
        paper.live(lambda: _listed(view, changes))


def _listed(view: View, changes: tuple[pd.DataFrame, list[tuple[str, str, str]]]) -> None:
    """What this viewer asked for: the changes, or all decisions."""
    everything = st.toggle("Show decisions that held", key="holds", help="Repetitions are folded into one row.")
    folded, told = _rows(view, view.read(Reader.decisions, view.window, False, 2_000)) if everything else changes
    if folded.empty:
        paper.html(
            html.empty("No decision changed anything", "In this time range. Decisions that held are behind the switch.")
        )
        return
    _entries(view, folded, told)


def _rows(view: View, decided: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str, str]]]:
    """Decisions with repetitions folded, and of the newest for people: id, head, sentence."""
    folded = scaling.decision_runs(decided).head(_MOST)
    dated = view.window.span_s > 86_000
    return folded, [_told(row, clock(row["at_s"], view.zone, with_date=dated))
                    for row in folded.head(_LISTED).to_dict("records")]  # fmt: skip


def _told(row: Mapping[Any, Any], when: str) -> tuple[str, str, str]:
    """A decision as an entry of the list; a sentence wraps there, where a table would cut it."""
    again = f" · {row['times']} times" if row["times"] > 1 else ""
    head = f"{when} **{verbatim(str(row['variant']))}**{again}"
    return str(row["id"]), head, verbatim(plain.sentence(row))


def _entries(view: View, folded: pd.DataFrame, told: Sequence[tuple[str, str, str]]) -> None:
    heads, numbers = {number: head for number, head, _ in told}, [number for number, _, _ in told]
    chosen = st.query_params.get("decision", "")
    st.radio("Decisions, newest first", numbers, index=numbers.index(chosen) if chosen in numbers else None,
             format_func=heads.__getitem__, captions=[sentence for _, _, sentence in told],
             key="decision-list", on_change=_selected, label_visibility="collapsed", width="stretch")  # fmt: skip
    if len(folded) > len(told):
        paper.html(f'<p class="fl-sub">{plural(len(folded) - len(told), "older one")}: in the table below.</p>')
    drawer = st.expander("All fields and CSV", key="data-decisions", on_change="rerun")
    if drawer.open:
        with drawer:
            table(folded.drop(columns=["signals"]), view, key="decisions")


def _selected() -> None:
    """A decision was chosen from the list."""
    if number := st.session_state["decision-list"]:
        choose(str(number))


def _chosen(view: View) -> None:
    with paper.frame("decision"):
        newest = view.moves().head(1)
        paper.live(lambda: _asked_for(view, newest))


def _asked_for(view: View, newest: pd.DataFrame) -> None:
    """The decision in this viewer's address, else the newest that changed something."""
    number = st.query_params.get("decision", "")
    found = data.decision(int(number)) if number.isdigit() else pd.DataFrame()
    found = newest if found.empty else found
    if found.empty:
        section("A decision's inputs")
        paper.html(html.empty("No decision yet", "Select one on the left, or click a triangle on the chart."))
        return
    _explain(found.to_dict("records")[0], view)


def _explain(row: Mapping[Any, Any], view: View) -> None:
    section("Why", f"decision {row['id']} at {clock(row['at_s'], view.zone, with_date=True)}")
    colour = view.palette.get(str(row["variant"]), "")
    arrow = f"{scaling.replicas_before(row)} → {row['desired']}"
    paper.html(
        f'<div class="fl-why">{html.swatch(colour)}<strong>{escape(str(row["variant"]))}</strong> '
        f'<span class="fl-move">{arrow}</span> <span class="fl-sub">{escape(str(row["reason"]).replace("_", " "))}, '
        f"{escape(str(row['accelerator']))}</span><p>{escape(plain.sentence(row))}</p></div>"
    )
    saturation = row["saturation"] if row["saturation"] == row["saturation"] else None
    low, high = scaling.thresholds(row) or (None, None)
    gauge = html.bar(saturation, low=low, high=high, label="saturation", colour=colour)
    paper.html(f'<div class="fl-cell">saturation {gauge}</div>')
    inputs = inputs_of(row["signals"])
    first = inputs[inputs["input"].isin([in_words(name) for name in FIRST])]
    first = first if len(first) else inputs.head(len(FIRST))
    if len(inputs):
        paper.rows(first, key="decision-inputs", height="content", alt="Inputs of the decision")
    title = f"The controller's own words, and all {plural(len(inputs), 'input')}"
    drawer = st.expander(title, key="data-inputs", on_change="rerun")
    if drawer.open:
        with drawer:
            paper.html(f'<div class="fl-why"><p>{escape(str(row["detail"]))}</p></div>')
            if len(inputs):
                paper.rows(inputs, key="decision-inputs-all", height="content", alt="All inputs of the decision")
    paper.html('<p class="fl-sub">The same numbers are in the log and in the history (table decisions).</p>')


def _rank(name: str) -> tuple[int, str]:
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)


def inputs_of(signals: object) -> pd.DataFrame:
    """A decision's inputs as a table; what was not known says so."""
    entries = signals if isinstance(signals, Mapping) else {}
    return pd.DataFrame(
        [
            {"input": in_words(str(name)), "value": "not known" if value is None else _value(str(name), value)}
            for name, value in sorted(entries.items(), key=lambda entry: _rank(str(entry[0])))
        ],
        columns=["input", "value"],
    )


FIRST: Final = (
    "demand_rps", "forecast_rps", "forecast_p90_rps", "capacity_rps", "lead_s", "ready", "requested", "pending",
    "needed", "kv_utilisation", "queue_ratio", "throughput_degradation", "waiting_per_replica", "expected_misses",
    "expected_misses_as_is", "slo_ttft_s", "oldest_sample_age_s", "age_s",
)  # fmt: skip
"""Inputs that are shown at once."""
_UNITS: Final = {"_rps": ", requests/s", "_tps": ", tokens/s", "_s": ", seconds"}


def in_words(name: str) -> str:
    """An input's name as people say it.

    >>> in_words("forecast_p90_rps"), in_words("slo_ttft_s"), in_words("needed")
    ('forecast, 90 % bound, requests/s', 'TTFT limit, seconds', 'needed')
    """
    unit = next((end for end in _UNITS if name.endswith(end)), "")
    bare = name.removesuffix(unit).replace("_p90", ", 90 % bound").replace("_", " ")
    for short, word in (("slo ttft", "TTFT limit"), ("slo tpot", "TPOT limit"), ("kv ", "KV cache ")):
        bare = bare.replace(short, word)
    return bare + (_UNITS[unit] if unit else "")


def _value(name: str, value: object) -> str:
    if name.startswith("expected_misses") and isinstance(value, float):
        return percent(value) if value >= 0.0001 else "under 0.01 %"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return si(float(value)) if abs(value) >= 1000 else significant(float(value))
