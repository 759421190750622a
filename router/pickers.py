"""Pickers: from total scores to the chance of each candidate, and the draw. Pure: the randomness is passed in.

A picker can give every candidate's chance, so that a test can sum it to 1, and gives the winner with its chance, which
is recorded (what a model learns from routed traffic needs it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from router.parameters import Plugin, number, whole


class Rng(Protocol):
    """The one thing asked of a random generator (``random.Random`` has it)."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...


class Picker(Protocol):
    """Gives each candidate's chance."""

    def __call__(self, totals: Sequence[float]) -> list[float]:
        """Chances in the order of ``totals``, summing to 1; ``totals`` are at least one number, none below 0."""
        ...

    def choose(self, totals: Sequence[float], rng: Rng) -> tuple[int, float]:
        """The index of the winner, drawn by these chances, and its chance."""
        ...


class _Drawn:
    """The winner is drawn from the chances."""

    __slots__ = ()

    def __call__(self, totals: Sequence[float]) -> list[float]:
        raise NotImplementedError

    def choose(self, totals: Sequence[float], rng: Rng) -> tuple[int, float]:
        """See :class:`Picker`."""
        chances = self(totals)
        chosen = draw(chances, rng)
        return chosen, chances[chosen]


def draw(chances: Sequence[float], rng: Rng) -> int:
    """The index of one candidate, each with its chance."""
    point, last = rng.random(), 0
    for index, chance in enumerate(chances):
        if chance > 0.0:
            if point < chance:
                return index
            point -= chance
            last = index
    return last


def _even(totals: Sequence[float], floor: float) -> list[float]:
    share = 1.0 / sum(total >= floor for total in totals)
    return [share if total >= floor else 0.0 for total in totals]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKRandom(_Drawn):
    """Sort, take the best ``top_k``, pick one of these at random; equal totals share the last places evenly.

    On few endpoints the plain rule undoes the scoring: with three candidates and ``top_k`` 3 it is a lottery whatever
    the scores say. ``margin`` keeps the draw to candidates whose total is at least ``(1 - margin)`` of the best.
    """

    top_k: int = whole(3, "topK")
    margin: float = number(1.0, "margin", high=1.0)
    """Relative; 0.1 spreads load over near-equals only, 1 is off (the plain rule)."""

    def __call__(self, totals: Sequence[float]) -> list[float]:
        """1/k for each of the best k that are inside the margin."""
        floor = max(totals) * (1.0 - self.margin)
        ranked = sorted(totals, reverse=True)
        if len(ranked) <= self.top_k or ranked[self.top_k] < floor:
            return _even(totals, floor)
        last = ranked[self.top_k - 1]
        if ranked[self.top_k] < last:
            return _even(totals, last)
        above = ranked.index(last)
        shared = (self.top_k - above) / self.top_k / totals.count(last)
        return [1.0 / self.top_k if total > last else shared if total == last else 0.0 for total in totals]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxScore(_Drawn):
    """The best total; equal bests share evenly, so that they do not all send to the first."""

    def __call__(self, totals: Sequence[float]) -> list[float]:
        """All to the best."""
        return _even(totals, max(totals))

    def choose(self, totals: Sequence[float], rng: Rng) -> tuple[int, float]:
        """The best, without a draw where there is one best."""
        best = max(totals)
        index, count = totals.index(best), totals.count(best)
        if count == 1:
            return index, 1.0
        for _ in range(int(rng.random() * count)):
            index = totals.index(best, index + 1)
        return index, 1.0 / count


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedRandom(_Drawn):
    """Each in proportion to its total; all alike when every total is 0."""

    def __call__(self, totals: Sequence[float]) -> list[float]:
        """Share of the sum."""
        everything = sum(totals)
        return [total / everything for total in totals] if everything > 0.0 else _even(totals, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformRandom(_Drawn):
    """Any candidate, whatever its total."""

    def __call__(self, totals: Sequence[float]) -> list[float]:
        """All alike."""
        return _even(totals, 0.0)


_ONE: Final = {"maxNumOfEndpoints": "a request goes to one endpoint"}

PICKERS: Final[Mapping[str, Plugin[Picker]]] = MappingProxyType(
    {
        "top-k-random": Plugin(kind=TopKRandom),
        "max-score": Plugin(kind=MaxScore),
        "max-score-picker": Plugin(kind=MaxScore, idle=_ONE),
        "weighted-random": Plugin(kind=WeightedRandom),
        "weighted-random-picker": Plugin(kind=WeightedRandom, idle=_ONE),
        "random": Plugin(kind=UniformRandom),
        "random-picker": Plugin(kind=UniformRandom, idle=_ONE),
    }
)
"""Pickers by the names they have in configuration."""
