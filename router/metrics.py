"""The router's own metrics, under the names of :mod:`fleet.signals`.

Counting happens on the hot path, so it is plain numbers behind attributes, and values of histograms are only put down
(30 ns each) to be sorted many at a time (:meth:`RouterMetrics.settle`); the collector turns them into
``prometheus_client`` families when a scrape asks.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet import signals as s
from fleet.signals import Signal
from router.targets import NO_TARGETS, Targets

LATENCY_BOUNDS: Final[Sequence[float]] = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0,
)  # fmt: skip
"""Seconds; 0.2, the default target of the TTFT, is one of them."""
TPOT_BOUNDS: Final[Sequence[float]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.015,
    0.02,
    0.025,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.5,
    1.0,
    5.0,
)
SCHEDULER_BOUNDS: Final[Sequence[float]] = (
    0.0001,
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    5.0,
)
"""Seconds; upstream's end at 0.1, which hides how bad a bad one is."""
TOKEN_BOUNDS: Final[Sequence[float]] = tuple(float(2**power) for power in range(18))
RATIO_BOUNDS: Final[Sequence[float]] = tuple(step / 10 for step in range(11))
OTHER: Final = "other"
"""Stands for every model name beyond the limit, and for names that no engine serves."""
_MAX_MODELS: Final = 1000
_MANY: Final = 64
"""Values that numpy sorts faster than bisection does."""


def _bound(value: float) -> str:
    """An upper bound as the client library writes it."""
    return "+Inf" if value == math.inf else repr(value)


class Histo:
    """A histogram: counts a bucket, and the sum."""

    __slots__ = ("_counts", "_new", "_total", "bounds", "observe")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._new: list[float] = []
        self.observe = self._new.append
        """Count one value: it is put down here, and sorted by :meth:`settle`."""

    def settle(self) -> None:
        """Sort the values put down since the last time."""
        new = self._new
        if len(new) >= _MANY:
            values = np.frombuffer(array("d", new))
            values.sort()  # several times faster than looking for the bucket of each
            ends = np.searchsorted(values, self.bounds, side="right")
            for index, count in enumerate(np.diff(ends, prepend=0, append=len(new))):
                self._counts[index] += int(count)
        else:
            for value in new:
                self._counts[bisect_left(self.bounds, value)] += 1
        self._total += sum(new)
        new.clear()

    @property
    def total(self) -> float:
        """Sum of all values."""
        self.settle()
        return self._total

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulated, by upper bound."""
        self.settle()
        seen, out = 0, []
        for bound, count in zip((*self.bounds, math.inf), self._counts, strict=True):
            seen += count
            out.append((_bound(bound), float(seen)))
        return out


class ModelMeters:
    """All numbers of one model."""

    __slots__ = (
        "duration", "errors", "input_tokens", "output_tokens", "predicted_ttft", "prompt_tokens", "requests", "running",
        "shed", "tpot", "ttft_plain", "ttft_stream",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests = self.running = self.prompt_tokens = 0
        self.errors: dict[str, int] = {}
        self.shed: dict[str, int] = {}
        self.ttft_stream, self.ttft_plain = Histo(LATENCY_BOUNDS), Histo(LATENCY_BOUNDS)
        self.duration, self.predicted_ttft = Histo(LATENCY_BOUNDS), Histo(LATENCY_BOUNDS)
        self.tpot = Histo(TPOT_BOUNDS)
        self.input_tokens, self.output_tokens = Histo(TOKEN_BOUNDS), Histo(TOKEN_BOUNDS)

    def settle(self) -> None:
        """Sort what was put down."""
        for histo in (self.ttft_stream, self.ttft_plain, self.duration, self.predicted_ttft, self.tpot,
                      self.input_tokens, self.output_tokens):  # fmt: skip
            histo.settle()

    def error(self, code: str) -> None:
        """A request ended in an error."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def refuse(self, reason: str) -> None:
        """A request found no engine."""
        self.shed[reason] = self.shed.get(reason, 0) + 1


