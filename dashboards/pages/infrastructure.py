"""L4 Infrastructure: replicas by state, what started and died, whether the control loop is well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd

from dashboards import data, figures, fleetdoc, html, paper, scaling, world
from dashboards.panels import panel, section, table
from dashboards.parts import Answer
from dashboards.source import Reader
from dashboards.summary import PART_NAMES, STALE_AFTER_S, Level
from dashboards.view import View
from dashboards.words import NOTHING, ago, clock, endpoint_name, percent, plural, seconds

_KINDS: Final = ("process", "engine", "config")
_DEATHS: Final = ("down", "gone", "restarted")
_STATE_LEVELS = {"ready": Level.GOOD, "starting": Level.ATTENTION, "stopping": Level.UNKNOWN, "failed": Level.BREACH}


def render(view: View) -> None:
    """Draw the page."""
    answer = data.ask("controller", "/fleet")
    rows = fleetdoc.replicas(answer.document if answer else None)
    paper.html(html.tiles(tiles(view, rows, data.health())))
    _replica_table(view, rows, answer)
    signals = view.signals(world.CURRENT, world.REQUESTED, world.DESIRED)
    timeline = scaling.replica_timeline(signals, {"observed": world.CURRENT, "requested": world.REQUESTED})
    panel(
        view,
        key="replica-states",
        heading="Replicas over time",
        note="what the platform was asked for, and what is ready",
        frame=timeline,
        nothing="No replica counts yet: the controller writes them with each pass.",
        figure=lambda: figures.replicas(
            timeline, pd.DataFrame(), view.axis, view.palette, width_s=view.width_s, row_height=120
        ),
    )
    left, right = paper.columns(2)
    with left:
        _parts(view)
    with right:
        _processes(view)


def tiles(view: View, rows: pd.DataFrame, health: dict[str, Answer]) -> list[str]:
    """Replicas in each state, restarts, parts that answer."""
    counts = rows["state"].value_counts() if len(rows) else pd.Series(dtype=int)
    restarts = crashes(view.read(Reader.events, view.window, _KINDS))
    answering = sum(answer.reachable for answer in health.values())
    found = [
        html.tile(
            f"Replicas {state}",
            str(int(counts.get(state, 0))) if len(rows) else NOTHING,
            level=level if level is Level.BREACH and counts.get(state, 0) else None,
        )
        for state, level in _STATE_LEVELS.items()
    ]
    found.append(
        html.tile(
            "Crashes",
            str(restarts),
            limit=f"in the last {seconds(view.window.span_s)}",
            level=Level.ATTENTION if restarts else None,
        )
    )
    found.append(
        html.tile(
            "Parts that answer",
            f"{answering} / {len(health)}",
            level=None if not health else Level.GOOD if answering == len(health) else Level.ATTENTION,
        )
    )
    return found


def crashes(events: pd.DataFrame) -> int:
    """Parts of the loop and engines that died; one that hangs or is silent may still live."""
    died = 0
    for row in events.to_dict("records"):
        told = row["data"] if isinstance(row["data"], Mapping) else {}
        if row["kind"] == "engine" and told.get("turn") in _DEATHS:
            died += max(len(told.get("engines") or ()), 1)
        elif row["kind"] == "process" and row["severity"] != "info":
            died += 1
    return died


def _replica_table(view: View, rows: pd.DataFrame, answer: Answer | None) -> None:
    with paper.frame("replica-table"):
        section("Replicas now", "state, age in it, age of the newest sample")
        if len(rows):
            table(_readable(rows, view), view, key="replicas-now")
        elif answer is None:
            paper.html(
                html.empty(
                    "No controller is configured",
                    "Give its address to see each replica.",
                    command="fleet console --wva URL",
                )
            )
        elif not answer.reachable:
            paper.html(unreachable(answer, view))
        else:
            paper.html(
                html.empty(
                    "The controller knows no replica yet", answer.problem or "It lists them after its first pass."
                )
            )


def _readable(rows: pd.DataFrame, view: View) -> pd.DataFrame:
    since, age = rows["since_s"].astype(float), rows["age_s"].astype(float)
    return pd.DataFrame(
        {
            "variant": rows["variant"],
            "replica": rows["replica"],
            "endpoint": [endpoint_name(str(url)) for url in rows["endpoint"]],
            "state": rows["state"],
            "in this state": [seconds(float(round(max(0.0, view.now_s - at)))) if at > 0 else NOTHING for at in since],
            "newest sample": [ago(value) for value in age],
            "running": rows["running"],
            "waiting": rows["waiting"],
            "KV in use": [percent(value) for value in rows["kv"].astype(float)],
            "KV tokens": rows["kv_capacity_tokens"],
            "preempted": rows["preemptions"],
        }
    )


def unreachable(answer: Answer, view: View) -> str:
    """The designed state of a part that does not answer."""
    return html.empty(
        f"The {PART_NAMES.get(answer.part, answer.part)} is not reachable since {clock(answer.since_s, view.zone)}",
        f"{answer.url}: {answer.problem}. What it alone knows is missing here; the rest of the console works. "
        "This fills by itself when it answers again.",
        icon="◌",
    )


def _parts(view: View) -> None:
    with paper.frame("parts"):
        section("The loop", "who answers, and how old the newest row of each is")
        lines = [_part_line(answer, view) for answer in data.health().values()]
        lines += _ages(view)
        paper.html("".join(lines))
        answer = data.ask("controller", "/fleet")
        found = fleetdoc.problems(answer.document) if answer else []
        if found:
            paper.html(
                html.feed([html.happening("now", "controller", line, mark="▲") for line in found], label="Problems")
            )


def _part_line(answer: Answer, view: View) -> str:
    if not answer.reachable:
        return html.part(answer.part, Level.ATTENTION, f"not reachable since {clock(answer.since_s, view.zone)}")
    if answer.problem:
        return html.part(answer.part, Level.ATTENTION, answer.problem)
    return html.part(answer.part, Level.GOOD, f"answers since {clock(answer.since_s, view.zone)}")


def _ages(view: View) -> list[str]:
    lines = []
    end = view.now_s if view.live else view.window.until_s
    for table_name, label in (
        ("samples", "controller's samples"),
        ("decisions", "controller's decisions"),
        ("requests", "router's requests"),
    ):
        newest = view.read(Reader.newest_of, view.window, table_name)
        age = None if newest is None else max(0.0, end - newest)
        level = Level.UNKNOWN if age is None else Level.GOOD if age < STALE_AFTER_S else Level.ATTENTION
        lines.append(html.part(label, level, ago(age) if age is not None else "none in this range"))
    return lines


def _processes(view: View) -> None:
    events = view.read(Reader.events, view.window, _KINDS)
    with paper.frame("processes"):
        section("Processes and engines", f"{plural(len(events), 'event')} in this range, newest first")
        items = [
            html.happening(
                clock(row["at_s"], view.zone),
                row["subject"],
                row["message"],
                mark=html.event_mark(row),
            )
            for row in events.head(12).to_dict("records")
        ]
        paper.html(
            html.feed(items, label="Process events")
            if items
            else html.empty("Nothing started or died", "In this time range.", icon="✓")
        )
