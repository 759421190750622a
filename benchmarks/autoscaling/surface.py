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
POINTS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Columns over requests in flight, 0, 1, 2 ...; the last entry holds for all larger numbers too."""

    rps: Array
    running: Array
    waiting: Array
    kv_usage: Array
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
    values: tuple[float, float, float, float, float]
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
        if len(points) > 3 and points[-1].values[4] < 0.02 and points[-1].values[0] < 1.02 * points[-2].values[0]:
            break  # saturated and out of every target: more clients only wait longer
    requests = draw(4000)
    return _interpolated(points, float(np.mean([one.input_tokens for one in requests])),
                         float(np.mean([one.output_tokens for one in requests])))  # fmt: skip


class _Closed:
    """Clients that each send their next request when the answer is there."""

    def __init__(self, config: EngineConfig, requests: Sequence[TimedRequest], clients: int) -> None:
        self.engine = Engine(config)
        self.gauges: list[tuple[float, float, float]] = []
        self._requests, self._next, self._clients = requests, clients, clients
        self.cluster = Cluster([self.engine], lambda *_: 0, on_outcome=self._again)

    def run(self) -> list[Outcome]:
        """All outcomes, in order of completion."""
        first = [self._arrival(index, 0.02 * index) for index in range(self._clients)]
        return self.cluster.run(first)

    def _arrival(self, index: int, at_s: float) -> Arrival:
        return Arrival(at_s=at_s, request=engine_request(str(index), self._requests[index]))

    def _again(self, _outcome: Outcome) -> None:
        now_s = self.cluster.now_s
        self.gauges.append((self.engine.running, self.engine.waiting(now_s), self.engine.kv.usage))
        if self._next < len(self._requests):
            self.cluster.submit(self._arrival(self._next, now_s))
            self._next += 1


def _point(config: EngineConfig, slo: Slo, requests: Sequence[TimedRequest], clients: int) -> _Point:
    closed = _Closed(config, requests, clients)
    outcomes = closed.run()
    steady = slice(WARM * clients, len(outcomes) - clients)
    kept = outcomes[steady]
    ttft, tpot = Histogram(TTFT_BOUNDS_S), Histogram(TPOT_BOUNDS_S)
    good = 0
    for one in kept:
        ttft.observe(one.ttft_s)
        tpot.observe((one.e2e_s - one.ttft_s) / max(one.output_tokens - 1, 1))
        good += met(one, slo, ttft_limit_s(slo, config, requests[int(one.request_id)].input_tokens))
    took_s = kept[-1].end_s - outcomes[WARM * clients - 1].end_s
    running, waiting, usage = np.mean(closed.gauges[steady], axis=0).tolist()
    values = (len(kept) / took_s, running, waiting, usage, good / len(kept))
    return _Point(in_flight=clients, values=values, ttft=_shares(ttft), tpot=_shares(tpot))


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

    by_field = list(zip(*(point.values for point in points), strict=True))
    rps, running, waiting, usage = (column(values, 0.0) for values in by_field[:4])
    return Surface(
        rps=rps, running=running, waiting=waiting, kv_usage=usage, good=column(by_field[4], by_field[4][0]),
        ttft=rows([point.ttft for point in points]), tpot=rows([point.tpot for point in points]),
        mean_prompt=mean_prompt, mean_output=mean_output,
    )  # fmt: skip