class FlowMeters:
    """How requests fared that had to wait."""

    __slots__ = ("outcomes", "waited")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.waited = Histo(LATENCY_BOUNDS)

    def passed(self, waited_s: float) -> None:
        """One was let through."""
        self.count("dispatched")
        self.waited.observe(waited_s)

    def count(self, outcome: str) -> None:
        """One was let through, or dropped."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class RouterMetrics:
    """Numbers by model, and of the scheduler."""

    def __init__(self) -> None:
        self._models: dict[str, ModelMeters] = {}
        self.scheduler = Histo(SCHEDULER_BOUNDS)
        self.prefix_hits, self.slo_chance = Histo(RATIO_BOUNDS), Histo(RATIO_BOUNDS)
        self.flow = FlowMeters()
        self.splits: dict[tuple[str, str], int] = {}
        """(model, decision on prefill and decode) -> how often."""

    def model(self, name: str) -> ModelMeters:
        """The numbers of ``name``; beyond a thousand models, those of ``other``."""
        meters = self._models.get(name)
        if meters is None:
            if len(self._models) >= _MAX_MODELS:
                name = OTHER
            meters = self._models.setdefault(name, ModelMeters())
        return meters

    def split(self, model: str, decision: str) -> None:
        """Count a decision on prefill and decode."""
        name = (model, decision)
        self.splits[name] = self.splits.get(name, 0) + 1

    def settle(self) -> None:
        """Sort the values that were put down; to be called about once a second, so that they do not pile up."""
        self.scheduler.settle()
        self.prefix_hits.settle()
        self.slo_chance.settle()
        self.flow.waited.settle()
        for meters in self._models.values():
            meters.settle()

    def models(self) -> Mapping[str, ModelMeters]:
        """All of them by name."""
        return self._models


class EndpointGauges:
    """What is known of one engine at a scrape."""

    __slots__ = ("age_s", "url", "waiting")

    def __init__(self, url: str, *, waiting: float | None, age_s: float | None) -> None:
        self.url, self.waiting, self.age_s = url, waiting, age_s


def _histogram(signal: Signal, rows: Iterable[tuple[Sequence[str], Histo]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(signal.name, signal.meaning, labels=signal.labels)
    for labels, histo in rows:
        family.add_metric(labels, buckets=histo.buckets(), sum_value=histo.total)
    return family


def _counter(signal: Signal, rows: Iterable[tuple[Sequence[str], float]]) -> CounterMetricFamily:
    family = CounterMetricFamily(signal.name, signal.meaning, labels=signal.labels)
    for labels, value in rows:
        family.add_metric(labels, value)
    return family


def _gauge(signal: Signal, rows: Iterable[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(signal.name, signal.meaning, labels=signal.labels)
    for labels, value in rows:
        family.add_metric(labels, value)
    return family


class RouterCollector(Collector):
    """Gives :class:`RouterMetrics` to a ``prometheus_client`` registry.

    Args:
        metrics: what was counted.
        endpoints: gives the engines that may be picked, now.
        pool: value of the label ``name``.
        waiting: gives the requests that wait, by model.
        late: gives, of these, those that wait for their latency targets.
        recorded: gives what became of rows for the history, by outcome.
        spans: gives the same of spans.
        targets: gives the latency targets of a model's requests that name none.
    """

    def __init__(
        self,
        metrics: RouterMetrics,
        endpoints: Callable[[], Sequence[EndpointGauges]],
        *,
        pool: str = "default",
        waiting: Callable[[], Mapping[str, int]] = dict,
        late: Callable[[], Mapping[str, int]] = dict,
        recorded: Callable[[], Mapping[str, int]] = dict,
        spans: Callable[[], Mapping[str, int]] = dict,
        targets: Callable[[str], Targets] = lambda _model: NO_TARGETS,
    ) -> None:
        self._targets = targets
        self._metrics, self._endpoints, self._pool, self._waiting = metrics, endpoints, pool, waiting
        self._recorded, self._spans, self._late = recorded, spans, late

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield from self._by_model()
        yield _histogram(s.ROUTER_SCHEDULER, [((), self._metrics.scheduler)])
        yield _histogram(s.ROUTER_PREFIX_HIT_RATIO, [((), self._metrics.prefix_hits)])
        yield _histogram(s.ROUTER_SLO_CHANCE, [((), self._metrics.slo_chance)])
        flow = self._metrics.flow
        waiting = {**dict.fromkeys(self._metrics.models(), 0), **self._waiting()}
        yield _gauge(s.ROUTER_FLOW_QUEUE, [((model,), float(count)) for model, count in waiting.items()])
        late = {**dict.fromkeys(waiting, 0), **self._late()}
        yield _gauge(s.ROUTER_SLO_WAITING, [((model,), float(count)) for model, count in late.items()])
        yield _histogram(s.ROUTER_FLOW_WAIT, [((), flow.waited)])
        yield _counter(s.ROUTER_FLOW_OUTCOMES, [((outcome,), n) for outcome, n in flow.outcomes.items()])
        yield _counter(s.ROUTER_RECORDED, [((outcome,), n) for outcome, n in self._recorded().items()])
        yield _counter(s.ROUTER_SPANS, [((outcome,), n) for outcome, n in self._spans().items()])
        engines = self._endpoints()
        yield _gauge(s.ROUTER_READY, [((self._pool,), float(len(engines)))])
        yield _gauge(
            s.ROUTER_ENDPOINT_QUEUE, [((self._pool, e.url), e.waiting) for e in engines if e.waiting is not None]
        )
        yield _gauge(s.ROUTER_SCRAPE_AGE, [((e.url,), e.age_s) for e in engines if e.age_s is not None])

    def _held_to(self, models: Iterable[str]) -> Iterable[tuple[Sequence[str], float]]:
        for model in models:
            held = self._targets(model)
            for latency, limit_s in (("ttft", held.ttft_s), ("tpot", held.tpot_s)):
                if model != OTHER and limit_s is not None:
                    yield (model, latency), limit_s

    def _by_model(self) -> Iterable[Metric]:
        models = self._metrics.models()
        pairs = [((name, name), meters) for name, meters in models.items()]
        yield _counter(s.ROUTER_REQUESTS, [(labels, m.requests) for labels, m in pairs])
        yield _counter(s.ROUTER_ERRORS, [((*labels, code), n) for labels, m in pairs for code, n in m.errors.items()])
        yield _counter(s.ROUTER_SPLITS, self._metrics.splits.items())
        yield _counter(s.ROUTER_SHED, [((name, why), n) for name, m in models.items() for why, n in m.shed.items()])
        yield _counter(s.ROUTER_PROMPT_TOKENS, [(labels, m.prompt_tokens) for labels, m in pairs])
        yield _gauge(s.ROUTER_RUNNING, [((name,), m.running) for name, m in models.items()])
        yield _gauge(s.ROUTER_SLO_TARGET, self._held_to(models))
        yield _histogram(s.ROUTER_TTFT, [
            row for labels, m in pairs
            for row in (((*labels, "true"), m.ttft_stream), ((*labels, "false"), m.ttft_plain))
        ])  # fmt: skip
        yield _histogram(s.ROUTER_TPOT, [(labels, m.tpot) for labels, m in pairs])
        yield _histogram(s.ROUTER_DURATION, [(labels, m.duration) for labels, m in pairs])
        yield _histogram(s.ROUTER_INPUT_TOKENS, [(labels, m.input_tokens) for labels, m in pairs])
        yield _histogram(s.ROUTER_OUTPUT_TOKENS, [(labels, m.output_tokens) for labels, m in pairs])
        yield _histogram(s.ROUTER_PREDICTED_TTFT, [(labels, m.predicted_ttft) for labels, m in pairs])
