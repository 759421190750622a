"""Which traffic a command draws: the options that replay and workload share, and the plan they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from fleet.arguments import Finite
from fleet.errors import ConfigError
from fleet.settings import FleetSettings, load
from simulator.traces import Lengths, Traffic, traffic
from simulator.workload import Plan, PrefixAssumption, TimedRequest, schedule

DEFAULT_TRACE = "azure2023_conv"
DEFAULT_PERIOD_S = 120.0
DEFAULT_MEAN_RPS = 13.0
POSITIVE = Finite(min=0.0, min_open=True)

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """Traffic with its plan, ready to be drawn."""

    traffic: Traffic
    plan: Plan
    seed: int

    def requests(self, until_s: float | None) -> Iterator[TimedRequest]:
        """The schedule."""
        return schedule(self.traffic.source, self.plan, np.random.default_rng(self.seed), until_s=until_s)

    def facts(self) -> dict[str, Any]:
        """What a report says about it."""
        native, plan = self.traffic.source, self.plan
        return {
            "used": self.traffic.kind, "name": self.traffic.name, "where": self.traffic.where,
            "mean_rps": plan.mean_rps, "period_s": plan.period_s,
            "native_rps": round(native.native_rps, 4), "native_span_s": round(native.span_s, 1),
            "seed": self.seed, "warp": round(native.span_s / plan.period_s, 3),
            "assumed_prefixes": plan.prefixes.count if plan.prefixes else 0,
        }  # fmt: skip


# fmt: off
_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--trace", default=DEFAULT_TRACE, show_default=True, metavar="NAME|FILE",
                 help="A trace by name, or a file: request CSV, rate CSV, Mooncake JSON lines, recorded workload, "
                      "profile JSON. Where a name's file is not at hand its committed profile is followed."),
    click.option("--traces", type=click.Path(path_type=Path, file_okay=False), default=None,
                 help="Folder of trace files. Default: FLEET_TRACES, then the folder that download fills."),
    click.option("--period-s", type=POSITIVE, default=None,
                 help=f"Fit the whole trace into this many seconds, then start over.  [default: {DEFAULT_PERIOD_S:g}]"),
    click.option("--warp", type=POSITIVE, default=None,
                 help="The same as a factor of speed: 1 is the trace's own time. Excludes --period-s."),
    click.option("--mean-rps", type=POSITIVE, default=None,
                 help=f"Requests per second on average over a period.  [default: {DEFAULT_MEAN_RPS:g}]"),
    click.option("--rate-scale", type=POSITIVE, default=None,
                 help="The same as a factor of the trace's own rate: 1 keeps it. Excludes --mean-rps."),
    click.option("--prefixes", type=click.IntRange(min=0), default=8, show_default=True,
                 help="Shared system prompts assumed for a trace that records none; 0 switches them off."),
    click.option("--prefix-share", type=Finite(0.0, 0.9), default=0.3, show_default=True,
                 help="Their length, as a share of the median prompt."),
    click.option("--mean-input", type=POSITIVE, default=None, help="Rate curves only: mean prompt tokens."),
    click.option("--mean-output", type=POSITIVE, default=None, help="Rate curves only: mean answer tokens."),
    click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True,
                 help="The same seed draws the same requests."),
)
# fmt: on


def shape_options(command: Command) -> Command:
    """Add the options; a command passes what they give to :func:`shaped`."""
    return reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)


def shaped(
    *, trace: str, traces: Path | None, period_s: float | None, warp: float | None, mean_rps: float | None,
    rate_scale: float | None, prefixes: int, prefix_share: float, mean_input: float | None, mean_output: float | None,
    seed: int,
) -> Shaped:  # fmt: skip
    """Find the traffic and make its plan.

    Raises: ConfigError for options that contradict each other, and for traffic that cannot be read.
    """
    _one_of(period_s, warp, "--period-s and --warp")
    _one_of(mean_rps, rate_scale, "--mean-rps and --rate-scale")
    found = traffic(trace, _folders(traces), lengths=_lengths(mean_input, mean_output))
    native = found.source
    plan = Plan(
        period_s=native.span_s / warp if warp else period_s or DEFAULT_PERIOD_S,
        mean_rps=native.native_rps * rate_scale if rate_scale else mean_rps or DEFAULT_MEAN_RPS,
        prefixes=PrefixAssumption(count=prefixes, share=prefix_share) if prefixes else None,
    )
    return Shaped(traffic=found, plan=plan, seed=seed)


def _one_of(one: float | None, other: float | None, names: str) -> None:
    if one is not None and other is not None:
        raise ConfigError(f"{names} say the same thing twice", next_step="Give one of them.")


def _lengths(mean_input: float | None, mean_output: float | None) -> Lengths | None:
    if (mean_input is None) != (mean_output is None):
        raise ConfigError("one of --mean-input and --mean-output is missing", next_step="Give both.")
    return Lengths(mean_input=mean_input, mean_output=mean_output) if mean_input and mean_output else None


def _folders(traces: Path | None) -> list[Path]:
    if traces is not None:
        if not traces.is_dir():
            raise ConfigError("no such folder", where=str(traces), next_step="Check --traces.")
        return [traces]
    settings = load(FleetSettings)
    return [folder for folder in (settings.traces, settings.home / "traces") if folder is not None]
