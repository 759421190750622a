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
_MEMORY_S: Final = 8.0
"""An older interval counts 1/e after this long."""
_DOUBT: Final = 2.0
"""A difference within so many standard errors is noise; one of twice as many counts in full."""
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
    work: float = 0.0
    took_s: float = 0.0
    squares: float = 0.0
    """Decayed sums: work, time, and squares of what the work of an interval was off at the mean speed."""
    count: int = 0

    def add(self, work: float, took_s: float) -> None:
        """An interval. Work over time, not a mean of speeds: vLLM counts a prompt when all of it is computed."""
        keep = math.exp(-took_s / _MEMORY_S)
        self.work, self.took_s = keep * self.work + work, keep * self.took_s + took_s
        off = work - self.work / self.took_s * took_s
        self.squares = keep * keep * self.squares + off * off
        self.count += 1

    @property
    def log_speed(self) -> float:
        """Log of the speed, in prompt tokens a second."""
        return math.log(self.work / self.took_s)

    @property
    def error(self) -> float:
        """Its standard error; from few intervals it is not known well, and taken as larger."""
        return math.sqrt(self.squares) / self.work * (1.0 + 2.0 / self.count)


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
        meter.add(work, took_s)
        self._compare()

    def _compare(self) -> None:
        """Slowness is against the middle of the engines."""
        known = {url: meter for url, meter in self._meters.items() if meter.count >= _ENOUGH}
        self._slowness = {}
        if len(known) < 2:
            return
        middle = statistics.median(meter.log_speed for meter in known.values())
        of_middle = statistics.median(meter.error for meter in known.values()) / math.sqrt(len(known))
        for url, meter in known.items():
            behind, doubt = middle - meter.log_speed, _DOUBT * math.hypot(meter.error, of_middle)
            sure = 1.0 if abs(behind) >= 2.0 * doubt else max(0.0, abs(behind) / doubt - 1.0)
            self._slowness[url] = _clear(math.exp(sure * behind))

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
