"""What holds for each request of a model, worked out once: the seed of its hashes, the latencies it is held to."""

from __future__ import annotations

from typing import Final

from fleet.slo import SloBook
from router.prefix import model_seed
from router.targets import Targets, of_model

_MOST: Final = 1024
"""Models that are remembered; clients may invent more."""


class Model:
    """What holds for each request of a model."""

    __slots__ = ("seed", "targets")

    def __init__(self, seed: int, targets: Targets) -> None:
        self.seed = seed
        """:func:`router.prefix.model_seed`."""
        self.targets = targets
        """Of requests that name none."""


class Models:
    """All of them by name.

    Args:
        slos: latency targets of requests that name none; ``None``: they have none.
    """

    __slots__ = ("_found", "_slos")

    def __init__(self, slos: SloBook | None = None) -> None:
        self._slos = slos
        self._found: dict[str, Model] = {}

    def of(self, name: str) -> Model:
        """One of them; remembered."""
        found = self._found.get(name)
        if found is None:
            if len(self._found) >= _MOST:
                self._found.clear()
            found = self._found[name] = Model(model_seed(name), of_model(self._slos, name))
        return found

    def promise(self, slos: SloBook | None) -> None:
        """Requests that come from now on are held to these where they name none."""
        self._slos = slos
        self._found.clear()
