"""L3 Resources: GPUs, their memory, what they cost."""

from __future__ import annotations

from typing import Final

import pandas as pd

from dashboards import charts, data, fleetdoc, html, paper, queries, world
from dashboards.charts import Unit
from dashboards.panels import panel, section, table
from dashboards.source import Reader
from dashboards.view import View
from dashboards.words import money, percent, si
from fleet.hardware import GPUS

_DCGM: Final = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("GPU activity", charts.RATIO),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("Tensor cores", charts.RATIO),
    "DCGM_FI_DEV_GPU_UTIL": ("GPU utilisation", Unit(title="percent", ceiling=100)),
    "DCGM_FI_DEV_FB_USED": ("HBM in use", Unit(title="MiB")),
    "DCGM_FI_DEV_POWER_USAGE": ("Power", Unit(title="watts", suffix="W")),
    "DCGM_FI_DEV_GPU_TEMP": ("Temperature", Unit(title="°C")),
    "DCGM_FI_DEV_XID_ERRORS": ("Last XID error", Unit(title="XID code")),
}
"""Series of dcgm-exporter that are drawn when the history holds them."""


def render(view: View) -> None:
    """Draw the page."""
    answer = data.ask("controller", "/fleet")
    specs = fleetdoc.specs(answer.document if answer else None)
    signals = view.signals(world.KV, world.CURRENT, world.COST)
    inventory = accelerators(view, specs, signals)
    paper.html(html.tiles(tiles(inventory, signals)))
    with paper.frame("inventory"):
        section("Accelerators", "one row a variant; the price is the variant's own, or the list price of its GPU")
        if len(inventory):
            table(inventory, view, key="accelerators")
        else:
            paper.html(html.empty("No variants yet", "Start the fleet, or choose a longer range.", command="fleet up"))
    _cost(view, signals, inventory)
    _kv(view, signals)
    _gpu(view)


def accelerators(view: View, specs: pd.DataFrame, signals: pd.DataFrame) -> pd.DataFrame:
    """What is known of each variant's hardware: from the controller, else from history and catalogue."""
    current = queries.newest(queries.pick(signals, world.CURRENT, how="high"), by=("variant",))
    ready = dict(zip(current["variant"], current["value"], strict=True)) if len(current) else {}
    known = {str(row["variant"]): row for row in specs.to_dict("records")}
    rows = []
    for row in view.variants.to_dict("records"):
        name, spec = str(row["variant"]), known.get(str(row["variant"]), {})
        accelerator = str(spec.get("accelerator") or row["accelerator"])
        gpu, gpus = GPUS.get(accelerator), int(spec.get("accelerator_count") or 1)
        cost = spec.get("cost_per_hour") or (gpu.price_per_hour * gpus if gpu else None)
        replicas = int(ready.get(name, 0))
        rows.append(
            {
                "variant": name,
                "accelerator": accelerator,
                "GPUs per replica": gpus,
                "replicas ready": replicas,
                "HBM per GPU, GiB": gpu.memory_gib if gpu else None,
                "bandwidth, TB/s": gpu.hbm_tb_s if gpu else None,
                "power limit, W": gpu.power_w if gpu else None,
                "$/h per replica": cost,
                "$/h now": None if cost is None else cost * replicas,
            }
        )
    return pd.DataFrame(rows)


def tiles(inventory: pd.DataFrame, signals: pd.DataFrame) -> list[str]:
    """GPUs, memory, cost."""
    since_s = queries.fresh_since(signals)
    kv = queries.newest(queries.pick(signals, world.KV), by=("variant", "endpoint"), since_s=since_s)["value"].astype(
        float
    )
    if inventory.empty:
        gpus = cost = memory = None
    else:
        count = inventory["GPUs per replica"] * inventory["replicas ready"]
        gpus = float(count.sum())
        memory = float((count * inventory["HBM per GPU, GiB"].astype(float)).sum())
        cost = float(inventory["$/h now"].astype(float).sum())
    return [
        html.tile("GPUs in use", si(gpus), limit="of ready replicas"),
        html.tile("HBM", si(memory, "GiB"), limit="of these GPUs"),
        html.tile("KV cache in use", percent(float(kv.mean()) if len(kv) else None), limit="mean of the engines"),
        html.tile("Cost", f"{money(cost)} /h", limit="of ready replicas"),
    ]


def _cost(view: View, signals: pd.DataFrame, inventory: pd.DataFrame) -> None:
    reported = queries.pick(signals, world.COST, how="high")
    frame, source = reported, "as the controller reports it"
    if reported.empty and len(inventory):
        price = dict(zip(inventory["variant"], inventory["$/h per replica"].astype(float), strict=True))
        current = queries.pick(signals, world.CURRENT, how="high")
        frame, source = current.assign(value=current["value"] * current["variant"].map(price)), "ready replicas x price"
    unit = Unit(title="US dollars per hour", hover=".2f")
    panel(
        view,
        key="cost",
        heading="Cost per hour",
        note=f"by variant, {source}",
        frame=frame,
        nothing="No replica counts yet: the controller writes them with each pass.",
        figure=lambda: charts.by_variant(
            frame, view.axis, unit, view.palette, width_s=view.width_s, step=True, height=210
        ),
    )


def _kv(view: View, signals: pd.DataFrame) -> None:
    frame = queries.pick(signals, world.KV)
    means = queries.averaged(frame, by=("variant",))
    panel(
        view,
        key="hbm",
        heading="HBM held by the KV cache",
        note="share of the cache's blocks in use, mean of the engines; vLLM claims the memory itself at start",
        frame=means,
        nothing="No engine was sampled.",
        figure=lambda: charts.by_variant(
            means, view.axis, charts.RATIO, view.palette, width_s=view.width_s, height=210
        ),
    )


def _gpu(view: View) -> None:
    names = [name for name in view.read(Reader.signal_names, view.window, "DCGM_") if name in _DCGM]
    if not names:
        paper.html(
            html.empty(
                "No GPU metrics here",
                "Activity, tensor cores, power, temperature and XID errors come from NVIDIA's dcgm-exporter. "
                "Run it on the GPU nodes, let Prometheus scrape it, and start the loop with that Prometheus: "
                "these charts then fill by themselves. Simulated engines have no GPU.",
                command="docker run -d --gpus all --cap-add SYS_ADMIN -p 9400:9400 nvcr.io/nvidia/k8s/dcgm-exporter",
                icon="▦",
            )
        )
        return
    signals = view.signals(*names)
    columns = paper.columns(2)
    for index, name in enumerate(names):
        heading, unit = _DCGM[name]
        frame = queries.pick(signals, name)
        means = queries.averaged(frame, by=("variant",))
        with columns[index % 2]:
            _dcgm(view, name, heading, unit, means)


def _dcgm(view: View, name: str, heading: str, unit: Unit, means: pd.DataFrame) -> None:
    panel(
        view,
        key=name,
        heading=heading,
        note=name,
        frame=means,
        nothing="The series stopped.",
        figure=lambda: charts.by_variant(means, view.axis, unit, view.palette, width_s=view.width_s),
    )
