"""Which workloads there are by name, and any file as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.routing.run import config_of
from benchmarks.routing.workloads import LADDER, SCENARIOS, Fleet, Slo, Workload, ladder, scenario, trace
from fleet.errors import ConfigError
from simulator.traces import CURVE_LENGTHS, Lengths, Traffic, stem, traffic
from simulator.traces import find as locate
from simulator.workload import RateSource

Make = Callable[[int], Workload]
"""A workload of a seed."""

MAX_REQUESTS: Final = 200_000
"""A trace with more is refused: every arm runs it for every seed."""
_LENGTHS: Final = Lengths(mean_input=1155.0, mean_output=211.0)
"""Of requests along a rate curve that names no lengths: those of azure2023_conv."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A workload with one seed: what a process of a bench is told to run."""

    workload: str
    traces: Path | None
    scale: float
    seed: int

    def made(self) -> Workload:
        """The workload itself."""
        return find(self.workload, [self.traces] if self.traces else [], scale=self.scale)[0](self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a trace is replayed for this bench."""

    trace: str
    scale: float
    window_s: float
    """Of the trace, from its start."""
    slo: Slo
    slow: tuple[float, ...] = ()
    """Step times of the first pods, as multiples of the others'."""


REPLAYS: Final = {
    "azure2023_conv": Replay(trace="azure2023_conv", scale=18.0, window_s=90.0, slo=Slo(ttft_s=1.0, tpot_s=0.05)),
    "azure2023_conv-two-slow": Replay(trace="azure2023_conv", scale=14.0, window_s=90.0, slow=(1.8, 1.8),
                                      slo=Slo(ttft_s=1.0, tpot_s=0.05)),
    "mooncake_synthetic": Replay(trace="mooncake_synthetic", scale=1.0, window_s=1e9, slo=Slo(ttft_s=10.0, tpot_s=0.1)),
}  # fmt: skip
"""Traces by name. The pods carry Azure's conversations 18 times over; with two of them 1.8 times slower, 14 times."""
CAPACITY: Final = "73-capacity"
"""The ladder's traffic on the engines of llm-d-kv-cache's report of September 2025: 307,328 tokens a pod, so that its
system prompts and questions fill 73 % of all caches, and step times from the kernel tables. It tells a precise index
from an approximate one."""
DEFAULT: Final = ("ladder", *(f"scenario-{name}" for name in SCENARIOS), *REPLAYS)
"""What a run without ``--workload`` covers."""


def find(name: str, folders: Sequence[Path], *, scale: float = 1.0) -> tuple[Make, str]:
    """A workload by name, or of a file; ``scale`` multiplies its rate. Also where it comes from, for the notes.

    Raises: ConfigError for an unknown name, a bad file, or one with too many requests.
    """
    if name == "ladder":
        return (lambda seed: ladder(seed, LADDER, scale=scale)), "published parameters"
    if name == CAPACITY:
        return (lambda seed: ladder(seed, LADDER, scale=scale, name=name, fleet=Fleet())), "published parameters"
    letter = name.removeprefix("scenario-")
    if letter in SCENARIOS:
        return (lambda seed: scenario(letter, seed, scale=scale)), "published parameters"
    plan = REPLAYS.get(name) or Replay(trace=name, scale=1.0, window_s=1e9, slo=Slo(ttft_s=2.0, tpot_s=0.1))
    found = _traffic(plan.trace, folders)
    plan = replace(plan, scale=plan.scale * scale)
    _check_size(found, plan)
    label = name if name in REPLAYS else found.name
    return (lambda seed: _replayed(found, plan, label, seed)), f"{found.kind} {found.name}"


def _traffic(name: str, folders: Sequence[Path]) -> Traffic:
    """As :func:`simulator.traces.traffic`, in this command's words; a curve without lengths gets :data:`_LENGTHS`."""
    try:
        path = locate(name, folders)
        known = path is not None and stem(path) in CURVE_LENGTHS
        return traffic(name, folders, lengths=None if known else _LENGTHS)
    except ConfigError as error:
        step = error.next_step.replace("Check --trace.", "Check --workload.")
        if not error.where:
            step = f"Name a workload ({', '.join((*DEFAULT, CAPACITY))}) or a file, or its folder with --traces."
        raise ConfigError(error.what, where=error.where or "--workload", limit=error.limit, next_step=step) from None


def _check_size(found: Traffic, plan: Replay) -> None:
    seconds = min(found.source.span_s, plan.window_s)
    count = found.source.native_rps * seconds * plan.scale
    if count > MAX_REQUESTS:
        raise ConfigError(f"{found.name} holds {count:,.0f} requests at scale {plan.scale:g}", where="--workload",
                          limit=f"{MAX_REQUESTS:,}", next_step="Lower --scale, or cut the file.")  # fmt: skip


def _replayed(found: Traffic, plan: Replay, name: str, seed: int) -> Workload:
    source = found.source
    if isinstance(source, RateSource) and plan.window_s < source.span_s:
        source = replace(source, rates_rps=source.rates_rps[: max(1, int(plan.window_s / source.bin_s))])
    requests = [one for one in source.cycle(np.random.default_rng(seed), plan.scale) if one.arrival_s < plan.window_s]
    span_s = min(source.span_s, plan.window_s)
    fleet = Fleet(slow=plan.slow)
    limit = config_of(fleet).max_model_len
    what = f"{found.kind} {found.name}, rate x {plan.scale:g}, {len(requests)} requests in {span_s:.0f} s"
    made = trace(requests, name=name, what=what, slo=plan.slo, span_s=span_s, fleet=fleet, limit_tokens=limit)
    if not made.stages[0].asks:
        raise ConfigError(f"{name} has no request that fits the engines", where="--workload",
                          limit=f"1 to {limit} tokens each", next_step="Check the lengths in the file.")  # fmt: skip
    return made
