"""What if: other promises, thresholds, bounds or prices, tried on what was recorded, through the real ``decide``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboards import charts, data, fleetdoc, html, paper, queries, whatif, world
from dashboards.panels import panel, section, table
from dashboards.summary import short_model
from dashboards.view import View
from dashboards.words import money, percent, si
from fleet.hardware import GPUS
from fleet.types import VariantSpec
from wva.analyzers import ANALYZERS
from wva.types import Policy

_SIGNALS = (world.RUNNING, world.WAITING, world.KV, world.GENERATION, world.CURRENT)


def render(view: View) -> None:
    """Draw the page: all of it is one viewer's, as it hangs on a form."""
    paper.live(lambda: _tried(view))


def _tried(view: View) -> None:
    models = sorted(set(view.variants["model"]) - {""})
    if not models:
        st.html(html.empty("Nothing to replay", "No variant was recorded in this range. Choose a longer one.",
                           command="fleet up"))  # fmt: skip
        return
    model = view.window.model if view.window.model in models else models[0]
    ttft = data.slos().of(model).ttft
    limit_s, objective = (ttft.threshold_s, ttft.objective) if ttft else (1.0, 0.95)
    answer = data.ask("controller", "/fleet")
    document = answer.document if answer else None
    specs, told = specs_of(view, model, document), fleetdoc.policy(document)
    policy = replace(told or Policy(), slo_ttft_s=limit_s, slo_objective=objective)
    tried = _controls(model, specs, policy, startup_s(document, policy))
    if tried is None:
        st.html(html.empty(
            "Nothing has been tried yet",
            f"Move a setting of {short_model(model)} and press Replay: the load of this time range then goes through "
            "the controller's own decide() once as it is configured and once as you want it. Nothing real is changed.",
            icon="⇄",
        ))  # fmt: skip
        return
    if told is None:
        st.html(f'<p class="fl-sub">The controller does not say how it decides: "as it is" is taken for the analyzer '
                f"{policy.analyzer} with its defaults.</p>")  # fmt: skip
    _compare(view, model, specs, tried, policy)


def startup_s(document: Any, policy: Policy) -> float:
    """How long a replica takes to start: the longest that the controller knows of, else what it plans with."""
    known = fleetdoc.specs(document)["startup_s"].astype(float).max()
    return policy.lead_time_s if pd.isna(known) else float(known)


def specs_of(view: View, model: str, document: Any) -> dict[str, VariantSpec]:
    """Specs of a model's variants: the controller's where it answers, else what the history and price list say."""
    told = {str(row["variant"]): row for row in fleetdoc.specs(document).to_dict("records")}
    found = {}
    for row in view.variants[view.variants["model"] == model].to_dict("records"):
        name, said = str(row["variant"]), told.get(str(row["variant"]), {})
        gpu = GPUS.get(str(row["accelerator"]))
        found[name] = VariantSpec(
            name=name,
            model=model,
            accelerator=str(row["accelerator"]),
            cost_per_hour=_number(said, "cost_per_hour", gpu.price_per_hour if gpu else 10.0),
            min_replicas=int(_number(said, "min_replicas", 1)),
            max_replicas=int(_number(said, "max_replicas", 10)),
            saturation_threshold=_number(said, "saturation_threshold", 0.8),
            scale_down_threshold=_number(said, "scale_down_threshold", 0.3),
        )
    return found


def _number(said: Mapping[Any, Any], name: str, usual: float) -> float:
    """What the controller says of a variant, 0 included."""
    value = said.get(name)
    return usual if value is None or pd.isna(value) else float(value)


_BY_SATURATION = "Of the analyzers saturation, v1 and v2; slo goes by the latency targets alone."


