"""What was last heard of the router's queues, and when: what is not told any more grows old. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fleet.sources.base import RouterQueue


class RouterMemory:
    """The router's queues by model.

    A router that is read itself has one age for everything. A Prometheus has one for each model, and tells nothing of a
    router that it cannot scrape: a model once seen keeps its last queue there, whose age grows.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, float] = {}
        """Requests, by model."""
        self._at_s: float | None = None
        self._seen_s: dict[str, float] = {}

    def hear(self, told: RouterQueue, now_s: float) -> None:
        """Take what was read at ``now_s``; a value without meaning leaves the one before it, and its time."""
        if told.ages_s is None:
            self.waiting, self._at_s, self._seen_s = dict(told.waiting), now_s, {}
            return
        self._at_s = None
        for model, age_s in told.ages_s.items():
            if model in told.waiting:
                self.waiting[model], self._seen_s[model] = told.waiting[model], now_s - age_s
            else:
                self._seen_s.setdefault(model, now_s)

    def miss(self, now_s: float) -> None:
        """Nobody answered at ``now_s``: what never did grows old from now on."""
        if self._at_s is None and not self._seen_s:
            self._at_s = now_s

    def keep(self, models: Iterable[str]) -> None:
        """Forget when the queues of other models were heard of: nobody asks for them any more."""
        wanted = set(models)
        self._seen_s = {model: at_s for model, at_s in self._seen_s.items() if model in wanted}

    def shift(self, jump_s: float) -> None:
        """The clock jumped by so much."""
        self._at_s = None if self._at_s is None else self._at_s + jump_s
        self._seen_s = {model: at_s + jump_s for model, at_s in self._seen_s.items()}

    def ages_s(self, now_s: float) -> Mapping[str, float]:
        """By model, where each has its own."""
        return {model: max(now_s - at_s, 0.0) for model, at_s in self._seen_s.items()}

    def age_s(self, now_s: float) -> float | None:
        """Of the whole, or of its oldest part; ``None`` where there is no router."""
        if self._at_s is not None:
            return max(now_s - self._at_s, 0.0)
        return max(self.ages_s(now_s).values(), default=None)
