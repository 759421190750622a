"""Shares GPUs among models where there are too few: inventory, quotas, priorities. Pure.

What runs and is asked for stays; growth is granted while every limit that it touches has room. Where a limit has not
enough for all, the growing variants take turns, each time the one that has the least GPUs for its priority, so that a
model with twice the priority ends with twice the share. Prefill and decode of a model grow together: the one that got
the smaller part of its wish goes first, since the model serves no more than its scarcer role.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.types import GpuInventory

ALL: Final = "*"
"""In a quota: GPUs of all kinds together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One variant's request and what it wants to become."""

    key: str
    namespace: str
    model: str
    accelerator: str
    gpus: int
    """Of one replica."""
    requested: int
    wanted: int
    priority: float = 1.0


def granted(wishes: Sequence[Wish], inventory: GpuInventory | None) -> dict[str, int]:
    """Replicas that each variant may ask for: its wish, or less where GPUs are short; decreases always.

    >>> two = [Wish(key=k, namespace="n", model=k, accelerator="h100", gpus=2, requested=1, wanted=4) for k in "ab"]
    >>> granted(two, GpuInventory(gpus={"h100": 10}))
    {'a': 3, 'b': 2}
    """
    found = {one.key: min(one.requested, one.wanted) for one in wishes}
    if inventory is None or not (inventory.gpus or inventory.quotas):
        return {one.key: one.wanted for one in wishes}
    left = _Left(inventory)
    gpus: Counter[tuple[str, str]] = Counter()
    for one in wishes:
        left.take(one, one.requested * one.gpus)  # what a decrease gives back is free at the next pass, once it is gone
        gpus[one.namespace, one.model] += found[one.key] * one.gpus
    turns = [(_turn(one, gpus, found), index) for index, one in enumerate(wishes) if one.wanted > one.requested]
    heapq.heapify(turns)
    while turns:
        turn, index = heapq.heappop(turns)
        one = wishes[index]
        if (now := _turn(one, gpus, found)) > turn:  # its model has grown meanwhile
            heapq.heappush(turns, (now, index))
        elif left.room(one) >= one.gpus and found[one.key] < one.wanted:
            found[one.key] += 1
            gpus[one.namespace, one.model] += one.gpus
            left.take(one, one.gpus)
            heapq.heappush(turns, (_turn(one, gpus, found), index))
    return found


def _turn(wish: Wish, gpus: Mapping[tuple[str, str], int], found: Mapping[str, int]) -> tuple[float, float, str]:
    """Who is next: the model with fewest GPUs for its priority; of its variants the one with least of its wish."""
    whole = gpus[wish.namespace, wish.model]
    return whole / max(wish.priority, 1e-9), found[wish.key] / max(wish.wanted, 1), wish.key


class _Left:
    """What each limit has left; a limit that is exceeded already has nothing."""

    def __init__(self, inventory: GpuInventory) -> None:
        self._gpus = dict(inventory.gpus)
        self._quotas = {space: dict(limits) for space, limits in inventory.quotas.items()}

    def take(self, wish: Wish, gpus: int) -> None:
        """Book GPUs on every limit that the wish touches."""
        for limits, name in self._limits(wish):
            limits[name] -= gpus

    def room(self, wish: Wish) -> float:
        """GPUs that all of them leave."""
        return min((limits[name] for limits, name in self._limits(wish)), default=float("inf"))

    def _limits(self, wish: Wish) -> list[tuple[dict[str, int], str]]:
        quota = self._quotas.get(wish.namespace, {})
        touched = [(self._gpus, wish.accelerator), (quota, wish.accelerator), (quota, ALL)]
        return [(limits, name) for limits, name in touched if name in limits]