def _controls(
    model: str, specs: Mapping[str, VariantSpec], policy: Policy, starts_s: float
) -> Mapping[str, Any] | None:  # fmt: skip
    """The form; what was submitted last, or None."""
    first = next(iter(specs.values()))
    with st.container(border=True, key="panel-whatif-form"), st.form(f"whatif-{model}", border=False):
        section(f"Try on {short_model(model)}", "recorded load, the controller's own decide(), other settings")
        one, two, three, four = st.columns(4)
        names = list(ANALYZERS)
        analyzer = one.selectbox("Analyzer", names, names.index(policy.analyzer), key="wi-analyzer",
                                 help=f"What the controller decides by; now {policy.analyzer}.")  # fmt: skip
        ttft = two.number_input("TTFT limit, seconds", 0.01, 60.0, policy.slo_ttft_s, 0.05, key="wi-ttft")
        up = three.slider("Scale up above saturation", 0.3, 1.0, first.saturation_threshold, 0.05, key="wi-up",
                          help=_BY_SATURATION)  # fmt: skip
        down = four.slider("Scale down below saturation", 0.0, 0.7, first.scale_down_threshold, 0.05, key="wi-down",
                           help=_BY_SATURATION)  # fmt: skip
        prices, bounds = {}, {}
        for name, spec in specs.items():
            left, middle, right, _ = st.columns(4)
            prices[name] = left.number_input(f"{name}, $ per replica and hour", 0.0, 1e4, spec.cost_per_hour, 0.1,
                                             key=f"wi-price-{name}")  # fmt: skip
            low = middle.number_input(f"{name}, fewest replicas", 0, 1000, spec.min_replicas, key=f"wi-min-{name}")
            high = right.number_input(f"{name}, most replicas", 1, 1000, spec.max_replicas, key=f"wi-max-{name}")
            bounds[name] = (int(low), max(int(low), int(high)))
        startup = one.number_input("Start-up of a replica, seconds", 0.0, 3600.0, starts_s, 5.0, key="wi-startup")
        if st.form_submit_button("Replay", type="primary", icon=":material/replay:"):
            st.session_state["wi-tried"] = {
                "model": model, "analyzer": analyzer, "ttft": ttft, "up": up, "down": min(down, up), "prices": prices,
                "bounds": bounds, "startup": startup,
            }  # fmt: skip
    tried: Mapping[str, Any] | None = st.session_state.get("wi-tried")
    return tried if tried and tried["model"] == model else None


