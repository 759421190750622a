"""Quantiles of actual / predicted that hold in the long run, in every group of load and at every endpoint. Pure.

The ratios come from the newest rows, predicted by models that knew only older ones; every refit goes through them anew,
so they roll with the traffic and nothing is kept between two fits. Conformal: the rank is ceil((n + 1) * level) (Lei et
al. 2018), groups are apart (Mondrian), and the level that is looked up adapts: it rises by each miss and falls by each
hit (adaptive conformal inference, Gibbs and Candes 2021), so coverage is right on average even where the past does not
resemble the present. An endpoint's width follows the misses of its own tails in the same way (quantile tracking,
Angelopoulos et al. 2023). Both look at one and the same interval, the one that would have been served: what the width
of an endpoint has put right, the level of its group need not.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from predictor.intervals import GROUPS, LEVELS, MIDDLE, Array, Width, logs_at
from predictor.scales import positions

Key = TypeVar("Key", bound=Hashable)

MIN_GROUP: Final = 20
"""A group with fewer calibration rows uses those of all groups."""

WINDOW: Final = 400
"""Of a group's newest ratios, so many make its quantiles."""

RATE: Final = 0.01
"""How far one miss or hit moves the level that is looked up."""

MIN_OWN: Final = 20
"""An endpoint with fewer rows is as wide as its group."""

OWN_RATE: Final = 0.1
"""How far one miss moves the logarithm of an endpoint's width; a hit moves it back by a nineteenth of that."""

LEAK: Final = 0.002
"""Share of that logarithm that each row takes back: an endpoint that is like the others comes to be as wide as they."""

LEAST: Final = math.log(0.4)
MOST: Final = math.log(8.0)
"""Bounds of that logarithm."""

ROUGH: Final = 4.0
"""An endpoint whose errors are so many times as large as the median endpoint's (95 % of them are smaller) lies, or
follows no law: it has no say in its group's quantiles ..."""
MIN_ENDPOINTS: Final = 3
"""... where so many have rows enough: of two that differ nobody can say which one lies."""

SETTLE: Final = 20
"""Rows after a change that a model may have predicted which did not know of it: they tell nothing of the time since."""

