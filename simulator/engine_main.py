"""``fleet sim engine``: simulated engines as a process. Imports little: many of them start on one machine."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from typing import Any

import click
import uvloop

from fleet.arguments import Finite
from fleet.errors import ConfigError, FleetError
from fleet.shell import bind, die_with_parent, setup_logging
from fleet.stopping import leave_on_stop, on_stop
from simulator.engine_options import EngineOptions
from simulator.link import LINKS
from simulator.replica import Replica
from simulator.transfer import ConnectorKind, Role
from simulator.vllm_metrics import VERSIONS

log = logging.getLogger(__name__)
CRASH_CODE = 139
"""Exit code of a crash, as of a segmentation fault."""
MAX_PORT = 65_535
_DEFAULT = EngineOptions()

_EPILOG = """\b
Examples:
  fleet sim engine --port 9100 --model llama --shape Llama-3.1-8B --startup-s 5
  fleet sim engine --replicas 50 --port 9100 --speed 10 --output-law fixed:200
  fleet sim engine --role prefill --port 9100      and  fleet sim engine --role decode --port 9101
  fleet sim engine --kv-events 'tcp://*:5557' --kv-events-replay 'tcp://*:5558'
  fleet sim engine --fault error:rate=0.05,types=rate_limit+server_error --fault slow:factor=3,after_s=60,seconds=30
  curl localhost:9100/sim/fault -d '{"kind": "reset", "rate": 0.1, "after_tokens": 20}'
