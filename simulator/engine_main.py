"""``fleet sim engine``: one simulated engine as a process. Imports little: many of them start on one machine."""

from __future__ import annotations

import logging
import os
import sys
import time

import click

from fleet.errors import ConfigError, FleetError
from fleet.hardware import MODELS, kv_bytes_per_token
from fleet.shell import bind, die_with_parent, setup_logging
from simulator.clock import ScaledClock
from simulator.config import engine_config
from simulator.engine import Engine
from simulator.metrics_page import EngineMetrics
from simulator.realtime import Runner
from simulator.server import EngineApp
from simulator.serving import serve

log = logging.getLogger(__name__)


def parse_bounds(text: str) -> tuple[float, ...] | None:
    """``0.1,0.2,0.5`` as bounds; empty: ``None``.

    Raises: ConfigError unless they are numbers above 0 in ascending order.
    """
    if not text:
        return None
    try:
        bounds = tuple(float(part) for part in text.split(","))
    except ValueError:
        bounds = ()
    if not bounds or bounds[0] <= 0 or list(bounds) != sorted(set(bounds)):
        raise ConfigError(f"{text!r} are no bucket bounds", where="--ttft-buckets", limit="numbers above 0, ascending",
                          next_step="Write seconds such as 0.05,0.1,0.2,0.5,1.")  # fmt: skip
    return bounds


@click.command(epilog="Example:  fleet sim engine --port 9100 --model llama --shape Llama-3.1-8B --startup-s 5")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9100, show_default=True, help="Port; 0 for any free one.")
@click.option("--model", default="", help="Served model name. Default: the shape's name.")
@click.option("--shape", default="Llama-3.1-8B", show_default=True, help="Model whose sizes and step times to use.")
@click.option("--accelerator", default="h100_sxm", show_default=True, help="GPU product, as in fleet.hardware.")
@click.option("--accelerator-count", default=1, show_default=True, help="GPUs of this engine (tensor parallel).")
@click.option("--kv-tokens", type=int, help="KV cache in tokens. Default: what fits beside the weights.")
@click.option("--max-num-seqs", type=int, help="Sequences in a batch. Default: vLLM's for this GPU.")
@click.option("--max-num-batched-tokens", type=int, help="Tokens of one step. Default: vLLM's for this GPU.")
@click.option("--max-model-len", type=int, help="Longest request. Default: 131072 or the KV cache, if smaller.")
@click.option("--startup-s", default=0.0, show_default=True, type=click.FloatRange(min=0),
              help="Seconds until healthy.")  # fmt: skip
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Simulated seconds a real second; metrics and steps live in simulated ones.")  # fmt: skip
@click.option("--ttft-buckets", default="", help="Bounds of the TTFT histogram, in seconds, comma-separated.")
@click.option("--die-with-parent", "linked", is_flag=True, help="Stop when the parent process dies (Linux).")
@click.option("--parent-pid", type=int, hidden=True, help="With --die-with-parent: the parent that must be alive.")
def engine(
    *, host: str, port: int, model: str, shape: str, accelerator: str, accelerator_count: int, kv_tokens: int | None,
    max_num_seqs: int | None, max_num_batched_tokens: int | None, max_model_len: int | None, startup_s: float,
    speed: float, ttft_buckets: str, linked: bool, parent_pid: int | None,
) -> None:  # fmt: skip
    """Run one simulated vLLM engine: OpenAI API, metrics, prefix cache, real timing.

    There is no end-of-sequence in a simulation: an answer is as long as max_tokens says.
    POST /sim/fault {"kind": "slow"|"hang"|"error"|"none", "factor": 2.0} injects failures.
    """
    started = time.time()
    if linked:
        _link(parent_pid)
    setup_logging(f"engine:{port}")
    config = engine_config(
        shape, accelerator, accelerator_count, kv_tokens=kv_tokens, max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens, max_model_len=max_model_len,
    )  # fmt: skip
    metrics = EngineMetrics(
        model or shape, config, created_s=started, kv_bytes_per_token=kv_bytes_per_token(MODELS[shape]),
        ttft_bounds=parse_bounds(ttft_buckets),
    )  # fmt: skip
    sock = bind(host, port, what="engine", setting="--port")
    app = EngineApp(Runner(Engine(config), metrics, ScaledClock(time.monotonic, speed=speed)),
                    model=model or shape, startup_s=startup_s)  # fmt: skip
    log.info("%s on %d x %s at http://%s:%d, healthy in %.1f s", model or shape, accelerator_count, accelerator,
             host, sock.getsockname()[1], startup_s)  # fmt: skip
    serve(app, sock)


def _link(parent_pid: int | None) -> None:
    """Die with the parent; at once if it died before the link was made."""
    die_with_parent()
    if parent_pid is not None and os.getppid() != parent_pid:
        sys.exit(1)


def main() -> None:
    """``python -m simulator.engine_main``: as the CLI, without importing it."""
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