_TAIL: Final = 0.05
_LOW, _HIGH = LEVELS.index(_TAIL), LEVELS.index(1.0 - _TAIL)
_STRETCH: Final = math.log(1.5)
"""Where there are too few rows for a level, the furthest ratio seen is stretched by this."""
_USUAL: Final[Width] = (1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Errors(Generic[Key]):
    """Rows whose outcome is known, oldest first."""

    ratios: Array
    """Actual / predicted, shape (n,), > 0."""
    members: NDArray[np.intp]
    """The group of each, positions in :data:`predictor.intervals.GROUPS`."""
    keys: Sequence[Key]
    """The endpoint of each."""

    def __len__(self) -> int:
        return len(self.ratios)

    def between(self, start: int, end: int) -> Errors[Key]:
        """Rows from ``start``, which may be below 0, to ``end``."""
        part = slice(max(start, 0), end)
        return Errors(ratios=self.ratios[part], members=self.members[part], keys=self.keys[part])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration(Generic[Key]):
    """What intervals are made of."""

    quantiles: Array
    """Of ratio at :data:`predictor.intervals.LEVELS`, shape (groups, levels), never falling along a row."""
    widths: Mapping[Key, Width]
    """Of endpoints with rows enough."""

    def ratios(self, rows: Errors[Key], level: float) -> Array:
        """Ratios at one level for each of ``rows``, whose own ratios are not looked at."""
        widths = np.array([self.widths.get(key, _USUAL) for key in rows.keys]).reshape(-1, 2)
        return np.exp(logs_at(self.quantiles, level, rows.members, widths))


def rank_quantile(ordered: Sequence[float], level: float) -> float:
    """The log ratio that a new request stays below with probability ``level``.

    Args:
        ordered: log(actual / predicted) on calibration rows, rising, at least one.
        level: below 0.5 the lower rank is taken, so an interval never covers too little.

    >>> rank_quantile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 0.9)
    9.0
    """
    n = len(ordered)
    upper = level >= 0.5
    rank = math.ceil((n + 1) * level - 1e-9) if upper else math.floor((n + 1) * level + 1e-9)
    if rank > n:
        return ordered[-1] + _STRETCH
    if rank < 1:
        return ordered[0] - _STRETCH
    return ordered[rank - 1]


class _Window:
    """A rolling window of log ratios, and the levels that would have held so far."""

    __slots__ = ("_levels", "_order", "ordered")

    def __init__(self) -> None:
        self.ordered: list[float] = []
        self._order: deque[float] = deque()
        self._levels = list(LEVELS)

    @property
    def full(self) -> bool:
        """It has rows enough to tell."""
        return len(self.ordered) >= MIN_GROUP

    def marks(self) -> list[float]:
        """Log ratios at :data:`LEVELS`; of at least one row."""
        return [rank_quantile(self.ordered, level) for level in self._levels]

    def learn(self, value: float, marks: Sequence[float]) -> None:
        """Move each level by whether ``value`` stayed below its mark."""
        for index, (level, mark) in enumerate(zip(LEVELS, marks, strict=True)):
            self._levels[index] += RATE * (level - (value <= mark))

    def add(self, value: float) -> None:
        """Take in the newest; the oldest of a full window leaves."""
        insort(self.ordered, value)
        self._order.append(value)
        if len(self.ordered) > WINDOW:
            del self.ordered[bisect_left(self.ordered, self._order.popleft())]


class _Own:
    """One endpoint's width so far, as logarithms."""

    __slots__ = ("above", "below", "rows")

    def __init__(self) -> None:
        self.below = self.above = 0.0
        self.rows = 0

    def stretched(self, marks: Sequence[float]) -> list[float]:
        """Marks of a group as they are here."""
        middle, below, above = marks[MIDDLE], math.exp(self.below), math.exp(self.above)
        return [middle + (mark - middle) * (below if at < MIDDLE else above) for at, mark in enumerate(marks)]

    def learn(self, value: float, marks: Sequence[float]) -> None:
        """Follow a row that met these marks (of this endpoint)."""
        self.rows += 1
        self.below = _followed(self.below, missed=value < marks[_LOW])
        self.above = _followed(self.above, missed=value > marks[_HIGH])

    def width(self) -> Width:
        """As factors."""
        return math.exp(self.below), math.exp(self.above)


def _followed(width: float, *, missed: bool) -> float:
    return min(max((1.0 - LEAK) * width + OWN_RATE * (missed - _TAIL), LEAST), MOST)


def calibrate(errors: Errors[Key], *, changed: Mapping[Key, int] | None = None) -> Calibration[Key]:
    """Quantiles by group and widths by endpoint from at least one row.

    Args:
        errors: the rows to go through, in the order of time.
        changed: rows since an endpoint last became faster or slower, where it did; its width starts anew after those
            that a model predicted which did not know.
    """
    starts, logs = _starts(errors.keys, changed or {}), np.log(errors.ratios)
    ignored = rough(logs, errors.keys)
    seen: Counter[Key] = Counter()
    everything, windows = _Window(), [_Window() for _ in GROUPS]
    endpoints: dict[Key, _Own] = {}
    for value, member, key in zip(logs.tolist(), errors.members.tolist(), errors.keys, strict=True):
        if key not in endpoints or seen[key] == starts.get(key):
            endpoints[key] = _Own()
        seen[key] += 1
        window, own = windows[member] if windows[member].full else everything, endpoints[key]
        if window.full:
            marks = own.stretched(window.marks())
            own.learn(value, marks)
            if key not in ignored:
                window.learn(value, marks)
        if key not in ignored:
            windows[member].add(value)
            everything.add(value)
    marks_of = [(window if window.full else everything).marks() for window in windows]
    widths = {key: own.width() for key, own in endpoints.items()
              if own.rows >= MIN_OWN and seen[key] > starts.get(key, 0)}  # fmt: skip
    return Calibration(quantiles=np.maximum.accumulate(np.exp(np.array(marks_of)), axis=1), widths=widths)


def rough(logs: Array, keys: Sequence[Key]) -> frozenset[Key]:
    """Endpoints whose errors are :data:`ROUGH` times as large as the median endpoint's; never half of them or more."""
    large = {key: float(np.quantile(np.abs(logs[rows]), 1.0 - _TAIL)) for key, rows in positions(keys).items()
            if len(rows) >= MIN_OWN}  # fmt: skip
    if len(large) < MIN_ENDPOINTS:
        return frozenset()
    usual = float(np.median(list(large.values())))
    return frozenset(key for key, error in large.items() if error > ROUGH * usual > 0.0)


def _starts(keys: Sequence[Key], changed: Mapping[Key, int]) -> Mapping[Key, int]:
    """How many of an endpoint's rows come before those that its width is learned from, where it changed."""
    rows = Counter(keys)
    return {key: max(rows[key] - max(since - SETTLE, 0), 0) for key, since in changed.items()}
