"""What is asked of a fleet: requests, their lengths and how they come; and what was promised. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fleet.errors import ConfigError
from simulator.workload import TimedRequest, span_of

PEAK_BIN_S: Final = 60.0
"""A recorded workload is sized for its busiest minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Traffic at its peak."""

    rps: float
    input_tokens: float
    """Mean prompt."""
    output_tokens: float
    """Mean answer."""
    cached_ratio: float = 0.0
    """Share of prompt tokens found in a prefix cache, 0..1."""
    length_sigma: float = 0.0
    """Spread of the lengths: sigma of a lognormal around the means; 0: all alike."""
    shared_ratio: float = 0.0
    """Share of prompt tokens that other requests share, cached or not (system prompts, turns before)."""

    def __post_init__(self) -> None:
        """Refuse what is no traffic.

        Raises: ConfigError.
        """
        limits = (("requests per second", self.rps, 1e-6, 1e6), ("input tokens", self.input_tokens, 1, 2e6),
                  ("output tokens", self.output_tokens, 1, 2e5), ("cached ratio", self.cached_ratio, 0, 0.999),
                  ("length sigma", self.length_sigma, 0, 3), ("shared ratio", self.shared_ratio, 0, 1))  # fmt: skip
        for what, value, low, high in limits:
            if not low <= value <= high:
                raise ConfigError(f"{what}: {value:g}", limit=f"{low:g} to {high:g}", next_step="Give another number.")

    @property
    def uncached_tokens(self) -> float:
        """Prompt tokens to compute, mean."""
        return max(self.input_tokens * (1.0 - self.cached_ratio), 1.0)

    @property
    def ratio(self) -> float:
        """Input over output tokens."""
        return self.input_tokens / self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """Latency targets, seconds, met by ``objective`` of the requests."""

    ttft_s: float = 2.0
    tpot_s: float = 0.05
    objective: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what nobody can promise.

        Raises: ConfigError.
        """
        for what, value in (("TTFT", self.ttft_s), ("TPOT", self.tpot_s)):
            if not 1e-4 <= value <= 3600:
                raise ConfigError(f"{what} target: {value:g} s", limit="0.0001 to 3600 s", next_step="Give seconds.")
        if not 0.5 <= self.objective < 1:
            raise ConfigError(f"objective: {self.objective:g}", limit="0.5 to below 1", next_step="P95 is 0.95.")


def demand_of(requests: Sequence[TimedRequest], *, scale: float = 1.0) -> Demand:
    """The busiest minute of recorded requests.

    Args:
        requests: sorted by arrival.
        scale: multiplies the rate.
    Raises: ConfigError for none.
    """
    if not requests:
        raise ConfigError("the workload has no requests", next_step="Give one with at least one line.")
    arrivals = np.array([one.arrival_s for one in requests])
    inputs = np.array([one.input_tokens for one in requests], dtype=float)
    outputs = np.array([one.output_tokens for one in requests], dtype=float)
    shared = _shared(requests) / inputs.sum()
    return Demand(
        rps=max(_peak_rps(arrivals, span_of(requests)) * scale, 1e-6), input_tokens=float(inputs.mean()),
        output_tokens=float(max(outputs.mean(), 1.0)), cached_ratio=0.0, length_sigma=_sigma(inputs),
        shared_ratio=float(min(shared, 1.0)),
    )  # fmt: skip


def _peak_rps(arrivals: np.ndarray[tuple[int], np.dtype[np.float64]], span_s: float) -> float:
    if span_s <= 2 * PEAK_BIN_S:
        return len(arrivals) / max(span_s, 1e-9)
    counts = np.bincount((arrivals / PEAK_BIN_S).astype(int))
    whole = counts[: max(int(span_s // PEAK_BIN_S), 1)]  # the last minute may be cut short
    return float(whole.max() / PEAK_BIN_S)


def _sigma(lengths: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Sigma of the lognormal with this coefficient of variation, at most 2."""
    variation = float(lengths.std() / lengths.mean())
    return min(float(np.sqrt(np.log1p(variation**2))), 2.0)


def _shared(requests: Sequence[TimedRequest]) -> float:
    """Prompt tokens that an unbounded prefix cache would find."""
    seen: set[int] = set()
    prefixes: set[int] = set()
    found = 0
    for one in requests:
        each = one.input_tokens / len(one.hash_ids) if one.hash_ids else 0.0
        run = 0
        while run < len(one.hash_ids) and one.hash_ids[run] in seen:
            run += 1
        found += int(run * each)
        seen.update(one.hash_ids)
        if one.prefix_id is not None:
            found += one.prefix_tokens if one.prefix_id in prefixes else 0
            prefixes.add(one.prefix_id)
    return float(found)
