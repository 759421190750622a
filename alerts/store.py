"""A bounded window of samples in memory, selected as Prometheus would. Pure: the caller passes every time in."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

Labels = tuple[tuple[str, str], ...]
"""Sorted (label, value) pairs, without the metric's name."""
Matchers = tuple[tuple[str, str], ...]
"""(label, pattern): ``value``, ``~regex``, ``!=value`` or ``!~regex``, as in :func:`fleet.promql.selector`."""

LOOKBACK_S = 300.0
"""How old the newest sample of a living series may be (Prometheus's default)."""


def labels_of(labels: Mapping[str, str]) -> Labels:
    """Labels as a key; an empty value is no label."""
    return tuple(sorted((name, value) for name, value in labels.items() if value))


@lru_cache(maxsize=1024)
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


def matches(labels: Mapping[str, str], matchers: Matchers) -> bool:
    """Whether all ``matchers`` hold; a missing label counts as empty.

    >>> matches({"le": "1.0"}, (("le", "~1([.]0)?"), ("server", "")))
    True
    """
    return all(_one(labels.get(label, ""), pattern) for label, pattern in matchers)


def _one(value: str, pattern: str) -> bool:
    if pattern.startswith("!~"):
        return _regex(pattern[2:]).fullmatch(value) is None
    if pattern.startswith("!="):
        return value != pattern[2:]
    if pattern.startswith("~"):
        return _regex(pattern[1:]).fullmatch(value) is not None
    return value == pattern


@dataclass(slots=True)
class Series:
    """Samples of one series; ``ended`` are the times at which it went stale."""

    labels: Labels
    by_label: dict[str, str]
    times: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    ended: list[float] = field(default_factory=list)

    def at(self, at_s: float) -> float | None:
        """The value that holds at ``at_s``: not stale, not older than the look-back."""
        last = bisect_right(self.times, at_s) - 1
        if last < 0 or at_s - self.times[last] > LOOKBACK_S:
            return None
        stale = bisect_right(self.ended, at_s) - 1
        return None if stale >= 0 and self.ended[stale] > self.times[last] else self.values[last]


class SeriesStore:
    """Series by name and labels; times must not run backwards within a series."""

    def __init__(self) -> None:
        self._series: dict[str, dict[Labels, Series]] = {}

    def append(self, name: str, labels: Labels, at_s: float, value: float) -> None:
        """Add a sample; one that is not newer than the last is ignored, as Prometheus ignores it."""
        family = self._series.setdefault(name, {})
        series = family.get(labels)
        if series is None:
            series = family[labels] = Series(labels, dict(labels))
        if not series.times or at_s > series.times[-1]:
            series.times.append(at_s)
            series.values.append(value)

    def end(self, name: str, labels: Labels, at_s: float) -> None:
        """The series is gone: from ``at_s`` on it has no value, until a sample comes."""
        if (series := self._series.get(name, {}).get(labels)) is not None:
            series.ended.append(at_s)

    def instant(self, name: str, matchers: Matchers, at_s: float) -> Iterator[tuple[Labels, float]]:
        """Values that hold at ``at_s``."""
        for series in self._matching(name, matchers):
            if (value := series.at(at_s)) is not None:
                yield series.labels, value

    def window(
        self, name: str, matchers: Matchers, start_s: float, end_s: float
    ) -> Iterator[tuple[Labels, array[float], array[float]]]:
        """Samples between ``start_s`` and ``end_s``, both included, of the series that have any."""
        for series in self._matching(name, matchers):
            first, last = bisect_left(series.times, start_s), bisect_right(series.times, end_s)
            if first < last:
                yield series.labels, series.times[first:last], series.values[first:last]

    def _matching(self, name: str, matchers: Matchers) -> Iterator[Series]:
        for series in self._series.get(name, {}).values():
            if not matchers or matches(series.by_label, matchers):
                yield series

    def prune(self, now_s: float, keep_s: Mapping[str, float]) -> None:
        """Forget samples older than ``keep_s[name]`` (default: the look-back), and series without any."""
        for name, family in list(self._series.items()):
            limit = now_s - max(keep_s.get(name, 0.0), LOOKBACK_S)
            for labels, series in list(family.items()):
                old = bisect_left(series.times, limit)
                if old > 64 or old == len(series.times):
                    del series.times[:old], series.values[:old]
                series.ended = [at for at in series.ended if at >= limit]
                if not series.times:
                    del family[labels]
            if not family:
                del self._series[name]

    def __len__(self) -> int:
        """Samples held."""
        return sum(len(series.times) for family in self._series.values() for series in family.values())

    def everything(self) -> Iterator[tuple[str, Series]]:
        """Each series with its name (for export and tests)."""
        for name, family in self._series.items():
            for series in family.values():
                yield name, series
