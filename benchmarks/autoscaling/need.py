"""How much work a request is, what a replica can bear, and how many replicas each time needs. Pure.

Work is in replica-seconds (the oracle's rule of the reference): the uncached part of a prompt by the step-time
coefficients, and each answer token's share of decode steps at the batch that a replica can hold. A replica bears
``rho`` of work a second; ``rho`` is measured with the engine (:func:`sustainable`), not assumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.autoscaling.case import Case, engine_request, met, ttft_limit_s
from simulator.cluster import Arrival, Cluster
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.picks import least_request
from simulator.tokens import BLOCK_TOKENS
from simulator.workload import RateSource, TimedRequest

Array = NDArray[np.float64]
TOKEN_S: Final = 0.030
"""Decode work is spread over the request's life at so many seconds a token."""
ITL_S: Final = 0.050
"""The batch at which decode work is counted is no larger than the one with this inter-token latency."""
ATTAINED: Final = 0.99
PROBE_REPLICAS: Final = 4
PROBE_WARM_S: Final = 200.0
PROBE_S: Final = 400.0
PROBE_REQUESTS: Final = 6000
"""A probe measures at most so many requests, so that short ones do not take longer than long ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Prompt, cached and answer tokens of requests, with their arrivals."""

    arrival_s: Array
    prompt: Array
    cached: Array
    output: Array

    @classmethod
    def of(cls, requests: Sequence[TimedRequest], cached: Sequence[float] | None = None) -> Lengths:
        """From requests; ``cached`` tokens in the same order, or none at all."""
        return cls(
            arrival_s=np.array([one.arrival_s for one in requests]),
            prompt=np.array([float(one.input_tokens) for one in requests]),
            cached=np.zeros(len(requests)) if cached is None else np.array(cached, dtype=float),
            output=np.array([float(one.output_tokens) for one in requests]),
        )


def batch(config: EngineConfig, prompt: float, output: float) -> float:
    """Sequences that a replica decodes at once: bound by its setting, its memory and :data:`ITL_S`."""
    context = prompt + output / 2
    low, high = 1.0, float(config.max_num_seqs)
    while high - low > 0.5:
        middle = (low + high) / 2
        step_s = config.timer.step_s(decoding=round(middle), context=round(middle * context))
        low, high = (middle, high) if step_s <= ITL_S else (low, middle)
    return max(1.0, min(low, config.max_num_seqs, config.blocks * BLOCK_TOKENS / (prompt + output)))


def work_s(config: EngineConfig, lengths: Lengths) -> tuple[Array, Array]:
    """Prefill and decode work of each request, replica-seconds."""
    c, prompt, output = config.timer.coefficients, lengths.prompt, lengths.output
    uncached = prompt - lengths.cached
    prefill_ms = c.p1 * uncached + c.p2 * (prompt**2 - lengths.cached**2)
    together = batch(config, float(prompt.mean()), float(output.mean()))
    fixed_ms = (0.13 + 0.032 * config.timer.layers + c.d0) / together
    decode_ms = output * (c.d_s + c.d_kv * (prompt + output / 2) + fixed_ms)
    return prefill_ms / 1000.0, decode_ms / 1000.0


def load(config: EngineConfig, lengths: Lengths, *, span_s: float, bin_s: float) -> Array:
    """Replica-seconds of work a second, by bin: prefill where the request comes, decode over its life."""
    prefill, decode = work_s(config, lengths)
    life = np.maximum(lengths.output * TOKEN_S, 1.0)
    seconds = math.ceil(span_s) + math.ceil(float(life.max())) + 2
    spent = np.bincount(lengths.arrival_s.astype(int), weights=prefill, minlength=seconds)
    slope = np.zeros(seconds + 1)
    np.add.at(slope, lengths.arrival_s.astype(int), decode / np.ceil(life))
    np.add.at(slope, lengths.arrival_s.astype(int) + np.ceil(life).astype(int), -decode / np.ceil(life))
    per_second = (spent[:seconds] + np.cumsum(slope)[:seconds])[: math.ceil(span_s)]
    edges = np.arange(0, len(per_second), int(bin_s))
    return np.asarray(np.add.reduceat(per_second, edges) / np.diff([*edges, len(per_second)]), dtype=np.float64)


def curve_load(config: EngineConfig, curve: RateSource, *, bin_s: float, rng: np.random.Generator) -> Array:
    """The same for a rate curve, from the mean work of its lengths."""
    drawn = curve.cycle(rng, 2000.0 / (curve.native_rps * curve.span_s))
    prefill, decode = work_s(config, Lengths.of(drawn))
    mean = float((prefill + decode).mean())
    times = np.arange(0.0, curve.span_s, bin_s)
    rates = np.asarray(curve.rates_rps)[np.minimum((times / curve.bin_s).astype(int), len(curve.rates_rps) - 1)]
    return np.asarray(rates * mean, dtype=np.float64)


def replicas(loads: Array, rho: float, low: int) -> NDArray[np.int64]:
    """Replicas that each bin needs.

    >>> replicas(np.array([0.1, 1.8]), 0.85, 1).tolist()
    [1, 3]
    """
    return np.maximum(np.ceil(loads / rho - 1e-9), low).astype(np.int64)


# ---- what a replica bears, measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearing:
    """What one replica sustains under the SLO."""

    rps: float
    rho: float
    """The work of that rate, replica-seconds a second."""


def sustainable(case: Case, sample: Sequence[TimedRequest], seed: int) -> Bearing:
    """The highest rate that :data:`PROBE_REPLICAS` replicas attain together, per replica; without prefix reuse."""
    config = case.fleet.config
    prefill, decode = work_s(config, Lengths.of(sample))
    mean = float((prefill + decode).mean())
    low, high = 0.05 / mean, 1.6 / mean
    for _ in range(8):
        middle = (low + high) / 2
        good = _attained(case, config, sample, middle, seed) >= ATTAINED
        low, high = (middle, high) if good else (low, middle)
    return Bearing(rps=low, rho=low * mean)


def _attained(case: Case, config: EngineConfig, sample: Sequence[TimedRequest], rps: float, seed: int) -> float:
    """Share of requests that meet both targets at a steady rate per replica."""
    total_rps = rps * PROBE_REPLICAS
    measured_s = min(PROBE_S, PROBE_REQUESTS / total_rps)
    warm_s = min(PROBE_WARM_S, 2 * measured_s)
    rng = np.random.default_rng(seed)
    chosen = [sample[index] for index in rng.integers(len(sample), size=int(total_rps * (warm_s + measured_s)))]
    gaps = rng.exponential(1 / total_rps, len(chosen)) if case.poisson else np.full(len(chosen), 1 / total_rps)
    times = np.cumsum(gaps).tolist()
    cluster = Cluster([Engine(config) for _ in range(PROBE_REPLICAS)], least_request())
    outcomes = cluster.run(_plain(times, chosen))
    judged = [met(one, case.slo, ttft_limit_s(case.slo, config, chosen[int(one.request_id)].input_tokens))
              for one in outcomes if one.arrival_s >= warm_s]  # fmt: skip
    return sum(judged) / max(len(judged), 1)


def _plain(times: Sequence[float], chosen: Sequence[TimedRequest]) -> Iterator[Arrival]:
    for index, (at_s, request) in enumerate(zip(times, chosen, strict=True)):
        bare = TimedRequest(arrival_s=at_s, input_tokens=request.input_tokens, output_tokens=request.output_tokens)
        yield Arrival(at_s=at_s, request=engine_request(str(index), bare))
