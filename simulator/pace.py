"""When the steps of a batch end that only decodes, in closed form. Pure.

Each step adds one token of context per sequence, so that step times grow by a constant: the end of the n-th step is a
quadratic in n. Ends are computed from the origin and never summed up: they do not depend on how a stretch of steps is
cut up, and stepping token by token gives the same times as leaping, to the bit.
"""

from __future__ import annotations

import math


class Pace:
    """Ends of equal-membered steps; step 1 begins at the origin."""

    __slots__ = ("_base_s", "_half_s", "origin_s")

    def __init__(self, origin_s: float, first_s: float, growth_s: float) -> None:
        """The first step takes ``first_s`` (above 0), each later one ``growth_s`` more than the one before."""
        self.origin_s, self._base_s, self._half_s = origin_s, first_s, growth_s / 2.0

    def ends_s(self, steps: int) -> float:
        """When step number ``steps`` ends.

        >>> Pace(10.0, 1.0, 0.5).ends_s(3)
        14.5
        """
        return self.origin_s + steps * (self._base_s + self._half_s * (steps - 1))

    def ended(self, at_s: float) -> int:
        """How many steps have ended by ``at_s``.

        >>> Pace(10.0, 1.0, 0.5).ended(14.5), Pace(10.0, 1.0, 0.5).ended(14.4)
        (3, 2)
        """
        lasted_s = at_s - self.origin_s
        if lasted_s <= 0.0:
            return 0
        linear = self._base_s - self._half_s
        root = math.sqrt(max(0.0, linear * linear + 4.0 * self._half_s * lasted_s))
        steps = max(0, int(2.0 * lasted_s / (linear + root)))
        while steps and self.ends_s(steps) > at_s:
            steps -= 1
        while self.ends_s(steps + 1) <= at_s:
            steps += 1
        return steps

    def ended_before(self, at_s: float) -> int:
        """How many steps have ended before ``at_s``: the next one is under way then, or ends at that very time."""
        steps = self.ended(at_s)
        return steps - 1 if steps and self.ends_s(steps) == at_s else steps
