"""``fleet history``: look at, export and prune what was recorded."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from fleet.arguments import Finite
from fleet.history import History, existing, schema
from fleet.settings import FleetSettings, load


def _open(url: str | None) -> History:
    settings = load(FleetSettings, history_url=url)
    return existing(settings.resolved_history_url())


@click.group()
def history() -> None:
    """Look at, export and prune what was recorded.

    \b
    Examples:
      fleet history show decisions --last 20
      fleet history export requests > requests.jsonl
      fleet history prune --older-than-days 7
    """


_url = click.option("--url", help="SQLAlchemy URL of the history (default: FLEET_HISTORY_URL, else .fleet).")


@history.command(short_help="Print a table's newest rows as JSON lines.")
@click.argument("table", type=click.Choice(sorted(schema.TABLES)))
@click.option("--last", default=20, show_default=True, type=click.IntRange(1, 100_000), help="Newest rows to show.")
@_url
def show(table: str, last: int, url: str | None) -> None:
    """Print the newest rows of TABLE, one JSON object a line, oldest of them first."""
    for row in reversed(_open(url).read(table, limit=last, newest_first=True)):
        click.echo(json.dumps(row))


@history.command()
@click.argument("table", type=click.Choice(sorted(schema.TABLES)))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write (default: standard output)."
)
@_url
def export(table: str, out: Path | None, url: str | None) -> None:
    """Write all rows of TABLE as JSON lines."""
    rows = _open(url).read(table)
    target = out.open("w", encoding="utf-8") if out else sys.stdout
    try:
        target.writelines(json.dumps(row) + "\n" for row in rows)
    finally:
        if out:
            target.close()


@history.command()
@click.option("--older-than-days", default=14.0, show_default=True, type=Finite(min=0))
@_url
def prune(older_than_days: float, url: str | None) -> None:
    """Delete rows older than so many days."""
    click.echo(f"{_open(url).prune(time.time() - older_than_days * 86_400)} rows deleted")
