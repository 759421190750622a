"""What goes into a simulated cluster and what comes out of it. Pure."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request and when the client sends it."""

    at_s: float
    request: EngineRequest


class Loss(enum.StrEnum):
    """Why a request did not come to its end."""

    CRASH = "crash"
    """Its engine died."""
    REMOVED = "removed"
    """Its engine was taken away before it had finished."""
    NETWORK = "network"
    """The connection to its engine broke, or could not be made."""
    TIMEOUT = "timeout"
    """The client gave up waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request, times in simulated seconds."""

    request_id: str
    engine: int
    """Number of the engine (in order of addition) that served it last; -1 when none ever did."""
    arrival_s: float
    ttft_s: float
    """Infinite when no token ever came."""
    e2e_s: float
    """Until the client has the whole answer; of a lost request, until it was lost."""
    output_tokens: int
    """Tokens that were generated for the client."""
    cached_tokens: int
    preemptions: int
    loss: Loss | None = None
    """``None``: the whole answer came."""

    @property
    def ok(self) -> bool:
        """Whether the whole answer came."""
        return self.loss is None

    @property
    def end_s(self) -> float:
        """When the client had its answer, or lost it."""
        return self.arrival_s + self.e2e_s


def finished(engine: int, arrival_s: float, sequence: Progress, cached_tokens: int | None = None) -> Outcome:
    """The outcome of a sequence that gave its last token; ``cached_tokens`` as the prefill engine found them, if any.

    Raises: ValueError if it did not.
    """
    if sequence.first_token_s is None or sequence.delivered_s is None:
        raise ValueError(f"request {sequence.request.request_id!r} has not finished")
    return Outcome(
        request_id=sequence.request.request_id,
        engine=engine,
        arrival_s=arrival_s,
        ttft_s=sequence.first_token_s - arrival_s,
        e2e_s=sequence.delivered_s - arrival_s,
        output_tokens=sequence.request.output_tokens,
        cached_tokens=sequence.cached_tokens if cached_tokens is None else cached_tokens,
        preemptions=sequence.preemptions,
    )


def lost(arrival: Arrival, engine: int, sequence: Progress | None, *,
         at_s: float, loss: Loss, output_tokens: int = 0) -> Outcome:  # fmt: skip
    """The outcome of a request that ended at ``at_s`` without its whole answer."""
    first_s = None if sequence is None else sequence.first_token_s
    return Outcome(
        request_id=arrival.request.request_id,
        engine=engine,
        arrival_s=arrival.at_s,
        ttft_s=math.inf if first_s is None or first_s > at_s else first_s - arrival.at_s,
        e2e_s=at_s - arrival.at_s,
        output_tokens=output_tokens,
        cached_tokens=0 if sequence is None else sequence.cached_tokens,
        preemptions=0 if sequence is None else sequence.preemptions,
        loss=loss,
    )
