"""The engine core in real time: steps begin and end on an absolute schedule, tokens go to streams.

A step's end is computed, never accumulated from timers: a timer that fires late makes the next step start in the past
and end on time. A process that fell far behind (stopped, or out of CPU) starts afresh at the present.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable

from simulator.clock import ScaledClock
from simulator.engine import Engine
from simulator.metrics_page import EngineMetrics
from simulator.sequence import EngineRequest, Sequence, StepResult

log = logging.getLogger(__name__)
MAX_LAG_S = 1.0
"""Real seconds behind the schedule after which the schedule moves to the present."""


class Fault(enum.StrEnum):
    """What an engine can be told to suffer."""

    NONE = "none"
    SLOW = "slow"
    """Steps take ``factor`` times as long."""
    HANG = "hang"
    """No step ends any more; health and metrics still answer, as on a stuck GPU."""
    ERROR = "error"
    """Every new request is answered with 500."""


class TokenStream:
    """Tokens of one request on their way to its client: a counter, and one waiter to wake."""

    __slots__ = ("_waiter", "done", "finish_reason", "gone", "pending", "sequence")

    def __init__(self, sequence: Sequence, finish_reason: str) -> None:
        self.sequence, self.finish_reason = sequence, finish_reason
        self.pending = 0
        """Tokens not yet taken, the last one of the answer left out."""
        self.done = False
        """The whole answer is there."""
        self.gone = False
        """The client has closed its connection."""
        self._waiter: asyncio.Future[None] | None = None

    def push(self) -> None:
        """One more token."""
        self.pending += 1
        self._wake()

    def close(self) -> None:
        """The last token is there, and the client may have it."""
        self.done = True
        self._wake()

    def hang_up(self) -> None:
        """Nobody reads any more."""
        self.gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> int:
        """Tokens that came since the last call, at least one unless the answer is complete or the client gone."""
        while not (self.pending or self.done or self.gone):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        taken, self.pending = self.pending, 0
        return taken


class Runner:
    """Drives one engine on the running event loop."""

    def __init__(self, engine: Engine, metrics: EngineMetrics, clock: ScaledClock) -> None:
        """Nothing runs until the first request."""
        self.engine, self.metrics, self.clock = engine, metrics, clock
        self.fault = Fault.NONE
        self._streams: dict[str, TokenStream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._in_step = False
        self._cursor_s = 0.0

    @property
    def load(self) -> int:
        """Requests accepted and not yet delivered."""
        return len(self._streams)

    def submit(self, request: EngineRequest, *, finish_reason: str = "length") -> TokenStream:
        """Accept a request now; its end is counted under ``finish_reason``.

        Raises: ValueError as :meth:`Engine.submit`.
        """
        stream = TokenStream(self.engine.submit(request, self.clock.now_s()), finish_reason)
        self._streams[request.request_id] = stream
        self._plan()
        return stream

    def drop(self, request_id: str) -> None:
        """The client has its answer, or has gone: an unfinished request is aborted."""
        if self._streams.pop(request_id, None) is not None and self.engine.abort(request_id) is not None:
            self.metrics.finished("abort")

    def page(self) -> bytes:
        """The metrics page now."""
        return self.metrics.render(self.engine, self.clock.now_s())

    def set_fault(self, fault: Fault, factor: float) -> None:
        """Suffer ``fault`` from the next step on; ``NONE`` heals."""
        self.fault = fault
        self.engine.slow_factor = factor if fault is Fault.SLOW else 1.0
        self._plan()

    def _plan(self) -> None:
        """Arm the timer of the next step, unless one is on its way."""
        if self._in_step or self._timer is not None or self.fault is Fault.HANG:
            return
        start_s = self.engine.next_start_s(self._cursor_s)
        if start_s is not None:
            self._timer = self._at(start_s, self._begin, start_s)

    def _at(self, at_s: float, callback: Callable[..., None], *args: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, self.clock.real_delay_s(at_s)), callback, *args)

    def _begin(self, start_s: float) -> None:
        self._timer = None
        if self.clock.real_delay_s(start_s) < -MAX_LAG_S:
            log.warning("%.1f s behind the schedule; going on from now", -self.clock.real_delay_s(start_s))
            start_s = self.clock.now_s()
        result = self.engine.step(start_s)
        if result is not None:
            self._in_step = True
            self._at(result.end_s, self._end, result)

    def _end(self, result: StepResult) -> None:
        self._in_step = False
        self._cursor_s = result.end_s
        self.metrics.on_step(result)
        finished = {sequence.request.request_id for sequence in result.finished}
        for sequence in (*result.decoded, *result.first):
            request_id = sequence.request.request_id
            stream = self._streams.get(request_id)
            if stream is not None and request_id not in finished:
                stream.push()
        for sequence in result.finished:
            self._deliver(sequence)
        self._plan()

    def _deliver(self, sequence: Sequence) -> None:
        stream = self._streams.get(sequence.request.request_id)
        self.metrics.finished("abort" if stream is None else stream.finish_reason)
        if stream is not None and sequence.delivered_s is not None:
            self._at(sequence.delivered_s, stream.close)
