"""``fleet alerts``: generate rules, check them, watch without a Prometheus, diagnose."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from alerts import buckets, recorded
from alerts.check import deployed_bounds, findings, promtool_path
from alerts.diagnosis import diagnose as walk
from alerts.evaluate import Evaluator
from alerts.live import Prometheus, known
from alerts.model import CONSOLE, RUNBOOKS, Links
from alerts.outputs import ALL, Format, Webhooks, outputs
from alerts.rules import rulebook
from alerts.runbooks import runbooks
from alerts.settings import AlertsSettings
from alerts.targets import Targets
from alerts.trees import TREES
from alerts.watch import Watcher, run
from fleet.arguments import Finite
from fleet.errors import ConfigError
from fleet.history import History, HistoryWriter
from fleet.settings import FleetSettings, load, load_slos
from fleet.shell import bind, die_with_parent, setup_logging
from fleet.slo import DEFAULT_SLOS

log = logging.getLogger(__name__)

SLO_FILE = Path(__file__).parent / "slos.yaml"


@click.group()
def alerts() -> None:
    """Alert rules from one SLO file: generate, check, watch, diagnose.

    \b
    Examples:
      fleet alerts generate --slo alerts/slos.yaml --out alerts/generated
      fleet alerts buckets --slo alerts/slos.yaml
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


@alerts.command(short_help="Write rules, manifests, Alertmanager's configuration, dashboards.")
@click.option("--slo", type=_path, help="SLO file (default: FLEET_SLO_FILE, else the one that ships with this).")
@click.option("--out", type=_path, required=True, help="Folder for the files.")
@click.option("--format", "wanted", type=click.Choice([ALL, *Format]), default=ALL, show_default=True,
              help="Rule files go to the folder itself, each other format to a folder of its name below.")  # fmt: skip
@click.option("--runbooks-out", type=_path, help="Folder for the runbooks (default: none are written).")
@click.option("--console-url", default=CONSOLE, show_default=True, help="Where annotations link to.")
@click.option("--runbook-base", default=RUNBOOKS, show_default=True, help="Folder or URL of the runbooks.")
@click.option("--cluster", default="", help="Label `cluster` of every alert (default: Prometheus's external labels).")
@click.option("--page-webhook", default="", help="Alertmanager calls it for critical alerts (default: nothing).")
@click.option("--ticket-webhook", default="", help="Alertmanager calls it for warnings (default: nothing).")
@_page
def generate(
    *, slo: Path | None, out: Path, wanted: str, runbooks_out: Path | None, console_url: str, runbook_base: str,
    cluster: str, page_webhook: str, ticket_webhook: str, page: str | None,
) -> None:  # fmt: skip
    """Write rules, manifests, Alertmanager's configuration and Grafana dashboards for the promises in an SLO file.

    \b
    Examples:
      fleet alerts generate --out rules
      fleet alerts generate --format kubernetes --cluster eu-1 --out manifests
      fleet alerts generate --slo my.yaml --out rules --console-url https://fleet.example.org
    """
    source = slo_path(slo)
    book = load_slos(source)
    buckets.check(book, _bounds(page), where=str(source))
    rules = rulebook(book)
    links = Links(console=console_url, runbooks=runbook_base, cluster=cluster)
    webhooks = Webhooks(page=page_webhook, ticket=ticket_webhook)
    written = _write(out, outputs(wanted, book, rules, links=links, webhooks=webhooks, source=source.name))
    if runbooks_out is not None:
        written += _write(runbooks_out, runbooks(rules))
    click.echo(f"{written} files: {len(rules.recordings)} recording rules, {len(rules.alerts)} alerts")


def _write(folder: Path, files: Mapping[str, str]) -> int:
    try:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(folder),
                          next_step="Choose another folder.") from None  # fmt: skip
    return len(files)


@alerts.command("buckets", short_help="Print the vLLM flag that lets engines show each promise.")
@click.option("--slo", type=_path, help="SLO file (default: FLEET_SLO_FILE, else the one that ships with this).")
@_page
def buckets_flag(*, slo: Path | None, page: str | None) -> None:
    """Print the vLLM flag (0.32 and later) with which engines themselves can show each latency promise.

    \b
    Examples:
      fleet alerts buckets --slo my.yaml
      fleet alerts buckets --page http://vllm:8000/metrics
    """
    click.echo(buckets.engine_flag(load_slos(slo_path(slo)), _bounds(page)))


@alerts.command(short_help="Check SLO files and rule files.")
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


