"""One engine in virtual time: vLLM V1's scheduling over a KV cache and a step-time model. Pure and deterministic.

The caller owns time, in one of two ways. Real time calls :meth:`Engine.step` for each step. Virtual time calls
:meth:`Engine.turn` at :attr:`Engine.due_s`: a stretch of steps that only decode is one leap then, cut short when
something comes between. What a leap has done by now is booked when somebody looks (``settle``), and both ways give
the same times to the bit (:mod:`simulator.pace`). What a step does is decided in :mod:`simulator.scheduler`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from simulator.config import EngineConfig
from simulator.intake import Intake
from simulator.kvcache import KVCache
from simulator.pace import Pace
from simulator.scheduler import Chunk
from simulator.sequence import Counters, Sequence, StepResult
from simulator.steptime import INGRESS_S
from simulator.tiers import Offload
from simulator.tokens import BLOCK_TOKENS


class Group(Protocol):
    """Engines that step together (:class:`simulator.ranks.Lockstep`)."""

    end_s: float

    @property
    def hung(self) -> bool:
        """Whether one of them hangs, and so all."""

    def turn(self, rank: Engine, now_s: float) -> StepResult | None:
        """As :meth:`Engine.turn` of ``rank``."""


class Engine(Intake):
    """A simulated engine."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        ingress_s: float = INGRESS_S,
        slow_factor: float = 1.0,
        offload: Offload | None = None,
    ) -> None:
        """An idle engine.

        Args:
            config: model, GPU and limits.
            ingress_s: seconds before the scheduler sees a request.
            slow_factor: step times are this many times longer (a throttled GPU).
            offload: tiers below the GPU's KV cache.
        """
        super().__init__(config, offload, ingress_s)
        self._slow_factor = slow_factor
        self._flight: StepResult | None = None  # the present step or leap
        self._last = 0  # number of its last step
        self._pace_from = 0  # step number at the origin of the batch's pace
        self.hung = False
        """No step begins."""
        self.group: Group | None = None
        """Ranks that step together, this one among them."""
        self._clock: Callable[[], float] | None = None

    # ---- what can be seen; a leap's progress is booked first

    @property
    def kv(self) -> KVCache:
        """The KV cache."""
        self._settle_now()
        return self._kv

    @property
    def counters(self) -> Counters:
        """Totals."""
        self._settle_now()
        return self._counters

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        self._settle_now()
        return len(self._batch.members) + (self._partial is not None)

    def waiting(self, now_s: float) -> int:
        """Requests in the scheduler's queue at ``now_s``, whether or not a step has looked at them since."""
        through = 0
        for sequence in self._arriving:
            if sequence.queued_s > now_s:
                break
            through += 1
        return len(self._waiting) + len(self._loading) + through

    @property
    def loading(self) -> int:
        """Of the waiting requests, those whose KV is on its way."""
        return len(self._loading)

    @property
    def unfinished(self) -> int:
        """Requests that were submitted and neither finished nor aborted."""
        self._settle_now()
        return len(self._known)

    @property
    def slow_factor(self) -> float:
        """Step times are this many times longer; set it from the next step on."""
        return self._slow_factor

    @slow_factor.setter
    def slow_factor(self, factor: float) -> None:
        self._interrupt()
        self._slow_factor, self._batch.pace = factor, None

    def attach(self, clock: Callable[[], float]) -> None:
        """Let ``clock`` give the present time, so that what is seen of a leap is as of now."""
        self._clock = clock

    def delivered_tokens(self, sequence: Sequence) -> int:
        """Tokens of an unfinished ``sequence`` that exist now."""
        self._settle_now()
        under_way = self._flight is not None and sequence.decode_from >= 0
        return max(0, sequence.generated(self._batch.step) - under_way)

    # ---- time

    @property
    def due_s(self) -> float | None:
        """When :meth:`turn` is to be called next; ``None`` while there is nothing to do."""
        if self._flight is not None:
            return self._flight.end_s
        if self.hung or (self.group is not None and self.group.hung):
            return None
        due_s = self.next_start_s(self._end_s)
        return due_s if due_s is None or self.group is None else max(due_s, self.group.end_s)

    def turn(self, now_s: float) -> StepResult | None:
        """What ended at ``now_s``; the next steps begin if there is something to do."""
        if self.group is not None:
            return self.group.turn(self, now_s)
        ended = None
        if self._flight is not None:
            if self._flight.end_s > now_s:
                return None
            ended = self.finish_flight()
        if not self.hung:
            start_s = self.next_start_s(now_s)
            if start_s is not None and start_s <= now_s:
                self._flight = self._begin(now_s, leap=True)
        return ended

    def finish_flight(self) -> StepResult | None:
        """What was under way is over; :meth:`turn` calls this."""
        flight = self._flight
        if flight is not None:
            self._run_to(self._last)
            self._flight = None
        return flight

    def next_start_s(self, now_s: float) -> float | None:
        """When the next step can start: ``now_s``, or when something arrives; ``None`` while there is nothing to do."""
        if self._batch.members or self._partial is not None:
            return now_s
        if self._waiting and self._blocked != (self._waiting.head(), self._kv.version):
            return now_s
        at_s = self._arriving[0].queued_s if self._arriving else math.inf
        if self._loads and self._loads[0][0] < at_s:
            at_s = self._loads[0][0]
        return max(now_s, at_s) if at_s < math.inf else None

    def step(self, now_s: float) -> StepResult | None:
        """Compute the step that starts at ``now_s``; ``None`` when there is nothing to do."""
        return self._begin(now_s, leap=False)

    def hang(self) -> None:
        """The present step ends, and no other begins."""
        self._interrupt()
        self.hung = True

    def resume(self) -> None:
        """Steps begin again."""
        self.hung = False

    def crash(self) -> None:
        """Lose every request and the cache."""
        self.abort_all()
        for request_id in list(self._held):
            self.free_held(request_id)
        self._kv.forget()
        self.adapters.clear()
        if self._offload is not None:
            self._offload.crash()
        self._flight = self._blocked = None
        self.hung = False

    # ---- a step, or a leap over many

    def _begin(self, now_s: float, *, leap: bool) -> StepResult | None:
        prepared = self.prepare(now_s, leap=leap)
        if prepared is None:
            return None
        self._complete(*prepared)
        return prepared[0]

    def prepare(self, now_s: float, *, leap: bool = False) -> tuple[StepResult, list[Chunk]] | None:
        """Decide what begins at ``now_s`` and when it ends; ``None`` when there is nothing to do."""
        self._let_in(now_s)
        batch = self._batch
        preempted = self._make_room() if batch.need(1) > self._kv.free else []
        decoding, context = len(batch.members), batch.context
        result = StepResult(
            start_s=now_s, end_s=now_s, steps=1, decoding=decoding, prefill_tokens=0, preempted=preempted
        )
        if not leap:
            result.decoded = list(batch.members.values())
        if blocks := batch.advance(1):
            self._kv.allocate(blocks)
        self._last = batch.step
        chunks = self._schedule_prompts(self.config.max_num_batched_tokens - decoding, now_s, preempted)
        if chunks:
            self._time_chunks(result, chunks, context)
        elif decoding:
            self._time_decoding(result, context, leap=leap and not preempted)
        else:
            return None
        return result, chunks

    def commence(self, prepared: tuple[StepResult, list[Chunk]]) -> None:
        """Begin what :meth:`prepare` decided, at whose end the caller may have changed the time."""
        self._batch.pace = None
        self._complete(*prepared)
        self._flight = prepared[0]

    def _complete(self, result: StepResult, chunks: list[Chunk]) -> None:
        """What is true once the (first) step is over: first tokens, last tokens, totals."""
        self._end_s = result.end_s
        if chunks:
            self._partial = None
        for sequence, _, _ in chunks:
            if sequence.remaining:
                self._partial = sequence
            else:
                self._first_token(sequence, result)
        self._counters.steps += 1
        self._counters.generation_tokens += result.decoding + len(result.first)
        self._finish_due(result)

    def _let_in(self, now_s: float) -> None:
        """Who has got through the ingress, or has its KV, joins the queue."""
        if self._offload is not None:
            self._offload.at(now_s)
            self._take_loaded(now_s)
        while self._arriving and self._arriving[0].queued_s <= now_s:
            sequence = self._arriving.popleft()
            self._waiting.push(sequence)
            if self._offload is not None:
                here = self._kv.match(sequence.hashes, len(sequence.hashes))
                self._offload.prefetch(sequence.hashes, here, now_s)

    def _time_chunks(self, result: StepResult, chunks: list[Chunk], context: int) -> None:
        """A step with prompts in it."""
        prefill, attention = 0, 0.0
        for _, length, present in chunks:
            prefill += length
            attention += length * (present + length / 2)
        result.prefill_tokens = prefill
        result.end_s += self._adapter_s + self._slow_factor * self.config.timer.step_s(
            decoding=result.decoding, context=context, prefill=prefill, attention=attention,
            repeated=self._kv.repeated * BLOCK_TOKENS,
        )  # fmt: skip
        self._adapter_s = 0.0
        self._batch.pace = None

    def _time_decoding(self, result: StepResult, context: int, *, leap: bool) -> None:
        """A step without prompts, or as many as nothing can come between."""
        batch, now_s = self._batch, result.start_s
        if batch.pace is None or now_s != self._end_s:
            timer, slow = self.config.timer, self._slow_factor
            repeated = self._kv.repeated * BLOCK_TOKENS
            first_s = slow * timer.step_s(decoding=result.decoding, context=context, repeated=repeated)
            batch.pace = Pace(now_s, first_s, slow * timer.coefficients.d_kv * result.decoding / 1000.0)
            self._pace_from = batch.step - 1
        more = batch.until_finish() if leap else 0
        if more:  # evictions into a lower tier have their own time, so none happens within a leap
            room = self._kv.free if self._offload is None else self._kv.empty
            self._last += batch.until_short(room, more)
        result.end_s = batch.pace.ends_s(self._last - self._pace_from)
        result.steps = self._last - batch.step + 1
        if more and self._arriving and not self._shut:
            self._shorten(result, self._arriving[0].queued_s)
        if more and self._loads:
            self._shorten(result, self._loads[0][0])

    def _finish_due(self, result: StepResult) -> None:
        for sequence in self._batch.finishing():
            self._batch.leave(sequence)
            request = sequence.request
            if request.hold:
                self._held[request.request_id] = sequence
                self._free_adapter(sequence)
            else:
                self._release(sequence)
            del self._known[request.request_id]
            sequence.close(result.end_s)
            result.finished.append(sequence)
            self._counters.finished += 1

    # ---- a leap under way

    def _settle_now(self) -> None:
        if self._flight is not None and self._last > self._batch.step and self._clock is not None:
            self._settle(self._clock())

    def _settle(self, now_s: float) -> None:
        """Book the steps of the leap that have begun by ``now_s``."""
        if (pace := self._batch.pace) is not None:
            self._run_to(min(self._last, self._pace_from + pace.ended(now_s) + 1))

    def _run_to(self, step: int) -> None:
        steps = step - self._batch.step
        if steps > 0 and self._flight is not None:
            self._counters.steps += steps
            self._counters.generation_tokens += steps * self._flight.decoding
            if blocks := self._batch.advance(steps):
                self._kv.allocate(blocks)
            self._finish_due(self._flight)

    def _stop_before(self, at_s: float) -> None:
        """The leap under way, if there is one, ends with the step in progress at ``at_s``."""
        if self._flight is not None and self._last > self._batch.step:
            self._shorten(self._flight, at_s)

    def _shorten(self, flight: StepResult, at_s: float) -> None:
        pace, step = self._batch.pace, self._batch.step
        if pace is not None and at_s < flight.end_s:
            last = max(step, self._pace_from + pace.ended_before(at_s) + 1)
            flight.steps -= self._last - last
            flight.end_s = self._end_s = pace.ends_s(last - self._pace_from)
            self._last = last

    def _interrupt(self) -> None:
        """The leap under way ends with the present step."""
        if self._flight is not None and self._last > self._batch.step:
            now_s = self._flight.start_s if self._clock is None else self._clock()
            self._settle(now_s)
            self._stop_before(now_s)

    def _first_token(self, sequence: Sequence, result: StepResult) -> None:
        self._batch.join(sequence)
        result.first.append(sequence)
        if sequence.first_token_s is None:
            sequence.first_token_s = result.end_s
            self._counters.prompt_tokens += sequence.request.prompt_tokens
            self._counters.cached_tokens += sequence.cached_tokens
        elif sequence.last_token_s is not None:
            result.gaps_s = (*result.gaps_s, result.end_s - sequence.last_token_s)
