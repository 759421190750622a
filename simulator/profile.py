"""A trace's statistical profile, and a generator that follows it. Pure.

A profile holds requests per minute, the burstiness inside a minute and the joint distribution of lengths; no row of
the trace is in it. It stands in where the trace file itself is not at hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fleet.errors import ConfigError
from simulator.workload import Rng, TimedRequest, arrivals_along, span_of, timed

LEVELS = (0.0, 0.01, 0.02, *(round(0.05 * step, 2) for step in range(1, 20)), 0.98, 0.99, 0.995, 0.999, 1.0)
"""Quantile levels kept: every 5 %, and more in the tails, where prompts are long."""
INPUT_GROUPS = 10
"""Output quantiles are kept for each tenth of the requests by input length."""
_AGAIN = "Make it again with fleet sim profile."


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is kept of a trace."""

    name: str
    source: str
    """Who published the trace, and which file it is."""
    licence: str
    citation: str
    samples: int
    """Requests it was fitted on."""
    span_s: float
    """Native length, seconds (as :func:`simulator.workload.span_of` has it)."""
    bin_s: float
    requests_per_bin: tuple[int, ...]
    """The last bin may be shorter than ``bin_s``: it ends at ``span_s``."""
    gap_shape: float
    """Gamma shape of the gaps between arrivals once the bin's rate is divided out: 1 is Poisson, less is burstier."""
    levels: tuple[float, ...]
    input_tokens: tuple[int, ...]
    """Input length at each level."""
    output_tokens: tuple[tuple[int, ...], ...]
    """Output length at each level, for each tenth of the requests by input length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSource:
    """A profile as a traffic source."""

    profile: Profile

    @property
    def span_s(self) -> float:
        """The profiled trace's length."""
        return self.profile.span_s

    @property
    def native_rps(self) -> float:
        """Samples over span."""
        return self.profile.samples / self.profile.span_s

    def cycle(self, rng: Rng, factor: float) -> list[TimedRequest]:
        """Requests that follow the profile, ``factor`` times as many."""
        return generate(self.profile, rng, rate_scale=factor)


def fit(
    requests: Sequence[TimedRequest], *, name: str, source: str, licence: str, citation: str, bin_s: float = 60.0
) -> Profile:
    """The profile of a trace (sorted by arrival).

    Raises: ConfigError below 100 requests: quantiles of so few say nothing.
    """
    if len(requests) < 100:
        raise ConfigError(f"{len(requests)} requests", where=name, limit=">= 100 for a profile")
    arrivals = np.array([request.arrival_s for request in requests])
    inputs = np.array([request.input_tokens for request in requests])
    outputs = np.array([request.output_tokens for request in requests])
    span_s = span_of(requests)
    counts = np.bincount((arrivals // bin_s).astype(int), minlength=int(np.ceil(span_s / bin_s)))
    return Profile(
        name=name, source=source, licence=licence, citation=citation, samples=len(requests), span_s=round(span_s, 4),
        bin_s=bin_s, requests_per_bin=tuple(counts.tolist()), gap_shape=round(_gap_shape(arrivals, bin_s, span_s), 3),
        levels=LEVELS, input_tokens=_quantiles(inputs), output_tokens=_by_input(inputs, outputs),
    )  # fmt: skip


def _quantiles(values: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(np.rint(np.quantile(values, LEVELS)).astype(int).tolist())


def _by_input(inputs: NDArray[np.int64], outputs: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    order = np.argsort(inputs, kind="stable")
    return tuple(_quantiles(outputs[group]) for group in np.array_split(order, INPUT_GROUPS))


def _gap_shape(arrivals: NDArray[np.float64], bin_s: float, span_s: float) -> float:
    """Gamma shape by moments, 1 / CV^2, of gaps within one bin times that bin's rate.

    By moments and not by likelihood: recorded times are rounded, and a gap of zero has no likelihood.
    """
    bins = (arrivals // bin_s).astype(int)
    counts = np.bincount(bins)
    rates = counts / np.minimum(bin_s, span_s - np.arange(len(counts)) * bin_s)
    inside = bins[:-1] == bins[1:]
    gaps = np.diff(arrivals)[inside] * rates[bins[:-1][inside]]
    return float((gaps.mean() / gaps.std()) ** 2) if gaps.size and gaps.std() > 0 else 1.0


def generate(profile: Profile, rng: Rng, *, rate_scale: float = 1.0) -> list[TimedRequest]:
    """One cycle of requests in native time that follows ``profile``; ``rate_scale`` multiplies every bin's rate."""
    counts = np.asarray(profile.requests_per_bin, dtype=float)
    edges = np.minimum(np.arange(len(counts) + 1) * profile.bin_s, profile.span_s)
    arrivals = arrivals_along(counts * rate_scale, edges, shape=profile.gap_shape, rng=rng)
    rank = rng.random(len(arrivals))
    inputs = np.interp(rank, profile.levels, profile.input_tokens)
    return timed(arrivals, inputs, _outputs(profile, rank, rng))


def _outputs(profile: Profile, rank: NDArray[np.float64], rng: Rng) -> NDArray[np.float64]:
    group = (rank * len(profile.output_tokens)).astype(int)
    draw, outputs = rng.random(len(rank)), np.empty(len(rank))
    for index, quantiles in enumerate(profile.output_tokens):
        chosen = group == index
        outputs[chosen] = np.interp(draw[chosen], profile.levels, quantiles)
    return outputs


def to_json(profile: Profile) -> str:
    """One key a line, so that a diff shows what changed."""
    rows = [f"  {json.dumps(item.name)}: {json.dumps(getattr(profile, item.name))}" for item in fields(profile)]
    return "{\n" + ",\n".join(rows) + "\n}\n"


def from_json(document: Any, *, where: str) -> Profile:
    """A profile from parsed JSON.

    Raises: ConfigError when a key is missing or the lists do not fit together.
    """
    try:
        profile = msgspec.convert(document, Profile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"is no profile: {error}", where=where, next_step=_AGAIN) from None
    if problem := _problem(profile):
        raise ConfigError(problem, where=where, next_step=_AGAIN)
    return profile


def _problem(profile: Profile) -> str:
    size = len(profile.levels)
    if any(len(row) != size for row in (profile.input_tokens, *profile.output_tokens)) or not profile.output_tokens:
        return f"quantile lists do not have {size} entries each"
    if sum(profile.requests_per_bin) != profile.samples:
        return f"requests_per_bin sums to {sum(profile.requests_per_bin)}, samples says {profile.samples}"
    if not 0 <= profile.span_s - profile.bin_s * (len(profile.requests_per_bin) - 1) <= profile.bin_s:
        return f"{len(profile.requests_per_bin)} bins of {profile.bin_s} s do not end at span_s {profile.span_s}"
    return "" if profile.gap_shape > 0 else f"gap_shape is {profile.gap_shape}, it must be above 0"
