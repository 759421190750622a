"""A pass whose source failed takes nothing away; everything else stands."""

from __future__ import annotations

import pytest

from fleet.types import (
    Decision,
    Direction,
    EngineSample,
    FleetSnapshot,
    Reason,
    Replica,
    ReplicaObservation,
    ReplicaState,
    VariantObservation,
    VariantSpec,
)
from wva.doubt import held, uncontradicted


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


@pytest.mark.parametrize(("running", "waiting", "busy", "state", "said"), [
    pytest.param(0.0, 0.0, 0.9, ReplicaState.READY, "claims to idle", id="idle-engine-busy-gpu"),
    pytest.param(8.0, 3.0, 0.01, ReplicaState.READY, "requests wait", id="waiting-requests-idle-gpu"),
    pytest.param(0.0, 0.0, 0.1, ReplicaState.READY, "", id="both-rest"),
    pytest.param(8.0, 3.0, 0.9, ReplicaState.READY, "", id="both-work"),
    pytest.param(8.0, 0.0, 0.01, ReplicaState.READY, "", id="a-moment-between-two-steps"),
    pytest.param(None, None, 0.9, ReplicaState.READY, "", id="no-word-of-the-engine"),
    pytest.param(0.0, 0.0, None, ReplicaState.READY, "", id="no-dcgm"),
    pytest.param(0.0, 0.0, 0.9, ReplicaState.STARTING, "", id="not-ready-yet"),
])  # fmt: skip
def test_gpus_that_say_otherwise_keep_their_model_from_shrinking(
    running: float | None, waiting: float | None, busy: float | None, state: ReplicaState, said: str
) -> None:
    seen = ReplicaObservation(replica=Replica(name="r", url="u", variant="a", state=state), gpu_active=busy,
                              sample=EngineSample(at_s=1.0, running=running, waiting=waiting))  # fmt: skip
    spec = VariantSpec(name="a", namespace="n", model="m", accelerator="toy")
    snapshot = FleetSnapshot(at_s=1.0, variants=(VariantObservation(spec=spec, requested=3, replicas=(seen,)),))
    down, up = decision(Direction.DOWN, Reason.IDLE, 2), decision(Direction.UP, Reason.SATURATED, 5)
    found = uncontradicted([down, up], snapshot)
    assert found[1] == up
    assert (found[0] == down) == (not said)
    if said:
        assert (found[0].desired, found[0].reason) == (3, Reason.NO_SIGNAL)
        assert said in found[0].detail
