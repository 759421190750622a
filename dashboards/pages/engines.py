"""L2 vLLM: what the engines are doing: queue, batch, KV cache, prefix hits, tokens, preemptions."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from dashboards import charts, html, paper, queries, world
from dashboards.charts import Limit, Unit
from dashboards.panels import panel
from dashboards.view import View
from dashboards.words import percent, si

_NO_SAMPLES = "No engine was sampled. The controller writes these with each pass: check that it runs and finds engines."
_SIGNALS = (world.KV, world.WAITING, world.RUNNING, world.GENERATION, world.PROMPT, world.HIT_RATIO, world.PREEMPTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summed:
    """A chart of one signal, summed over the engines of each variant."""

    signal: str
    key: str
    heading: str
    note: str
    unit: Unit


_WAITING = Summed(
    signal=world.WAITING, key="queue", heading="Queue", note="requests waiting in the engines", unit=charts.REQUESTS
)
_RUNNING = Summed(
    signal=world.RUNNING, key="running", heading="Running batch", note="requests being computed", unit=charts.REQUESTS
)
_GENERATION = Summed(
    signal=world.GENERATION, key="generation", heading="Generated tokens", note="by variant", unit=charts.TOKENS_PER_S
)
_PROMPT = Summed(
    signal=world.PROMPT,
    key="prompt",
    heading="Prompt tokens",
    note="by variant, cached ones included",
    unit=charts.TOKENS_PER_S,
)


def render(view: View) -> None:
    """Draw the page."""
    signals = view.signals(*_SIGNALS)
    paper.html(html.tiles(tiles(signals, view.engines())))
    _heat(view)
    left, right = paper.columns(2)
    with left:
        _sum(view, signals, _WAITING)
        _sum(view, signals, _GENERATION)
        _hits(view, signals)
    with right:
        _sum(view, signals, _RUNNING)
        _sum(view, signals, _PROMPT)
        _preemptions(view, signals)


def tiles(signals: pd.DataFrame, engines: int) -> list[str]:
    """The newest figures of all engines together."""

    since_s = queries.fresh_since(signals)

    def last(name: str) -> pd.Series:
        rows = queries.newest(queries.pick(signals, name), by=("variant", "endpoint"), since_s=since_s)
        return rows["value"].astype(float)

    kv, hits, waiting = last(world.KV), last(world.HIT_RATIO), last(world.WAITING)
    running, generation = last(world.RUNNING), last(world.GENERATION)

    def total(values: pd.Series, unit: str) -> str:
        return si(float(values.sum()) if len(values) else None, unit)

    return [
        html.tile("Engines sampled", str(engines) if engines else "–"),
        html.tile("Waiting", total(waiting, ""), limit="requests"),
        html.tile("Running", total(running, ""), limit="requests"),
        html.tile("KV cache, fullest", percent(float(kv.max()) if len(kv) else None), limit="of its blocks"),
        html.tile("Generated", total(generation, "tok/s")),
        html.tile("Prefix hits", percent(float(hits.mean()) if len(hits) else None), limit="of prompt tokens, mean"),
    ]


def _heat(view: View) -> None:
    frame = queries.pick(view.heat(world.KV), world.KV, how="high")
    table = queries.heat_rows(frame, view.starts)
    panel(
        view,
        key="kv",
        heading="KV cache in use",
        note="one row an engine, fullest at the top (at most 40); 100 % means preemptions",
        frame=frame,
        nothing=_NO_SAMPLES,
        figure=lambda: charts.heat(table, view.axis, title="of blocks"),
    )


def _sum(view: View, signals: pd.DataFrame, shown: Summed) -> None:
    frame = queries.summed(queries.pick(signals, shown.signal), by=("variant",))
    panel(
        view,
        key=shown.key,
        heading=shown.heading,
        note=shown.note,
        frame=frame,
        nothing=_NO_SAMPLES,
        figure=lambda: charts.by_variant(
            frame, view.axis, shown.unit, view.palette, width_s=view.width_s, alerts=view.alert_bands()
        ),
    )


def _hits(view: View, signals: pd.DataFrame) -> None:
    frame = queries.pick(signals, world.HIT_RATIO)
    means = queries.averaged(frame, by=("variant",))
    panel(
        view,
        key="hits",
        heading="Prefix cache hits",
        note="share of prompt tokens found, mean of the engines",
        frame=means,
        nothing="No prefix look-ups: prefix caching may be off in the engines.",
        figure=lambda: charts.by_variant(means, view.axis, charts.RATIO, view.palette, width_s=view.width_s),
    )


def _preemptions(view: View, signals: pd.DataFrame) -> None:
    increase = queries.counter_increase(queries.pick(signals, world.PREEMPTIONS), by=("variant", "endpoint"))
    frame = queries.summed(increase.dropna(subset=["value"]), by=("variant",))
    per_minute = frame.assign(value=frame["value"] * 60 / view.width_s) if len(frame) else frame
    unit = Unit(title="preemptions per minute")
    panel(
        view,
        key="preemptions",
        heading="Preemptions",
        note="requests thrown out of a full cache and computed again",
        frame=per_minute,
        nothing="The history holds no preemption counts; L4 shows each engine's total.",
        figure=lambda: charts.by_variant(
            per_minute,
            view.axis,
            unit,
            view.palette,
            width_s=view.width_s,
            marks=(Limit(value=0.0, label="", colour=charts.GREY),),
        ),
    )
