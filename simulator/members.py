"""The engines of a simulated cluster and what they are going through. Pure."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from simulator.engine import Engine
from simulator.outcome import Arrival, Loss, Outcome, lost
from simulator.sequence import Sequence


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


@dataclass(slots=True, eq=False)
class Flight:
    """A request that a client waits for."""

    arrival: Arrival
    decode: Member | None = None
    """Where the second leg goes; ``None`` when there is none, or it has begun."""
    member: Member | None = None
    """Where it is now."""
    sequence: Sequence | None = None
    holder: Member | None = None
    """Keeps the blocks of the prompt for the second leg."""
    cached_tokens: int | None = None
    """Of the prompt, in the prefill engine's cache; ``None`` without a second leg."""

    def uses(self, member: Member) -> bool:
        """Whether it cannot go on without ``member``."""
        return self.member is member or self.holder is member

    def lost(self, at_s: float, loss: Loss) -> Outcome:
        """Its outcome when it ends at ``at_s`` without the whole answer."""
        first_leg = self.decode is not None
        tokens = 0
        if self.sequence is not None and self.member is not None and not first_leg:
            tokens = self.member.engine.delivered_tokens(self.sequence)
        return lost(self.arrival, -1 if self.member is None else self.member.number,
                    None if first_leg else self.sequence, at_s=at_s, loss=loss, output_tokens=tokens)  # fmt: skip
