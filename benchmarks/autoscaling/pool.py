"""What an autoscaler can know of a pool of replicas: scraped samples with their age, and the platform's books. Pure.

Every arm decides from a :class:`Pool` and from nothing else. Samples are as a Prometheus holds them: taken once a
scrape interval, each target at its own phase, kept for :data:`KEEP_S`; a replica that has left takes its series along.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

KEEP_S: Final = 300.0
"""Samples older than this are dropped: the longest window that any arm reads is five minutes."""

TTFT_BOUNDS_S: Final = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
)  # fmt: skip
TPOT_BOUNDS_S: Final = (
    0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0,
    3.0, 4.5, 6.0, 12.0, 18.0, 24.0, 30.0, 36.0, 48.0, 60.0, 90.0, 120.0, 180.0, 270.0, 360.0,
)  # fmt: skip
"""Bucket bounds of the endpoint picker's latency histograms (those that the published rules read)."""


class Life(enum.StrEnum):
    """What a replica is to the platform."""

    STARTING = "starting"
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One engine's metrics page at one time; counters are totals since its start."""

    at_s: float
    running: float
    waiting: float
    kv_usage: float
    """0..1 of the KV cache."""
    prompt_tokens: float
    generation_tokens: float
    finished: float
    """Requests."""
    prefix_queries: float
    prefix_hits: float
    busy_s: float
    """Time during which it had a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSample:
    """The router's metrics page at one time; counters are totals."""

    at_s: float
    in_flight: float
    """Requests sent and not answered."""
    arrived: float
    input_tokens: float
    """Of requests that arrived."""
    output_tokens: float
    """Of requests that finished."""
    finished: float
    ttft: tuple[float, ...]
    """Counts by bucket of :data:`TTFT_BOUNDS_S`, not cumulated; one more for those above."""
    tpot: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A replica with what was scraped of it, oldest first."""

    name: str
    life: Life
    since_s: float
    """When it began to start, or became ready."""
    samples: tuple[Sample, ...] = ()

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        return self.samples[-1] if self.samples else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Fewest and most replicas."""

    low: int
    high: int

    def clip(self, replicas: int) -> int:
        """``replicas`` inside the bounds.

        >>> Bounds(low=3, high=8).clip(12)
        8
        """
        return min(max(replicas, self.low), self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Everything that can be known at one time; replicas that drain are gone."""

    now_s: float
    requested: int
    """Replicas that the scale target asks for."""
    bounds: Bounds
    replicas: tuple[Seen, ...]
    router: tuple[RouterSample, ...]
    """Oldest first."""

    @property
    def ready(self) -> tuple[Seen, ...]:
        """Replicas that serve."""
        return tuple(seen for seen in self.replicas if seen.life is Life.READY)

    @property
    def pending(self) -> int:
        """Replicas asked for that do not serve yet."""
        return max(self.requested - len(self.ready), 0)


class Histogram:
    """Counts by bucket."""

    __slots__ = ("bounds", "counts")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0.0] * (len(bounds) + 1)

    def observe(self, value: float, weight: float = 1.0) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += weight


def quantile(share: float, counts: Sequence[float], bounds: Sequence[float]) -> float | None:
    """PromQL's ``histogram_quantile``: linear inside a bucket, the last bound for what is above it.

    Args:
        share: 0..1.
        counts: by bucket, not cumulated; one more than ``bounds``.
    Returns: ``None`` without observations (PromQL: NaN).

    >>> quantile(0.9, [0.0, 10.0, 0.0], (0.02, 0.04))
    0.038
    """
    total = sum(counts)
    if total <= 0.0:
        return None
    rank, below = share * total, 0.0
    for index, count in enumerate(counts):
        if below + count >= rank and count > 0.0:
            if index >= len(bounds):
                return bounds[-1]
            low = bounds[index - 1] if index else 0.0
            return round(low + (bounds[index] - low) * (rank - below) / count, 12)
        below += count
    return bounds[-1]


def since(samples: Sequence[RouterSample], now_s: float, window_s: float) -> tuple[RouterSample, RouterSample] | None:
    """First and last sample of a window; ``None`` with fewer than two in it (a rate needs two)."""
    inside = [sample for sample in samples if sample.at_s >= now_s - window_s]
    return (inside[0], inside[-1]) if len(inside) >= 2 else None


def latency_quantiles(pool: Pool, share: float, window_s: float) -> tuple[float | None, float | None]:
    """TTFT and TPOT quantiles over the window, seconds, as the recording rules compute them."""
    span = since(pool.router, pool.now_s, window_s)
    if span is None:
        return None, None
    first, last = span
    ttft = [after - before for before, after in zip(first.ttft, last.ttft, strict=True)]
    tpot = [after - before for before, after in zip(first.tpot, last.tpot, strict=True)]
    return quantile(share, ttft, TTFT_BOUNDS_S), quantile(share, tpot, TPOT_BOUNDS_S)


def arrival_rate(pool: Pool, window_s: float) -> float | None:
    """Requests per second over the window."""
    span = since(pool.router, pool.now_s, window_s)
    return (span[1].arrived - span[0].arrived) / (span[1].at_s - span[0].at_s) if span else None


def mean_tokens(pool: Pool, window_s: float) -> tuple[float, float] | None:
    """Mean prompt and answer tokens of the window's requests; ``None`` when there were none."""
    span = since(pool.router, pool.now_s, window_s)
    if span is None or span[1].arrived <= span[0].arrived or span[1].finished <= span[0].finished:
        return None
    first, last = span
    return (
        (last.input_tokens - first.input_tokens) / (last.arrived - first.arrived),
        (last.output_tokens - first.output_tokens) / (last.finished - first.finished),
    )


def peak(samples: Sequence[Sample], field: str, now_s: float, window_s: float) -> float | None:
    """``max_over_time`` of a gauge; ``None`` without a sample in the window."""
    inside = [float(getattr(sample, field)) for sample in samples if sample.at_s >= now_s - window_s]
    return max(inside, default=None)
