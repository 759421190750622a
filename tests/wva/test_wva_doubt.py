"""A pass whose source failed takes nothing away; everything else stands."""

from __future__ import annotations

import pytest

from fleet.types import Decision, Direction, Reason
from wva.doubt import held


def decision(direction: Direction, reason: Reason, desired: int) -> Decision:
    return Decision(at_s=1.0, variant="a", namespace="n", model="m", accelerator="toy", current=3, desired=desired,
                    direction=direction, reason=reason, detail="why", signals={"requested": 3})  # fmt: skip


@pytest.mark.parametrize(("given", "desired", "reason"), [
    pytest.param(decision(Direction.DOWN, Reason.IDLE, 2), 3, Reason.STALE, id="a-decrease-is-held"),
    pytest.param(decision(Direction.DOWN, Reason.UNUSED, 0), 3, Reason.STALE, id="zero-is-held"),
    pytest.param(decision(Direction.DOWN, Reason.ABOVE_MAX, 2), 2, Reason.ABOVE_MAX, id="bounds-need-no-metric"),
    pytest.param(decision(Direction.UP, Reason.SATURATED, 5), 5, Reason.SATURATED, id="an-increase-stands"),
    pytest.param(decision(Direction.HOLD, Reason.STEADY, 3), 3, Reason.STEADY, id="a-hold-stands"),
])  # fmt: skip
def test_while_the_source_is_silent(given: Decision, desired: int, reason: Reason) -> None:
    assert held([given], "") == (given,)
    (found,) = held([given], "Prometheus is down")
    assert (found.desired, found.reason) == (desired, reason)
    assert ("Prometheus is down" in found.detail) == (reason is Reason.STALE)
