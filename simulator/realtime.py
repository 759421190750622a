"""The engine core in real time: steps begin and end on an absolute schedule, tokens go to streams.

A step's end is computed, never accumulated from timers: a timer that fires late makes the next step start in the past
and end on time. A process that fell far behind (stopped, or out of CPU) starts afresh at the present.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from simulator.clock import ScaledClock
from simulator.engine import Engine
from simulator.metrics_page import Asked, EngineMetrics
from simulator.sequence import EngineRequest, Sequence, StepResult

log = logging.getLogger(__name__)
MAX_LAG_S = 1.0
"""Real seconds behind the schedule after which the schedule moves to the present."""


class Mailbox:
    """Wakes the one who answers a request: something came, or the client has gone."""

    __slots__ = ("_full", "_waiter", "gone")

    def __init__(self) -> None:
        self._full = False
        self._waiter: asyncio.Future[None] | None = None
        self.gone = False
        """The client has closed its connection."""

    def ring(self) -> None:
        """Something came."""
        self._full = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def hang_up(self) -> None:
        """Nobody reads any more."""
        self.gone = True
        self.ring()

    async def wait(self) -> None:
        """Returns when something came since the last call."""
        if not self._full:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._full = False


class TokenStream:
    """Tokens of one sequence on their way to its client."""

    __slots__ = ("aborted", "adapter", "done", "failed", "mailbox", "over", "pending", "reason", "sequence")

    def __init__(self, sequence: Sequence, mailbox: Mailbox, *, reason: str, adapter: str | None) -> None:
        self.sequence, self.mailbox = sequence, mailbox
        self.reason = reason
        """Its end is counted under this reason."""
        self.adapter = adapter
        self.over = False
        """The last token exists."""
        self.pending = 0
        """Tokens not yet taken, the last one of the answer left out."""
        self.done = False
        """The whole answer is there, and the client may have it."""
        self.aborted = False
        """The engine gave it up."""
        self.failed = False
        """And that is an error."""

    def take(self) -> int:
        """Tokens that came since the last call, without the last one."""
        taken, self.pending = self.pending, 0
        return taken

    def close(self) -> None:
        """The last token is there, and the client may have it."""
        self.done = True
        self.mailbox.ring()

    def give_up(self) -> None:
        """No more tokens come."""
        self.aborted = True
        self.mailbox.ring()


class Runner:
    """Drives one engine on the running event loop."""

    def __init__(self, engine: Engine, metrics: EngineMetrics, clock: ScaledClock) -> None:
        """Nothing runs until the first request."""
        self.engine, self.metrics, self.clock = engine, metrics, clock
        self.on_change: list[Callable[[], None]] = []
        """Called after each step, and after whatever else may have changed the KV cache."""
        self.on_clear: Callable[[], None] | None = None
        """Called when all prefixes were forgotten."""
        self.on_admit: Callable[[], None] | None = None
        """Called when requests may have been admitted."""
        self.on_finish: Callable[[TokenStream], None] | None = None
        """Called for a sequence that gave its last token, while its blocks are still in the cache."""
        self._streams: dict[str, TokenStream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._in_step = False
        self._paused: set[str] = set()
        self._cursor_s = 0.0

    @property
    def load(self) -> int:
        """Sequences accepted and not yet delivered."""
        return len(self._streams)

    @property
    def streams(self) -> list[TokenStream]:
        """All that are accepted and not yet delivered."""
        return list(self._streams.values())

    @property
    def paused(self) -> bool:
        """No step begins."""
        return bool(self._paused)

    def submit(
        self, request: EngineRequest, mailbox: Mailbox, *, reason: str, adapter: str | None = None,
        asked: Asked | None = None,
    ) -> TokenStream:  # fmt: skip
        """Accept a sequence now.

        Args:
            request: what the engine computes.
            mailbox: rung for each of its tokens.
            reason: its end is counted under this ``finished_reason``.
            adapter: LoRA adapter that answers it.
            asked: what the client asked for; ``None``: another of its sequences tells.

        Raises: ValueError as :meth:`Engine.submit`.
        """
        sequence = self.engine.submit(request, self.clock.now_s())
        stream = TokenStream(sequence, mailbox, reason=reason, adapter=adapter)
        self._streams[request.request_id] = stream
        self.metrics.expect(request.request_id, asked)
        self.plan()
        return stream

    def drop(self, request_id: str) -> None:
        """The client has its answer, or has gone: an unfinished sequence is aborted."""
        if self._streams.pop(request_id, None) is not None and self.engine.abort(request_id) is not None:
            self._aborted(request_id)
            self.changed()

    def _aborted(self, request_id: str) -> None:
        self.metrics.forget(request_id)
        self.metrics.finished("abort")

    def give_up_all(self) -> None:
        """Abort every sequence; the clients are told."""
        for request_id, stream in list(self._streams.items()):
            if self.engine.abort(request_id) is not None:
                self._aborted(request_id)
                stream.give_up()
        self.changed()

    def fail(self, stream: TokenStream) -> None:
        """End a sequence with an error."""
        request_id = stream.sequence.request.request_id
        if self.engine.abort(request_id) is not None:
            self.metrics.forget(request_id)
            self.metrics.finished("error")
            stream.failed = True
            stream.give_up()
            self.changed()

    def restart(self, stream: TokenStream) -> None:
        """Compute here a prompt that was to be fetched."""
        old = stream.sequence
        if self.engine.abort(old.request.request_id) is not None:
            request = replace(old.request, remote=False)
            stream.sequence = self.engine.submit(request, self.clock.now_s())
            stream.sequence.arrival_s = old.arrival_s
            self.plan()

    async def drained(self) -> None:
        """Returns when every sequence has given its last token."""
        over = asyncio.Event()

        def look() -> None:
            if all(stream.over or stream.aborted for stream in self._streams.values()):
                over.set()

        self.on_change.append(look)
        look()
        try:
            await over.wait()
        finally:
            self.on_change.remove(look)

    def clear_cache(self) -> bool:
        """Forget all prefixes; False while some are in use."""
        kv = self.engine.kv
        if kv.pinned or kv.private:
            return False
        kv.forget()
        if self.on_clear is not None:
            self.on_clear()
        self.changed()
        return True

    def page(self) -> bytes:
        """The metrics page now."""
        self._show_adapters()
        return self.metrics.render(self.engine, self.clock.now_s())

    def _show_adapters(self) -> None:
        running: set[str] = set()
        waiting: set[str] = set()
        for stream in self._streams.values():
            if stream.adapter is not None and not stream.over:
                (waiting if stream.sequence.scheduled_s is None else running).add(stream.adapter)
        self.metrics.show_adapters(running, waiting, unix_s=time.time())

    # ---- time

    def pause(self, why: str) -> None:
        """Begin no step until :meth:`resume` for the same reason; requests wait."""
        self._paused.add(why)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resume(self, why: str) -> None:
        """Go on, unless there is another reason to pause."""
        if why in self._paused:
            self._paused.discard(why)
            self._cursor_s = max(self._cursor_s, self.clock.now_s())
            self.plan()

    def plan(self) -> None:
        """Arm the timer of the next step, unless one is on its way."""
        if self._in_step or self._timer is not None or self._paused:
            return
        start_s = self.engine.next_start_s(self._cursor_s)
        if start_s is not None:
            self._timer = self._at(start_s, self._begin, start_s)

    def _at(self, at_s: float, callback: Callable[..., None], *args: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, self.clock.real_delay_s(at_s)), callback, *args)

    def _begin(self, start_s: float) -> None:
        self._timer = None
        lag_s = -self.clock.real_delay_s(start_s)
        if lag_s > MAX_LAG_S:
            log.warning("%.1f s behind the schedule; going on from now", lag_s)
            start_s = self.clock.now_s()
        result = self.engine.step(start_s)
        if self.on_admit is not None:
            self.on_admit()
        if result is not None:
            self._in_step = True
            self._at(result.end_s, self._end, result)
        else:
            self.plan()

    def _end(self, result: StepResult) -> None:
        self._in_step = False
        self._cursor_s = result.end_s
        self.metrics.on_step(result)
        for sequence in result.finished:
            self._deliver(sequence)
        streams = self._streams
        for sequence in (*result.decoded, *result.first):
            stream = streams.get(sequence.request.request_id)
            if stream is not None and not stream.over and not stream.aborted:
                stream.pending += 1
                stream.mailbox.ring()
        self.changed()
        self.plan()

    def _deliver(self, sequence: Sequence) -> None:
        stream = self._streams.get(sequence.request.request_id)
        self.metrics.finished("abort" if stream is None else stream.reason)
        if stream is None or sequence.delivered_s is None:
            return
        stream.over = True
        if self.on_finish is not None:
            self.on_finish(stream)
        self._at(sequence.delivered_s, stream.close)

    def changed(self) -> None:
        """Something may have changed the KV cache."""
        for callback in self.on_change:
            callback()
