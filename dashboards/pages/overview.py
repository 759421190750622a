"""Overview: is the fleet well, and if not, why, and what happens next."""

from __future__ import annotations

from html import escape
from typing import Final

import pandas as pd
import streamlit as st

from dashboards import data, figures, html, paper, queries, scaling, world
from dashboards.panels import panel, section
from dashboards.source import Reader
from dashboards.summary import Level, short_model, summarise
from dashboards.view import View, known_models
from dashboards.words import NOTHING, ago, change, change_points, clock, money, percent, seconds, si, significant
from dashboards.world import ModelState, Promise, VariantState, World
from wva import plain

_MODEL_HEAD = ("Model", "State", "TTFT", "TPOT", "Error budget left", "Burn", "Success", "Waiting", "")
_VARIANT_HEAD = (
    "Variant",
    "Ready / wanted",
    "Saturation",
    "KV cache",
    "Waiting",
    "Output",
    "Cost",
    "Last decision",
)


def render(view: View) -> None:
    """Draw the page."""
    bins, signals = view.request_bins(), view.signals(*world.FLEET_SIGNALS)
    latencies = view.newest_latencies(world.RECENT_S)
    state = gather(view, bins, latencies, signals)
    paper.html(html.banner(summarise(state, view.zone), links=way_on(state, view)))
    paper.html(html.tiles(tiles(state, bins, view.requests_before(), view)))
    if not state.variants and not state.models:
        paper.html(
            html.empty(
                "No variants yet",
                "Nothing has been scaled or served in this time range. Start the fleet, or choose a longer range.",
                command="fleet up",
            )
        )
        return
    paper.html(model_rows(state, view))
    paper.html(variant_rows(state, view))
    left, right = paper.columns([3, 2])
    with left:
        _demand(view, bins)
        _replicas(view, signals)
    with right:
        _feed(view)


def way_on(state: World, view: View) -> list[tuple[str, str]]:
    """Where to go from the sentence: (words, address). At most three clicks lead from here to the controller's plan."""
    broken = [model.name for model in state.models if any(p.broken_since_s is not None for p in model.promises)]
    firing = [alert for alert in state.alerts if alert.severity == "critical"] or list(state.alerts)
    if not broken and not firing:
        return []
    model = broken[0] if broken else firing[0].model
    alert = next((one.name for one in firing if not model or one.model in {"", model}), "HighTTFT")
    return [
        ("Why: open the diagnosis", view.link("alerts", model=model, alert=alert)),
        ("What the controller will do", view.link("autoscaling", model=model)),
    ]


def gather(view: View, bins: pd.DataFrame, latencies: pd.DataFrame, signals: pd.DataFrame) -> World:
    """The fleet as one record."""
    spells = view.spells()
    names = [view.window.model] if view.window.model else known_models(view.window.until_s)
    variants = world.variant_states(view.variants, signals, view.read(Reader.last_decisions, view.window))
    down = {name: answer.since_s for name, answer in data.health().items() if not answer.reachable}
    return World(
        now_s=view.now_s if view.live else view.window.until_s,
        span_s=view.window.span_s,
        newest_s=_newest(view),
        models=world.model_states(
            names, data.slos(), bins, latencies, signals, until_s=view.window.until_s, told=view.percentiles_now()
        ),
        variants=variants,
        alerts=world.firing(spells),
        parts_down=down if view.live else {},
        last_trouble_s=world.last_trouble(spells),
    )


def _newest(view: View) -> float | None:
    if view.newest_s is None or view.newest_s < view.window.since_s:
        return None
    return min(view.newest_s, view.window.until_s) if not view.live else view.newest_s


def tiles(state: World, bins: pd.DataFrame, before: pd.DataFrame, view: View) -> list[str]:
    """The five figures."""
    slo = data.slos().of(view.window.model)
    objective = slo.ttft.objective if slo.ttft else 0.95
    good, good_before = queries.attainment(bins, "good"), queries.attainment(before, "good")
    budget = queries.budget_left(good, objective)
    rate, rate_before = _good_rate(bins, view), _good_rate(before, view)
    burn = max((p.burn for model in state.models for p in model.promises if p.burn is not None), default=None)
    costs = [variant.cost_per_hour for variant in state.variants if variant.cost_per_hour is not None]
    ready, wanted = _total(state, "ready"), _total(state, "wanted")
    starting = sum(variant.starting for variant in state.variants)
    return [
        html.tile(
            "SLO attainment",
            percent(good),
            limit=f"promised {percent(objective)}",
            note=change_points(good, good_before),
            level=_judge(good, objective),
        ),
        _budget(budget, view, burn),
        html.tile("Goodput", si(rate, "req/s"), limit="kept every promise", note=change(rate, rate_before)),
        html.tile("Cost", f"{money(sum(costs))} /h" if costs else NOTHING, limit="replicas that run or start"),
        html.tile(
            "Replicas",
            f"{ready} / {wanted}" if ready is not None else NOTHING,
            limit="ready / wanted",
            note=f"{starting} starting" if starting else "",
        ),
    ]


