"""Search over GPUs, tensor parallelism and engine limits: the cheapest fleets, and cost against the promise. Pure.

The closed form ranks every combination; the simulator tries the best ones. What is not beaten in both cost and
latency is the Pareto front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from fleet.errors import ConfigError
from fleet.hardware import GPUS, MODELS
from planner.capacity import Limits, config_for, replicas_for
from planner.demand import Demand, Promise
from planner.memory import Hardware, memory
from planner.sizing import cost_of
from planner.trial import Trial, smallest

PARALLEL: Final = (1, 2, 4, 8)
SEQUENCES: Final = (None, 64, 256)
BATCHED: Final = (None, 4096, 16384)
TRIED: Final = 12
"""Candidates that the simulator tries, cheapest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve the demand."""

    hardware: Hardware
    limits: Limits
    replicas: int
    """Closed form."""
    cost_per_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A candidate and what the simulator made of it."""

    hardware: Hardware
    limits: Limits
    trial: Trial
    cost_per_hour: float
    best: bool = False
    """On the Pareto front: none is both cheaper and faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The search's answer, cheapest first."""

    considered: int
    tried: tuple[Tried, ...]


def optimise(
    model: str, demand: Demand, promise: Promise, *, gpus: Sequence[str] = (), seed: int = 1, most: int = TRIED,
    precision_fp8: bool = False, progress: Callable[[str], object] = lambda _what: None,
) -> Found:  # fmt: skip
    """The cheapest ways to keep the promise.

    Args:
        model: as in :mod:`fleet.hardware`.
        demand: peak traffic.
        promise: latency targets.
        gpus: kinds to consider; none: all.
        seed: of the trials.
        most: candidates that are tried.
        precision_fp8: 8-bit weights too, where the GPU has them.
        progress: told what is being tried.
    Raises: ConfigError when nothing keeps the promise.
    """
    found = sorted(candidates(model, demand, promise, gpus=gpus, precision_fp8=precision_fp8),
                   key=lambda one: (one.cost_per_hour, one.replicas))  # fmt: skip
    if not found:
        raise ConfigError(f"no GPU and parallelism keeps the promise for {model}",
                          limit=f"TTFT {promise.ttft_s:g} s, TPOT {1000 * promise.tpot_s:g} ms",
                          next_step="Promise more time, or cache prefixes.")  # fmt: skip
    tried = [one for one in (_try(entry, demand, promise, seed, progress) for entry in _distinct(found, most)) if one]
    if not tried:
        raise ConfigError(f"in the simulation no candidate keeps the promise for {model}",
                          next_step="Promise more time, or consider more GPUs.")  # fmt: skip
    return Found(considered=len(found), tried=tuple(_front(sorted(tried, key=lambda one: one.cost_per_hour))))


def candidates(
    model: str, demand: Demand, promise: Promise, *, gpus: Sequence[str] = (), precision_fp8: bool = False
) -> Iterator[Candidate]:
    """Every combination that fits the memory and keeps the promise by the closed form."""
    precisions = ("bf16", "fp8") if precision_fp8 else ("bf16",)
    for gpu, count, precision in product(gpus or sorted(GPUS), PARALLEL, precisions):
        if MODELS[model].heads % count or (precision == "fp8" and GPUS[gpu].fp8_tflops is None):
            continue
        hardware = Hardware(model=model, gpu=gpu, tensor_parallel=count, precision=precision)  # type: ignore[arg-type]
        if memory(hardware).kv_capacity_tokens < demand.input_tokens + demand.output_tokens:
            continue
        for seqs, batched in product(SEQUENCES, BATCHED):
            limits = Limits(max_num_seqs=seqs, max_num_batched_tokens=batched)
            try:
                config = config_for(hardware, limits)
            except ConfigError:  # fewer batched tokens than sequences: this pair of limits does not exist
                continue
            if (replicas := replicas_for(config, demand, promise)) is not None:
                yield Candidate(hardware=hardware, limits=limits, replicas=replicas,
                                cost_per_hour=cost_of(hardware, replicas, demand).per_hour)  # fmt: skip


def _distinct(found: Sequence[Candidate], most: int) -> Iterator[Candidate]:
    """The best limits of each kind of replica first, then more of them."""
    seen: set[Hardware] = set()
    first = [one for one in found if not (one.hardware in seen or seen.add(one.hardware))]  # type: ignore[func-returns-value]
    rest = [one for one in found if one not in first]
    yield from [*first, *rest][:most]


def _try(
    entry: Candidate, demand: Demand, promise: Promise, seed: int, progress: Callable[[str], object]
) -> Tried | None:  # fmt: skip
    progress(f"{entry.hardware.tensor_parallel} x {entry.hardware.gpu}")
    trial = smallest(config_for(entry.hardware, entry.limits), demand, promise, entry.replicas, seed=seed)
    if trial is None:
        return None
    return Tried(hardware=entry.hardware, limits=entry.limits, trial=trial,
                 cost_per_hour=cost_of(entry.hardware, trial.replicas, demand).per_hour)  # fmt: skip


def _front(tried: Sequence[Tried]) -> Iterator[Tried]:
    """Marks those that no other beats in cost and in TTFT."""
    fastest = float("inf")
    for one in tried:
        best = one.trial.ttft_s < fastest
        fastest = min(fastest, one.trial.ttft_s)
        yield replace(one, best=best)
