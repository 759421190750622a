"""Rates from counters as read: the scraper's half of what ``rate()`` does inside a Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fleet.sources.base import EngineReading
from fleet.types import EngineSample


def increase(values: Sequence[float]) -> float:
    """Growth of a counter over consecutive readings; after a fall (a restart) it counts from zero again.

    >>> increase([10.0, 30.0, 5.0, 7.0])
    27.0
    """
    return sum(after - before if after >= before else after for before, after in pairwise(values))


def hit_ratio(hits: float | None, queries: float | None, prompt: float | None) -> float | None:
    """Prefix-cache hits over look-ups; over prompt tokens where an engine (SGLang) counts no look-ups."""
    looked_up = queries if queries is not None else prompt
    if hits is None or not looked_up:
        return None
    return min(hits / looked_up, 1.0)


def _growth(samples: Sequence[EngineSample], field: str) -> tuple[float, float] | None:
    """Growth of one counter and the seconds it took; ``None`` without two readings at different times."""
    points = [(sample.at_s, value) for sample in samples if (value := getattr(sample, field)) is not None]
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    return increase([value for _, value in points]), points[-1][0] - points[0][0]


def _per_second(samples: Sequence[EngineSample], field: str) -> float | None:
    grown = _growth(samples, field)
    return None if grown is None else grown[0] / grown[1]


def reading(samples: Sequence[EngineSample]) -> EngineReading:
    """The newest of ``samples`` (oldest first, at least one) with rates from the first to the last of them."""
    prompt_tps = _per_second(samples, "prompt_tokens_total")
    return EngineReading(
        sample=samples[-1],
        generation_tps=_per_second(samples, "generation_tokens_total"),
        prompt_tps=prompt_tps,
        request_rps=_per_second(samples, "requests_total"),
        prefix_hit_ratio=hit_ratio(
            _per_second(samples, "prefix_hits_total"), _per_second(samples, "prefix_queries_total"), prompt_tps
        ),
    )


def within(samples: Sequence[EngineSample], *, now_s: float, window_s: float) -> tuple[EngineSample, ...]:
    """Samples of the window, and always the newest two: a long interval still gives a rate."""
    recent = tuple(sample for sample in samples if sample.at_s >= now_s - window_s)
    return recent if len(recent) >= 2 else tuple(samples[-2:])