def _budget(left: float | None, view: View, burn: float | None) -> str:
    """How much more may fail before the promise for this window is broken."""
    window = f"of the last {seconds(view.window.span_s)}"
    now = "" if burn is None else f"burning {significant(burn, 2)}x"
    if left is None:
        return html.tile("Error budget left", NOTHING, limit=window)
    if left < 0:
        return html.tile(
            "Error budget left",
            "0 %",
            limit=f"spent {significant(1 - left, 2)} times over",
            note=now,
            level=Level.BREACH,
        )
    return html.tile(
        "Error budget left", percent(left), limit=window, note=now, level=Level.GOOD if left > 0.25 else Level.ATTENTION
    )


def _judge(value: float | None, objective: float) -> Level | None:
    return None if value is None else Level.GOOD if value >= objective else Level.BREACH


def _good_rate(bins: pd.DataFrame, view: View) -> float | None:
    return float(bins["good"].sum()) / view.window.span_s if len(bins) else None


def _total(state: World, name: str) -> int | None:
    values = [getattr(variant, name) for variant in state.variants if getattr(variant, name) is not None]
    return sum(values) if values else None


def model_rows(state: World, view: View) -> str:
    """One row a model: its promises and how they are kept."""
    body = [_model_row(model, view) for model in state.models]
    return (
        html.rows(_MODEL_HEAD, body, columns="1.7fr 0.8fr 1.25fr 1.25fr 1.1fr 0.8fr 0.8fr 0.6fr 0.9fr", label="Models")
        if body
        else ""
    )


def _model_row(model: ModelState, view: View) -> list[str]:
    broken = any(promise.broken_since_s is not None for promise in model.promises)
    failed = model.success is not None and model.success_target is not None and model.success < model.success_target
    level = Level.UNKNOWN if not model.requests else Level.BREACH if broken or failed else Level.GOOD
    promises = {promise.name: promise for promise in model.promises}
    return [
        html.cell("Model", f"<strong>{escape(short_model(model.name))}</strong>"),
        html.cell("State", html.badge(level, "no traffic" if level is Level.UNKNOWN else "")),
        html.cell("TTFT", _promise(promises.get("TTFT"))),
        html.cell("TPOT", _promise(promises.get("TPOT"))),
        html.cell("Error budget left", _left(model)),
        html.cell("Burn", _burn(model)),
        html.cell("Success", f'<span class="fl-num{" fl-over" if failed else ""}">{percent(model.success)}</span>'),
        html.cell("Waiting", f'<span class="fl-num">{si(model.waiting)}</span>'),
        html.cell("Why", f'<a href="{escape(view.link("alerts", model=model.name))}" target="_self">diagnosis</a>'),
    ]


def _left(model: ModelState) -> str:
    """The budget of the promise that has least left, over the window."""
    left = min((value for value in map(budget_of, model.promises) if value is not None), default=None)
    if left is None:
        return '<span class="fl-none">–</span>'
    words = percent(left) if left >= 0 else f"0 %, spent {significant(1 - left, 2)}x"
    return f'<span class="fl-num{" fl-over" if left < 0 else ""}">{words}</span>'


def budget_of(promise: Promise) -> float | None:
    """Share of a promise's error budget that is left."""
    return queries.budget_left(promise.attained, promise.objective)


def _burn(model: ModelState) -> str:
    """How many times too fast the budget goes now; 1 spends it exactly."""
    rates = [promise.burn for promise in model.promises if promise.burn is not None]
    if not rates:
        return '<span class="fl-none">–</span>'
    over = " fl-over" if max(rates) > 1 else ""
    help_ = "times the rate that spends the budget exactly, newest minutes"
    return f'<span class="fl-num{over}" title="{help_}">{significant(max(rates), 2)}x</span>'


def _promise(promise: Promise | None) -> str:
    if promise is None:
        return '<span class="fl-none">no promise</span>'
    over = promise.p_now_s is not None and promise.p_now_s > promise.limit_s
    return (
        f'<div><span class="fl-num{" fl-over" if over else ""}">P{promise.objective * 100:g} '
        f"{seconds(promise.p_now_s)}</span><br>"
        f'<span class="fl-sub fl-whole">limit {seconds(promise.limit_s)}</span></div>'
    )


def variant_rows(state: World, view: View) -> str:
    """One row a variant: replicas, saturation between its thresholds, cost, the last decision in words."""
    body = [_variant_row(variant, view, state.now_s) for variant in state.variants]
    columns = "1.4fr 0.95fr 1.1fr 1.05fr 0.55fr 0.8fr 0.7fr 3.2fr"
    return html.rows(_VARIANT_HEAD, body, columns=columns, label="Variants") if body else ""


