"""``fleet router``: serve."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import resource
import secrets
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import click
import uvloop

from fleet.errors import ConfigError
from fleet.history import History
from fleet.settings import FleetSettings, load
from fleet.shell import die_with_parent, setup_logging
from fleet.stopping import on_stop
from router import compiled
from router.config_file import load_profile
from router.picker_server.service import PickerService
from router.picker_server.settings import PickerSettings
from router.service import RouterService
from router.settings import RouterSettings
from router.tenants import KEY_PREFIX, hashed
from router.workers import Place, meeting

log = logging.getLogger(__name__)

_SWITCH_S = 0.0005
"""How long another thread may keep the event loop waiting (Python's default, 5 ms, is many requests)."""

_PICKER_PORT: Final = 9002
_GC_THRESHOLD = (10_000, 20, 50)
"""A request makes a few dozen objects and no cycle that outlives it: collecting at Python's default of 700 objects
costs a fifth of the time of a request."""


@click.group()
def router() -> None:
    """Send each request to the engine that will serve it best.

    \b
    Examples:
      fleet router serve --engines http://gpu1:8000,http://gpu2:8000
      fleet router serve --platform http://127.0.0.1:8060 --config router.yaml
    """


_SHARED: Final = (
    click.option("--host", help="Address to listen on (default 127.0.0.1)."),
    click.option("--admin-port", type=int, help="Port for health, metrics and debug, 0 for any free (default 8081)."),
    click.option("--platform", help="URL of the platform API that names the engines."),
    click.option("--engines", help="Fixed engine URLs, separated by commas."),
    click.option(
        "--discover", help="Where the engines are: file:, dns://, kube-service:// or kube-pool:// (see the docs)."
    ),
    click.option("--config", type=click.Path(path_type=Path), help="Scheduling profile (default: the built-in one)."),
    click.option("--slo", "slo_file", type=click.Path(dir_okay=False, path_type=Path),
                 help="SLO file: latency targets of requests that name none (default: FLEET_SLO_FILE)."),
    click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Folder of history, model (.fleet)."),
    click.option("--history-url", help="SQLAlchemy URL of the history (default: FLEET_HISTORY_URL, else in HOME)."),
    click.option("--predictor-url", help="Fetch the latency model from this fleet predictor serve, not from HOME."),
    click.option("--record-workload", type=click.Path(dir_okay=False, path_type=Path),
                  help="Record live traffic, without its text, to this file for replays."),
    click.option("--kv-events", help="Engines' KV events: auto, tcp://*:PORT or connect:PORT[,REPLAY_PORT]."),
    click.option("--tokenizer", help="tokenizer.json for plain prompts; default: engines are asked."),
    click.option("--disaggregation", help="Prefill and decode apart: nixl, mooncake, shared-storage, sglang, sidecar."),
    click.option("--bootstrap-port", type=int, help="Of prefill engines, for mooncake and sglang (default 8998)."),
    click.option("--cache-hit-threshold", type=float,
                 help="shared-storage: ask decode first, to answer if this share is cached (default 0: do not)."),
    click.option("--pd-decider", help="When: always, uncached:TOKENS or prompt:TOKENS (default uncached:1024)."),
    click.option("--explain", is_flag=True, default=None, help="Answer x-fleet-explain: for trusted clients only."),
    click.option("--traces-endpoint", help="Where OpenTelemetry spans go, OTLP over HTTP (or: environment)."),
    click.option("--scrape-s", type=float, help="Seconds between two scrapes of an engine (default 1)."),
    click.option("--drain-s", type=float, help="Seconds that requests in flight get at a stop (default 10)."),
    click.option("--seed", type=int, help="Seed of the picker's randomness."),
    click.option("--die-with-parent", "mortal", is_flag=True, help="Stop when the parent process dies (Linux)."),
)  # fmt: skip
_Command = TypeVar("_Command", bound=Callable[..., None])


def _shared(command: _Command) -> _Command:
    """Options of every command that runs a director."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


@router.command()
@click.option("--port", type=int, help="Port for clients, 0 for any free one (default 8080).")
@_shared
@click.option("--tenants", type=click.Path(dir_okay=False, path_type=Path), help="File of tenants, keys and rates.")
@click.option("--models", type=click.Path(dir_okay=False, path_type=Path), help="File of model aliases and splits.")
@click.option(
    "--tls-cert", type=click.Path(dir_okay=False, path_type=Path), help="Certificate of the client port, PEM."
)
@click.option("--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="Its key, PEM.")
@click.option("--access-log", type=click.Path(path_type=Path), help="A line for each request: a file, or - for stdout.")
@click.option("--workers", type=int, help="Processes that share the port (default 1).")
@click.option("--worker", "place", type=Place.parse, hidden=True)
def serve(
    *, home: Path | None, history_url: str | None, slo_file: Path | None, mortal: bool, place: Place | None,
    **given: object,
) -> None:  # fmt: skip
    """Serve the OpenAI API, routed over the engines.

    \b
    Examples:
      fleet router serve --engines http://gpu1:8000,http://gpu2:8000
      fleet router serve --platform http://127.0.0.1:8060 --port 0 --admin-port 0
      fleet router serve --engines http://gpu1:8000 --config router.yaml --seed 1
      fleet router serve --engines http://gpu1:8000,http://gpu2:8000 --workers 4
      fleet router serve --discover kube-pool://default/qwen --config router.yaml
      fleet router serve --discover kube-service://default/engines --predictor-url http://fleet-predictor:8090
    """
    fleet = load(FleetSettings, home=home, history_url=history_url, slo_file=slo_file)
    _run("router", RouterService, load(RouterSettings, **given), fleet, mortal=mortal, place=place)


@router.command(short_help="Pick endpoints for Envoy and Gateway API (ext_proc).")
@click.option("--port", type=int, help="gRPC port for the proxy, 0 for any free one (default 9002).")
@_shared
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate of the gRPC port, PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key, PEM.")
@click.option(
    "--tls-client-ca", type=click.Path(path_type=Path), help="Ask proxies for certificates of this authority."
)
@click.option("--fallbacks", type=int, help="Endpoints named behind the best one, for retries (default 0).")
@click.option("--emit-scores", is_flag=True, default=None, help="Put all scores into the dynamic metadata.")
@click.option("--objects", help="InferenceObjective, InferenceModelRewrite: a file, a folder or kube://NAMESPACE/POOL.")
@click.option("--conformance", is_flag=True, default=None, help="Obey test-epp-endpoint-selection (tests only).")
def picker(
    *, home: Path | None, history_url: str | None, slo_file: Path | None, mortal: bool, port: int | None,
    **given: object,
) -> None:  # fmt: skip
    """Pick endpoints for Envoy and Gateway API (ext_proc, endpoint picker protocol 1.0).

    \b
    Examples:
      fleet router picker --engines http://10.0.0.1:8000,http://10.0.0.2:8000
      fleet router picker --discover kube-pool://default/qwen --host 0.0.0.0 --tls-cert tls.crt --tls-key tls.key
    """
    names = PickerSettings.model_fields
    own = load(PickerSettings, **{name: given.pop(name) for name in list(given) if name in names})
    settings = load(RouterSettings, port=_PICKER_PORT if port is None else port, workers=1, **given)
    fleet = load(FleetSettings, home=home, history_url=history_url, slo_file=slo_file)
    _run("picker", partial(PickerService, picker=own), settings, fleet, mortal=mortal)


@router.command(short_help="Keep the KV-cache index as a service of its own.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9090, show_default=True, type=int, help="Port for queries, 0 for any free one.")
@click.option("--kv-events", default="auto", show_default=True,
              help="Engines' KV events: auto, tcp://*:PORT or connect:PORT[,REPLAY_PORT].")  # fmt: skip
@click.option("--engines", default="", help="Engine URLs, separated by commas; not needed where engines connect.")
def indexer(*, host: str, port: int, kv_events: str, engines: str) -> None:
    """Keep the KV-cache index as a service of its own (POST /query, GET /pods, GET /metrics).

    \b
    Examples:
      fleet router indexer --kv-events tcp://*:5557
      fleet router indexer --engines http://gpu1:8000,http://gpu2:8000 --port 9090
    """
    setup_logging("indexer")
    try:
        from router.kvevents.serve import serve as serve_index  # noqa: PLC0415 - pyzmq is an optional package
    except ImportError:
        raise ConfigError("KV events need the package pyzmq", where="indexer",
                          next_step="pip install 'llm-fleet[kv]'.") from None  # fmt: skip
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_index(host=host, port=port, kv_events=kv_events, engines=engines))


def _run(
    name: str, make: Callable[..., RouterService], settings: RouterSettings, fleet: FleetSettings, *, mortal: bool,
    place: Place | None = None,
) -> None:  # fmt: skip
    """Serve until told to stop."""
    if mortal:
        die_with_parent()
    setup_logging(name)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    _raise_descriptor_limit()
    native = compiled.check()
    profile = load_profile(settings.config)
    for note in profile.notes:
        log.warning("%s", note)
    with contextlib.ExitStack() as stack:
        extra: dict[str, object] = {}
        if place is None and settings.workers > 1:
            place = stack.enter_context(meeting(settings.workers))
        if place is not None:
            extra["place"] = place
        history = History(fleet.resolved_history_url())
        service = make(settings, profile=profile, home=fleet.home, history=history, slo_file=fleet.slo_file, **extra)
        service.bind()
        log.info("the hot path is %s", "native code" if native else "plain Python")
        sys.setswitchinterval(_SWITCH_S)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(service))


@router.command(short_help="Make an API key for a tenant.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def key(*, as_json: bool) -> None:
    """Make an API key for a tenant: the key itself for its user, its hash for the tenants file.

    \b
    Examples:
      fleet router key
      fleet router key --json
    """
    made = KEY_PREFIX + secrets.token_urlsafe(32)
    stored = hashed(made.encode())
    click.echo(json.dumps({"key": made, "hash": stored}) if as_json else f"key:  {made}\nhash: {stored}")


def _raise_descriptor_limit() -> None:
    """A connection takes two descriptors, and shells start programs with 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(service: RouterService) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def ask_to_stop() -> None:
        loop.call_soon_threadsafe(stop.set)

    on_stop(ask_to_stop)
    await service.start()
    gc.collect()
    gc.freeze()  # what start-up made stays: looking through it again and again would only stall requests
    gc.set_threshold(*_GC_THRESHOLD)
    log.info("serving on http://%s:%d, admin on http://%s:%d", service.settings.host, service.port,
             service.settings.host, service.admin_port)  # fmt: skip
    waits = [loop.create_task(event.wait()) for event in (stop, service.broken)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await service.stop()
    if service.broken.is_set():
        raise click.exceptions.Exit(1)
