"""Alerts: what fires, what fired, and where the tree of questions leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import pandas as pd
import streamlit as st

from alerts.diagnosis import Diagnosis
from dashboards import data, diagnosis, html, paper
from dashboards.panels import behind, section
from dashboards.parts import Answer
from dashboards.summary import Level
from dashboards.view import View
from dashboards.words import clock, plural, seconds
from dashboards.world import firing

_LEVELS = {"critical": Level.BREACH, "page": Level.BREACH, "warning": Level.ATTENTION, "ticket": Level.ATTENTION}


def render(view: View) -> None:
    """Draw the page."""
    spells, watcher = view.spells(), data.ask("alerts", "/alerts")
    live = watched(watcher.document) if watcher is not None and watcher.reachable and view.live else pd.DataFrame()
    paper.html(html.tiles(tiles(view, spells, live, watcher)))
    left, right = paper.columns([1, 1])
    with left:
        _firing(view, spells, live, watcher)
    with right:
        _diagnosis(view, spells)
    _past(view, spells)


def tiles(view: View, spells: pd.DataFrame, live: pd.DataFrame, watcher: Answer | None) -> list[str]:
    """How many fire, how many fired, whether anybody watches."""
    burning = int(spells["to_s"].isna().sum()) if len(spells) else 0
    burning = max(burning, int((live["state"] == "firing").sum()) if len(live) else 0)
    pending = int((live["state"] == "pending").sum()) if len(live) else 0
    watching = "not configured" if watcher is None else "watching" if watcher.reachable else "not reachable"
    return [
        html.tile("Firing", str(burning), level=worst(spells, live) if burning else Level.GOOD),
        html.tile("Pending", str(pending), limit="condition holds, not long enough yet"),
        html.tile(
            "Resolved",
            str(len(spells) - int(spells["to_s"].isna().sum()) if len(spells) else 0),
            limit=f"in the last {seconds(view.window.span_s)}",
        ),
        html.tile("Watcher", watching, level=Level.GOOD if watching == "watching" else Level.ATTENTION),
    ]


def worst(spells: pd.DataFrame, live: pd.DataFrame) -> Level:
    """How bad the worst alert is that fires."""
    severities = [*spells["severity"][spells["to_s"].isna()]] if len(spells) else []
    severities += [*live["severity"][live["state"] == "firing"]] if len(live) else []
    known = {_LEVELS.get(str(severity), Level.ATTENTION) for severity in severities}
    return Level.BREACH if Level.BREACH in known else Level.ATTENTION


def watched(document: object) -> pd.DataFrame:
    """The watcher's alerts as a table; entries of another shape are left out."""
    entries = document.get("alerts") if isinstance(document, Mapping) else None
    found = entries if isinstance(entries, Sequence) and not isinstance(entries, str) else ()
    rows = [_watched(entry) for entry in found if isinstance(entry, Mapping)]
    return pd.DataFrame(rows, columns=["alert", "state", "severity", "model", "since_s", "summary"])


def _watched(entry: Mapping[str, Any]) -> dict[str, Any]:
    given = entry.get("labels")
    labels: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    return {
        "alert": str(entry.get("alert") or labels.get("alertname") or "?"),
        "state": str(entry.get("state") or "firing"),
        "severity": str(entry.get("severity") or ""),
        "model": str(labels.get("model_name") or ""),
        "since_s": entry.get("since_s"),
        "summary": str(entry.get("summary") or ""),
    }


def _firing(view: View, spells: pd.DataFrame, live: pd.DataFrame, watcher: Answer | None) -> None:
    with paper.frame("firing"):
        section("Firing now" if view.live else "Firing at that time", "with the way to the reason")
        items = [
            _alert(view, alert.name, alert.severity, alert.message, clock(alert.since_s, view.zone))
            for alert in firing(spells)
        ]
        known = {alert.name for alert in firing(spells)}
        for row in live.to_dict("records"):
            if row["state"] == "firing" and row["alert"] not in known:
                when = clock(row["since_s"], view.zone) if row["since_s"] else "now"
                items.append(_alert(view, row["alert"], row["severity"], row["summary"], when))
        if items:
            paper.html(html.feed(items, label="Firing alerts"))
        elif watcher is not None and not watcher.reachable:
            paper.html(
                html.empty(
                    "The history knows of no firing alert, but the watcher does not answer",
                    f"{watcher.url}: {watcher.problem}, since {clock(watcher.since_s, view.zone)}. "
                    "New alerts are not noticed until it runs.",
                    icon="◌",
                    command="fleet alerts watch",
                )
            )
        else:
            paper.html(html.empty("Nothing fires", "Every rule of the four layers is quiet.", icon="✓"))


