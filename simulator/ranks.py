"""Data-parallel ranks: engines that step together, and how vLLM's own front end chooses among them. Pure.

Ranks have batches and caches of their own. With dense weights they are independent: use plain engines. With
mixture-of-experts weights the ranks exchange tokens in every layer, so a step of all of them lasts as long as that of
the slowest, and a rank that gets work while the others are in a step waits for its end.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.engine import Engine
from simulator.sequence import EngineRequest, StepResult

_WAITING_WEIGHT = 4


class Lockstep:
    """Makes ranks step together; each is still an engine of its own to a cluster."""

    def __init__(self, ranks: Sequence[Engine]) -> None:
        """Idle ranks, which belong to no other group.

        Raises: ValueError when one does.
        """
        self.ranks = tuple(ranks)
        self.end_s = 0.0
        """Of the present step of all, or the last one."""
        self._ended: dict[Engine, StepResult] = {}
        if any(rank.group is not None for rank in ranks):
            raise ValueError("a rank is in another lockstep group already")
        for rank in ranks:
            rank.group = self

    @property
    def hung(self) -> bool:
        """Whether one of them hangs: the others wait for it in the next layer."""
        return any(rank.hung for rank in self.ranks)

    def turn(self, rank: Engine, now_s: float) -> StepResult | None:
        """What ``rank`` ended at ``now_s``; when all have ended, all that have work begin again."""
        if now_s >= self.end_s:
            for one in self.ranks:
                if (result := one.finish_flight()) is not None:
                    self._ended[one] = result
            self._begin(now_s)
        return self._ended.pop(rank, None)

    def _begin(self, now_s: float) -> None:
        if self.hung:
            return
        begun = [(rank, prepared) for rank in self.ranks if (prepared := rank.prepare(now_s)) is not None]
        if begun:
            self.end_s = max(result.end_s for _, (result, _) in begun)
        for rank, prepared in begun:
            prepared[0].end_s = self.end_s
            rank.commence(prepared)


def least_loaded_rank(_request: EngineRequest, ranks: Sequence[Engine], now_s: float) -> int:
    """vLLM's internal balancing: the rank with the least ``4 * waiting + running``, the first of equals."""
    return min(range(len(ranks)), key=lambda index: (_load(ranks[index], now_s), index))


def _load(rank: Engine, now_s: float) -> int:
    return _WAITING_WEIGHT * rank.waiting(now_s) + rank.running
