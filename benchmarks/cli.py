"""``fleet bench``: run an experiment, print its result."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import report
from benchmarks.options import Bench, BenchOptions
from benchmarks.registry import BENCHES
from benchmarks.result import Outcome
from fleet.arguments import Finite
from fleet.errors import ConfigError
from fleet.settings import FleetSettings, load

PLAIN_EVERY_S = 15.0
"""Where standard error is no terminal, progress is a line so often."""


@click.command()
@click.argument("name", required=False)
@click.option("--list", "list_all", is_flag=True, help="Name all benches and their bars.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="How many seeds (1, 2, ...).")
@click.option(
    "--workload", default="", help="Workload file (request CSV, Mooncake JSONL, rate CSV, recorded) or its name."
)
@click.option("--scale", type=Finite(min=1e-3, max=1e3), default=1.0, help="Multiply the workload's rate.")
@click.option(
    "--traces", type=click.Path(file_okay=False, path_type=Path), help="Folder of trace files (FLEET_TRACES)."
)
@click.option("--jobs", type=click.IntRange(1, 64), help="Processes, where a bench can use them (default: all cores).")
@click.option("--extra", is_flag=True, help="Also comparisons beyond the default ones, where a bench has them.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write JSON, Markdown and plots here.")
def bench(
    *, name: str | None, list_all: bool, as_json: bool, seeds: int, workload: str, scale: float,
    traces: Path | None, jobs: int | None, extra: bool, out: Path | None,
) -> None:  # fmt: skip
    """Run an experiment and print its result; progress goes to standard error.

    Exit code 0 whether or not a bar is met; 1 only when the bench itself failed, 2 for bad input.

    \b
    Examples:
      fleet bench --list
      fleet bench simulator --seeds 3
      fleet bench routing --workload mooncake_synthetic --json
    """
    if list_all or not name:
        _list(as_json=as_json)
        return
    if name not in BENCHES:
        raise ConfigError(f"no bench {name!r}", limit=", ".join(BENCHES), next_step="See fleet bench --list.")
    found = BENCHES[name]
    folder = traces or load(FleetSettings).traces
    options = BenchOptions(seeds=tuple(range(1, seeds + 1)), workload=workload, scale=scale, traces=folder,
                           jobs=jobs or os.cpu_count() or 1, extra=extra)  # fmt: skip
    outcome = _run(found, options)
    result = report.document(found, outcome, command=_command(), seeds=options.seeds)
    click.echo(json.dumps(result) if as_json else report.markdown(result, outcome))
    if out:
        for path in report.write(out, found, outcome, result):
            click.echo(f"wrote {path}", err=True)


def _run(found: Bench, options: BenchOptions) -> Outcome:
    console = Console(stderr=True)
    told = [-PLAIN_EVERY_S]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(found.name, total=1.0)

        def tell(share: float, what: str) -> None:
            progress.update(task, completed=share, description=f"{found.name}: {what}")
            if not console.is_terminal and time.monotonic() - told[0] >= PLAIN_EVERY_S:
                told[0] = time.monotonic()
                click.echo(f"{found.name}: {share:.0%} {what}", err=True)

        return found.run(replace(options, progress=tell))


def _command() -> str:
    """The command as a reader would type it."""
    words = ["fleet", "bench", *sys.argv[2:]] if len(sys.argv) > 1 and sys.argv[1] == "bench" else ["fleet", "bench"]
    return shlex.join(words)


def _list(*, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([{"bench": b.name, "what": b.what, "bars": list(b.bars)} for b in BENCHES.values()]))
        return
    for found in BENCHES.values():
        click.echo(f"{found.name:<12} {found.what}\n{'':<12} bars: {', '.join(found.bars)}")
