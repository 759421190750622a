"""What arrives: waves from idle to busy, bursts, long and short prompts that share beginnings. Pure by seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.cluster import Arrival
from simulator.sequence import EngineRequest
from simulator.tokens import BLOCK_TOKENS

Rng = np.random.Generator
_PREFIX_STRIDE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSpec:
    """A mix of requests over time."""

    requests: int = 6000
    rate_rps: float = 14.0
    """Mean over a wave, all pods together."""
    swing: float = 0.8
    """The rate goes from (1 - swing) to (1 + swing) times the mean."""
    period_s: float = 150.0
    burst: float = 2.0
    """Variance of the gaps relative to a Poisson stream's."""
    input_tokens: tuple[float, float] = (1000.0, 1.0)
    """Median and log-scale of the part of a prompt that nobody shares."""
    output_tokens: tuple[float, float] = (160.0, 0.8)
    groups: int = 20
    prefix_tokens: tuple[int, int] = (200, 3000)
    """Each group's shared beginning is as long as one draw from this range."""
    shared: float = 0.7
    """Share of requests that belong to a group."""
    longest: int = 12_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tide:
    """What of the traffic is drawn once."""

    prefixes: Sequence[int]
    """Blocks of each group's shared beginning."""
    phase: float
    """Of the waves."""


def tide(spec: TrafficSpec, rng: Rng) -> Tide:
    """Drawn first."""
    prefixes = rng.integers(*spec.prefix_tokens, size=spec.groups) // BLOCK_TOKENS
    return Tide(prefixes=prefixes.tolist(), phase=float(rng.uniform(0, 2 * np.pi)))


def arrivals(spec: TrafficSpec, rng: Rng) -> list[Arrival]:
    """Requests in order of time."""
    return list(stream(spec, tide(spec, rng), rng))


def stream(spec: TrafficSpec, drawn: Tide, rng: Rng, *, from_s: float = 0.0, name: str = "r") -> Iterator[Arrival]:
    """``spec.requests`` requests after ``from_s``, in order of time; their ids begin with ``name``."""
    popularity = 1.0 / np.arange(1, spec.groups + 1) ** 0.8
    popularity /= popularity.sum()
    for index, at_s in enumerate(_times(spec, drawn.phase, rng, from_s)):
        group = int(rng.choice(spec.groups, p=popularity)) if rng.random() < spec.shared else -1
        blocks = drawn.prefixes[group] if group >= 0 else 0
        own = _length(spec.input_tokens, rng, spec.longest)
        request = EngineRequest(
            request_id=f"{name}{index}", prompt_tokens=blocks * BLOCK_TOKENS + own,
            output_tokens=output_tokens(spec, rng),
            block_hashes=[(group + 1) * _PREFIX_STRIDE + block for block in range(blocks)],
        )  # fmt: skip
        yield Arrival(at_s=at_s, request=request)


def output_tokens(spec: TrafficSpec, rng: Rng) -> int:
    """Length of one answer."""
    return _length(spec.output_tokens, rng, 1500)


def _length(shape: tuple[float, float], rng: Rng, most: int) -> int:
    return int(np.clip(round(shape[0] * np.exp(shape[1] * rng.standard_normal())), 8, most))


def _times(spec: TrafficSpec, phase: float, rng: Rng, from_s: float) -> Sequence[float]:
    """Arrival times of a stream whose rate goes up and down, in bursts."""
    gaps = rng.gamma(1.0 / spec.burst, spec.burst, size=spec.requests)
    times, now_s = [], from_s
    for gap in gaps.tolist():
        rate = spec.rate_rps * (1.0 + spec.swing * np.sin(2 * np.pi * now_s / spec.period_s + phase))
        now_s += gap / max(rate, 0.02 * spec.rate_rps)
        times.append(now_s)
    return times
