"""``fleet plan``: size, advise, optimise, render."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from rich.console import Console

from fleet.arguments import Finite
from fleet.errors import ConfigError
from fleet.hardware import GPUS, MODELS, PRECISIONS, Precision
from fleet.settings import FleetSettings, load
from planner import tables
from planner.advisor import Network, Situation, advise
from planner.capacity import Limits
from planner.demand import Demand, Promise, demand_of
from planner.document import parse, schema
from planner.expect import Effect, expected_effects
from planner.memory import DEFAULT_UTILISATION, Hardware
from planner.optimise import optimise
from planner.plot import pareto
from planner.render import FLEET_IMAGE, render
from planner.sizing import LINK_GBIT_S, size
from simulator.traces import traffic
from simulator.workload import TimedRequest

MOST_READ: Final = 200_000
"""Requests of a workload that are looked at."""

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_seed = click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the simulation.")


@click.group()
def plan() -> None:
    """Plan a fleet: memory and replicas, which path to take, the cheapest hardware, manifests.

    \b
    Examples:
      fleet plan size --model Qwen3-32B --gpu h100_sxm --tp 2
      fleet plan size --model Llama-3.1-8B --gpu h100_sxm --rps 60 --input 1155 --output 211 --ttft 0.5 --tpot 0.05
      fleet plan advise --model Llama-3.1-70B --input 12000 --output 400 --rps 5 --network rdma
      fleet plan optimise --model Qwen3-32B --workload requests.csv --ttft 2 --tpot 0.06 --plot front.html
      fleet plan render cluster.yaml --out manifests/
    """


def _demand_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--rps", type=float, help="Requests per second at the peak."),
        click.option("--input", "input_tokens", type=float, help="Mean prompt, tokens."),
        click.option("--output", "output_tokens", type=float, help="Mean answer, tokens."),
        click.option("--cached", "cached_ratio", type=float, default=0.0, show_default=True,
                     help="Share of prompt tokens found in a prefix cache, 0..1."),
        click.option("--shared", "shared_ratio", type=float, help="Share that others share (default: --cached)."),
        click.option("--sigma", "length_sigma", type=float, default=0.0, show_default=True,
                     help="Spread of the lengths (lognormal sigma); 0: all alike, 1: as in public traces."),
        click.option("--workload", help="Workload file, or a committed profile's name, in place of these numbers."),
        click.option("--scale", type=Finite(min=1e-3, max=1e4), default=1.0, help="Multiplies its rate."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _promise_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--ttft", "ttft_s", type=float, default=2.0, show_default=True, help="Target, seconds."),
        click.option("--tpot", "tpot_s", type=float, default=0.05, show_default=True, help="Target, seconds."),
        click.option("--objective", type=float, default=0.95, show_default=True, help="Share that keeps it."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@plan.command("size", short_help="Memory of a replica; replicas and cost for a demand.")
@click.option("--model", required=True, help="Model of the hardware catalogue.")
@click.option("--gpu", required=True, help="GPU of the hardware catalogue.")
@click.option("--tp", type=int, default=1, show_default=True, help="GPUs of one replica (tensor parallelism).")
@click.option("--precision", type=click.Choice(PRECISIONS), default="bf16", show_default=True, help="Of the weights.")
@click.option("--kv-fp8", is_flag=True, help="KV cache in one byte a value.")
@click.option("--gpu-memory-utilization", type=float, default=DEFAULT_UTILISATION, show_default=True, help="vLLM's.")
@click.option("--max-num-seqs", type=click.IntRange(min=1), help="vLLM's; default: vLLM's own.")
@click.option("--max-num-batched-tokens", type=click.IntRange(min=1), help="vLLM's; default: vLLM's own.")
@click.option("--link-gbit", type=Finite(min=0.1), default=LINK_GBIT_S, show_default=True,
              help="Between prefill and decode engines.")  # fmt: skip
@click.option("--no-simulate", is_flag=True, help="Closed form alone, without trying it out.")
@_demand_options
@_promise_options
@_seed
@_json
def size_command(
    *, model: str, gpu: str, tp: int, precision: Precision, kv_fp8: bool, gpu_memory_utilization: float,
    max_num_seqs: int | None, max_num_batched_tokens: int | None, link_gbit: float, no_simulate: bool, seed: int,
    as_json: bool, ttft_s: float, tpot_s: float, objective: float, **asked: Any,
) -> None:  # fmt: skip
    """Memory of a replica; with a demand, how many replicas keep the promise, and their cost.

    \b
    Examples:
      fleet plan size --model Llama-3.1-70B --gpu h100_sxm --tp 4 --json
      fleet plan size --model Qwen3-32B --gpu h100_sxm --tp 2 --workload azure2023_conv --scale 20 --ttft 2 --tpot 0.06
    """
    hardware = Hardware(
        model=model,
        gpu=gpu,
        tensor_parallel=tp,
        precision=precision,
        kv_bytes_per_value=1 if kv_fp8 else 2,
        gpu_memory_utilization=gpu_memory_utilization,
    )
    demand = _demand(asked)
    limits = Limits(max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens)
    promise = Promise(ttft_s=ttft_s, tpot_s=tpot_s, objective=objective)
    found = size(hardware, demand, promise, limits=limits, simulate=not no_simulate, seed=seed,
                 link_gbit_s=link_gbit, progress=_tell)  # fmt: skip
    if as_json:
        click.echo(json.dumps(found.document()))
    else:
        Console().print(tables.sizing(found))


@plan.command("advise", short_help="Which path to take, and what pays, with the reasons.")
@click.option("--model", required=True, help="Model of the hardware catalogue.")
@click.option("--network", type=click.Choice([one.value for one in Network]), default=Network.ETHERNET.value,
              show_default=True, help="Between the nodes.")  # fmt: skip
@click.option("--batch", is_flag=True, help="Nobody waits for the answers.")
@click.option("--idle", "idle_share", type=float, default=0.0, show_default=True, help="Idle share of the day, 0..1.")
@click.option("--session-gap", "session_gap_s", type=float, default=0.0, show_default=True,
              help="Mean seconds between the turns of a conversation; 0: single requests.")  # fmt: skip
@click.option("--gpu", default="h100_sxm", show_default=True, help="For the simulation of a --workload.")
@click.option("--tp", type=int, default=0, help="For the simulation (default: the smallest that fits).")
@_demand_options
@_promise_options
@_seed
@_json
def advise_command(
    *, model: str, network: str, batch: bool, idle_share: float, session_gap_s: float, gpu: str, tp: int, seed: int,
    as_json: bool, ttft_s: float, tpot_s: float, objective: float, **asked: Any,
) -> None:  # fmt: skip
    """Which well-lit path to take, and which means of saving pay, with the reason for each.

    With --workload, prefix caching, cache-aware routing and P/D disaggregation are simulated on it.

    \b
    Examples:
      fleet plan advise --model Qwen3-32B --rps 20 --input 6000 --output 1000 --shared 0.8
      fleet plan advise --model Llama-3.1-70B --workload mooncake_synthetic.jsonl.gz --network rdma
    """
    demand = _required(_demand(asked))
    situation = Situation(model=model, demand=demand, network=Network(network), interactive=not batch,
                          idle_share=idle_share, session_gap_s=session_gap_s)  # fmt: skip
    found = advise(situation)
    effects: tuple[Effect, ...] = ()
    if asked["workload"]:
        promise = Promise(ttft_s=ttft_s, tpot_s=tpot_s, objective=objective)
        requests = _requests(asked["workload"], asked["scale"])
        effects = expected_effects(model, gpu, tp, requests, promise, seed=seed, progress=_tell)
    if as_json:
        click.echo(json.dumps({**asdict(found), "simulated": [asdict(one) for one in effects]}))
    else:
        Console().print(tables.advice(found, effects))


@plan.command("optimise", short_help="The cheapest hardware and limits that keep the promise.")
@click.option("--model", required=True, help="Model of the hardware catalogue.")
@click.option("--gpus", default="", help="Kinds to consider, separated by commas (default: all).")
@click.option("--fp8", is_flag=True, help="Consider 8-bit weights too.")
@click.option("--most", type=click.IntRange(1, 200), default=12, show_default=True, help="Candidates to simulate.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the Pareto plot (HTML) here.")
@_demand_options
@_promise_options
@_seed
@_json
def optimise_command(
    *, model: str, gpus: str, fp8: bool, most: int, plot: Path | None, seed: int, as_json: bool, ttft_s: float,
    tpot_s: float, objective: float, **asked: Any,
) -> None:  # fmt: skip
    """The cheapest GPUs, parallelism and engine limits that keep the promise, tried in the simulator.

    \b
    Examples:
      fleet plan optimise --model Llama-3.1-8B --rps 60 --input 1155 --output 211 --ttft 0.5 --tpot 0.05
      fleet plan optimise --model Qwen3-32B --workload azure2023_conv --scale 20 --gpus h100_sxm,a100_sxm --plot p.html
    """
    if model not in MODELS:
        Hardware(model=model, gpu="h100_sxm")  # refuses, with the nearest name
    wanted = [name for name in gpus.split(",") if name]
    for name in wanted:
        Hardware(model=model, gpu=name)
    promise = Promise(ttft_s=ttft_s, tpot_s=tpot_s, objective=objective)
    found = optimise(model, _required(_demand(asked)), promise, gpus=wanted, seed=seed, most=most,
                     precision_fp8=fp8, progress=_tell)  # fmt: skip
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        Console().print(tables.search(found))
    if plot:
        plot.write_text(pareto(found, promise), encoding="utf-8")
        click.echo(f"wrote {plot}", err=True)


@plan.command("render")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder (default: print).")
@click.option("--fleet-image", default=FLEET_IMAGE, show_default=True, help="Image of our own parts.")
def render_command(*, file: Path, out: Path | None, fleet_image: str) -> None:
    """Kubernetes manifests from one InferenceCluster file.

    \b
    Examples:
      fleet plan render docs/examples/cluster.yaml --out manifests/ && kubectl apply -k manifests/
      fleet plan schema > inferencecluster.schema.json
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"the file cannot be read: {reason}", where=str(file), next_step="Check the path.") from error
    files = render(parse(text, where=str(file)), source=file.name, image=fleet_image)
    if out is None:
        click.echo("---\n".join(text for name, text in files.items() if name != "kustomization.yaml"), nl=False)
        return
    _write(out, files)