def _variant_row(variant: VariantState, view: View, now_s: float) -> list[str]:
    colour = view.palette.get(variant.name, "")
    name = f'<span class="fl-name">{html.swatch(colour)}<span><strong>{escape(variant.name)}</strong>'
    age = ago(None if variant.decided_s is None else max(0.0, now_s - variant.decided_s))
    inputs = escape(view.link("autoscaling", decision=str(variant.decision)))
    words = (
        f'<span title="{escape(variant.detail)}"><span class="fl-sub">{age}, '
        f'<a href="{inputs}" target="_self">inputs</a></span><br>'
        f"{escape(variant.said)}</span>"
        if variant.said
        else '<span class="fl-none">none yet</span>'
    )
    low, high = variant.thresholds or (None, None)
    return [
        html.cell("Variant", f'{name}<br><span class="fl-sub">{escape(variant.accelerator)}</span></span></span>'),
        html.cell("Replicas", html.dots(variant.ready, variant.wanted)),
        html.cell("Saturation", html.bar(variant.saturation, low=low, high=high, label="saturation", colour=colour)),
        html.cell("KV cache", html.bar(variant.kv, label="KV cache in use")),
        html.cell("Waiting", f'<span class="fl-num">{si(variant.waiting)}</span>'),
        html.cell("Output", f'<span class="fl-num">{si(variant.generation_tps, "tok/s")}</span>'),
        html.cell("Cost", f'<span class="fl-num">{money(variant.cost_per_hour)} /h</span>'),
        html.cell("Last decision", words, kind="fl-words"),
    ]


def _demand(view: View, bins: pd.DataFrame) -> None:
    window = view.window
    rates = queries.rates(
        _per_variant(bins), ("requests",), since_s=window.since_s, until_s=window.until_s, width_s=view.width_s
    )
    panel(
        view,
        key="demand",
        heading="Demand",
        note="requests finished per second, by the variant that served them",
        frame=rates,
        column="requests",
        nothing="No request finished. Send traffic through the router.",
        figure=lambda: figures.demand(rates, view.axis, view.palette, alerts=view.alert_bands(), height=210),
    )


def _per_variant(bins: pd.DataFrame) -> pd.DataFrame:
    return (
        bins.groupby(["variant", "bin_s"], as_index=False)[["requests", "output_tokens"]].sum() if len(bins) else bins
    )


def _replicas(view: View, signals: pd.DataFrame) -> None:
    timeline = scaling.replica_timeline(
        signals, {"observed": world.CURRENT, "requested": world.REQUESTED, "planned": world.DESIRED}
    )
    moves = view.scalings()
    panel(
        view,
        key="replicas",
        heading="Replicas",
        note="planned, requested, observed; alerts shaded",
        frame=timeline,
        nothing="No replica counts yet: the controller writes them with each pass.",
        figure=lambda: figures.replicas(
            timeline, moves, view.axis, view.palette, width_s=view.width_s, alerts=view.alert_bands(), row_height=110
        ),
        picked=lambda number: st.switch_page(
            st.session_state["pages"]["autoscaling"], query_params={"decision": number}
        ),
    )


def _feed(view: View) -> None:
    with paper.frame("feed"):
        section("What happened", "newest first; a decision opens its inputs")
        items = feed_items(view)
        if items:
            paper.html(html.feed(items, label="What happened"))
        else:
            paper.html(
                html.empty(
                    "Nothing happened",
                    f"No scaling, alert, restart or engine in trouble in the last {seconds(view.window.span_s)}.",
                )
            )


_PAGES: Final = {"alert": "alerts", "process": "infrastructure", "engine": "infrastructure"}
"""Where an event's kind is shown in full."""


_OF_MODELS: Final = 2
"""Newest entries of the predictor that are shown."""


def feed_items(view: View, *, limit: int = 9) -> list[str]:
    """Scalings, alerts, and what engines and processes met, in one list, newest first."""
    entries: list[tuple[float, str]] = []
    for row in view.scalings().tail(limit).to_dict("records"):
        arrow = f"{row['before']} → {row['desired']}"
        entries.append(
            (
                row["at_s"],
                html.happening(
                    clock(row["at_s"], view.zone),
                    row["variant"],
                    plain.sentence(row),
                    mark=arrow,
                    colour=view.palette.get(row["variant"], ""),
                    link=view.link("autoscaling", decision=str(row["id"])),
                ),
            )
        )
    events = view.read(Reader.events, view.window, ("alert", "process", "engine", "model", "config"))
    if len(events):  # a predictor that learns says much; it must not push an engine that died off the list
        events = events[(events["kind"] != "model") | ((events["kind"] == "model").cumsum() <= _OF_MODELS)]
    for row in events.head(limit).to_dict("records"):
        page = _PAGES.get(row["kind"], "prediction")
        entries.append(
            (
                row["at_s"],
                html.happening(
                    clock(row["at_s"], view.zone),
                    row["subject"],
                    row["message"],
                    mark=html.event_mark(row),
                    link=view.link(page),
                ),
            )
        )
    return [text for _, text in sorted(entries, key=lambda entry: -entry[0])[:limit]]
