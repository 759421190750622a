"""``fleet up``: the whole loop on this machine."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

import click
import requests
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console

from fleet.arguments import Finite
from fleet.discovery import static_fleet
from fleet.errors import ConfigError
from fleet.history import History, shown
from fleet.settings import FleetSettings, Settings, load, load_slos, read_yaml
from fleet.up import vllm
from fleet.up.plan import Ports, UpOptions
from fleet.up.ports import PortBook, choose
from fleet.up.run import Up

_DEMO = Path(__file__).parent / "demo.yaml"
_GENTLE_RPS = 1.0
"""Mean rate against real engines unless another is asked for."""


class UpSettings(Settings):
    """``fleet up``'s own settings; environment prefix ``UP_``."""

    model_config = SettingsConfigDict(env_prefix="UP_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address every part listens on. The default is loopback: nothing is reachable from outside."""
    mean_rps: float = Field(default=16.0, gt=0, le=1000)
    """Mean requests per second (default: both variants are needed at the peak, and two cores carry it)."""
    period_s: float = Field(default=120.0, ge=10)
    """Seconds into which the trace's hour is compressed (default: a newcomer sees a rise and a fall in two minutes)."""
    prefix_share: float = Field(default=0.8, ge=0, le=0.9)
    """Length of the shared system prompts, as a share of the trace's median prompt; the trace records no texts. The
    default makes 41 % of its prompt tokens repeat (published for a chat service, Mooncake: 37 %)."""
    wva_interval_s: float = Field(default=2.0, ge=0.5)
    """Seconds between two decisions (a cluster: 15; compressed like the hour)."""
    scale_down_stabilisation_s: float = Field(default=15.0, ge=0)
    """Seconds for which fewer replicas must have been right before they go (a cluster: 300; compressed)."""
    analyzer: Literal["slo", "saturation", "v1", "v2"] = "slo"
    """What the controller decides with: latency targets (``slo``), or one of the formulas (docs/wva.md)."""


ANALYZERS: Final[tuple[str, ...]] = get_args(UpSettings.model_fields["analyzer"].annotation)


@click.command()
@click.option("--duration", type=Finite(min=5), help="Stop after so many seconds of traffic (default: Ctrl-C).")
@click.option("--headless", is_flag=True, help="No live table; progress lines on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option("--engines", default="", metavar="URLS", help="Real engines (comma-separated) instead of simulated ones.")
@click.option("--vllm", default="", metavar="MODEL", help="Start real vLLM servers of MODEL (folder or hub name).")
@click.option("--vllm-bin", default="vllm", metavar="PROGRAM", help="vLLM's program (default: vllm on PATH).")
@click.option("--vllm-args", default="", metavar="ARGS", help="Further arguments of `vllm serve`, in one string.")
@click.option("--gpu", default="h100_sxm", show_default=True, help="With --vllm: the GPU, for its price.")
@click.option("--replicas", default=2, show_default=True, help="With --vllm: servers at most.")
@click.option(
    "--config", type=click.Path(dir_okay=False, path_type=Path), help="The simulated fleet (default: the demo's)."
)
@click.option("--trace", default="azure2023_conv", show_default=True, help="Trace name or file to replay.")
@click.option(
    "--traces", type=click.Path(file_okay=False, path_type=Path), help="Folder of trace files (FLEET_TRACES)."
)
@click.option("--mean-rps", type=float, help="Mean request rate (default 16; 1 against real engines).")
@click.option("--period-s", type=float, help="Seconds into which the trace's hour is compressed (default 120).")
@click.option("--seed", default=1, show_default=True, help="Seed of traffic and tie-breaks.")
@click.option("--traffic/--no-traffic", default=True, help="Replay traffic, or wait for yours.")
@click.option("--console/--no-console", default=True, help="Start the console.")
@click.option("--actions", is_flag=True, help="Let the console's viewers pause variants, narrow bounds, dry-run.")
@click.option(
    "--prometheus", "prometheus_url", default="", metavar="URL", help="Read engine metrics from this Prometheus."
)
@click.option("--slo", type=click.Path(dir_okay=False, path_type=Path), help="SLO file (default: built-in objectives).")
@click.option(
    "--router-config", type=click.Path(dir_okay=False, path_type=Path), help="EndpointPickerConfig or short form."
)
@click.option(
    "--analyzer", type=click.Choice(ANALYZERS), help="What the controller decides with (default slo: latency targets)."
)
@click.option(
    "--home", type=click.Path(file_okay=False, path_type=Path), help="Where history and logs go (default .fleet)."
)
@click.option("--history-url", help="SQLAlchemy URL of the history (default: SQLite in the home folder).")
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
def up(*, headless: bool, as_json: bool, **asked: Any) -> None:
    """Run the whole loop on this machine: engines, traffic, router, predictor, controller, alerts, console.

    Without --engines the engines are simulated, so no GPU is needed; two variants of one model on two kinds of GPU
    serve real traffic, compressed so that scaling shows within two minutes. Ports that are taken are replaced by
    free ones. Exit code: 0; 1 if any part or engine died on the way (restarted or not); 2 for bad input.

    \b
    Examples:
      fleet up                                        live table, Ctrl-C ends it
      fleet up --duration 120 --headless --json       two minutes, one JSON object
      fleet up --actions                              with the console's operator panel
      fleet up --engines http://gpu1:8000,http://gpu2:8000 --no-traffic
      fleet up --vllm Qwen/Qwen2.5-0.5B-Instruct --replicas 2     real servers, started and stopped as load asks
    """
    headless = headless or as_json
    say = partial(click.echo, err=True)
    shared = load(FleetSettings, home=asked["home"], history_url=asked["history_url"])
    options, notes = _options(shared, asked)
    ports, replaced = choose(options.host, Ports(), book := PortBook())
    if replaced:
        notes += ("ports that are taken are replaced: " + ", ".join(replaced),)
    history = History(options.history_url)
    if headless:
        for line in notes:
            say(line)
    run = Up(options, ports, history, say if headless else lambda _line: None)
    try:
        run.run(headless=headless, console=Console(), notes=notes)
    finally:
        book.release()
        say(f"history is kept in {shown(options.history_url)}")
    _finish(run, as_json=as_json)


def _finish(run: Up, *, as_json: bool) -> None:
    summary = run.summary()
    if as_json:
        click.echo(json.dumps(summary))
    else:
        rate = summary["success_rate"]
        click.echo(f"{summary['requests']} requests, {'-' if rate is None else format(rate, '.2%')} served, "
                   f"{len(summary['scale_events'])} scalings, {len(summary['alerts'])} alerts fired")  # fmt: skip
    if run.failed():
        for line in summary["died"]:
            click.echo(f"fleet: {line}", err=True)
        if engines := summary["engine_restarts"]:
            click.echo(f"fleet: engines died {engines} {'time' if engines == 1 else 'times'} and were started again; "
                       f"see {run.options.home / 'logs' / 'simulator.log'}", err=True)  # fmt: skip
        sys.exit(1)


def _options(shared: FleetSettings, asked: dict[str, Any]) -> tuple[UpOptions, tuple[str, ...]]:
    """Options from settings and the command line, checked before anything starts; and what a person should know."""
    engines = asked["engines"]
    if engines and asked["vllm"]:
        raise ConfigError("both --engines and --vllm are given", next_step="Choose one.")
    gentle = _GENTLE_RPS if (engines or asked["vllm"]) and asked["mean_rps"] is None else asked["mean_rps"]
    settings = load(UpSettings, mean_rps=gentle, period_s=asked["period_s"], host=asked["host"],
                    analyzer=asked["analyzer"])  # fmt: skip
    slo_file = asked["slo"] or shared.slo_file
    load_slos(slo_file)
    options = UpOptions(
        home=shared.home.absolute(), history_url=shared.resolved_history_url(), host=settings.host, engines=engines,
        config=(asked["config"] or _DEMO).absolute(), trace=asked["trace"], traces=asked["traces"] or shared.traces,
        mean_rps=settings.mean_rps, period_s=settings.period_s, prefix_share=settings.prefix_share,
        duration_s=asked["duration"], seed=asked["seed"],
        traffic=asked["traffic"], console=asked["console"], actions=asked["actions"],
        prometheus_url=asked["prometheus_url"], slo_file=slo_file, router_config=asked["router_config"],
        wva_interval_s=settings.wva_interval_s, scale_down_stabilisation_s=settings.scale_down_stabilisation_s,
        analyzer=settings.analyzer,
    )  # fmt: skip
    _check_prometheus(options.prometheus_url)
    if engines:
        return _with_real_engines(options)
    if asked["vllm"]:
        return _with_vllm(options, asked)
    return replace(options, model=_model_of(options.config)), _compressed(options)


def _compressed(options: UpOptions) -> tuple[str, ...]:
    lines = [f"simulated engines ({options.config}); no GPU is used"]
    if options.traffic:
        lines.append(f"compressed: the hour of {options.trace} passes in {options.period_s:.0f} s at a mean of "
                     f"{options.mean_rps:g} requests/s (its shape kept, requests sampled)")  # fmt: skip
    if options.config == _DEMO.absolute():
        lines.append("compressed: an engine starts in 8 s (real ones: 100 s and more)")
        lines.append("compressed: an engine keeps 24 000 tokens of KV cache (an H100: 434 913)")
    lines.append(
        f"compressed: the controller decides every {options.wva_interval_s:g} s and lets go after "
        f"{options.scale_down_stabilisation_s:g} s (a cluster: 15 s and 300 s); alert windows are a tenth"
    )
    return tuple(lines)


def _with_real_engines(options: UpOptions) -> tuple[UpOptions, tuple[str, ...]]:
    replicas = static_fleet(options.engines.split(","))[0].replicas
    urls = ",".join(replica.url for replica in replicas)
    notes = [f"engines: {urls}; scaling only recommends"]
    if options.traffic:
        notes.append(
            f"replaying {options.trace} at {options.mean_rps:g} requests/s against them; --no-traffic turns it off"
        )
    return replace(options, engines=urls, model=_served_model(replicas[0].url)), tuple(notes)


def _with_vllm(options: UpOptions, asked: dict[str, Any]) -> tuple[UpOptions, tuple[str, ...]]:
    engines = vllm.RealEngines(model=asked["vllm"], program=asked["vllm_bin"], arguments=asked["vllm_args"],
                               gpu=asked["gpu"], replicas=asked["replicas"])  # fmt: skip
    vllm.check(engines)
    notes = [f"real engines: {engines.program} serve {engines.model}, at most {engines.replicas}"]
    if options.traffic:
        notes.append(f"replaying {options.trace} at {options.mean_rps:g} requests/s; --no-traffic turns it off")
    return replace(options, config=vllm.write(engines, options.home), model=engines.served, vllm=engines.program,
                   vllm_model=engines.model, vllm_args=engines.arguments,
                   max_model_len=vllm.context(engines)), tuple(notes)  # fmt: skip


def _served_model(url: str) -> str:
    try:
        answer = requests.get(f"{url}/v1/models", timeout=5.0)
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError):
        raise ConfigError("does not answer GET /v1/models", where=url,
                          next_step="Start the engine first, or correct --engines.") from None  # fmt: skip


def _model_of(config: Path) -> str:
    document = read_yaml(config)
    if not isinstance(document, dict) or not isinstance(document.get("model"), str):
        raise ConfigError("names no model", where=str(config), next_step="Write model: NAME at its top level.")
    return str(document["model"])


def _check_prometheus(url: str) -> None:
    if not url:
        return
    try:
        requests.get(f"{url.rstrip('/')}/api/v1/query", params={"query": "1"}, timeout=5.0).raise_for_status()
    except (requests.RequestException, ValueError) as error:
        raise ConfigError(
            f"Prometheus does not answer ({type(error).__name__})",
            where=url,
            next_step="Start it, correct --prometheus, or leave it out to scrape directly.",
        ) from None
