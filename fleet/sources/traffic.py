"""What a model's requests came to, from the router's page or from its engines' pages. Pure.

The router is nearer to the client and sees what waits before any engine; where there is none, the engines together
tell arrivals (finished and in flight) and latencies as they see them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fleet import signals as s
from fleet.signals import Signal
from fleet.sources.exposition import Point
from fleet.types import Histogram, ModelTraffic


def _named(signal: Signal, *suffixes: str) -> frozenset[str]:
    return frozenset(name + suffix for name in signal.names for suffix in suffixes or ("",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Which series tell what; each a set of names as exported."""

    finished: frozenset[str]
    in_flight: frozenset[str]
    """Gauges that are added up."""
    queued: frozenset[str] = frozenset()
    prompt_tokens: frozenset[str]
    generation_tokens: frozenset[str]
    ttft: frozenset[str]
    """Histograms by their names without ``_bucket`` and ``_sum``, here and below."""
    tpot: frozenset[str]
    e2e: frozenset[str]

    @property
    def series(self) -> frozenset[str]:
        """All names to keep of a page, or to ask a Prometheus for."""
        latencies = self.ttft | self.tpot | self.e2e
        spread = {name + suffix for name in latencies for suffix in ("_bucket", "_sum")}
        return self.finished | self.in_flight | self.queued | self.prompt_tokens | self.generation_tokens | spread


ROUTER: Final = Vocabulary(
    finished=_named(s.ROUTER_REQUESTS), in_flight=_named(s.ROUTER_RUNNING), queued=_named(s.ROUTER_FLOW_QUEUE),
    prompt_tokens=_named(s.ROUTER_PROMPT_TOKENS), generation_tokens=_named(s.ROUTER_OUTPUT_TOKENS, "_sum"),
    ttft=_named(s.ROUTER_TTFT), tpot=_named(s.ROUTER_TPOT), e2e=_named(s.ROUTER_DURATION),
)  # fmt: skip
ENGINES: Final = Vocabulary(
    finished=_named(s.FINISHED), in_flight=_named(s.RUNNING) | _named(s.WAITING),
    prompt_tokens=_named(s.PROMPT_TOKENS), generation_tokens=_named(s.GENERATION_TOKENS),
    ttft=_named(s.ENGINE_TTFT), tpot=_named(s.ENGINE_TPOT), e2e=_named(s.ENGINE_E2E),
)  # fmt: skip
MODEL_LABELS: Final = ("target_model_name", "model_name")


def model_of(labels: Mapping[str, str]) -> str:
    """The model that a series speaks of; empty where it does not say."""
    return next((labels[name] for name in MODEL_LABELS if labels.get(name)), "")


@dataclass(slots=True)
class _Tally:
    """One model's series, added up."""

    values: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=dict)
    """Latency -> upper bound -> cumulated count."""
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, key: str, value: float) -> None:
        self.values[key] = self.values.get(key, 0.0) + value

    def histogram(self, key: str) -> Histogram | None:
        """The buckets, each on its own; ``None`` where there are none or they contradict each other."""
        cumulated = self.buckets.get(key, {})
        finite = sorted(bound for bound in cumulated if bound < math.inf)
        if not finite or math.inf not in cumulated:
            return None
        counts, before = [], 0.0
        for bound in (*finite, math.inf):
            counts.append(cumulated[bound] - before)
            before = cumulated[bound]
        if min(counts) < 0:
            return None
        return Histogram(bounds=tuple(finite), counts=tuple(counts), sum_s=self.sums.get(key))


def model_traffic(
    points: Iterable[Point],
    words: Vocabulary,
    *,
    at_s: float | Mapping[str, float],
    source: str,
    asked_s: float | None = None,
) -> dict[str, ModelTraffic]:
    """Traffic by model from series of any number of pages.

    Args:
        points: series with their labels; the same series of several pods are added up.
        words: the router's or the engines'.
        at_s: Unix time of the reading, for all models or by model; a model that is not in it is left out.
        source: ``router`` or ``engines``.
        asked_s: see :class:`fleet.types.ModelTraffic`.
    """
    tallies: dict[str, _Tally] = {}
    scalar = {name: key for key in ("finished", "in_flight", "queued", "prompt_tokens", "generation_tokens")
              for name in getattr(words, key)}  # fmt: skip
    latency = {name: key for key in ("ttft", "tpot", "e2e") for name in getattr(words, key)}
    for point in points:
        if not math.isfinite(point.value) or point.value < 0:
            continue
        tally = tallies.setdefault(model_of(point.labels), _Tally())
        if (key := scalar.get(point.name)) is not None:
            tally.add(key, point.value)
        elif point.labels.get("streaming") != "false":  # an unstreamed answer has no first token of its own
            _observe(tally, point, latency)
    return {model: _traffic(tally, at, source, asked_s) for model, tally in tallies.items()
            if (at := at_s.get(model) if isinstance(at_s, Mapping) else at_s) is not None and tally.values}  # fmt: skip


def _observe(tally: _Tally, point: Point, latency: Mapping[str, str]) -> None:
    if (key := latency.get(point.name.removesuffix("_sum"))) is not None and point.name.endswith("_sum"):
        tally.sums[key] = tally.sums.get(key, 0.0) + point.value
    elif (key := latency.get(point.name.removesuffix("_bucket"))) is not None:
        try:
            bound = float(point.labels["le"])
        except (KeyError, ValueError):
            return
        held = tally.buckets.setdefault(key, {})
        held[bound] = held.get(bound, 0.0) + point.value


def _traffic(tally: _Tally, at_s: float, source: str, asked_s: float | None) -> ModelTraffic:
    finished, in_flight = tally.values.get("finished"), tally.values.get("in_flight")
    arrived = None if finished is None and in_flight is None else (finished or 0.0) + (in_flight or 0.0)
    return ModelTraffic(
        at_s=at_s, arrived_total=arrived, finished_total=finished, in_flight=in_flight,
        prompt_tokens_total=tally.values.get("prompt_tokens"),
        generation_tokens_total=tally.values.get("generation_tokens"), queued=tally.values.get("queued"),
        ttft=tally.histogram("ttft"), tpot=tally.histogram("tpot"), e2e=tally.histogram("e2e"), source=source,
        asked_s=asked_s,
    )  # fmt: skip


def preferred(
    router: Mapping[str, ModelTraffic], engines: Mapping[str, ModelTraffic]
) -> dict[str, ModelTraffic]:  # fmt: skip
    """The router's word where it counts a model's requests, the engines' for the others."""
    return {**engines, **{model: one for model, one in router.items() if one.arrived_total is not None}}
