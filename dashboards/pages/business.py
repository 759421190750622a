"""L1 Business: are the promises kept, and how fast, how much, how many."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from dashboards import charts, data, figures, html, paper, queries
from dashboards.charts import GREY, STATE_COLOURS, TOKENS_PER_S, Limit
from dashboards.panels import panel, section, table
from dashboards.source import Reader
from dashboards.summary import Level
from dashboards.view import View
from dashboards.window import TENANTS_S
from dashboards.words import change, change_points, percent, seconds, si
from fleet.slo import Slo

_QUANTILES = (0.5, 0.95, 0.99)
_NO_REQUESTS = "No request finished. Send traffic through the router, or choose a longer range."


def render(view: View) -> None:
    """Draw the page."""
    bins, before = view.request_bins(), view.requests_before()
    paper.html(html.tiles(tiles(view, bins, before)))
    _attainment(view, bins)
    left, right = paper.columns(2)
    with left:
        _latency(view, "ttft", "Time to first token (TTFT)")
        _latency(view, "e2e", "Whole request (E2E)")
    with right:
        _latency(view, "tpot", "Time per output token (TPOT)")
        _throughput(view, bins)
    left, right = paper.columns(2)
    with left:
        _goodput(view, bins)
    with right:
        _failures(view, bins)
    _tenants(view)


def tenant_rows(counts: pd.DataFrame, span_s: float) -> pd.DataFrame:
    """A row a tenant: rates, and shares of its requests; empty where the router knows no tenants."""
    if counts.empty or not (counts["tenant"] != "").any():
        return pd.DataFrame()
    judged = (counts["requests"] - counts["aborted"]).clip(lower=0)
    share = {"success": (counts["ok"], judged), "every promise": (counts["good"], judged),
             "TTFT kept": (counts["ttft_ok"], counts["ttft_n"]), "TPOT kept": (counts["tpot_ok"], counts["tpot_n"]),
             "refused": (counts["rejected"], counts["requests"])}  # fmt: skip
    table = pd.DataFrame({
        "tenant": counts["tenant"].replace("", "(none)"),
        "requests/s": [si(value / span_s) for value in counts["requests"]],
        "share": [percent(value / counts["requests"].sum()) for value in counts["requests"]],
        "output tok/s": [si(value / span_s) for value in counts["output_tokens"]],
    })  # fmt: skip
    for name, (part, whole) in share.items():
        table[name] = [percent(queries.ratio(float(a), float(b))) for a, b in zip(part, whole, strict=True)]
    return table


def _tenants(view: View) -> None:
    span = min(view.window.span_s, TENANTS_S)
    rows = tenant_rows(view.read(Reader.tenants, view.window), span)
    if rows.empty:
        return
    with paper.frame("tenants"):
        section("Tenants", f"the newest {seconds(span)}, busiest first; shares are of each one's own requests")
        table(rows, view, key="tenants")


def tiles(view: View, bins: pd.DataFrame, before: pd.DataFrame) -> list[str]:
    """A figure a promise, then what flowed."""
    slo = data.slos().of(view.window.model)
    success, span = queries.success_rate(bins), view.window.span_s
    output, output_before = _rate(bins, "output_tokens", span), _rate(before, "output_tokens", span)
    requests, requests_before = _rate(bins, "requests", span), _rate(before, "requests", span)
    goal = f"promised {si(slo.output_tps)} under load" if slo.output_tps else ""
    total = f"{si(float(bins['requests'].sum()))} in all" if len(bins) else ""
    return [
        *_latency_tiles(slo, bins, before),
        html.tile(
            "Success",
            percent(success),
            limit=f"promised {percent(slo.success_rate)}",
            note=change_points(success, queries.success_rate(before)),
            level=_level(success, slo.success_rate),
        ),
        html.tile("Output", si(output, "tok/s"), limit=goal, note=change(output, output_before)),
        html.tile("Requests", si(requests, "req/s"), limit=total, note=change(requests, requests_before)),
    ]


def _latency_tiles(slo: Slo, bins: pd.DataFrame, before: pd.DataFrame) -> Iterator[str]:
    for name in ("ttft", "tpot", "e2e"):
        target = getattr(slo, name)
        if target is None:
            continue
        now, was = queries.attainment(bins, name), queries.attainment(before, name)
        yield html.tile(
            f"{name.upper()} < {seconds(target.threshold_s)}",
            percent(now),
            limit=f"promised {percent(target.objective)}",
            note=change_points(now, was),
            level=_level(now, target.objective),
        )


def _level(value: float | None, objective: float | None) -> Level | None:
    if value is None or objective is None:
        return None
    return Level.GOOD if value >= objective else Level.BREACH


def _rate(bins: pd.DataFrame, column: str, span_s: float) -> float | None:
    return float(bins[column].sum()) / span_s if len(bins) else None


def _attainment(view: View, bins: pd.DataFrame) -> None:
    slo = data.slos().of(view.window.model)
    promises = [name for name in ("ttft", "tpot", "e2e") if getattr(slo, name) is not None]
    series = {name: queries.attainment_over_time(bins, name, view.starts) for name in promises}
    table = pd.concat([rows.assign(promise=name) for name, rows in series.items()]) if series else pd.DataFrame()
    objective = slo.ttft.objective if slo.ttft else 0.95

    def figure() -> object:
        unit = charts.Unit(title="percent", ticks=".0%", hover=".2%", ceiling=1.0)
        chart = charts.blank(view.axis, unit, height=200)
        charts.bands(chart, view.axis, view.alert_bands())
        for (name, rows), dash in zip(series.items(), (None, "dash", "dot"), strict=False):
            charts.line(
                chart,
                view.axis,
                rows,
                name=name.upper(),
                colour=charts.INK if dash is None else GREY,
                unit=unit,
                dash=dash,
            )
        charts.limits(chart, (Limit(value=objective, label=f"promised {percent(objective)}"),))
        return chart

    panel(
        view,
        key="attainment",
        heading="SLO attainment",
        note="share of requests within each limit; alerts shaded",
        frame=table,
        figure=figure,
        nothing=_NO_REQUESTS,
    )


def _latency(view: View, what: str, heading: str) -> None:
    target = getattr(data.slos().of(view.window.model), what)
    fleet, variants, step = view.percentiles(what, *_QUANTILES)
    note = "P95 by variant, band: all" + (f"; one request in {step} is read" if step > 1 else "")
    if not step:
        note = "P95 by model, band: the router's; between bucket bounds, over at least 5 min"
    marks = () if target is None else (Limit(value=target.threshold_s, label=f"limit {seconds(target.threshold_s)}"),)
    panel(
        view,
        key=what,
        heading=heading,
        note=note,
        frame=variants,
        column="p95",
        nothing=_NO_REQUESTS,
        figure=lambda: charts.latency(fleet, variants, view.axis, view.palette, marks=marks, alerts=view.alert_bands()),
    )


def _throughput(view: View, bins: pd.DataFrame) -> None:
    rates = _rates(view, bins, ("output_tokens",))
    panel(
        view,
        key="throughput",
        heading="Output tokens",
        note="tokens of finished requests, by variant, stacked",
        frame=rates,
        column="output_tokens",
        nothing=_NO_REQUESTS,
        figure=lambda: figures.demand(
            rates, view.axis, view.palette, y="output_tokens", unit=TOKENS_PER_S, alerts=view.alert_bands()
        ),
    )


def _rates(view: View, bins: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    grouped = queries.summed(bins, by=("variant",), columns=columns)
    return queries.rates(
        grouped, columns, since_s=view.window.since_s, until_s=view.window.until_s, width_s=view.width_s
    )


def _goodput(view: View, bins: pd.DataFrame) -> None:
    rates = _rates(view, bins, ("good", "requests"))
    table = queries.summed(rates, by=(), columns=("good", "requests"))

    def figure() -> object:
        chart = charts.blank(view.axis, charts.REQUESTS_PER_S)
        charts.bands(chart, view.axis, view.alert_bands())
        charts.line(
            chart, view.axis, table, name="finished", colour=GREY, unit=charts.REQUESTS_PER_S, y="requests", width=1.3
        )
        charts.line(
            chart,
            view.axis,
            table,
            name="met every promise",
            colour=charts.OKABE_ITO[2],
            unit=charts.REQUESTS_PER_S,
            y="good",
            fill="tozeroy",
            fillcolor=figures.translucent(charts.OKABE_ITO[2], 0.15),
        )
        return chart

    panel(
        view,
        key="goodput",
        heading="Goodput",
        note="requests that met every promise, of those that finished",
        frame=table,
        column="requests",
        figure=figure,
        nothing=_NO_REQUESTS,
    )


def _failures(view: View, bins: pd.DataFrame) -> None:
    names = [*queries.OUTCOMES_FAILED, "aborted"]
    counts = queries.summed(bins, by=(), columns=(*names, "requests"))
    failed = counts if len(counts) and counts[names].to_numpy().sum() else counts.iloc[:0]
    ended = f"All {si(float(counts['requests'].sum()))} requests ended well" if len(counts) else ""
    unit = charts.Unit(title=f"requests per {seconds(view.width_s)}", hover="d")
    panel(
        view,
        key="failures",
        heading="Failed requests",
        note="aborted: the client gave up, or asked for what is not served; not a failure",
        frame=failed,
        column="requests",
        nothing=_NO_REQUESTS,
        well=ended,
        figure=lambda: charts.stacked(failed, view.axis, unit, {name: STATE_COLOURS[name] for name in names}),
    )