@plan.command("schema")
def schema_command() -> None:
    """JSON Schema of the InferenceCluster file."""
    click.echo(json.dumps(schema(), indent=2))


@plan.command("hardware")
@_json
def hardware_command(*, as_json: bool) -> None:
    """GPUs with their prices, and models, that the planner knows."""
    if as_json:
        click.echo(json.dumps({"gpus": {name: asdict(gpu) for name, gpu in GPUS.items()},
                               "models": {name: asdict(shape) for name, shape in MODELS.items()}}))  # fmt: skip
    else:
        Console().print(tables.hardware())


def _write(out: Path, files: Mapping[str, str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")
            click.echo(f"wrote {out / name}", err=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write: {error.strerror}", where=str(out), next_step="Choose another --out."
        ) from error


def _demand(asked: Mapping[str, Any]) -> Demand | None:
    """From the workload, or from the numbers; ``None`` when neither is given."""
    if asked["workload"]:
        return demand_of(_requests(asked["workload"], asked["scale"]))
    numbers = {name: asked[name] for name in ("rps", "input_tokens", "output_tokens")}
    if all(value is None for value in numbers.values()):
        return None
    if missing := [name for name, value in numbers.items() if value is None]:
        raise ConfigError(
            f"--{missing[0].removesuffix('_tokens')} is missing", next_step="Give --rps, --input and --output."
        )
    shared = asked["cached_ratio"] if asked["shared_ratio"] is None else asked["shared_ratio"]
    return Demand(
        **numbers, cached_ratio=asked["cached_ratio"], length_sigma=asked["length_sigma"], shared_ratio=shared
    )


def _required(demand: Demand | None) -> Demand:
    if demand is None:
        raise ConfigError("no demand is given", next_step="Give --rps, --input and --output, or --workload.")
    return demand


def _requests(name: str, scale: float) -> list[TimedRequest]:
    """A cycle of the workload at ``scale`` times its rate, cut to its first requests."""
    folders = [found] if (found := load(FleetSettings).traces) else []
    source = traffic(name, folders).source
    return source.cycle(np.random.default_rng(1), scale)[:MOST_READ]


def _tell(what: str) -> None:
    if Console(stderr=True).is_terminal:
        click.echo(f"  trying {what}", err=True)
