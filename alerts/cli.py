"""``fleet alerts``: generate rules, check them, watch without a Prometheus, diagnose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from alerts import buckets
from alerts.check import deployed_bounds, findings, promtool_path
from alerts.model import CONSOLE, RUNBOOKS, Links
from alerts.render import rule_files
from alerts.rules import rulebook
from alerts.runbooks import runbooks
from fleet.errors import ConfigError
from fleet.settings import FleetSettings, load, load_slos

SLO_FILE = Path(__file__).parent / "slos.yaml"


@click.group()
def alerts() -> None:
    """Alert rules from one SLO file: generate, check, watch, diagnose.

    \b
    Examples:
      fleet alerts generate --slo alerts/slos.yaml --out alerts/generated
      fleet alerts check alerts/slos.yaml alerts/generated
      fleet alerts watch --platform http://127.0.0.1:8060 --router http://127.0.0.1:8081
      fleet alerts diagnose --model llama --alert HighTTFT
    """


_path = click.Path(path_type=Path)
_page = click.option("--page", help="A metrics page (file or URL) whose real bucket bounds count.")


def slo_path(given: Path | None) -> Path:
    """The SLO file: given, else FLEET_SLO_FILE, else the one that ships with the package."""
    return given or load(FleetSettings).slo_file or SLO_FILE


def _bounds(page: str | None) -> Mapping[str, tuple[float, ...]]:
    return deployed_bounds(page) if page else buckets.BOUNDS


@alerts.command()
@click.option("--slo", type=_path, help="SLO file (default: FLEET_SLO_FILE, else the one that ships with this).")
@click.option("--out", type=_path, required=True, help="Folder for the rule files.")
@click.option("--runbooks-out", type=_path, help="Folder for the runbooks (default: none are written).")
@click.option("--console-url", default=CONSOLE, show_default=True, help="Where annotations link to.")
@click.option("--runbook-base", default=RUNBOOKS, show_default=True, help="Folder or URL of the runbooks.")
@_page
def generate(
    *, slo: Path | None, out: Path, runbooks_out: Path | None, console_url: str, runbook_base: str, page: str | None
) -> None:
    """Write Prometheus rule files (and runbooks) for the promises in an SLO file.

    \b
    Examples:
      fleet alerts generate --out rules
      fleet alerts generate --slo my.yaml --out rules --console-url https://fleet.example.org
    """
    source = slo_path(slo)
    book = load_slos(source)
    buckets.check(book, _bounds(page), where=str(source))
    rules = rulebook(book)
    links = Links(console=console_url, runbooks=runbook_base)
    written = _write(out, rule_files(rules, links, source=source.name))
    if runbooks_out is not None:
        written += _write(runbooks_out, runbooks(rules))
    click.echo(f"{written} files: {len(rules.recordings)} recording rules, {len(rules.alerts)} alerts")


def _write(folder: Path, files: Mapping[str, str]) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(folder),
                          next_step="Choose another folder.") from None  # fmt: skip
    return len(files)


@alerts.command()
@click.argument("paths", nargs=-1, required=True, type=_path)
@_page
def check(paths: tuple[Path, ...], page: str | None) -> None:
    """Check SLO files and rule files: promtool, the metric catalogue, bucket bounds.

    \b
    Examples:
      fleet alerts check alerts/slos.yaml alerts/generated
      fleet alerts check my.yaml --page http://vllm:8000/metrics
    """
    found = list(findings(paths, _bounds(page)))
    for line in found:
        click.echo(line, err=True)
    if found:
        raise click.exceptions.Exit(2)
    without = "" if promtool_path() else " (promtool is not installed: its own checks were left out)"
    click.echo(f"all good{without}")
