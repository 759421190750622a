"""``fleet wva``: run the autoscaler, decide offline, explain."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import prometheus_client
import uvicorn
import yaml
from rich.console import Console

from fleet.arguments import Finite
from fleet.errors import FleetError
from fleet.history import existing
from fleet.settings import FleetSettings, load
from fleet.shell import bind, die_with_parent, setup_logging
from fleet.stopping import on_stop
from fleet.types import FleetSnapshot
from wva import replay as replaying
from wva import snapshot_file
from wva.analyzers import ANALYZERS
from wva.app import make_app
from wva.build import build_cluster, build_loop, build_waker, named_slos, serve_external_metrics, tune_memory
from wva.decide import decide as decide_now
from wva.explain import compared, comparison, in_words, table
from wva.kube import crd as kube_crd
from wva.migrate.cli import migrate
from wva.settings import WvaSettings
from wva.types import WvaState

_file = click.Path(dir_okay=False, path_type=Path)


@click.group()
def wva() -> None:
    """Autoscaler: run, decide offline, explain.

    \b
    Examples:
      fleet wva run --platform http://127.0.0.1:8060
      fleet wva run --engines http://gpu1:8000,http://gpu2:8000 --model llama
      fleet wva run --platform http://127.0.0.1:8060 --source prometheus --prometheus-url http://127.0.0.1:9090
      fleet wva run --kube --namespace models --source prometheus --prometheus-url http://prometheus:9090
      fleet wva crd | kubectl apply -f -
      fleet wva decide docs/examples/snapshot.json
      fleet wva explain llama-8b-h100
    """


wva.add_command(migrate)


@wva.command()
@click.option("--platform", help="URL of the platform API that runs the replicas.")
@click.option("--engines", help="Engine URLs, comma-separated, in place of a platform: scaling is only recommended.")
@click.option("--model", help="Model that --engines serve.")
@click.option("--kube", is_flag=True, default=None, help="Kubernetes is the platform; an HPA or KEDA scales.")
@click.option("--kubeconfig", help="Its kubeconfig (default: service account, else KUBECONFIG, else ~/.kube/config).")
@click.option("--context", help="Context of the kubeconfig (default: the current one).")
@click.option("--namespace", help="Namespace to look at (default: all).")
@click.option("--scale-directly", is_flag=True, default=None, help="With --kube: patch /scale ourselves.")
@click.option("--gpu-limit", type=click.Choice(["none", "quota", "nodes"]),
              help="With --kube: what limits GPUs: ResourceQuotas (default), or those and the nodes.")  # fmt: skip
@click.option("--lease-name", help="Lease that the deciding controller holds (default llm-fleet-wva).")
@click.option("--lease-namespace", help="Its namespace (default: the pod's own).")
@click.option("--external-metrics-port", type=int, help="With --kube: serve external.metrics.k8s.io on this port.")
@click.option("--tls-cert", help="Its certificate (PEM).")
@click.option("--tls-key", help="Its key (PEM).")
@click.option("--requestheader-ca", help="CA (PEM) of the API server's proxy (default: as the cluster says).")
@click.option("--source", type=click.Choice(["scrape", "prometheus"]), help="Where metrics come from (default scrape).")
@click.option("--prometheus-url", help="Base URL of Prometheus, for --source prometheus.")
@click.option("--router-url", help="Admin URL of the router, whose queue counts as waiting.")
@click.option("--predictor-url", help="Fetch the predictor's model (analyzer slo) from here, not from FLEET_HOME.")
@click.option("--interval-s", type=float, help="Seconds between passes (default 15).")
@click.option("--window-s", type=float, help="Rates are over so many seconds (default 30).")
@click.option("--stale-after-s", type=float, help="Hold when a sample is older (default 60).")
@click.option("--scale-down-stabilisation-s", type=float, help="A decrease must be wanted so long (default 60).")
@click.option("--dry-run", is_flag=True, default=None, help="Decide and publish, but scale nothing.")
@click.option(
    "--allow-overrides", is_flag=True, default=None, help="Take the console's actions: pause, bounds, dry run."
)
@click.option("--wait", is_flag=True, default=None, help="Keep trying when Prometheus is not there yet.")
@click.option("--state-file", type=_file, help="Where the state is kept (default wva-state.json in FLEET_HOME).")
@click.option("--analyzer", type=click.Choice(ANALYZERS), help="What decides (default saturation).")
@click.option("--slo", "slo_file", type=_file, help="SLO file with the latency targets (default: FLEET_SLO_FILE).")
@click.option("--history-url", help="SQLAlchemy URL of the history (default: FLEET_HISTORY_URL, else .fleet).")
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=int, help="Port to listen on (default 8070; 0: any free one).")
@click.option("--die-with-parent", "orphan", is_flag=True, help="End when the process that started this one ends.")
def run(history_url: str | None, slo_file: Path | None, orphan: bool, **options: Any) -> None:
    """Run the control loop until SIGTERM or Ctrl-C.

    Everything has an environment variable too: WVA_ and the option's name (WVA_INTERVAL_S, WVA_STALE_AFTER_S ...).

    \b
    Examples:
      fleet wva run --platform http://127.0.0.1:8060 --interval-s 2
      fleet wva run --engines http://gpu1:8000 --dry-run
      fleet wva run --platform http://127.0.0.1:8060 --analyzer slo --slo slos.yaml
    """
    if orphan:
        die_with_parent()
    setup_logging("wva")
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a pass that is late the loop says itself
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
    settings = load(WvaSettings, **options)
    fleet = load(FleetSettings, history_url=history_url, slo_file=slo_file)
    sock = bind(settings.host, settings.port, what="wva", setting="--port")
    cluster = build_cluster(settings)
    tune_memory()
    loop = build_loop(settings, fleet, cluster)
    app = make_app(loop, time.time, token=settings.overrides_token.get_secret_value())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    on_stop(lambda: setattr(server, "should_exit", True))
    logging.getLogger(__name__).info("listens on http://%s:%d", settings.host, sock.getsockname()[1])
    external = serve_external_metrics(settings, loop, cluster)
    if cluster:
        cluster.start(loop)
    loop.start(settings.interval_s)
    if waker := build_waker(settings, loop):
        waker.start()
    try:
        server.run(sockets=[sock])
    finally:
        if external:
            external.shutdown()
        if waker:
            waker.stop()
        loop.stop()
        if cluster:
            cluster.stop()  # last: until the lease is given back, nobody else decides


@wva.command(short_help="Decide offline for a snapshot.")
@click.argument("snapshot", type=_file)
@click.option("--state", type=_file, help="State of an earlier pass (a state file, or what /state gave).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object: decisions and the new state.")
def decide(snapshot: Path, state: Path | None, as_json: bool) -> None:
    """Decide offline for SNAPSHOT (a file as /fleet gives under "snapshot").

    The decision is made at the snapshot's own time. Without --state nothing is remembered, so stabilisation windows
    count as passed and what is wanted shows at once.

    \b
    Examples:
      fleet wva decide docs/examples/snapshot.json
      fleet wva decide snapshot.json --state .fleet/wva-state.json --json
    """
    seen = snapshot_file.read(FleetSnapshot, snapshot)
    settings = load(WvaSettings)
    policy, targets = settings.policy(), settings.targets(named_slos(load(FleetSettings)))
    if state is None:
        policy = replace(policy, scale_up_stabilisation_s=0.0, scale_down_stabilisation_s=0.0)
    before = snapshot_file.read(WvaState, state) if state else WvaState()
    specs = targets.completed(entry.spec for entry in seen.variants)
    decisions, after = decide_now(seen, specs, before, seen.at_s, policy)
    if as_json:
        click.echo(json.dumps({"decisions": [asdict(each) for each in decisions], "state": asdict(after)}))
    else:
        Console(width=max(shutil.get_terminal_size((160, 50)).columns, 100)).print(table(decisions))


@wva.command(short_help="Say the newest decision in words, and its inputs.")
@click.argument("variant")
@click.option("--history-url", help="SQLAlchemy URL of the history (default: FLEET_HISTORY_URL, else .fleet).")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as JSON.")
def explain(variant: str, history_url: str | None, as_json: bool) -> None:
    """Say in words what the newest decision for VARIANT was, and what it rested on.

    \b
    Examples:
      fleet wva explain llama-8b-h100
      fleet wva explain llama-8b-h100 --json
    """
    history = existing(load(FleetSettings, history_url=history_url).resolved_history_url())
    rows = history.read("decisions", limit=1, newest_first=True, variant=variant)
    if not rows:
        known = sorted({row["variant"] for row in history.read("decisions", limit=1000, newest_first=True)})
        raise FleetError(f"no decision for {variant!r}", where=history.url,
                         next_step=f"Known variants: {', '.join(known) or 'none yet; is wva running?'}")  # fmt: skip
    click.echo(json.dumps(rows[0]) if as_json else "\n".join(in_words(rows[0])))


@wva.command(short_help="Run another policy over recorded history.")
@click.option("--history-url", help="SQLAlchemy URL of the history (default: FLEET_HISTORY_URL, else .fleet).")
@click.option("--hours", type=Finite(min=0.01), default=1.0, show_default=True, help="How far back.")
@click.option("--analyzer", help="Analyzer to decide with (default: WVA_ANALYZER, else the default).")
@click.option("--up", type=Finite(0.01, 1), help="Scale up above this saturation.")
@click.option("--down", type=Finite(0, 0.99), help="Scale down below this saturation.")
@click.option("--slo-ttft", type=Finite(min=0.001), help="TTFT target, seconds.")
@click.option("--slo-tpot", type=Finite(min=0.0001), help="TPOT target, seconds.")
@click.option("--cost", multiple=True, metavar="VARIANT=USD", help="Dollars of a replica and hour.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(
    *, history_url: str | None, hours: float, analyzer: str | None, up: float | None, down: float | None,
    slo_ttft: float | None, slo_tpot: float | None, cost: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Run another policy over recorded history and show what it would have decided differently.

    The fleet behaves as recorded, whatever the other policy would have done: see it as a comparison of decisions.

    \b
    Examples:
      fleet wva replay --analyzer slo --slo-ttft 1.0
      fleet wva replay --hours 24 --up 0.7 --down 0.4 --json
    """
    policy = load(WvaSettings, analyzer=analyzer).policy()
    thresholds = None if up is None and down is None else (up or 0.8, 0.3 if down is None else down)
    if thresholds and thresholds[1] >= thresholds[0]:
        raise FleetError(f"--down {thresholds[1]:g} is not below --up {thresholds[0]:g}", next_step="Move them apart.")
    change = replaying.Change(policy=policy, cost_per_hour=_costs(cost), thresholds=thresholds, slo_ttft_s=slo_ttft,
                              slo_tpot_s=slo_tpot)  # fmt: skip
    history = existing(load(FleetSettings, history_url=history_url).resolved_history_url())
    since_s = time.time() - hours * 3600
    recorded = history.read("decisions", since_s=since_s, limit=1_000_000)
    if not recorded:
        raise FleetError(f"no decision in the last {hours:g} h", where=history.url,
                         next_step="Give more --hours, or the history of a fleet that ran.")  # fmt: skip
    found = replaying.compare(history.read("samples", since_s=since_s, limit=5_000_000),
                              history.read("requests", since_s=since_s, limit=5_000_000), recorded, change)  # fmt: skip
    if as_json:
        click.echo(json.dumps(compared(found)))
    else:
        Console(width=max(shutil.get_terminal_size((160, 50)).columns, 100)).print(comparison(found))


def _costs(given: tuple[str, ...]) -> dict[str, float]:
    try:
        return {name: float(number) for name, _, number in (text.partition("=") for text in given)}
    except ValueError:
        raise FleetError(f"--cost {' '.join(given)}", limit="VARIANT=USD", next_step="Write llama-h100=3.99.") from None


@wva.command()
def crd() -> None:
    """Print the CustomResourceDefinition of VariantAutoscaling as YAML.

    \b
    Examples:
      fleet wva crd | kubectl apply -f -
    """
    click.echo(yaml.safe_dump(kube_crd.crd(), sort_keys=False, width=120), nl=False)
