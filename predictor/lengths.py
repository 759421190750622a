"""How long answers are, by model and client: a decaying histogram, shrunk towards the wider group's. Pure.

Nobody can know the length of one answer; which lengths are usual for whom can be counted. A client with few answers
looks like its model's others, a model with few like all. Answers that were broken off, or cut at a limit, were longer
than what was seen: they count in the bins above, as those who got that far are spread there (Kaplan and Meier 1958).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PER_DOUBLING: Final = 4
BINS: Final = 17 * PER_DOUBLING
"""Quarter doublings, 1 to 131 072 tokens."""
EDGES: Final[tuple[float, ...]] = tuple(2.0 ** (index / PER_DOUBLING) for index in range(BINS + 1))
_MIDDLES: Final[tuple[float, ...]] = tuple(math.sqrt(low * high) for low, high in itertools.pairwise(EDGES))
SHRINK: Final = 20.0
"""The wider group's histogram weighs as many answers as this."""
KEEP: Final = 2000.0
"""After so many answers of its own group an older one counts 1/e."""
MOST_CLIENTS: Final = 1000
"""Clients told apart; of more, the least seen goes."""
_START: Final = 256.0
"""Mean length where nothing was seen at all."""


@dataclass(slots=True)
class Counts:
    """One group's histogram; the newest answer counts most."""

    ended: Array = field(default_factory=lambda: np.zeros(BINS))
    broken: Array = field(default_factory=lambda: np.zeros(BINS))
    """Seen up to there, and not to the end."""

    @property
    def total(self) -> float:
        """Answers, old ones counting less."""
        return float(self.ended.sum() + self.broken.sum())

    def add(self, place: int, *, complete: bool) -> None:
        """One more."""
        keep = math.exp(-1.0 / KEEP)
        self.ended *= keep
        self.broken *= keep
        (self.ended if complete else self.broken)[place] += 1.0


class Lengths:
    """Distributions by (model, client), models, and all."""

    def __init__(self) -> None:
        self._all = Counts()
        self._models: dict[str, Counts] = {}
        self._clients: dict[tuple[str, str], Counts] = {}

    def add(self, model: str, client: str, tokens: int, *, complete: bool = True) -> None:
        """An answer of ``tokens`` (1 or more; fewer are not counted) of ``model`` to ``client``."""
        if tokens < 1:
            return
        place = place_of(tokens)
        self._all.add(place, complete=complete)
        self._models.setdefault(model, Counts()).add(place, complete=complete)
        self._clients.setdefault((model, client), Counts()).add(place, complete=complete)
        if len(self._clients) > MOST_CLIENTS:
            del self._clients[min(self._clients, key=lambda key: self._clients[key].total)]

    def of(self, model: str, client: str = "") -> Distribution:
        """What to reckon with for the next answer."""
        shares = _shares(self._all, None)
        if (own := self._models.get(model)) is not None:
            shares = _shares(own, shares)
        if (own := self._clients.get((model, client))) is not None:
            shares = _shares(own, shares)
        return Distribution(tuple(shares.tolist()))

    def summary(self) -> Mapping[str, Mapping[str, Any]]:
        """By model: answers counted, mean, P50 and P90 in tokens."""
        found = {}
        for model, counts in sorted(self._models.items()):
            told = self.of(model)
            found[model] = {"answers": round(counts.total, 1), "mean": round(told.mean(), 1),
                            "p50": round(told.quantile(0.5), 1), "p90": round(told.quantile(0.9), 1)}  # fmt: skip
        return found


def place_of(tokens: float) -> int:
    """The bin of a length."""
    return min(BINS - 1, max(0, int(math.log2(max(tokens, 1.0)) * PER_DOUBLING)))


def _shares(counts: Counts, wider: Array | None) -> Array:
    """Share of answers that end in each bin: own counts, and the wider group's as :data:`SHRINK` answers."""
    prior = np.zeros(BINS)
    if wider is None:
        prior[place_of(_START)] = 1e-6
    else:
        prior = wider * SHRINK
    ended, broken = counts.ended + prior, counts.broken
    at_risk = np.cumsum((ended + broken)[::-1])[::-1]
    hazard = np.divide(ended, at_risk, out=np.zeros(BINS), where=at_risk > 0)
    hazard[-1] = 1.0
    alive = np.concatenate(([1.0], np.cumprod(1.0 - hazard)[:-1]))
    return np.asarray(alive * hazard)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Shares of answers by bin of length."""

    shares: Sequence[float]

    def mean(self, *, most: float = math.inf) -> float:
        """Tokens to expect, where the answer is cut at ``most``."""
        return float(sum(share * min(middle, most) for share, middle in zip(self.shares, _MIDDLES, strict=True)))

    def quantile(self, level: float) -> float:
        """Tokens that an answer stays below with probability ``level``."""
        below = 0.0
        for share, upper in zip(self.shares, EDGES[1:], strict=True):
            below += share
            if below >= level - 1e-9:
                return upper
        return EDGES[-1]

    def remaining(self, sofar: float) -> float:
        """Tokens still to come on average of an answer that has ``sofar``."""
        rest = [(s, m) for s, m in zip(self.shares, _MIDDLES, strict=True) if m > sofar and s > 0.0]
        weight = sum(share for share, _ in rest)
        return sum(share * (middle - sofar) for share, middle in rest) / weight if weight > 0.0 else 0.0