@alerts.command()
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=int, help="Port for /healthz, /metrics and /alerts; 0 for any free one (default 8095).")
@click.option("--platform", help="Platform API that lists the engines.")
@click.option("--engines", help="Engines without a platform: URLs, comma-separated.")
@click.option("--targets-file", type=_path, help="YAML list of further pages: {job, url, labels}.")
@click.option("--router", help="Base URL of the router's admin port.")
@click.option("--wva", help="Base URL of the controller.")
@click.option("--predictor", help="Base URL of the predictor.")
@click.option("--interval-s", type=float, help="Seconds between evaluations (default 2).")
@click.option("--for-scale", type=float, help="Multiplies windows and waits, for a demonstration (default 1.0).")
@click.option("--history-url", help="Where alert events go (default: FLEET_HISTORY_URL, else .fleet).")
@click.option("--slo", type=_path, help="SLO file (default: FLEET_SLO_FILE, else the one that ships with this).")
@click.option("--die-with-parent", "with_parent", is_flag=True, help="End when the parent process ends.")
def watch(*, slo: Path | None, history_url: str | None, with_parent: bool, **given: Any) -> None:
    """Evaluate the alerts on this machine, without a Prometheus.

    Scrapes engines, router, controller and predictor, keeps a window in memory, and writes an event when an alert
    begins to fire or ceases. Settings also come from ALERTS_* variables.

    \b
    Examples:
      fleet alerts watch --platform http://127.0.0.1:8060 --router http://127.0.0.1:8081 --for-scale 0.1
      fleet alerts watch --engines http://gpu1:8000,http://gpu2:8000
    """
    settings = load(AlertsSettings, **given)
    setup_logging("alerts")
    if with_parent:
        die_with_parent()
    source = slo_path(slo)
    book = load_slos(source)
    buckets.check(book, where=str(source))
    evaluator = Evaluator(rulebook(book), scale=settings.for_scale, keep_s=settings.keep_s)
    targets = Targets(settings)
    sock = bind(settings.host, settings.port, what="alerts", setting="--port")
    writer = HistoryWriter(History(load(FleetSettings, history_url=history_url).resolved_history_url()))
    links = Links(console=settings.console_url, runbooks=settings.runbook_base)
    log.info("listening on http://%s:%d, %d alerts, windows and waits times %g", *sock.getsockname()[:2],
             evaluator.evaluated, settings.for_scale)  # fmt: skip
    watcher = Watcher(targets, evaluator, writer, links, timeout_s=settings.scrape_timeout_s)
    try:
        asyncio.run(run(watcher, sock, interval_s=settings.interval_s))
    finally:
        writer.close()


@alerts.command(short_help="Walk a decision tree over what was recorded.")
@click.option("--model", default="", help="Model to look at (default: all).")
@click.option("--at", default="now", show_default=True, help="End of the window: now, -10m, Unix seconds, or ISO 8601.")
@click.option("--window-s", default=300.0, show_default=True, type=Finite(1), help="Length of the window.")
@click.option("--alert", default="", help="Alert to explain (default: the one that fired last by then).")
@click.option("--tree", default="", help=f"Tree to walk instead: {', '.join(TREES)}.")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="Evidence that the history does not hold.")
@click.option("--history-url", help="History to read (default: FLEET_HISTORY_URL, else .fleet).")
@click.option("--prometheus", help="Prometheus with the recording rules: its metrics count beside the history.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diagnose(
    *, model: str, at: str, window_s: float, alert: str, tree: str, given: tuple[str, ...], history_url: str | None,
    prometheus: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Walk a decision tree over what was recorded; print path, evidence and what to change.

    \b
    Examples:
      fleet alerts diagnose
      fleet alerts diagnose --model llama --alert HighTTFT --at -10m
      fleet alerts diagnose --model llama --prometheus http://127.0.0.1:9090
      fleet alerts diagnose --tree scheduling_slow --set router_cpu=0.95
    """
    at_s, supplied = recorded.parse_time(at, now_s=time.time()), recorded.given_evidence(given)
    trees = {rule.name: rule.tree for rule in rulebook(DEFAULT_SLOS).alerts}
    history = History(load(FleetSettings, history_url=history_url).resolved_history_url())
    about = alert or ("" if tree else recorded.firing(history, model=model, at_s=at_s))
    chosen = TREES[recorded.tree_of(tree, about, trees)]
    live = known(Prometheus(prometheus).evidence(model=model, at_s=at_s)) if prometheus else {}
    found = {**recorded.read(history, model=model, at_s=at_s, window_s=window_s), **live, **supplied}
    diagnosis = walk(chosen, found)
    if as_json:
        facts = {"alert": about, "model": model, "at_s": at_s, "window_s": window_s}
        click.echo(json.dumps(facts | recorded.as_json(diagnosis, found)))
        return
    click.echo(f"{chosen.title}?{f' (alert {about})' if about else ''} {model or 'all models'}, {window_s:g} s to {at}")
    for line in recorded.as_lines(diagnosis):
        click.echo(line)
