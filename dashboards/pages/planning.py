"""Planner: what the recorded traffic asks for, what it costs now, and the commands that plan from it."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dashboards import data, html, paper, queries, world
from dashboards.pages.whatif import specs_of
from dashboards.panels import section, table
from dashboards.summary import short_model
from dashboards.view import View
from dashboards.words import money, percent, seconds, si, significant
from fleet.hardware import MODELS
from fleet.types import VariantSpec


def render(view: View) -> None:
    """Draw the page."""
    models = sorted(set(view.variants["model"]) - {""})
    if not models:
        paper.html(html.empty(
            "Nothing to plan from", "No traffic was recorded in this range. Plan from numbers instead:",
            command="fleet plan size --model Llama-3.1-8B --gpu h100_sxm --rps 20 --input 1000 --output 200",
        ))  # fmt: skip
        return
    bins = view.request_bins()
    for model in [view.window.model] if view.window.model in models else models:
        _model(view, model, bins[bins["model"] == model] if len(bins) else bins)


def demand(bins: pd.DataFrame, width_s: float, span_s: float) -> dict[str, float | None]:
    """Mean and peak rate, prompt and answer lengths, cached share of one model's requests."""
    if bins.empty or not bins["requests"].sum():
        return dict.fromkeys(("rps", "peak_rps", "input", "output", "cached"))
    count = float(bins["requests"].sum())
    by_bin = bins.groupby("bin_s")["requests"].sum() / width_s
    tokens = {name: float(bins[f"{name}_tokens"].sum()) for name in ("input", "output", "cached")}
    return {
        "rps": count / span_s, "peak_rps": float(by_bin.quantile(0.99)), "input": tokens["input"] / count,
        "output": tokens["output"] / count, "cached": tokens["cached"] / max(tokens["input"], 1.0),
    }  # fmt: skip


def _model(view: View, model: str, bins: pd.DataFrame) -> None:
    answer = data.ask("controller", "/fleet")
    specs = specs_of(view, model, answer.document if answer else None)
    found = demand(bins, view.width_s, view.window.span_s)
    with paper.frame(f"plan-{model}"):
        section(short_model(model), f"what the last {seconds(view.window.span_s)} asked for")
        paper.html(html.tiles(_tiles(view, bins, found, specs)))
        if found["rps"] is None:
            paper.html(html.empty("No request finished", "Choose a longer range, or send traffic through the router."))
            return
        variants = _variants(view, model, specs)
        if len(variants):
            table(variants, view, key=f"plan-{model}")
        paper.html(f'<p class="fl-sub">Try other bounds, thresholds and prices on this very load: '
                f'<a href="{view.link("whatif", model=model)}" target="_self">What if</a>.</p>')  # fmt: skip
        for title, command in commands(model, found, specs, data.slos().of(model)):
            paper.html(f'<p class="fl-sub">{title}</p>')
            paper.code(command)


def _tiles(view: View, bins: pd.DataFrame, found: dict[str, float | None], specs: dict[str, VariantSpec]) -> list[str]:
    signals = view.signals(world.CURRENT)
    ready = queries.newest(queries.pick(signals, world.CURRENT, how="high"), by=("variant",))
    count = dict(zip(ready["variant"], ready["value"], strict=True)) if len(ready) else {}
    cost = sum(specs[name].cost_per_hour * count.get(name, 0.0) for name in specs)
    tokens = float(bins["output_tokens"].sum()) / view.window.span_s * 3600 / 1e6 if len(bins) else 0.0
    return [
        html.tile("Requests", si(found["rps"], "req/s"), limit=f"peak {si(found['peak_rps'], 'req/s')}"),
        html.tile("Prompt", si(found["input"], "tok"), limit="mean"),
        html.tile("Answer", si(found["output"], "tok"), limit="mean"),
        html.tile("Cached", percent(found["cached"]), limit="of prompt tokens"),
        html.tile("Cost now", f"{money(cost)} /h", limit=f"{money(cost * 730)} a month"),
        html.tile("Per million answer tokens", money(cost / tokens if tokens > 0 else None), limit="at this rate"),
    ]  # fmt: skip


def _variants(view: View, model: str, specs: dict[str, VariantSpec]) -> pd.DataFrame:
    """What each variant carried, and what that says of one replica."""
    signals = view.signals(world.CURRENT, world.GENERATION, world.KV)
    rows: list[dict[str, Any]] = []
    for name, spec in specs.items():
        own = signals[signals["variant"] == name] if len(signals) else signals
        replicas = queries.pick(own, world.CURRENT)["value"]
        tokens = queries.pick(own, world.GENERATION).groupby("bin_s")["value"].sum()
        kv = queries.pick(own, world.KV)["value"]
        mean = float(replicas.mean()) if len(replicas) else math.nan
        rows.append({
            "variant": name, "accelerator": spec.accelerator, "replicas, mean": significant(mean),
            "replicas, most": significant(float(replicas.max()) if len(replicas) else None),
            "bounds": f"{spec.min_replicas} to {spec.max_replicas}",
            "tok/s per replica, best": si(float(tokens.quantile(0.99)) / max(float(replicas.max()), 1.0)
                                          if len(tokens) and len(replicas) else None),
            "KV cache, mean": percent(float(kv.mean()) if len(kv) else None),
            "$/h per replica": money(spec.cost_per_hour),
        })  # fmt: skip
    return pd.DataFrame(rows)


def commands(
    model: str, found: dict[str, float | None], specs: dict[str, VariantSpec], slo: Any
) -> list[tuple[str, str]]:
    """What to run to plan for this demand, filled in."""
    name = known_model(model)
    gpu = next(iter(specs.values())).accelerator if specs else "h100_sxm"
    load = (f"--rps {found['peak_rps']:.3g} --input {found['input']:.0f} --output {found['output']:.0f} "
            f"--cached {found['cached']:.2f}")  # fmt: skip
    promise = f"--ttft {slo.ttft.threshold_s:g}" if slo.ttft else ""
    promise += f" --tpot {slo.tpot.threshold_s:g}" if slo.tpot else ""
    return [
        ("Memory of a replica, replicas and cost for the peak of this range:",
         f"fleet plan size --model {name} --gpu {gpu} {load} {promise}".strip()),
        ("Which path to take (plain, prefix caching, prefill and decode apart), and in which ratio:",
         f"fleet plan advise --model {name} {load}"),
        ("The cheapest hardware for the recorded requests:",
         f"fleet plan optimise --model {name} {load} {promise}".strip()),
    ]  # fmt: skip


def known_model(model: str) -> str:
    """The planner's name of a model: its own without publisher and suffix, where the catalogue has it."""
    short = short_model(model)
    return next(
        (name for name in sorted(MODELS, key=len, reverse=True) if short.lower().startswith(name.lower())), short
    )
