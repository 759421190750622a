"""``fleet bench loop``: one pass of the controller over 1 000 variants and 10 000 engines, on one core.

The answers are what a Prometheus sends for such a fleet, served from memory; everything after the socket is real:
parsing, collecting, deciding, publishing, saving the state, writing history. Each fleet runs in a process of its own,
which is what ``rss_mb`` speaks of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from benchmarks.loop.answers import Size
from benchmarks.options import Bench, BenchOptions
from benchmarks.result import Bar, Outcome, Table
from fleet.errors import ConfigError
from wva.settings import WvaSettings

LARGE: Final = Size(variants=1000, endpoints=10_000)
SMALL: Final = Size(variants=10, endpoints=100)
DEFAULT: Final = str(WvaSettings.model_fields["analyzer"].default)
ANALYZERS: Final = ("saturation", "v1", "v2", "slo")
LIMIT_S: Final = 600.0
Figures = Mapping[str, float]


def run(options: BenchOptions) -> Outcome:
    """The bench.

    Raises: ConfigError for a workload: this bench has its own.
    """
    if options.workload or options.scale != 1.0:
        raise ConfigError("the loop bench makes its own fleet", limit="no --workload, no --scale",
                          next_step="Run fleet bench loop.")  # fmt: skip
    small = _child(SMALL, options.seeds[0], DEFAULT)
    rows: list[tuple[str, int, Figures]] = []
    for analyzer in ANALYZERS:
        for seed in options.seeds if analyzer == DEFAULT else options.seeds[:1]:
            options.progress(len(rows) / (len(ANALYZERS) + len(options.seeds)), f"{analyzer}, seed {seed}")
            rows.append((analyzer, seed, _child(LARGE, seed, analyzer)))
    return judged(rows, small)


def judged(rows: Sequence[tuple[str, int, Figures]], small: Figures) -> Outcome:
    """Medians of the default analyzer's seeds against the limits; ``slo``'s decision told; the others in the table."""
    own = [figures for analyzer, _, figures in rows if analyzer == DEFAULT]
    slo = [figures["decide_s"] for analyzer, _, figures in rows if analyzer == "slo"]
    queries = {figures["queries"] for _, _, figures in rows} | {small["queries"]}
    bars = {
        "decide_s": Bar(value=median(one["decide_s"] for one in own), unit="s", limit="< 0.2"),
        "pass_s": Bar(value=median(one["pass_s"] for one in own), unit="s", limit="< 1"),
        "rss_mb": Bar(value=max(one["rss_mb"] for one in own), unit="MB", limit="< 500"),
        "slo_decide_s": Bar(value=median(slo) if slo else None, unit="s", limit="report"),
        "promql_queries": Bar(value=max(queries), unit="queries a pass", limit=f"<= {small['queries']:g}"),
    }
    names = ("pass_s", "wall_s", "decide_s", "rss_mb", "queries", "endpoints", "answers_mb")
    cells = [(analyzer, seed, *(round(figures[name], 4) for name in names)) for analyzer, seed, figures in rows]
    table = Table(title="Runs", columns=("analyzer", "seed", *names), rows=cells)
    notes = [
        f"{LARGE.variants} variants, {LARGE.endpoints} engines; medians of the passes after two to warm up",
        "pass_s and decide_s are seconds of one core (CPU time): pass_s of all threads, the history's writer as far as "
        "it runs meanwhile, decide_s of the deciding thread; wall_s is the clock's, with whatever else the machine did",
        f"promql_queries is held to what a fleet of {SMALL.endpoints} engines asks: {small['queries']:g}",
        f"the bars are of the default analyzer, {DEFAULT}",
    ]
    results = {f"{analyzer}-{seed}": dict(figures) for analyzer, seed, figures in rows} | {"small": dict(small)}
    return Outcome(results=results, bars=bars, tables=[table], notes=notes)


def _child(size: Size, seed: int, analyzer: str) -> Figures:
    """The figures of one fleet, from a process of its own that stays on one core's threads."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.loop.child",
        str(size.variants),
        str(size.endpoints),
        str(seed),
        analyzer,
    ]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S,
                          env={**os.environ, **threads})  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the loop failed: {done.stderr[-2000:]}")
    found: Figures = json.loads(done.stdout)
    return found


BENCH: Final = Bench(name="loop", what="One pass of the controller over 1 000 variants and 10 000 engines",
                     bars=("decide_s", "pass_s", "rss_mb", "slo_decide_s", "promql_queries"), run=run)  # fmt: skip
