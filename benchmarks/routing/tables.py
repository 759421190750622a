"""Runs as tables and plots. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.result import Plot, Series, Table
from benchmarks.routing import judge
from benchmarks.routing.figures import StageFigures, median_of
from benchmarks.routing.judge import Run
from benchmarks.routing.published import LADDER

_DRAWN: Final = ("round-robin", "cache-aware", "lmetric", "blend-3222", "sticky", judge.OURS)
_MILLI: Final = 1000.0

_COLUMNS: Final[dict[str, Callable[[StageFigures], float]]] = {
    "within limits %": lambda figures: figures.good_pct,
    "goodput /s": lambda figures: figures.goodput_rps,
    "output tok/s": lambda figures: figures.output_tok_s,
    "TTFT mean s": lambda figures: figures.ttft_s.mean,
    "P50": lambda figures: figures.ttft_s.p50,
    "P90": lambda figures: figures.ttft_s.p90,
    "P99": lambda figures: figures.ttft_s.p99,
    "TPOT mean ms": lambda figures: _MILLI * figures.tpot_s.mean,
    "P90 ms": lambda figures: _MILLI * figures.tpot_s.p90,
    "P99 ms": lambda figures: _MILLI * figures.tpot_s.p99,
    "E2E mean s": lambda figures: figures.e2e_s.mean,
    "E2E P90": lambda figures: figures.e2e_s.p90,
    "E2E P99": lambda figures: figures.e2e_s.p99,
    "hit rate": lambda figures: figures.hit_rate,
    "imbalance": lambda figures: figures.imbalance,
}


def tables(runs: Sequence[Run]) -> list[Table]:
    """Ours against the best, each workload, and the ladder by rate."""
    found = [_against_best(runs), *(_arms(runs, workload) for workload in judge.workloads(runs))]
    if any(judge.pairs(runs, workload) for workload in judge.workloads(runs)):
        found.insert(1, _pairs(runs))
    if "ladder" in judge.workloads(runs):
        found += [
            _by_rate(runs, "Ladder: output tokens/s", lambda figures: figures.output_tok_s, "{:.0f}"),
            _by_rate(runs, "Ladder: TTFT P90, seconds", lambda figures: figures.ttft_s.p90, "{:.3g}"),
        ]
    return found


def _against_best(runs: Sequence[Run]) -> Table:
    rows = []
    for workload in judge.workloads(runs):
        ahead, best = judge.advantage_pct(runs, workload)
        ours, bound = (judge.main_figure(judge.of(runs, workload, arm)) for arm in (judge.OURS, "clairvoyant"))
        later, quickest = judge.quicker_pct(runs, workload)
        rival = judge.main_figure(judge.of(runs, workload, best))
        rows.append([workload, judge.of(runs, workload, judge.OURS)[0].main, ours, f"{best} {rival:.4g}",
                     f"{ahead:+.1f}", f"{judge.worst_seed_pct(runs, workload):+.1f}", bound,
                     f"{later:+.1f} ({quickest})"])  # fmt: skip
    columns = (
        "workload",
        "compared by",
        "ours",
        "best other arm",
        "ahead %",
        "worst seed %",
        "clairvoyant",
        "mean E2E %",
    )
    return Table(title="Ours against the best other arm", columns=columns, rows=rows)


def _pairs(runs: Sequence[Run]) -> Table:
    rows = [
        [workload, one, other, f"{ahead:+.1f}", f"{lower:+.1f}"]
        for workload in judge.workloads(runs)
        for one, other, ahead, lower in judge.pairs(runs, workload)
    ]
    columns = ("workload", "arm", "against", "ahead %", "mean E2E lower by %")
    return Table(title="With the latency model and targets, and without", columns=columns, rows=rows)


def _arms(runs: Sequence[Run], workload: str) -> Table:
    rows = []
    for arm in judge.arms(runs):
        figures = [run.whole for run in judge.of(runs, workload, arm)]
        rows.append([arm, *(median_of(figures, read) for read in _COLUMNS.values())])
    first = judge.of(runs, workload, judge.OURS)[0]
    title = f"{workload}: {first.what}; limits TTFT {first.slo.ttft_s:g} s, TPOT {_MILLI * first.slo.tpot_s:g} ms"
    return Table(title=title, columns=("arm", *_COLUMNS), rows=rows)


def _by_rate(runs: Sequence[Run], title: str, read: Callable[[StageFigures], float], form: str) -> Table:
    rates = _rates(runs)
    rows: list[list[object]] = [
        [arm, *(form.format(judge.step(runs, arm, rate, read)) for rate in rates)] for arm in judge.arms(runs)
    ]
    if set(rates) <= set(LADDER):
        throughput = "tokens" in title
        for name in ("service", "llmd"):
            field = f"{name}_tok_s" if throughput else f"{name}_ttft_p90_s"
            values = [form.format(getattr(LADDER[int(rate)], field)) for rate in rates]
            rows.append([_PUBLISHED[name], *values])
    return Table(title=title, columns=("arm", *(f"{rate:g}/s" for rate in rates)), rows=rows)


_PUBLISHED: Final = {"service": "published: plain Service", "llmd": "published: llm-d"}


def _rates(runs: Sequence[Run]) -> list[float]:
    return [stage.rate_rps for stage in judge.of(runs, "ladder", judge.OURS)[0].stages]


def plots(runs: Sequence[Run], *, published: bool) -> list[Plot]:
    """Throughput and TTFT P90 of the ladder against its rate."""
    if "ladder" not in judge.workloads(runs):
        return []
    return [
        _plot(runs, "Output tokens/s on the 8-pod ladder", "output tokens/s", lambda figures: figures.output_tok_s,
              published="{}_tok_s" if published else ""),
        _plot(runs, "TTFT P90 on the 8-pod ladder", "TTFT P90, s", lambda figures: figures.ttft_s.p90, log_y=True,
              published="{}_ttft_p90_s" if published else ""),
    ]  # fmt: skip


def _plot(
    runs: Sequence[Run], title: str, label: str, read: Callable[[StageFigures], float], *,
    published: str, log_y: bool = False,
) -> Plot:  # fmt: skip
    rates = _rates(runs)
    series = [Series(name=arm, x=rates, y=[judge.step(runs, arm, rate, read) for rate in rates]) for arm in _DRAWN]
    if published:
        series += [
            Series(name=label_, x=rates, y=[getattr(LADDER[int(rate)], published.format(name)) for rate in rates],
                   markers_only=True)
            for name, label_ in _PUBLISHED.items()
        ]  # fmt: skip
    return Plot(title=title, x_label="offered requests/s", y_label=label, series=series, log_y=log_y)
