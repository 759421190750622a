"""How many retries a fleet in trouble is given. Pure."""

from __future__ import annotations


class RetryBudget:
    """Tokens earned by requests and spent by retries.

    Args:
        ratio: earned by one request.
        burst: saved up at most, and there at the start.

    >>> budget = RetryBudget(ratio=0.5, burst=1)
    >>> budget.take(), budget.take()
    (True, False)
    >>> budget.earn(); budget.earn(); budget.take()
    True
    """

    __slots__ = ("_burst", "_ratio", "_tokens")

    def __init__(self, *, ratio: float, burst: int) -> None:
        self._ratio, self._burst, self._tokens = ratio, float(burst), float(burst)

    def earn(self) -> None:
        """One request came."""
        self._tokens = min(self._burst, self._tokens + self._ratio)

    @property
    def left(self) -> bool:
        """There is one to spend."""
        return self._tokens >= 1.0

    def take(self) -> bool:
        """Spend one retry; False when there is none left."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
