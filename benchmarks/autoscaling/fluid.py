"""A pool of replicas as vessels that fill and empty, second by second: the coarse mode, for weeks of traffic. Pure.

Each replica is its number of requests in flight. Arrivals are Poisson along the rate curve, go where fewest are in
flight, and leave at the rate that :mod:`benchmarks.autoscaling.surface` measured for that number. The share that meets
the SLO, the latencies' histograms and the gauges are those of the number in flight at arrival. Autoscaler, scrapes and
platform are as in :mod:`benchmarks.autoscaling.world`.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.autoscaling.arms import Arm
from benchmarks.autoscaling.case import Case
from benchmarks.autoscaling.pool import KEEP_S, Life, Pool, RouterSample, Sample, Seen
from benchmarks.autoscaling.surface import Surface
from benchmarks.autoscaling.trail import Trail

Array = NDArray[np.float64]
CHUNK: int = 3600
"""Seconds of arrivals drawn at a time."""


@dataclass(slots=True, eq=False)
class _Vessel:
    """One replica."""

    name: str
    added_s: float
    ready_s: float
    left_s: float = math.inf
    draining: bool = False
    in_flight: float = 0.0
    finished: float = 0.0
    busy_s: float = 0.0
    samples: deque[Sample] = field(default_factory=deque)


class Fluid:
    """The coarse world; the same arms, the same trail."""

    def __init__(self, case: Case, arm: Arm, surface: Surface, *, seed: int) -> None:
        """Raises: ValueError for a case without a rate curve."""
        if case.curve is None:
            raise ValueError(f"{case.name} has no rate curve")
        self.case, self.arm, self._surface = case, arm, surface
        self._curve = case.curve
        self._rng = np.random.default_rng([seed, 11])
        self._requested = case.fleet.initial if arm.initial is None else arm.initial
        self.trail = Trail(initial=self._requested)
        self._vessels: list[_Vessel] = []  # alive, starting ones included
        self._serving: list[_Vessel] = []
        self._leaving: list[_Vessel] = []
        self._all: list[_Vessel] = []
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._serial = 0
        self._router: deque[RouterSample] = deque()
        self._arrived = self._finished = 0.0
        self._by_level = np.zeros(surface.last + 1)  # arrivals by requests in flight
        self._rates = surface.rps.tolist()
        self._looks = np.random.default_rng([seed, 12])
        for _ in range(self._requested):
            self._start(0.0, 0.0)

    def run(self) -> Trail:
        """The whole case."""
        arm, until_s = self.arm, self.case.span_s
        self._scrape_router(0.0)
        self._plan(self.case.settle_s + float(self._rng.uniform(0.0, arm.interval_s)), self._control)
        for first in range(0, math.ceil(until_s), CHUNK):
            self._chunk(first, min(first + CHUNK, math.ceil(until_s)))
        self.trail.total = self._arrived
        self.trail.good = float(self._by_level @ self._surface.good)
        self.trail.end_s = until_s
        self.trail.paid = [(one.added_s, min(one.left_s, until_s)) for one in self._all]
        self.trail.serving = [(one.ready_s, min(one.left_s, until_s)) for one in self._all if one.ready_s < until_s]
        return self.trail

    def _chunk(self, first: int, last: int) -> None:
        bins = (np.arange(first, last) / self._curve.bin_s).astype(int)
        rates = np.asarray(self._curve.rates_rps)[np.minimum(bins, len(self._curve.rates_rps) - 1)]
        for second, count in enumerate(self._rng.poisson(rates).tolist(), start=first):
            while self._agenda and self._agenda[0][0] <= second:
                at_s, _, what = heapq.heappop(self._agenda)
                what(at_s)
            self._second(float(count))

    # ---- one second

    def _second(self, count: float) -> None:
        self._arrived += count
        if count and self._serving:
            self._pour(count)
        for one in self._serving:
            if one.in_flight > 0.0:
                self._drain(one)
        if self._leaving:
            self._empty()

    def _pour(self, count: float) -> None:
        """Fill the lowest vessels to one level; what arrives is judged at the level that it finds."""
        serving, last = self._serving, self._surface.last
        levels = sorted(one.in_flight for one in serving)
        total, level = count, levels[0]
        for index, lowest in enumerate(levels, start=1):
            total += lowest
            level = total / index
            if index == len(levels) or level <= levels[index]:
                break
        for one in serving:
            share = level - one.in_flight
            if share > 0.0:
                self._by_level[min(int(one.in_flight + share / 2 + 1.0), last)] += share
                one.in_flight = level

    def _drain(self, one: _Vessel) -> None:
        """A second's departures, at the rate of the number in flight (interpolated between whole numbers)."""
        level, rates = int(one.in_flight), self._rates
        rate = rates[-1]
        if level < self._surface.last:
            rate = rates[level] + (one.in_flight - level) * (rates[level + 1] - rates[level])
        gone = one.in_flight * -math.expm1(-rate / one.in_flight)
        one.busy_s += -math.expm1(-one.in_flight)
        one.in_flight -= gone
        one.finished += gone
        self._finished += gone

    def _empty(self) -> None:
        for one in list(self._leaving):
            if one.in_flight > 0.0:
                self._drain(one)
            if one.in_flight < 0.5:
                self._finished += one.in_flight
                self._leaving.remove(one)
                one.left_s = self._now_s

    # ---- agenda, scrapes

    @property
    def _now_s(self) -> float:
        return self._router[-1].at_s if self._router else 0.0

    def _plan(self, at_s: float, what: Callable[[float], None]) -> None:
        self._serial += 1
        heapq.heappush(self._agenda, (at_s, self._serial, what))

    def _scrape_router(self, now_s: float) -> None:
        surface = self._surface
        ttft, tpot = self._by_level @ surface.ttft, self._by_level @ surface.tpot
        in_flight = sum(one.in_flight for one in (*self._serving, *self._leaving))
        self._router.append(RouterSample(
            at_s=now_s, in_flight=in_flight, arrived=self._arrived, input_tokens=self._arrived * surface.mean_prompt,
            output_tokens=self._finished * surface.mean_output, finished=self._finished,
            ttft=tuple(ttft.tolist()), tpot=tuple(tpot.tolist()),
        ))  # fmt: skip
        while self._router[0].at_s < now_s - KEEP_S:
            self._router.popleft()
        self._plan(now_s + self.arm.scrape_s, self._scrape_router)

    def _scrape(self, one: _Vessel, now_s: float) -> None:
        if one.left_s < math.inf or one.draining:
            return
        level = min(int(one.in_flight + 0.5), self._surface.last)
        beyond = max(one.in_flight - self._surface.last, 0.0)
        prompt = one.finished * self._surface.mean_prompt
        rank = int(self._looks.random() * self._surface.gauges.shape[1])
        running, waiting, usage = self._surface.gauges[level, rank].tolist()
        one.samples.append(Sample(
            at_s=now_s, running=running, waiting=waiting + beyond, kv_usage=usage, prompt_tokens=prompt,
            generation_tokens=one.finished * self._surface.mean_output, finished=one.finished, prefix_queries=prompt,
            prefix_hits=0.0, busy_s=one.busy_s,
        ))  # fmt: skip
        while one.samples[0].at_s < now_s - KEEP_S:
            one.samples.popleft()
        self._plan(now_s + self.arm.scrape_s, lambda at_s: self._scrape(one, at_s))

    # ---- platform

    def _control(self, now_s: float) -> None:
        self._plan(now_s + self.arm.interval_s, self._control)
        wanted = self.arm.step(self._pool(now_s))
        if wanted == self._requested:
            return
        self.trail.events.append((now_s, wanted))
        for _ in range(wanted - len(self._vessels)):
            self._start(now_s, float(self._rng.uniform(*self.case.fleet.startup_s)))
        order = sorted(self._vessels, key=lambda one: (one.ready_s <= now_s, -one.ready_s))
        for one in order[: max(len(order) - wanted, 0)]:
            self._stop(one, now_s)
        self._requested = wanted

    def _start(self, now_s: float, start_s: float) -> None:
        one = _Vessel(name=f"replica-{len(self._all)}", added_s=now_s, ready_s=now_s + start_s)
        self._vessels.append(one)
        self._all.append(one)
        self._plan(one.ready_s, lambda _at_s: self._open(one))
        self._plan(one.ready_s + float(self._rng.uniform(0.0, self.arm.scrape_s)), lambda at_s: self._scrape(one, at_s))

    def _open(self, one: _Vessel) -> None:
        if not one.draining:
            self._serving.append(one)

    def _stop(self, one: _Vessel, now_s: float) -> None:
        one.draining = True
        self._vessels.remove(one)
        if one in self._serving:
            self._serving.remove(one)
            self._leaving.append(one)
        else:
            one.ready_s, one.left_s = math.inf, now_s

    def _pool(self, now_s: float) -> Pool:
        replicas = tuple(
            Seen(name=one.name, life=Life.READY if one.ready_s <= now_s else Life.STARTING,
                 since_s=min(one.ready_s, now_s) if one.ready_s <= now_s else one.added_s, samples=tuple(one.samples))
            for one in self._vessels
        )  # fmt: skip
        return Pool(now_s=now_s, requested=self._requested, bounds=self.case.fleet.bounds, replicas=replicas,
                    router=tuple(self._router))  # fmt: skip