def _alert(view: View, name: str, severity: str, message: str, when: str) -> str:
    badge = html.badge(_LEVELS.get(severity, Level.UNKNOWN), severity or "unknown")
    body = (
        f"<time>since {escape(when)}</time><div><strong>{escape(name)}</strong> {badge}<p>{escape(message)}</p></div>"
    )
    return f'<a href="{escape(view.link("alerts", alert=name))}" target="_self">{body}</a>'


def _diagnosis(view: View, spells: pd.DataFrame) -> None:
    """The tree that the alert in the address (or the one that fires) leads to, walked over the history."""
    with paper.frame("diagnosis"):
        section("Diagnosis", "questions answered from the history, in the order an on-call person would ask")
        burning = firing(spells)
        end = view.window.until_s // 20 * 20 if view.live else view.window.until_s
        told = data.evidence(end - view.window.span_s, end, view.window.model)
        paper.live(lambda: _walk(told, burning[0].name if burning else ""))


def _walk(told: Mapping[str, float | None], burning: str) -> None:
    """The tree that this viewer's address or choice names, over the evidence."""
    alert = st.query_params.get("alert", burning)
    names = list(diagnosis.titles())
    tree = st.selectbox(
        "Question",
        names,
        index=names.index(diagnosis.tree_for(alert)),
        key=f"tree-{alert}",
        format_func=lambda name: f"{diagnosis.titles()[name]}: why?",
    )
    paper.html(_path(diagnosis.walk(tree, told), alert))


def _path(found: Diagnosis, alert: str) -> str:
    """Each question with its answer and evidence, then the cause and what to do."""
    steps = [
        html.step(step.answer.value, step.question, "; ".join(diagnosis.shown(*item) for item in step.evidence))
        for step in found.path
    ]
    lead = f'<p class="fl-sub">for the alert {escape(alert)}</p>' if alert else ""
    return f"{lead}{html.steps(steps)}{html.cause(found.cause, found.advice, found.command)}"


_TOLD: Final = 12
"""Newest alerts that are read as sentences; all are in the table behind them."""
_DAY_S: Final = 86_400


def _past(view: View, spells: pd.DataFrame) -> None:
    with paper.frame("spells"):
        section(
            "History", f"{plural(len(spells), 'alert')} in this range; one that began before it but fires is among them"
        )
        if spells.empty:
            paper.html(html.empty("No alert fired", f"In the last {seconds(view.window.span_s)}."))
            return
        lasted = spells["to_s"].fillna(view.window.until_s) - spells["from_s"]
        shown = spells.assign(
            lasted=[seconds(float(round(length))) for length in lasted],
            state=["firing" if open_ else "resolved" for open_ in spells["to_s"].isna()],
        )
        newest = shown.sort_values("from_s", ascending=False).head(_TOLD)
        paper.html(html.feed([_spell(view, row) for row in newest.to_dict("records")], label="Alerts, newest first"))
        columns = ["alert", "state", "severity", "model", "from_s", "to_s", "lasted", "message"]
        paper.live(lambda: behind(shown[columns], view, key="alert-history"))


def _spell(view: View, row: Mapping[Any, Any]) -> str:
    """An alert that fired: when, whether it still does, and its whole sentence."""
    over = row["state"] == "resolved"
    when = clock(row["from_s"], view.zone, with_date=view.window.span_s > _DAY_S)
    ended = f"over after {row['lasted']}" if over else f"fires for {row['lasted']}"
    mark = html.event_mark({"severity": row["severity"], "data": {"state": "resolved" if over else ""}})
    return html.happening(when, row["alert"], f"{row['message']}; {ended}", mark=mark)
