"""``fleet sim``: simulated engines, the platform that runs them, and traffic."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from fleet.settings import load
from fleet.shell import bind, die_with_parent, setup_logging
from simulator.engine_main import engine
from simulator.settings import SimSettings, load_fleet_file
from simulator.traffic_cli import COMMANDS

log = logging.getLogger(__name__)

_EXAMPLE = """\b
Example of a fleet file:
  model: meta-llama/Llama-3.1-8B-Instruct
  seed: 1
  variants:
    - {name: llama-8b-h100, shape: Llama-3.1-8B, accelerator: h100_sxm, min_replicas: 1, max_replicas: 2,
       startup_s: 8, kv_tokens: 24000}
    - {name: llama-8b-a100, shape: Llama-3.1-8B, accelerator: a100_sxm, min_replicas: 1, max_replicas: 3,
       startup_s: 8, kv_tokens: 24000}

\b
Examples:
  fleet sim serve --config fleet.yaml
  fleet sim serve --config fleet.yaml --in-process
  curl -X PUT localhost:8060/variants/llama-8b-a100/scale -H 'content-type: application/json' -d '{"replicas": 2}'
"""


@click.group()
def sim() -> None:
    """Simulated engines and traffic.

    \b
    Examples:
      fleet sim serve --config fleet.yaml      variants of engines behind a platform API
      fleet sim engine --port 9100             one engine
      fleet sim engine --replicas 50           fifty engines in one process
    """


@sim.command(epilog=_EXAMPLE, short_help="Run a fleet file's variants behind the platform API.")
@click.option("--config", "config_file", required=True, type=click.Path(path_type=Path), help="The fleet file (YAML).")
@click.option("--host", help="Address of the API and the engines. [default: 127.0.0.1; env SIM_HOST]")
@click.option("--port", type=int, help="Port of the API, 0 for any free one. [default: 8060; env SIM_PORT]")
@click.option("--engine-port-base", type=int, help="Engines listen from here upwards. [default: 9100]")
@click.option("--in-process", is_flag=True, default=None, help="Run all engines in this process: for large fleets.")
@click.option("--vllm", metavar="PROGRAM", help="Run real vLLM servers: vLLM's program (env SIM_VLLM).")
@click.option("--vllm-model", metavar="MODEL", help="What they load: a folder or a hub name.")
@click.option("--vllm-args", metavar="ARGS", help="Further arguments of `vllm serve`, in one string.")
@click.option("--die-with-parent", "linked", is_flag=True, help="Stop when the parent process dies (Linux).")
def serve(*, config_file: Path, linked: bool, **given: Any) -> None:
    """Run the variants of a fleet file as engines behind the platform API.

    GET /fleet lists variants and replicas; PUT /variants/NAME/scale {"replicas": N} scales one. Dead engines are
    started again.
    """
    # Imported here: FastAPI and aiohttp are not needed by the other commands.
    from simulator.manager import Manager  # noqa: PLC0415
    from simulator.manager_api import make_app  # noqa: PLC0415
    from simulator.serving import serve as serve_app  # noqa: PLC0415

    if linked:
        die_with_parent()
    setup_logging("sim")
    settings = load(SimSettings, **given)
    fleet_file = load_fleet_file(config_file)
    sock = bind(settings.host, settings.port, what="sim", setting="--port")
    log.info("%d variants of %s; platform API at http://%s:%d/fleet", len(fleet_file.variants), fleet_file.model,
             settings.host, sock.getsockname()[1])  # fmt: skip
    serve_app(make_app(Manager(fleet_file, settings)), sock, lifespan=True)


sim.add_command(engine)
for command in COMMANDS:
    sim.add_command(command)
