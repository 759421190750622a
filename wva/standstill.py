"""Engines that go on answering for their metrics and compute nothing: seen from the counters of two samples. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from fleet.types import EngineSample, ReplicaObservation, ReplicaState
from wva.types import Policy

_TOKENS: Final = ("generation_tokens_total", "prompt_tokens_total", "prefix_queries_total")
"""What only a step of the engine moves. Finished requests are not among them: a client that leaves ends one, too."""


def computes(before: EngineSample, after: EngineSample) -> bool | None:
    """Whether the engine computed anything between two samples; ``None`` where its counters do not tell.

    A prompt counts its tokens at its end, but fills the KV cache chunk by chunk; a cache that only empties may be a
    client that left.
    """
    told = [(getattr(before, name), getattr(after, name)) for name in _TOKENS]
    known = [(old, new) for old, new in told if old is not None and new is not None]
    if not known:
        return None
    fills = before.kv_utilisation is not None and (after.kv_utilisation or 0.0) > before.kv_utilisation
    return fills or any(old != new for old, new in known)


def hangs(seen: ReplicaObservation, rules: Policy) -> bool:
    """Whether a ready replica has requests under way and computes nothing for too long.

    Time runs from sample to sample: a gap in the scrapes proves nothing. One that only has requests waiting may be full
    or paused. The first requests of all may compile kernels, which takes longer than any prompt.
    """
    sample, still_s = seen.sample, seen.still_s
    if still_s is None or sample is None or not sample.running or seen.replica.state is not ReplicaState.READY:
        return False
    fresh = sample.generation_tokens_total == 0.0
    return still_s >= rules.stuck_after_s + (rules.stale_after_s if fresh else 0.0)


class Standstill:
    """Remembers of each engine the sample after which nothing moved any more, by URL."""

    def __init__(self) -> None:
        self._last: dict[str, EngineSample] = {}
        self._since_s: dict[str, float | None] = {}

    def keep(self, urls: Collection[str]) -> None:
        """Forget engines that are gone."""
        self._last = {url: sample for url, sample in self._last.items() if url in urls}
        self._since_s = {url: since_s for url, since_s in self._since_s.items() if url in urls}

    def watch(self, samples: Mapping[str, EngineSample]) -> None:
        """Take in the samples of a pass; one that is no newer than the one before changes nothing."""
        for url, sample in samples.items():
            before = self._last.get(url)
            if before is not None and sample.at_s <= before.at_s:
                continue
            self._last[url] = sample
            moved = True if before is None or not before.running else computes(before, sample)
            if moved is None:
                self._since_s[url] = None
            elif moved or self._since_s.get(url) is None:
                self._since_s[url] = sample.at_s

    def of(self, url: str) -> float | None:
        """Seconds between the newest sample and the last one that showed a token; ``None``: not known."""
        since_s = self._since_s.get(url)
        return None if since_s is None else self._last[url].at_s - since_s
