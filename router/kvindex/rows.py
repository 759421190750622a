"""Blocks of one pod as rows, for a store that several indexes share. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from router.kvindex.index import KVIndex
from router.kvindex.keys import Tier

_TIERS = sum(1 << tier for tier in Tier)


class Row(NamedTuple):
    """One block: the engine's name, our key, and a bit for each tier where it lies; none: it is gone."""

    name: int
    key: int
    tiers: int


def rows(index: KVIndex, pod: str, names: Collection[int] | None = None) -> Iterator[Row]:
    """Blocks of ``pod``, of which those that are gone have no tier; ``names``: only these, gone ones too.

    Read them before anything else is entered into the index.
    """
    if names is None:
        found, keys, tiers = index.content(pod)
        yield from map(Row._make, zip(found.tolist(), keys.tolist(), tiers.tolist(), strict=True))
        return
    for name in names:
        key, bits = index.holding(pod, name)
        yield Row(name, key, bits)


def restore(index: KVIndex, pod: str, found: Iterable[Row], *, block_tokens: int) -> int:
    """Enter what another index held of ``pod``; how many blocks there was room for."""
    taken = 0
    for row in found:
        if row.name > 0 and row.key > 0 and 0 < row.tiers <= _TIERS:
            taken += index.place(pod, row.name, row.key, row.tiers, block_tokens=block_tokens)
    return taken
