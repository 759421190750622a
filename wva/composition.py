"""The cheapest whole numbers of replicas that give a capacity, over variants of different GPUs. Pure and exact.

Branch and bound over the variants in the order of cost per capacity: what is missing costs at least the best ratio of
the variants still to come, so that most branches end at once. A handful of variants and hundreds of replicas take
well under a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SLACK: Final = 1e-9
NODES: Final = 20_000
"""Branches looked at before the best found so far is taken: a bound on time, not reached by real fleets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One variant as the composition sees it."""

    name: str
    capacity: float
    """Of one replica, in any unit shared by all; > 0."""
    cost: float
    """Of one replica; > 0."""
    low: int
    high: int


def compose(options: Sequence[Option], wanted: float) -> dict[str, int]:
    """Replicas by variant of least cost with capacity ``wanted``; all at their maximum where that is too little.

    >>> compose([Option(name="a", capacity=3.0, cost=4.0, low=0, high=9),
    ...          Option(name="b", capacity=1.0, cost=1.5, low=0, high=9)], 7.0)
    {'a': 2, 'b': 1}
    """
    order = sorted(options, key=lambda one: (one.cost / one.capacity, one.name))
    if sum(one.high * one.capacity for one in order) <= wanted + SLACK:
        return {one.name: one.high for one in options}
    search = _Search(order)
    search.go(0, wanted - sum(one.low * one.capacity for one in order), 0.0, ())
    best = dict(zip((one.name for one in order), search.best, strict=True))
    return {one.name: best[one.name] for one in options}


class _Search:
    """One branch and bound; counts are above each option's minimum."""

    def __init__(self, order: Sequence[Option]) -> None:
        self._order = order
        self._room = [0.0] * (len(order) + 1)
        for index in range(len(order) - 1, -1, -1):
            one = order[index]
            self._room[index] = self._room[index + 1] + (one.high - one.low) * one.capacity
        self._cost = math.inf
        self._nodes = 0
        self.best: tuple[int, ...] = tuple(one.high for one in order)

    def go(self, index: int, missing: float, spent: float, taken: tuple[int, ...]) -> None:
        """Try every count of the option at ``index``, the largest useful one first."""
        self._nodes += 1
        if missing <= SLACK:
            if spent < self._cost - SLACK:
                rest = tuple(one.low for one in self._order[index:])
                self._cost, self.best = spent, (*taken, *rest)
            return
        if index == len(self._order) or self._room[index] < missing - SLACK or self._nodes > NODES:
            return
        one = self._order[index]
        if spent + missing * one.cost / one.capacity >= self._cost - SLACK:
            return
        most = min(math.ceil(missing / one.capacity - SLACK), one.high - one.low)
        after = self._order[index + 1] if index + 1 < len(self._order) else None
        for count in range(most, -1, -1):
            left = missing - count * one.capacity
            if left > SLACK:  # fewer of this one leave more to the dearer others: no count that follows is better
                bound = math.inf if after is None else spent + count * one.cost + left * after.cost / after.capacity
                if self._room[index + 1] < left - SLACK or bound >= self._cost - SLACK:
                    return
            self.go(index + 1, left, spent + count * one.cost, (*taken, one.low + count))
