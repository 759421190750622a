"""Router: where requests went and why, how even the load is, what is held back and refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dashboards import charts, data, figures, html, metricspage, paper, queries, world
from dashboards.pages.infrastructure import unreachable
from dashboards.panels import panel, section, table
from dashboards.parts import Answer
from dashboards.summary import Level
from dashboards.view import View
from dashboards.words import clock, endpoint_name, percent, seconds, si

_RECENT = "/debug/decisions?last=60"
_SHED = "fleet_router_shed_total"
_NO_REQUESTS = "No request finished. Send traffic through the router."
_QUEUE = "llm_d_epp_flow_control_queue_size"


def render(view: View) -> None:
    """Draw the page."""
    answer, page = data.ask("router", _RECENT), data.page("router")
    signals = view.signals(world.RUNNING, world.WAITING)
    paper.html(html.tiles(_tiles(view, answer, page)))
    left, right = paper.columns(2)
    with left:
        _split(view)
        _saved(view)
    with right:
        _imbalance(view, signals)
        _refused(view)
    _scores(view, answer)
    _recent(view, answer)
    left, right = paper.columns(2)
    with left:
        _prefixes(answer)
    with right:
        _held_back(view, page)


def _tiles(view: View, answer: Answer | None, page: metricspage.Page) -> list[str]:
    bins = view.request_bins()
    asked = float(bins["input_tokens"].sum()) if len(bins) else 0.0
    found = float(bins["cached_tokens"].sum()) if len(bins) else 0.0
    refused = float(bins["rejected"].sum()) if len(bins) else None
    picks = recent_decisions(answer.document if answer else None)
    took = took_s(answer.document if answer else None)
    queued = page.total(_QUEUE)
    return [
        html.tile("Requests", si(float(bins["requests"].sum()) / view.window.span_s if len(bins) else None, "req/s")),
        html.tile("Prompt tokens cached", percent(found / asked if asked else None), limit="of this range's prompts"),
        html.tile("Time to pick, median", seconds(took), limit="limit 10 ms",
                  level=None if took is None else Level.GOOD if took < 0.01 else Level.BREACH),
        html.tile("Held back", si(queued), limit="requests in flow control now"),
        html.tile("Refused", si(refused), limit="in this range",
                  level=None if not refused else Level.ATTENTION),
        html.tile("Candidates", si(float(picks["candidates"].median()) if len(picks) else None),
                  limit="engines a pick chose from, median"),
    ]  # fmt: skip


def took_s(document: object) -> float | None:
    """Median time of the router's newest picks."""
    entries = document if isinstance(document, Sequence) and not isinstance(document, str | bytes) else ()
    times = [value for entry in entries if isinstance(entry, Mapping)
             and (value := _number(entry.get("took_s"))) is not None]  # fmt: skip
    return float(pd.Series(times).median()) if times else None


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
        nothing=_NO_REQUESTS,
        figure=lambda: figures.demand(rates, view.axis, view.palette, height=200),
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
    row |= {name: _number(value) for name, value in own.items()}
    dropped = entry.get("dropped")
    return row | {
        "predicted TTFT": seconds(ttft),
        "took": seconds(_number(entry.get("took_s"))),
        "candidates": len(scores),
        "dropped": len(dropped) if isinstance(dropped, Mapping) else 0,
    }


def _imbalance(view: View, signals: pd.DataFrame) -> None:
    frame = queries.imbalance(queries.pick(signals, world.RUNNING), queries.pick(signals, world.WAITING))
    unit = charts.Unit(title="fullest over mean", ticks=".1f", hover=".2f", suffix="x", floor=None)
    panel(
        view, key="imbalance", heading="Imbalance", frame=frame,
        note="requests on the fullest engine over the mean of its variant; 1 is even",
        nothing="Imbalance needs engine by engine samples: choose a range below 6 h, in a fleet of at most 24 engines.",
        figure=lambda: charts.by_variant(frame, view.axis, unit, view.palette, width_s=view.width_s, height=200,
                                         marks=(charts.Limit(value=1.25, label="even within 80 %"),)),
    )  # fmt: skip


def _saved(view: View) -> None:
    sums = queries.summed(view.request_bins(), by=("variant",), columns=("input_tokens", "cached_tokens"))
    ratio = sums.assign(value=sums["cached_tokens"] / sums["input_tokens"].where(sums["input_tokens"] > 0)) if len(
        sums) else sums  # fmt: skip
    panel(
        view, key="router-hits", heading="Prefix hit rate", frame=ratio,
        note="share of prompt tokens that the chosen engine had cached", nothing=_NO_REQUESTS,
        figure=lambda: charts.by_variant(ratio, view.axis, charts.RATIO, view.palette, width_s=view.width_s,
                                         height=200),
    )  # fmt: skip


