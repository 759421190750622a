"""Cache: how full the engines' KV caches are, what their prefix caches find, what the router knows of their blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dashboards import charts, data, figures, html, metricspage, paper, queries, world
from dashboards.pages.infrastructure import unreachable
from dashboards.panels import panel, section, table
from dashboards.view import View
from dashboards.words import endpoint_name, percent, seconds, si

_NO_SAMPLES = "No engine was sampled. The controller writes these with each pass: check that it runs and finds engines."
_ENDPOINTS = "/debug/endpoints"


def render(view: View) -> None:
    """Draw the page."""
    signals = view.signals(world.KV, world.HIT_RATIO, world.PREEMPTIONS)
    answer = data.ask("router", _ENDPOINTS)
    known = blocks(answer.document if answer else None)
    page = data.page("router")
    paper.html(html.tiles(_tiles(view, signals, known, page)))
    left, right = paper.columns(2)
    with left:
        _hits(view, signals)
    with right:
        _tokens(view)
    _heat(view)
    _blocks(view, known, answer)
    _index(view, page)


def blocks(document: object) -> pd.DataFrame:
    """Prefix blocks that the router has seen go to each engine, beside the engine's own figures."""
    entries = document if isinstance(document, Sequence) and not isinstance(document, str | bytes) else ()
    rows = [_engine(entry) for entry in entries if isinstance(entry, Mapping)]
    return pd.DataFrame(rows, columns=["variant", "endpoint", "state", "prefix blocks", "KV in use", "age"])


def _engine(entry: Mapping[str, Any]) -> dict[str, Any]:
    sample = entry.get("sample")
    own: Mapping[str, Any] = sample if isinstance(sample, Mapping) else {}
    kv = own.get("kv_utilisation", own.get("kv"))
    age = entry.get("age_s")
    return {
        "variant": str(entry.get("variant") or ""), "endpoint": endpoint_name(str(entry.get("url") or "")),
        "state": str(entry.get("state") or ""), "prefix blocks": entry.get("prefix_blocks"),
        "KV in use": percent(float(kv)) if isinstance(kv, int | float) else "–",
        "age": seconds(float(age)) if isinstance(age, int | float) else "–",
    }  # fmt: skip


def _tiles(view: View, signals: pd.DataFrame, known: pd.DataFrame, page: metricspage.Page) -> list[str]:
    since_s = queries.fresh_since(signals)
    kv = queries.newest(queries.pick(signals, world.KV, how="high"), by=("variant", "endpoint"), since_s=since_s)
    hits = queries.newest(queries.pick(signals, world.HIT_RATIO), by=("variant", "endpoint"), since_s=since_s)
    found, asked = _prompt_tokens(view)
    held = float(known["prefix blocks"].fillna(0).sum()) if len(known) else None
    lag = page.highest("event_lag", "lag_seconds")
    return [
        html.tile("Engines", str(view.engines() or "–"), limit="sampled in the newest minute"),
        html.tile("KV cache, fullest", percent(float(kv["value"].max()) if len(kv) else None), limit="of its blocks"),
        html.tile("Prefix hits", percent(float(hits["value"].mean()) if len(hits) else None),
                  limit="of prompt tokens, as engines say"),
        html.tile("Cached tokens", percent(found / asked if asked else None), limit="of prompts, as answers say"),
        html.tile("Blocks the router knows", si(held), limit="over all engines"),
        html.tile("Event lag", seconds(lag) if lag is not None else "–",
                  limit="of engines' KV events" if lag is not None else "no KV events are read"),
    ]  # fmt: skip


def _prompt_tokens(view: View) -> tuple[float, float]:
    bins = view.request_bins()
    return (float(bins["cached_tokens"].sum()), float(bins["input_tokens"].sum())) if len(bins) else (0.0, 0.0)


def _hits(view: View, signals: pd.DataFrame) -> None:
    means = queries.averaged(queries.pick(signals, world.HIT_RATIO), by=("variant",))
    panel(
        view, key="cache-hits", heading="Prefix cache hits", frame=means,
        note="share of prompt tokens found, mean of the engines",
        nothing="No prefix look-ups: prefix caching may be off in the engines.",
        figure=lambda: charts.by_variant(means, view.axis, charts.RATIO, view.palette, width_s=view.width_s),
    )  # fmt: skip


def _tokens(view: View) -> None:
    bins = queries.summed(view.request_bins(), by=("variant",), columns=("input_tokens", "cached_tokens"))
    window = view.window
    rates = queries.rates(bins, ("cached_tokens",), since_s=window.since_s, until_s=window.until_s,
                          width_s=view.width_s)  # fmt: skip
    panel(
        view, key="cache-tokens", heading="Prompt tokens saved", frame=rates, column="cached_tokens",
        note="not computed because a cache held them, by variant",
        nothing="No finished request had cached tokens.",
        figure=lambda: figures.demand(rates, view.axis, view.palette, y="cached_tokens", unit=charts.TOKENS_PER_S,
                                      height=charts.HEIGHT),
    )  # fmt: skip


def _heat(view: View) -> None:
    frame = queries.pick(view.heat(world.KV), world.KV, how="high")
    rows = queries.heat_rows(frame, view.starts)
    panel(
        view, key="cache-kv", heading="KV cache in use, engine by engine", frame=frame, nothing=_NO_SAMPLES,
        note="fullest at the top (at most 40); 100 % means preemptions",
        figure=lambda: charts.heat(rows, view.axis, title="of blocks"),
    )  # fmt: skip


def _blocks(view: View, known: pd.DataFrame, answer: Any) -> None:
    with paper.frame("cache-blocks"):
        section("Blocks by engine", "what the router expects each engine's prefix cache to hold")
        if answer is None:
            paper.html(html.empty("No router is configured", "Give its admin address.",
                               command="fleet console --router URL"))  # fmt: skip
        elif not answer.reachable:
            paper.html(unreachable(answer, view))
        elif known.empty:
            paper.html(html.empty("The router knows no engine", answer.problem or "It lists them when it finds some."))
        else:
            table(known.sort_values("prefix blocks", ascending=False), view, key="cache-blocks")


def _index(view: View, page: metricspage.Page) -> None:
    with paper.frame("cache-index"):
        section("KV-event index", "the router's series on blocks, tiers and events, as it exports them")
        rows = page.table("kv_", "kvcache", "prefix_index", "index_")
        if rows.empty:
            paper.html(html.empty(
                "No KV-event index runs", "Without events the router keeps its own estimate of each engine's prefixes. "
                "Let engines publish events, and give the router their addresses, to see blocks by pod and tier, "
                "and the events' lag.",
                command='vllm serve MODEL --kv-events-config \'{"enable_kv_cache_events": true, "publisher": "zmq"}\'',
                icon="▦"))  # fmt: skip
        else:
            table(rows, view, key="cache-index")
