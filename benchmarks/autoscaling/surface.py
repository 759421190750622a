"""What one replica does at each number of requests in flight, measured with the engine: the coarse mode's basis. Pure.

The engine is run closed: so many clients, each sending its next request when the answer is there. Lengths come from
the case's own distribution. Between the measured points everything is interpolated; beyond the last point the rate
stays and waiting grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.autoscaling.case import Slo, engine_request, met, ttft_limit_s
from benchmarks.autoscaling.pool import TPOT_BOUNDS_S, TTFT_BOUNDS_S, Histogram
from simulator.cluster import Arrival, Cluster, Outcome
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.workload import TimedRequest

Array = NDArray[np.float64]
MEASURED: Final = 3000
"""Answers measured at each point, and four for each client where that is more."""
WARM: Final = 3
"""Answers of each client before them."""
LOOK_S: Final = 1.0
"""Between two looks at the gauges."""
RANKS: Final = 129
"""Looks kept at each point, evenly spaced among all of them in order of queue, cache and batch."""
POINTS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Columns over requests in flight, 0, 1, 2 ...; the last entry holds for all larger numbers too."""

    rps: Array
    gauges: Array
    """What a scrape finds: requests running, waiting, and share of the KV cache, shape (numbers in flight, ranks, 3).
    A scrape finds any rank; a mean would be steadier than any engine, and threshold rules would see it."""
    good: Array
    """Share of requests that meet every target."""
    ttft: Array
    """Share of requests by bucket, one row a number in flight."""
    tpot: Array
    mean_prompt: float
    mean_output: float

    @property
    def last(self) -> int:
        """Largest number in flight."""
        return len(self.rps) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """One measurement."""

    in_flight: int
    rps: float
    good: float
    gauges: Array
    ttft: tuple[float, ...]
    tpot: tuple[float, ...]


def measure(config: EngineConfig, slo: Slo, draw: Callable[[int], Sequence[TimedRequest]]) -> Surface:
    """The surface of an engine under a distribution of lengths.

    Args:
        draw: so many requests, the same for the same number.
    """
    points: list[_Point] = []
    for clients in POINTS:
        points.append(_point(config, slo, draw((WARM + 1) * clients + max(MEASURED, 4 * clients)), clients))
        if len(points) > 3 and points[-1].good < 0.02 and points[-1].rps < 1.02 * points[-2].rps:
            break  # saturated and out of every target: more clients only wait longer
    requests = draw(4000)
    return _interpolated(points, float(np.mean([one.input_tokens for one in requests])),
                         float(np.mean([one.output_tokens for one in requests])))  # fmt: skip


class _Closed:
    """Clients that each send their next request when the answer is there."""

    def __init__(self, config: EngineConfig, requests: Sequence[TimedRequest], clients: int) -> None:
        self.engine = Engine(config)
        self.gauges: list[tuple[float, float, float, float]] = []
        """Time, waiting, share of the KV cache, running."""
        self._requests, self._next, self._clients = requests, clients, clients
        self.cluster = Cluster([self.engine], lambda *_: 0, on_outcome=self._again)
        self.cluster.every(LOOK_S, self._look)

    def run(self) -> list[Outcome]:
        """All outcomes, in order of completion."""
        first = [self._arrival(index, 0.02 * index) for index in range(self._clients)]
        return self.cluster.run(first)

    def _arrival(self, index: int, at_s: float) -> Arrival:
        return Arrival(at_s=at_s, request=engine_request(str(index), self._requests[index]))

    def _again(self, _outcome: Outcome) -> None:
        now_s = self.cluster.now_s
        if self._next < len(self._requests):
            self.cluster.submit(self._arrival(self._next, now_s))
            self._next += 1

    def _look(self, now_s: float) -> None:
        self.gauges.append((now_s, self.engine.waiting(now_s), self.engine.kv.usage, self.engine.running))


def _point(config: EngineConfig, slo: Slo, requests: Sequence[TimedRequest], clients: int) -> _Point:
    closed = _Closed(config, requests, clients)
    outcomes = closed.run()
    kept = outcomes[WARM * clients : len(outcomes) - clients]
    ttft, tpot = Histogram(TTFT_BOUNDS_S), Histogram(TPOT_BOUNDS_S)
    good = 0
    for one in kept:
        ttft.observe(one.ttft_s)
        tpot.observe((one.e2e_s - one.ttft_s) / max(one.output_tokens - 1, 1))
        good += met(one, slo, ttft_limit_s(slo, config, requests[int(one.request_id)].input_tokens))
    from_s, until_s = outcomes[WARM * clients - 1].end_s, kept[-1].end_s
    looks = sorted((waiting, usage, running) for at_s, waiting, usage, running in closed.gauges
                   if from_s <= at_s <= until_s)  # fmt: skip
    return _Point(in_flight=clients, rps=len(kept) / (until_s - from_s), good=good / len(kept), gauges=_ranks(looks),
                  ttft=_shares(ttft), tpot=_shares(tpot))  # fmt: skip


def _ranks(looks: Sequence[tuple[float, float, float]]) -> Array:
    """Running, waiting and share of the cache at :data:`RANKS` evenly spaced ranks."""
    ranks = np.linspace(0, len(looks) - 1, RANKS).round().astype(int)
    table: Array = np.asarray(looks, dtype=np.float64)
    return np.take(table[ranks], [2, 0, 1], axis=1)


def _shares(histogram: Histogram) -> tuple[float, ...]:
    total = sum(histogram.counts)
    return tuple(count / total for count in histogram.counts)


def _interpolated(points: Sequence[_Point], mean_prompt: float, mean_output: float) -> Surface:
    known = np.array([0, *(point.in_flight for point in points)], dtype=float)
    axis = np.arange(known[-1] + 1)

    def column(values: Sequence[float], at_zero: float) -> Array:
        return np.asarray(np.interp(axis, known, [at_zero, *values]), dtype=np.float64)

    def rows(values: Sequence[tuple[float, ...]]) -> Array:
        return np.stack([column(bucket, bucket[0]) for bucket in zip(*values, strict=True)], axis=1)

    seen = np.concatenate([np.zeros((1, RANKS, 3)), np.stack([point.gauges for point in points])])
    right = np.clip(np.searchsorted(known, axis), 1, len(known) - 1)
    share = ((axis - known[right - 1]) / (known[right] - known[right - 1]))[:, None, None]
    return Surface(
        rps=column([point.rps for point in points], 0.0), gauges=seen[right - 1] * (1 - share) + seen[right] * share,
        good=column([point.good for point in points], points[0].good),
        ttft=rows([point.ttft for point in points]), tpot=rows([point.tpot for point in points]),
        mean_prompt=mean_prompt, mean_output=mean_output,
    )  # fmt: skip
