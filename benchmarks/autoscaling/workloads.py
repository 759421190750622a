"""The bench's traffic: the published SLO episode, traces by name, any workload file. Pure but for reading files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.autoscaling.case import Case, Fleet, Slo, fitting
from benchmarks.autoscaling.episode import NAMES, episode
from benchmarks.autoscaling.pool import Bounds
from fleet.errors import ConfigError
from simulator.traces import Traffic, traffic
from simulator.workload import Plan, RateSource, TimedRequest, schedule

MAX_REQUESTS: Final = 2_000_000
"""With more than this, a curve is followed as a fluid and not request by request."""
DEFAULT_SLO: Final = Slo()
MOONCAKE_SLO: Final = Slo(ttft_s=30.0, tpot_s=0.2)
"""Prompts of 15 000 tokens on average: the publisher's own order of magnitude."""
HEADROOM: Final = 1.5
"""A trace's upper bound over its static peak: an arm may err upwards too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A trace with the rate at which the bench runs it when none is asked for."""

    trace: str
    scale: float
    slo: Slo = DEFAULT_SLO


NAMED: Final = {
    "azure2023_conv": Named(trace="azure2023_conv", scale=20.0),
    "mooncake_synthetic": Named(trace="mooncake_synthetic", scale=4.0, slo=MOONCAKE_SLO),
    "azure2024_conv_week": Named(trace="azure2024_conv_weekly_rate_digitised", scale=1.0),
    "m-large_week": Named(trace="servegen_m-large_total_rate_days0-6", scale=0.1),
}
MakeCase = Callable[[int], Case]
"""The case of a seed."""


def find(workload: str, scale: float, folders: Iterable[Path]) -> tuple[MakeCase, str]:
    """Cases by seed, and a sentence on which data they use.

    Args:
        workload: empty for the episode, a name of :data:`NAMED`, a trace's name, or a file.
        scale: multiplies the rate (of the named ones: the rate that the bench gives them).

    Raises: ConfigError when there is no such workload, or the file is bad.
    """
    if workload in ("", *NAMES):
        even = not workload.endswith("poisson")
        return lambda seed: episode(seed, scale=scale, even=even), "traffic: the published episode, generated"
    named = NAMED.get(workload, Named(trace=workload, scale=1.0))
    try:
        found = traffic(named.trace, folders)
    except ConfigError as error:
        names = ", ".join((NAMES[0], *NAMED))
        raise ConfigError(error.what, where=error.where or "--workload", limit=error.limit or names,
                          next_step=error.next_step) from None  # fmt: skip
    note = f"traffic: {found.kind} {found.name}, rate x{named.scale * scale:g}"
    return lambda seed: from_traffic(found, named.scale * scale, seed, slo=named.slo), note


def from_traffic(found: Traffic, scale: float, seed: int, *, slo: Slo) -> Case:
    """One cycle of a trace, profile or curve at ``scale`` times its rate; bounds are set once the need is known."""
    source = found.source
    mean_rps = source.native_rps * scale
    long = isinstance(source, RateSource) and mean_rps * source.span_s > MAX_REQUESTS
    case = Case(
        name=found.name, what=f"{found.kind}, {mean_rps:.1f} requests/s over {source.span_s:.0f} s",
        fleet=Fleet(bounds=Bounds(low=1, high=1), initial=1), slo=slo, span_s=source.span_s, bin_s=60.0,
        settle_s=60.0,
    )  # fmt: skip
    if long and isinstance(source, RateSource):
        return replace(case, curve=replace(source, rates_rps=tuple(rate * scale for rate in source.rates_rps)))
    plan = Plan(period_s=source.span_s, mean_rps=mean_rps)
    requests = list(schedule(source, plan, np.random.default_rng(seed), until_s=source.span_s))
    kept = _servable(requests, case.fleet, found.name)
    router = "prefix_affine" if any(one.hash_ids for one in kept) else case.router
    return replace(case, requests=kept, router=router)


def _servable(requests: Sequence[TimedRequest], fleet: Fleet, name: str) -> list[TimedRequest]:
    kept = fitting(requests, fleet.config)
    if not kept:
        raise ConfigError(f"no request of {name} fits an engine",
                          limit=f"{fleet.config.max_model_len} tokens in and out")  # fmt: skip
    return kept


def bounded(case: Case, peak: int, first: int) -> Case:
    """The case with room above its static peak; it starts with what is needed before a first start can help."""
    high = max(int(np.ceil(HEADROOM * peak)), peak + 1)
    fleet = replace(case.fleet, bounds=Bounds(low=1, high=high), initial=first)
    return replace(case, fleet=fleet)
