"""``fleet bench disaggregation``: which layout bears most, by lengths and limits."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.disaggregation.goodput import CARD_BYTES_S, SHARE, Lengths, Slo, borne
from benchmarks.disaggregation.layouts import ACCELERATOR, DOCUMENTED, LAYOUTS, SHAPE, Layout
from benchmarks.options import BenchOptions
from benchmarks.parallel import spread
from benchmarks.result import Bar, Outcome, Table
from fleet.errors import ConfigError

WORKLOADS: Final = (
    Lengths(prompt=10_000, answer=1_000), Lengths(prompt=5_000, answer=1_000), Lengths(prompt=1_000, answer=1_000),
)  # fmt: skip
SLOS: Final = (Slo(ttft_s=2.0, tpot_s=0.025), Slo(ttft_s=2.0, tpot_s=0.05), Slo(ttft_s=4.0, tpot_s=0.1))
"""Tight, usual and loose."""
BARS: Final = ("documented_vs_aggregated_10_to_1", "documented_vs_aggregated_5_to_1", "documented_vs_aggregated_1_to_1")
_BAR_SLO: Final = SLOS[0].name

Found = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""By workload, limits and layout: requests per second and GPU of each seed."""


def run(options: BenchOptions) -> Outcome:
    """All layouts on all lengths.

    Raises: ConfigError for a workload: this bench has its own.
    """
    if options.workload or options.scale != 1.0:
        raise ConfigError("the disaggregation bench has its own workloads", limit="no --workload, no --scale",
                          next_step="Use fleet bench routing for other workloads.")  # fmt: skip
    tasks = [(layout, lengths, seed) for lengths in WORKLOADS for layout in LAYOUTS for seed in options.seeds]
    rates = spread(
        _borne,
        tasks,
        jobs=options.jobs,
        tell=lambda share, task: options.progress(share, f"{task[1].name}, {task[0].name}, seed {task[2]}"),
    )
    found: dict[str, dict[str, dict[str, list[float]]]] = {
        lengths.name: {slo.name: {layout.name: [] for layout in LAYOUTS} for slo in SLOS} for lengths in WORKLOADS
    }
    for (layout, lengths, _), by_slo in zip(tasks, rates, strict=True):
        for slo, rate in by_slo.items():
            found[lengths.name][slo][layout.name].append(rate)
    return judged(found)


def _borne(task: tuple[Layout, Lengths, int]) -> Mapping[str, float]:
    return borne(task[0], task[1], SLOS, task[2])


def judged(found: Found) -> Outcome:
    """Bars and tables of what was found."""
    bars = {
        name: Bar(value=_advantage(found[lengths.name][_BAR_SLO], lengths), unit="ratio", limit="report")
        for name, lengths in zip(BARS, WORKLOADS, strict=True)
    }
    results = {workload: {slo: {layout: [round(rate, 4) for rate in rates] for layout, rates in by_layout.items()}
                          for slo, by_layout in by_slo.items()} for workload, by_slo in found.items()}  # fmt: skip
    return Outcome(results=results, bars=bars, tables=[_winners(found), *(_rates(found, slo) for slo in SLOS)],
                   notes=_notes())  # fmt: skip


def _median(by_layout: Mapping[str, Sequence[float]], layout: Layout) -> float:
    return statistics.median(by_layout[layout.name])


def _best(by_layout: Mapping[str, Sequence[float]], *, split: bool) -> tuple[str, float]:
    """The best layout of its kind, and what it bears."""
    kind = [layout for layout in LAYOUTS if (layout.ratio is not None) == split]
    best = max(kind, key=lambda layout: _median(by_layout, layout))
    return best.name, _median(by_layout, best)


def documented(lengths: Lengths) -> list[Layout]:
    """Layouts with the ratio that the source documents advise for these lengths."""
    ratio = DOCUMENTED[lengths.prompt / lengths.answer]
    return [layout for layout in LAYOUTS if layout.ratio == ratio]


def _advantage(by_layout: Mapping[str, Sequence[float]], lengths: Lengths) -> float | None:
    """The best documented layout over the best aggregated one."""
    together = _best(by_layout, split=False)[1]
    apart = max(_median(by_layout, layout) for layout in documented(lengths))
    return round(apart / together, 3) if together > 0 else None


def _winners(found: Found) -> Table:
    rows = []
    for lengths in WORKLOADS:
        for slo in SLOS:
            by_layout = found[lengths.name][slo.name]
            (together, rate), (apart, split_rate) = _best(by_layout, split=False), _best(by_layout, split=True)
            advised = max(documented(lengths), key=lambda layout: _median(by_layout, layout))
            winner = "apart" if split_rate > rate else "together"
            rows.append([lengths.name, slo.name, f"{together}: {rate:.3f}", f"{apart}: {split_rate:.3f}",
                         f"{advised.name}: {_median(by_layout, advised):.3f}", winner,
                         f"{100 * (split_rate / rate - 1):+.0f}" if rate else "-"])  # fmt: skip
    columns = ("in/out", "limits", "best together", "best apart", "best of the documents' ratio", "wins", "apart %")
    return Table(title="Where each wins: requests/s and GPU", columns=columns, rows=rows)


def _rates(found: Found, slo: Slo) -> Table:
    rows: list[list[object]] = [
        [layout.name, layout.gpus, *(round(_median(found[lengths.name][slo.name], layout), 4) for lengths in WORKLOADS)]
        for layout in LAYOUTS
    ]
    return Table(title=f"Requests/s and GPU, {slo.name}", rows=rows,
                 columns=("layout", "GPUs", *(lengths.name for lengths in WORKLOADS)))  # fmt: skip


def _notes() -> list[str]:
    return [
        f"{SHAPE} on {ACCELERATOR}; a rate is borne when {100 * SHARE:.0f} % of requests meet both limits; results are "
        "medians over seeds, divided by the layout's GPUs.",
        "Poisson arrivals, lengths lognormal around the means (sigma 0.3), nothing shared between prompts.",
        f"KV moves when the prompt is whole, over {CARD_BYTES_S / 1e9:g} GB/s an engine (200 Gbit/s), 7 % slower when "
        "several transfers meet (UCCL as measured).",
        "The documents' ratios: 8:1 prefill to decode engines at prompts 10 times the answers, 4:1 at 5, 2:1 at 1. The "
        "bars divide the best layout of that ratio by the best that does both, under the tight limits.",
    ]