def record_of(view: View, model: str, specs: Mapping[str, VariantSpec], *, limit_s: float) -> whatif.Record:
    """What was recorded of a model, on one grid of steps."""
    starts = view.starts[:-1] if len(view.starts) > 1 else view.starts
    signals = view.signals(*_SIGNALS)
    own = signals[signals["variant"].isin(list(specs))] if len(signals) else signals
    counted = queries.pick(own, world.CURRENT).dropna(subset="value")
    began = counted["bin_s"].min()
    starts = starts[starts >= began] if pd.notna(began) else starts  # before it nothing ran that could be replayed
    bins = view.request_bins()
    ours = bins[bins["model"] == model] if len(bins) else bins
    totals = ours.groupby("bin_s")[["requests", "input_tokens", "output_tokens"]].sum() if len(ours) else pd.DataFrame()
    latencies, _ = view.latencies()
    rows = latencies[(latencies["model"] == model) & latencies["ttft_s"].notna()] if len(latencies) else latencies
    kept = pd.Series(dtype=float)
    if len(rows):
        bin_of = (rows["done_s"] // view.width_s) * view.width_s
        kept = (rows["ttft_s"] < limit_s).astype(float).groupby(bin_of).mean()

    def column(name: str) -> np.ndarray:
        values = totals[name] if name in totals else pd.Series(dtype=float)
        return values.reindex(starts).fillna(0.0).to_numpy(dtype=float)

    return whatif.Record(
        model=model, at_s=np.asarray(starts, dtype=float) + view.width_s, step_s=view.width_s,
        requests=column("requests"), prompt_tokens=column("input_tokens"), output_tokens=column("output_tokens"),
        kept=kept.reindex(starts).to_numpy(dtype=float),
        loads=tuple(load for spec in specs.values() if (load := _load(signals, spec, starts)) is not None),
    )  # fmt: skip


def _load(signals: pd.DataFrame, spec: VariantSpec, starts: np.ndarray) -> whatif.Load | None:
    own = signals[signals["variant"] == spec.name] if len(signals) else signals

    def series(name: str, how: str) -> pd.Series:
        grouped = queries.pick(own, name).groupby("bin_s")["value"]
        values = grouped.sum() if how == "sum" else grouped.mean()
        return values.reindex(starts).ffill(limit=4)

    replicas = series(world.CURRENT, "mean").bfill()
    if replicas.isna().all():
        return None
    arrays = {
        "running": series(world.RUNNING, "sum"), "waiting": series(world.WAITING, "sum"),
        "kv": series(world.KV, "mean"), "generation_tps": series(world.GENERATION, "sum"),
    }  # fmt: skip
    filled = {name: values.fillna(0.0).to_numpy(dtype=float) for name, values in arrays.items()}
    return whatif.Load(spec=spec, replicas=replicas.ffill().round().to_numpy(dtype=float), **filled)


def _compare(
    view: View, model: str, specs: Mapping[str, VariantSpec], tried: Mapping[str, Any], policy: Policy
) -> None:  # fmt: skip
    limits = (policy.slo_ttft_s, float(tried["ttft"]))
    now, then = (record_of(view, model, specs, limit_s=limit) for limit in limits)
    if problem := whatif.usable(now):
        st.html(html.empty("This time range cannot be replayed", f"{problem}. Choose a longer range, or another time."))
        return
    other = whatif.changed(specs, up=tried["up"], down=tried["down"], ttft_s=tried["ttft"], prices=tried["prices"],
                           bounds=tried["bounds"])  # fmt: skip
    asis = whatif.replay(now, specs, policy, startup_s=tried["startup"])
    wish = whatif.replay(then, other, replace(policy, analyzer=tried["analyzer"], slo_ttft_s=tried["ttft"]),
                         startup_s=tried["startup"])  # fmt: skip
    st.html(html.tiles(_tiles(asis, wish)))
    both = pd.concat([asis.replicas.assign(which="as it is"), wish.replicas.assign(which="what if")])
    for load in now.loads:
        _chart(view, load, both)
    with st.container(border=True, key="panel-whatif-table"):
        section("Side by side", "of the same recorded load")
        table(_rows(now, asis, wish), view, key="whatif")
        st.html('<p class="fl-sub">How it is worked out: docs/console.md, "What if". Attainment is that of recorded '
                "requests at the same load per replica; beyond recorded loads it is a guess.</p>")  # fmt: skip


_A_CENT, _A_POINT = 0.01, 0.01
_SAME = "no change"


def _tiles(asis: whatif.Outcome, wish: whatif.Outcome) -> list[str]:
    cost = wish.cost - asis.cost
    share = (wish.attained or 0) - (asis.attained or 0)
    return [
        html.tile("Cost", money(wish.cost), limit=f"as it is {money(asis.cost)}",
                  note=f"{'+' if cost > 0 else '−'}{money(abs(cost))}" if abs(cost) >= _A_CENT / 2 else _SAME),
        html.tile("TTFT kept", percent(wish.attained), limit=f"as it is {percent(asis.attained)}",
                  note=f"{share * 100:+.1f} pt" if abs(share) >= _A_POINT / 20 else _SAME),
        html.tile("Replica hours", si(wish.replica_hours), limit=f"as it is {si(asis.replica_hours)}"),
        html.tile("Changes of replicas", str(wish.changes), limit=f"as it is {asis.changes}"),
        html.tile("Most requests waiting", si(wish.worst_wait), limit=f"as it is {si(asis.worst_wait)}"),
    ]  # fmt: skip


def _rows(record: whatif.Record, asis: whatif.Outcome, wish: whatif.Outcome) -> pd.DataFrame:
    kept, judged = np.nan_to_num(record.kept), np.isfinite(record.kept)
    real = float((kept * record.requests)[judged].sum() / max(record.requests[judged].sum(), 1))
    moves = sum(int(np.count_nonzero(np.diff(load.replicas))) for load in record.loads)
    recorded = sum(float(load.replicas.sum()) * record.step_s / 3600 for load in record.loads)
    spent = sum(float(load.replicas.sum()) * record.step_s / 3600 * load.spec.cost_per_hour for load in record.loads)
    return pd.DataFrame({
        "figure": ["TTFT kept", "cost", "replica hours", "changes of replicas"],
        "recorded": [percent(real), money(spent), si(recorded), str(moves)],
        "replayed as it is": [percent(asis.attained), money(asis.cost), si(asis.replica_hours), str(asis.changes)],
        "what if": [percent(wish.attained), money(wish.cost), si(wish.replica_hours), str(wish.changes)],
    })  # fmt: skip


def _chart(view: View, load: whatif.Load, both: pd.DataFrame) -> None:
    name, colour = load.spec.name, view.palette.get(load.spec.name, charts.GREY)
    frame = both[both["variant"] == name]

    def figure() -> Any:
        chart = charts.blank(view.axis, charts.REPLICAS, height=210)
        chart.update_axis("yaxis", dtick=max(1, int(frame["value"].max() // 4)), nticks=0)
        for which, dash in (("as it is", "dot"), ("what if", None)):
            rows = frame[frame["which"] == which]
            charts.line(chart, view.axis, rows, name=which, colour=colour, unit=charts.REPLICAS, dash=dash, step=True)
        return chart

    panel(view, key=f"whatif-{name}", heading=f"Ready replicas of {name}", note="replayed twice over the same load",
          frame=frame, figure=figure, nothing="No replica was recorded.")  # fmt: skip
