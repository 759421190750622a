"""What an engine is about to store: prompts that were just sent there, until its events say so. Pure: times are given.

A prompt sent twice within a blink would otherwise be taken for new both times. Keys are chained, so how much two
prompts share is found by bisection, and a prompt costs one entry however long it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

TTL_S: Final = 2.0
"""Upstream's: long enough for a prefill and its event, short enough not to promise what never came."""
_LOOK: Final = 64
"""Prompts with the same first block that are compared at most, newest first."""


class Speculation:
    """Prompts in flight by their first block.

    Args:
        ttl_s: how long an entry counts.
        limit: prompts remembered at most.
    """

    def __init__(self, ttl_s: float = TTL_S, *, limit: int = 4096) -> None:
        self._ttl_s, self._limit = ttl_s, limit
        self._by_first: dict[int, deque[tuple[float, str, Sequence[int]]]] = {}
        self._order: deque[int] = deque()

    def __len__(self) -> int:
        """Prompts remembered."""
        return len(self._order)

    def sent(self, pod: str, keys: Sequence[int], *, now_s: float) -> None:
        """A prompt was sent to ``pod``."""
        if not keys:
            return
        self._by_first.setdefault(keys[0], deque()).append((now_s + self._ttl_s, pod, keys))
        self._order.append(keys[0])
        while self._order and (len(self._order) > self._limit or self._oldest_s() <= now_s):
            self._drop()

    def _oldest_s(self) -> float:
        return self._by_first[self._order[0]][0][0]

    def _drop(self) -> None:
        first = self._order.popleft()
        entries = self._by_first[first]
        entries.popleft()
        if not entries:
            del self._by_first[first]

    def match(self, keys: Sequence[int], *, now_s: float) -> dict[str, int]:
        """Blocks of a prompt's beginning that each pod was sent lately."""
        entries = self._by_first.get(keys[0]) if keys else None
        if not entries:
            return {}
        found: dict[str, int] = {}
        for number, (until_s, pod, sent) in enumerate(reversed(entries)):
            if until_s <= now_s or number >= _LOOK:
                break
            found[pod] = max(found.get(pod, 0), _shared(keys, sent))
        return found

    def forget(self, pod: str) -> None:
        """``pod`` is gone, or its cache is."""
        for entries in self._by_first.values():
            for place, (_, name, sent) in enumerate(entries):
                if name == pod:
                    entries[place] = (0.0, "", sent)


def _shared(one: Sequence[int], two: Sequence[int]) -> int:
    """Blocks that two prompts share, given that they share the first."""
    low, high = 1, min(len(one), len(two))
    if one[high - 1] == two[high - 1]:
        return high
    while low < high:
        middle = (low + high) // 2
        if one[middle] == two[middle]:
            low = middle + 1
        else:
            high = middle
    return low