"""


def _options(command: Any) -> Any:
    """The options of :class:`EngineOptions`, one by one."""
    for decorate in reversed(_ENGINE_OPTIONS):
        command = decorate(command)
    return command


_ENGINE_OPTIONS = (
    click.option("--model", default="", help="Served model name. Default: the shape's name."),
    click.option("--shape", default=_DEFAULT.shape, show_default=True, help="Model whose sizes and times to use."),
    click.option("--accelerator", default=_DEFAULT.accelerator, show_default=True, help="GPU, as in fleet.hardware."),
    click.option("--accelerator-count", default=1, show_default=True, help="GPUs of an engine (tensor parallel)."),
    click.option("--kv-tokens", type=int, help="KV cache in tokens. Default: what fits beside the weights."),
    click.option("--max-num-seqs", type=int, help="Sequences in a batch. Default: vLLM's for this GPU."),
    click.option("--max-num-batched-tokens", type=int, help="Tokens of one step. Default: vLLM's for this GPU."),
    click.option("--max-model-len", type=int, help="Longest request. Default: 131072 or the KV cache, if smaller."),
    click.option("--scheduling-policy", type=click.Choice(["fcfs", "priority"]), default="fcfs", show_default=True,
                 help="Order of the queue; 'priority' reads the requests' priority."),
    click.option("--startup-s", default=0.0, show_default=True, type=Finite(min=0),
                 help="Real seconds until healthy."),
    click.option("--speed", "--accelerated", default=1.0, show_default=True,
                 type=Finite(min=0, min_open=True),
                 help="Simulated seconds a real second; metrics and steps live in simulated ones."),
    click.option("--seed", default=0, show_default=True, help="Decides answer lengths and faults."),
    click.option("--output-law", default=_DEFAULT.output_law, show_default=True,
                 help="Where answers without ignore_eos end: lognormal:MEDIAN,SIGMA, fixed:TOKENS or none."),
    click.option("--ttft-buckets", default="", help="Bounds of the TTFT histogram, in seconds, comma-separated."),
    click.option("--metrics-version", type=click.Choice(VERSIONS), default=_DEFAULT.metrics_version,
                 show_default=True, help="vLLM version whose metric names to show."),
    click.option("--show-hidden-metrics", is_flag=True, help="With 0.11: also the deprecated names that it hides."),
    click.option("--max-loras", default=0, show_default=True, type=click.IntRange(min=0),
                 help="LoRA adapters in a batch; above 0 they can be loaded and unloaded."),
    click.option("--lora-module", multiple=True, metavar="NAME=PATH", help="An adapter that is there from the start."),
    click.option("--role", type=click.Choice([role.value for role in Role]),
                 help="Take legs of disaggregated requests (kv_transfer_params). Default: no KV connector."),
    click.option("--kv-connector", type=click.Choice([kind.value for kind in ConnectorKind]),
                 default=_DEFAULT.kv_connector, show_default=True, help="Protocol of the KV connector."),
    click.option("--kv-bootstrap-port", default=_DEFAULT.kv_bootstrap_port, show_default=True,
                 type=click.IntRange(1, MAX_PORT), help="Mooncake: port of a prefill engine's bootstrap server."),
    click.option("--kv-lease-s", default=_DEFAULT.kv_lease_s, show_default=True,
                 type=Finite(min=0, min_open=True), help="How long blocks are kept for a decode engine."),
    click.option("--kv-link", type=click.Choice(sorted(LINKS)), default=_DEFAULT.kv_link, show_default=True,
                 help="Transport of KV transfers, as measured for llm-d."),
    click.option("--kv-load-failure-policy", type=click.Choice(["fail", "recompute"]), default="fail",
                 show_default=True, help="What happens to a decode leg whose KV cannot be loaded."),
    click.option("--kv-events", metavar="ENDPOINT",
                 help="Publish KV events: tcp://*:PORT is bound, tcp://HOST:PORT is connected to. Needs pyzmq."),
    click.option("--kv-events-replay", metavar="ENDPOINT", help="Play back missed events here; bound."),
    click.option("--kv-events-encoding", type=click.Choice(["map", "array"]), default="map", show_default=True,
                 help="Maps (vLLM since 0.23) or positional arrays (before)."),
    click.option("--advertise-host", default="", help="Where others reach this engine. Default: --host."),
    click.option("--fault", multiple=True, metavar="KIND[:KEY=VALUE,...]",
                 help="slow, hang, error, reset, refuse or crash; keys factor, rate, types, after_tokens, after_s, "
                      "seconds."),
)  # fmt: skip


@click.command(epilog=_EPILOG, short_help="Run simulated vLLM engines.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9100, show_default=True, help="Port; 0 for any free one.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1, 1000),
              help="Engines in this process, on ports from --port upwards.")  # fmt: skip
@_options
@click.option("--die-with-parent", "linked", is_flag=True, help="Stop when the parent process dies (Linux).")
@click.option("--parent-pid", type=int, hidden=True, help="With --die-with-parent: the parent that must be alive.")
def engine(*, host: str, port: int, replicas: int, linked: bool, parent_pid: int | None, **given: Any) -> None:
    """Run simulated vLLM engines: OpenAI API, metrics, prefix cache, real timing.

    What is generated is a fixed text. With ignore_eos an answer is as long as max_tokens says; without, it ends where
    --output-law puts its end-of-sequence. POST /sim/fault {"kind": ...} injects failures, {"kind": "none"} heals.
    """
    if linked:
        _link(parent_pid)
    setup_logging(f"engine:{port}")
    options = EngineOptions(**given)
    socks = _bind_all(host, port, replicas)
    uvloop.run(_serve(options, socks))


def _bind_all(host: str, port: int, replicas: int) -> list[socket.socket]:
    ports = [port + index if port else 0 for index in range(replicas)]
    if ports[-1] > MAX_PORT:
        raise ConfigError(f"{replicas} replicas from port {port} on", where="--port", limit=f"{MAX_PORT}",
                          next_step="Begin at a lower port, or at 0 for any free ones.")  # fmt: skip
    return [bind(host, one, what="engine", setting="--port") for one in ports]


async def _serve(options: EngineOptions, socks: list[socket.socket]) -> None:
    """Until a signal, or until every engine has crashed.

    Raises: ConfigError.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    engines = [Replica(options, sock, index=index) for index, sock in enumerate(socks)]
    if len(engines) == 1:
        engines[0].on_crash = lambda: os._exit(CRASH_CODE)  # as a crash does: nothing is tidied up

    def stop_soon() -> None:
        loop.call_soon_threadsafe(stop.set)

    on_stop(stop_soon)
    for one in engines:
        await one.start()
    first, last = engines[0], engines[-1]
    where = f"{first.host}:{first.port}" if first is last else f"{first.host}:{first.port} to {last.port}"
    log.info("%d x %s on %d x %s at http://%s, healthy in %.1f s", len(engines), options.served,
             options.accelerator_count, options.accelerator, where, options.startup_s)  # fmt: skip
    gone = asyncio.ensure_future(_all_gone(engines))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({gone, stopping}, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not stop.is_set():
        log.error("every engine of this process has crashed")
        sys.exit(CRASH_CODE)
    await asyncio.gather(*(one.stop() for one in engines if not one.crashed))


async def _all_gone(engines: list[Replica]) -> None:
    for one in engines:
        await one.ended.wait()


def _link(parent_pid: int | None) -> None:
    """Die with the parent; at once if it died before the link was made."""
    die_with_parent()
    if parent_pid is not None and os.getppid() != parent_pid:
        sys.exit(1)


def main() -> None:
    """``python -m simulator.engine_main``: as the CLI, without importing it."""
    leave_on_stop()
    try:
        engine(standalone_mode=False)
    except FleetError as error:
        click.echo(f"fleet: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)


if __name__ == "__main__":
    main()
