"""Simulated seconds beside real ones. Pure: the real clock is an argument (the engine core itself takes times)."""

from __future__ import annotations

from collections.abc import Callable


class ScaledClock:
    """Simulated seconds that follow a real clock: ``speed`` 2.0 lives twice as fast."""

    __slots__ = ("_now", "_origin", "speed")

    def __init__(self, now: Callable[[], float], *, speed: float = 1.0) -> None:
        """A clock at 0.0 now; ``now`` gives real monotonic seconds."""
        if speed <= 0:
            raise ValueError(f"speed is {speed}; it must be above 0")
        self._now, self._origin, self.speed = now, now(), speed

    def now_s(self) -> float:
        """Simulated seconds since the clock was made."""
        return (self._now() - self._origin) * self.speed

    def real_delay_s(self, until_s: float) -> float:
        """Real seconds until the simulated time ``until_s``; negative when it has passed."""
        return (until_s - self.now_s()) / self.speed
