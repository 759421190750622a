"""The engines of a simulated cluster and what they are going through. Pure."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from simulator.engine import Engine
from simulator.outcome import Loss


class State(enum.StrEnum):
    """What an engine is to the picker."""

    STARTING = "starting"
    """Paid for, not yet able to serve."""
    READY = "ready"
    DRAINING = "draining"
    """Finishes what it has and leaves."""
    DOWN = "down"
    """Crashed, or cut off from the network."""
    GONE = "gone"


class FailureKind(enum.StrEnum):
    """What an engine can suffer."""

    CRASH = "crash"
    """The process dies with everything in it, its cache too; back after ``duration_s``, as after a cold start."""
    HANG = "hang"
    """The step in progress ends, no other begins; requests are accepted as before."""
    SLOW = "slow"
    """Steps take ``factor`` times as long."""
    NETWORK = "network"
    """Connections break and none can be made; the engine itself works on, for nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure, planned."""

    at_s: float
    engine: int
    kind: FailureKind
    duration_s: float = math.inf
    """Until it heals."""
    factor: float = 2.0
    """Of SLOW only."""
    seen_after_s: float | None = None
    """Until the picker stops choosing it; ``None``: at once for CRASH and NETWORK, never for HANG and SLOW."""

    @property
    def seen_s(self) -> float:
        """When the picker stops choosing the engine."""
        if self.seen_after_s is not None:
            return self.at_s + self.seen_after_s
        return self.at_s if self.kind in (FailureKind.CRASH, FailureKind.NETWORK) else math.inf


@dataclass(slots=True, eq=False)
class Member:
    """One engine of the cluster."""

    number: int
    engine: Engine
    added_s: float
    """From here on its GPUs are paid for."""
    state: State = State.STARTING
    ready_s: float = math.inf
    """When it could first serve."""
    left_s: float = math.inf
    """When its GPUs were given back."""
    offered: bool = False
    """Whether the picker may choose it; a failed engine is offered until its failure is seen."""
    failure: Failure | None = None
    """What it suffers from."""
    loss: Loss = Loss.CRASH
    """Of requests that are sent to it while it is down."""
    in_flight: int = 0
    """Requests that clients wait for here."""
    due_s: float | None = None
    """When its engine acts next, as far as the cluster's agenda knows."""
    ticket: int = 0
    """Number of the one agenda entry that counts; older ones are stale."""

    def paid_s(self, now_s: float) -> float:
        """Seconds for which it was paid by ``now_s``, its start included."""
        return max(0.0, min(now_s, self.left_s) - self.added_s)
