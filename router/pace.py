"""How fast each engine works, from its own counters: a throttled GPU or an older one shows within seconds. Pure.

Between two scrapes an engine that was never idle did a known amount of work: decoding steps (its generated tokens over
its running batch), each worth what the weights, the requests and their contexts cost, and prompt tokens that no cache
held. Work over time is its speed, in prompt tokens a second. The units only compare, so the typical costs of
:class:`router.delay.LeastDelay` serve for every GPU, and no model has to be fitted first.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Final

from fleet.types import EngineSample

STEP_TOKENS: Final = 300.0
REQUEST_TOKENS: Final = 0.5
CONTEXT_TOKENS: Final = 1e-3
"""A decoding step by itself, for a request, and for a token of context, in prompt tokens."""

_SHORTEST_S: Final = 0.5
"""Scrapes nearer to each other than this are taken together: counters move in steps."""
_LONGEST_S: Final = 30.0
_BUSY: Final = 3.0
"""Requests that must run at both ends of an interval: an engine with fewer may have idled in it."""
_MEMORY_S: Final = 6.0
"""An older interval counts 1/e after this long."""
_ENOUGH: Final = 3
"""Intervals before an engine is called fast or slow."""
_EQUAL, _DIFFERENT = 0.1, 0.2
"""Relative difference in speed that counts as none, and from which on it counts in full."""
_CLIP: Final = 4.0


@dataclass(slots=True)
class _Meter:
    """One engine: where its counters stood, and its speed."""

    at_s: float
    sample: EngineSample
    log_speed: float = 0.0
    count: int = 0


class Pace:
    """Speeds of all engines."""

    __slots__ = ("_meters", "_slowness")

    def __init__(self) -> None:
        self._meters: dict[str, _Meter] = {}
        self._slowness: dict[str, float] = {}

    def seen(self, url: str, sample: EngineSample, now_s: float, context: float) -> None:
        """A scrape.

        Args:
            url: the engine.
            sample: what it said.
            now_s: when, on any clock that never goes back.
            context: mean tokens of context of a request there.
        """
        meter = self._meters.get(url)
        if meter is None:
            self._meters[url] = _Meter(now_s, sample)
            return
        took_s = now_s - meter.at_s
        if took_s < _SHORTEST_S:
            return
        work = _work(meter.sample, sample, context) if took_s <= _LONGEST_S else 0.0
        meter.at_s, meter.sample = now_s, sample
        if work <= 0.0:
            return
        meter.count += 1
        weight = max(1.0 / meter.count, 1.0 - math.exp(-took_s / _MEMORY_S))
        meter.log_speed += weight * (math.log(work / took_s) - meter.log_speed)
        self._compare()

    def _compare(self) -> None:
        """Slowness is against the middle of the engines."""
        known = {url: meter.log_speed for url, meter in self._meters.items() if meter.count >= _ENOUGH}
        middle = statistics.median(known.values()) if len(known) > 1 else 0.0
        self._slowness = {url: _clear(math.exp(middle - speed)) for url, speed in known.items()} if middle else {}

    def slowness(self, url: str) -> float | None:
        """How much longer the same takes there: 1 as long as at the others; ``None``: not known (yet)."""
        return self._slowness.get(url)

    def forget(self, url: str) -> None:
        """The engine is gone, or another one is at its address."""
        if self._meters.pop(url, None) is not None:
            self._slowness.pop(url, None)


def _work(before: EngineSample, after: EngineSample, context: float) -> float:
    """Prompt tokens' worth of work between two samples; 0: cannot be told."""
    running = min(before.running or 0.0, after.running or 0.0)
    if running < _BUSY or before.generation_tokens_total is None or after.generation_tokens_total is None:
        return 0.0
    generated = after.generation_tokens_total - before.generation_tokens_total
    computed = _computed(before, after)
    if generated < 0.0 or computed < 0.0:  # another process
        return 0.0
    batch = 0.5 * ((before.running or 0.0) + (after.running or 0.0))
    step = STEP_TOKENS + batch * (REQUEST_TOKENS + CONTEXT_TOKENS * context)
    return generated / batch * step + computed


def _computed(before: EngineSample, after: EngineSample) -> float:
    """Prompt tokens computed between two samples; below 0 where a counter fell."""
    prompts = (after.prompt_tokens_total or 0.0) - (before.prompt_tokens_total or 0.0)
    hits = (after.prefix_hits_total or 0.0) - (before.prefix_hits_total or 0.0)
    return -1.0 if prompts < 0.0 or hits < 0.0 else max(0.0, prompts - hits)


def _clear(ratio: float) -> float:
    """Small differences are noise.

    >>> [round(_clear(ratio), 2) for ratio in (1.05, 1.15, 1.8, 0.95, 0.5, 99.0)]
    [1.0, 1.1, 1.8, 1.0, 0.5, 4.0]
    """
    distance = max(ratio, 1.0 / ratio) - 1.0
    if distance <= _EQUAL:
        return 1.0
    distance *= min(1.0, (distance - _EQUAL) / (_DIFFERENT - _EQUAL))
    counted = min(_CLIP, 1.0 + distance)
    return counted if ratio > 1.0 else 1.0 / counted
