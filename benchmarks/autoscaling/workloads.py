"""The bench's traffic: the published SLO episode, traces by name, any workload file. Pure but for reading files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.autoscaling import shared
from benchmarks.autoscaling.case import Case, Fleet, Slo, fitting
from benchmarks.autoscaling.episode import NAMES, episode
from benchmarks.autoscaling.pool import Bounds
from fleet.errors import ConfigError
from simulator.traces import CURVE_LENGTHS, Lengths, Traffic, stem, traffic
from simulator.traces import find as locate
from simulator.workload import Plan, RateSource, Source, TimedRequest, schedule

MAX_REQUESTS: Final = 2_000_000
"""With more than this, a curve is followed as a fluid and not request by request."""
DEFAULT_SLO: Final = Slo()
MOONCAKE_SLO: Final = Slo(ttft_s=30.0, tpot_s=0.2)
"""Prompts of 15 000 tokens on average: the publisher's own order of magnitude."""
LENGTHS: Final = Lengths(mean_input=1618.0, mean_output=107.0)
"""Of a rate curve that brings none: the means of the Azure 2024 conversation week."""
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
    if workload in shared.MAKERS:
        return lambda seed: shared.case(workload, seed, scale=scale), f"traffic: {workload}, generated, rate x{scale:g}"
    named = NAMED.get(workload, Named(trace=workload, scale=1.0))
    found = _traffic(named.trace, tuple(folders))
    note = f"traffic: {found.kind} {found.name}, rate x{named.scale * scale:g}"
    if isinstance(found.source, RateSource) and found.name not in CURVE_LENGTHS:
        note += f"; its lengths are assumed: {LENGTHS.mean_input:g} in, {LENGTHS.mean_output:g} out on average"
    return lambda seed: from_traffic(found, named.scale * scale, seed, slo=named.slo), note


def _traffic(name: str, folders: Sequence[Path]) -> Traffic:
    """As :func:`simulator.traces.traffic`, in this command's words; a curve without lengths gets :data:`LENGTHS`."""
    try:
        path = locate(name, folders)
        known = path is not None and stem(path) in CURVE_LENGTHS
        return traffic(name, folders, lengths=None if known else LENGTHS)
    except ConfigError as error:
        if name in error.where:
            step = error.next_step.replace("--trace.", "--workload.")
            raise ConfigError(error.what, where=error.where, limit=error.limit, next_step=step) from None
        raise ConfigError(error.what, where="--workload", limit=", ".join((NAMES[0], *NAMED, *shared.MAKERS)),
                          next_step="Name a file, or the folder that holds it with --traces (FLEET_TRACES).",
                          ) from None  # fmt: skip


def from_traffic(found: Traffic, scale: float, seed: int, *, slo: Slo) -> Case:
    """One cycle of a trace, profile or curve at ``scale`` times its rate; bounds are set once the need is known."""
    source = found.source
    mean_rps = source.native_rps * scale
    long = mean_rps * source.span_s > MAX_REQUESTS
    case = Case(
        name=found.name, what=f"{found.kind}, {mean_rps:.1f} requests/s over {source.span_s:.0f} s",
        fleet=Fleet(bounds=Bounds(low=1, high=1), initial=1), slo=slo, span_s=source.span_s, bin_s=60.0,
        settle_s=60.0,
    )  # fmt: skip
    if long:
        curve = source if isinstance(source, RateSource) else as_curve(source, np.random.default_rng(seed))
        return replace(case, curve=replace(curve, rates_rps=tuple(rate * scale for rate in curve.rates_rps)))
    plan = Plan(period_s=source.span_s, mean_rps=mean_rps)
    requests = list(schedule(source, plan, np.random.default_rng(seed), until_s=source.span_s))
    kept = _servable(requests, case.fleet, found.name)
    router = "prefix_affine" if any(one.hash_ids for one in kept) else case.router
    return replace(case, requests=kept, router=router)


def as_curve(source: Source, rng: np.random.Generator) -> RateSource:
    """The rate of a trace by minute with the mean and the spread of its lengths, for the coarse mode."""
    requests = source.cycle(rng, 1.0)
    inputs = np.array([one.input_tokens for one in requests], dtype=float)
    outputs = np.array([one.output_tokens for one in requests], dtype=float)
    counts = np.bincount([int(one.arrival_s / 60.0) for one in requests], minlength=int(np.ceil(source.span_s / 60.0)))
    return RateSource(
        bin_s=60.0, rates_rps=tuple((counts / 60.0).tolist()), mean_input=float(inputs.mean()),
        mean_output=float(outputs.mean()), sigma=float(max(np.log(inputs).std(), np.log(outputs).std())),
    )  # fmt: skip


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