def _refused(view: View) -> None:
    names = ["rejected", "timeout", "error"]
    counts = queries.summed(view.request_bins(), by=(), columns=(*names, "requests"))
    failed = counts if len(counts) and counts[names].to_numpy().sum() else counts.iloc[:0]
    unit = charts.Unit(title=f"requests per {seconds(view.width_s)}", hover="d")
    panel(
        view, key="refused", heading="Refused and failed", frame=failed, column="requests",
        note="rejected: shed by flow control or without a ready engine",
        nothing=_NO_REQUESTS, well="Nothing was refused" if len(counts) else "",
        figure=lambda: charts.stacked(failed, view.axis, unit, {n: charts.STATE_COLOURS[n] for n in names}, height=200),
    )  # fmt: skip


def scores(document: object) -> pd.DataFrame:
    """Mean score of each engine by each scorer over the router's newest picks, and how often it was taken."""
    entries = document if isinstance(document, Sequence) and not isinstance(document, str | bytes) else ()
    rows: list[dict[str, Any]] = []
    for entry in entries:
        given = entry.get("scores") if isinstance(entry, Mapping) else None
        for url, own in (given if isinstance(given, Mapping) else {}).items():
            if isinstance(own, Mapping):
                named = {str(name): _number(value) for name, value in own.items()}
                rows.append(
                    {"endpoint": endpoint_name(str(url)), "taken": float(url == entry.get("endpoint")), **named}
                )
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows)
    means = frame.groupby("endpoint").mean(numeric_only=True)
    means.insert(0, "scored", frame.groupby("endpoint").size())
    return means.sort_values("taken", ascending=False).reset_index()


def _scores(view: View, answer: Answer | None) -> None:
    with paper.frame("scores"):
        section("Scores by engine", "mean of the newest picks, scorer by scorer, 0 to 1; taken: share it was chosen")
        found = scores(answer.document if answer else None)
        if found.empty:
            paper.html(html.empty("No scores to show", "The router tells them on its admin port once it has picked.",
                               command="fleet console --router URL"))  # fmt: skip
            return
        shown = found.copy()
        for name in shown.columns[2:]:
            shown[name] = rounded(shown[name])
        table(shown, view, key="scores")


def rounded(values: pd.Series) -> list[float]:
    """Numbers with three significant digits, still numbers."""
    return [float(f"{value:.3g}") for value in values.astype(float)]


def _prefixes(answer: Answer | None) -> None:
    with paper.frame("prefixes"):
        section("Hot prefixes", "engines whose cached prefixes the newest picks matched")
        picks = recent_decisions(answer.document if answer else None)
        hot = picks[picks["cached"].fillna(0) > 0] if len(picks) else picks
        if len(hot) == 0:
            paper.html(html.empty(
                "No prefix was matched", "By the newest picks: no prompt began like one that an engine still holds.",
            ))  # fmt: skip
            return
        grouped = hot.groupby("endpoint").agg(picks=("cached", "size"), tokens=("cached", "sum"),
                                              share=("cached", "sum"))  # fmt: skip
        grouped["share"] = [percent(value / hot["tokens in"].sum()) for value in grouped["share"]]
        paper.rows(grouped.sort_values("tokens", ascending=False).reset_index(), key="prefixes",
                   alt="Engines with matched prefixes")  # fmt: skip


def _held_back(view: View, page: metricspage.Page) -> None:
    with paper.frame("flow"):
        section("Flow control", "held back or refused by the router now")
        rows = page.table("flow_control", _SHED)
        rows["what"] = rows["what"].str.removeprefix("flow control ")
        if rows.empty:
            paper.html(html.empty(
                "Nothing is held back", "Requests wait here while every engine of a model is full. The figures come "
                "from the router's admin port.", command="fleet console --router URL",
            ))  # fmt: skip
        else:
            table(rows, view, key="flow")


def _recent(view: View, answer: Answer | None) -> None:
    with paper.frame("picks"):
        section("Recent picks", "the router's own memory, newest first: the chosen endpoint with its scores")
        if answer is None:
            paper.html(
                html.empty("No router is configured", "Give its admin address.", command="fleet console --router URL")
            )
        elif not answer.reachable:
            paper.html(unreachable(answer, view))
        else:
            picks = recent_decisions(answer.document)
            if picks.empty:
                paper.html(html.empty("The router has picked nothing yet", answer.problem or "Send it a request."))
            else:
                picks["at_s"] = [clock(moment, view.zone) for moment in picks["at_s"]]
                picks = picks.assign(
                    **{name: rounded(picks[name]) for name in picks.columns if picks[name].dtype == float}
                )
                table(picks.rename(columns={"at_s": "picked at"}), view, key="picks", height=420)
