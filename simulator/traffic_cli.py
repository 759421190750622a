"""The traffic commands of ``fleet sim``: replay, workload, profile, download; and calibrate."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import click

from fleet.arguments import Finite
from fleet.errors import ConfigError
from fleet.settings import FleetSettings, load
from fleet.shell import die_with_parent, setup_logging
from simulator import replay_client, traffic_options
from simulator.calibrate_cli import calibrate
from simulator.download import PUBLISHED, download
from simulator.profile import fit, to_json
from simulator.replay import DEFAULT_MODEL, ReplayOptions, run
from simulator.traces import read_requests, recorded_line, stem, write_atomically
from simulator.traffic_options import POSITIVE, shape_options
from simulator.workload import fitted

log = logging.getLogger(__name__)


@click.command(short_help="Send a trace's traffic to a server.")
@click.option("--target", required=True, metavar="URL", help="The router, or one engine: http://127.0.0.1:8080.")
@click.option("--model", default="", help=f"Model to ask for. Default: the recorded one, else {DEFAULT_MODEL}.")
@shape_options
@click.option("--duration", "duration_s", type=POSITIVE, help="Seconds of sending; default: for ever.")
@click.option("--drain-s", type=Finite(min=0.0), default=30.0, show_default=True,
              help="Seconds to wait for answers after the last request.")  # fmt: skip
@click.option("--max-in-flight", type=click.IntRange(min=1), default=2000, show_default=True,
              help="Further requests are not sent and count as failed (client_limit).")  # fmt: skip
@click.option("--timeout-s", type=POSITIVE, default=300.0, show_default=True,
              help="A request that takes longer has failed.")  # fmt: skip
@click.option("--api", type=click.Choice(tuple(replay_client.PATHS)), default="completions", show_default=True,
              help="Endpoint to call: /v1/completions or /v1/chat/completions.")  # fmt: skip
@click.option("--max-model-len", type=click.IntRange(min=2), metavar="TOKENS",
              help="The server's context: longer requests are shortened. Default: sent as they are.")  # fmt: skip
@click.option("--status", type=click.Path(path_type=Path, dir_okay=False), help="Rewrite this JSON file every second.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the final JSON report here.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--die-with-parent", "dies", is_flag=True, help="Stop when the process that started this one ends.")
def replay(
    *,
    target: str, model: str, duration_s: float | None, drain_s: float, max_in_flight: int, timeout_s: float, api: str,
    max_model_len: int | None, status: Path | None, report: Path | None, as_json: bool, dies: bool, **shape: Any,
) -> None:  # fmt: skip
    """Send a trace's traffic to a server, open loop: requests never wait for answers.

    By default the azure2023_conv hour is compressed to two minutes at a mean of 13 requests/s, over and over. Each
    request asks for a streamed answer of exactly the recorded length. SIGTERM stops sending, waits five seconds for
    open answers and reports.

    \b
    Examples:
      fleet sim replay --target http://127.0.0.1:8080
      fleet sim replay --target http://127.0.0.1:8080 --duration 60 --json
      fleet sim replay --target http://gpu1:8000 --trace mooncake_synthetic --warp 1 --rate-scale 2
    """
    if dies:
        die_with_parent()
    setup_logging("replay")
    base = replay_client.base_url(target)
    _check_writable(status, report)
    shaped = traffic_options.shaped(**shape)
    facts = shaped.facts()
    log.info("%s %s: %s; mean %.4g requests/s, %.4g s a period, seed %d", facts["used"], facts["name"], facts["where"],
             facts["mean_rps"], facts["period_s"], shaped.seed)  # fmt: skip
    options = ReplayOptions(
        target=base, model=model, api=api, duration_s=duration_s, drain_s=drain_s, max_in_flight=max_in_flight,
        timeout_s=timeout_s, run_id=f"{time.time_ns():x}", status=status, report=report, traffic=facts,
    )  # fmt: skip
    requests = shaped.requests(duration_s)
    result = run(options, (fitted(one, max_model_len) for one in requests) if max_model_len else requests)
    click.echo(json.dumps(result, indent=1) if as_json else _summary(result))


def _check_writable(*paths: Path | None) -> None:
    """Say before the replay, not after it, that a file cannot be written."""
    for path in paths:
        folder = path.parent if path else None
        if folder and folder.is_dir() and not os.access(folder, os.W_OK):
            raise ConfigError("folder cannot be written", where=str(folder), next_step="Choose another file.")


def _summary(result: dict[str, Any]) -> str:
    used, rate = result["traffic"], result["success_rate"]
    failed = ", ".join(f"{count} {kind}" for kind, count in result["failures"].items()) or "none"
    ok = "-" if rate is None else f"{rate:.2%}"
    lines = [
        f"{used['used']} {used['name']}, seed {used['seed']}, {result['duration_s']:.1f} s",
        f"requests  {result['requests']} ({ok} ok; failed: {failed}; interrupted: {result['interrupted']})",
        *(f"{name.upper():<10}{_latency(result[f'{name}_s'])}" for name in ("ttft", "tpot", "e2e")),
        f"output    {result['output_tokens']} tokens, {result['output_tps']:.0f} tokens/s",
    ]
    return "\n".join(lines)


def _latency(percentiles: dict[str, float | None]) -> str:
    return "  ".join(
        f"{level} -" if value is None else f"{level} {value:.4g} s" for level, value in percentiles.items()
    )


@click.command(short_help="Write the requests that replay would send.")
@shape_options
@click.option("--duration", "duration_s", type=POSITIVE, default=None, help="Seconds of traffic; default: one period.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Model to record where the trace names none.")
@click.option(
    "--out", default="-", show_default=True, metavar="FILE", help="File (.gz is compressed), or - for stdout."
)
def workload(duration_s: float | None, model: str, out: str, **shape: Any) -> None:
    """Write the requests that replay would send, without sending them: a recorded workload (JSON lines).

    \b
    Examples:
      fleet sim workload --out demo.jsonl.gz
      fleet sim workload --trace mooncake_synthetic --warp 1 --rate-scale 1 --out mooncake.jsonl
      fleet sim replay --target http://127.0.0.1:8080 --trace demo.jsonl.gz --warp 1 --rate-scale 1
    """
    shaped = traffic_options.shaped(**shape)
    lines = "".join(recorded_line(item, model) + "\n" for item in shaped.requests(duration_s or shaped.plan.period_s))
    if out == "-":
        click.echo(lines, nl=False)
        return
    write_atomically(Path(out), lines.encode())
    facts = shaped.facts()
    click.echo(f"{out}: {lines.count(chr(10))} requests from {facts['used']} {facts['name']}", err=True)


@click.command(short_help="Make a trace's statistical profile.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", default="-", show_default=True, metavar="JSON", help="File, or - for stdout.")
@click.option("--name", default=None, help="Name in the profile; default: the file's.")
@click.option("--source", default=None, help="Who published the trace; known for traces that download knows.")
@click.option("--licence", default=None, help="Its licence.")
@click.option("--citation", default=None, help="What to cite.")
def profile(
    *, file: Path, out: str, name: str | None, source: str | None, licence: str | None, citation: str | None
) -> None:
    """Make a trace's statistical profile: rate per minute, burstiness, quantiles of lengths; no row of the trace.

    \b
    Examples:
      fleet sim profile traces/azure2023_conv.csv.gz --out azure2023_conv.json
      fleet sim profile mine.csv --source "our gateway, May" --licence internal --out mine.json
    """
    entry = PUBLISHED.get(name or stem(file))
    made = fit(
        read_requests(file), name=name or stem(file), source=source or (entry.source if entry else str(file.name)),
        licence=licence or (entry.licence if entry else "not stated"),
        citation=citation or (entry.citation if entry else ""),
    )  # fmt: skip
    if out == "-":
        click.echo(to_json(made), nl=False)
        return
    write_atomically(Path(out), to_json(made).encode())
    click.echo(f"{out}: profile of {made.samples} requests over {made.span_s:.0f} s", err=True)


@click.command("download", short_help="Get a published trace from its publisher.")
@click.argument("name", type=click.Choice(tuple(PUBLISHED)))
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), default=None,
              help="Folder to keep it in. Default: FLEET_TRACES, else traces in FLEET_HOME.")  # fmt: skip
@click.option("--url", default="", help="Fetch from this address instead of the publisher's (a mirror).")
def download_command(name: str, folder: Path | None, url: str) -> None:
    """Get a published trace from its publisher, check it, and keep it where replay looks.

    \b
    Examples:
      fleet sim download azure2023_conv
      fleet sim download mooncake_conversation --to ~/traces
    """
    settings = load(FleetSettings)
    path = download(name, folder or settings.traces or settings.home / "traces", url=url)
    entry = PUBLISHED[name]
    click.echo(f"{path}: {entry.rows} requests. {entry.source}, {entry.licence}; cite {entry.citation}.")


COMMANDS: tuple[click.Command, ...] = (replay, workload, profile, download_command, calibrate)
"""What ``fleet sim`` adds to its group."""
