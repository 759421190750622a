"""One engine in virtual time: vLLM V1's scheduling over a KV cache and a step-time model. Pure and deterministic.

A step gives every decoding sequence one token and spends what is left of the token budget on prompts: first the one
that is partly computed, then the waiting queue. A request is admitted when its whole prompt fits (vLLM's
``scheduler_reserve_full_isl``; its watermark is 0 by default). When decoding needs blocks and none is free, the
sequence that was admitted last (by priority: the least urgent one) gives up its blocks and goes back to the queue, to
be computed again.

The caller owns time, in one of two ways. Real time calls :meth:`Engine.step` for each step. Virtual time calls
:meth:`Engine.turn` at :attr:`Engine.due_s`: a stretch of steps that only decode is one leap then, cut short when
something comes between. What a leap has done by now is booked when somebody looks (``settle``), and both ways give
the same times to the bit (:mod:`simulator.pace`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from simulator.batch import Batch, blocks_of
from simulator.config import EngineConfig
from simulator.kvcache import KVCache
from simulator.pace import Pace
from simulator.sequence import Counters, EngineRequest, Sequence, StepResult
from simulator.steptime import INGRESS_S
from simulator.tokens import BLOCK_TOKENS, chain_output
from simulator.waiting import FirstComeQueue, PriorityQueue, Queue

_Chunk = tuple[Sequence, int, int]
"""A sequence, the tokens of it computed in this step, and those that were there before."""


class Engine:
    """A simulated engine; see the module's text for its rules."""

    def __init__(self, config: EngineConfig, *, ingress_s: float = INGRESS_S, slow_factor: float = 1.0) -> None:
        """An idle engine.

        Args:
            config: model, GPU and limits.
            ingress_s: seconds before the scheduler sees a request.
            slow_factor: step times are this many times longer (a throttled GPU).
        """
        self.config, self.ingress_s = config, ingress_s
        self._slow_factor = slow_factor
        self._kv = KVCache(config.blocks)
        self._counters = Counters()
        self._submitted = 0
        self._known: dict[str, Sequence] = {}
        self._arriving: deque[Sequence] = deque()
        self._waiting: Queue = PriorityQueue() if config.priority_scheduling else FirstComeQueue()
        self._partial: Sequence | None = None  # admitted last, its prompt partly computed
        self._batch = Batch()
        self._blocked: tuple[Sequence, int] | None = None  # queue head that did not fit, at that cache version
        self._shut = False  # whoever arrives during the present steps cannot join before they end
        self._flight: StepResult | None = None  # the present step or leap
        self._last = 0  # number of its last step
        self._pace: Pace | None = None  # of steps since the batch last changed
        self._pace_from = 0  # step number at the pace's origin
        self._end_s = 0.0
        self._hung = False
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
        return len(self._waiting) + through

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
        self._slow_factor, self._pace = factor, None

    def attach(self, clock: Callable[[], float]) -> None:
        """Let ``clock`` give the present time, so that what is seen of a leap is as of now."""
        self._clock = clock

    def delivered_tokens(self, sequence: Sequence) -> int:
        """Tokens of an unfinished ``sequence`` that exist now."""
        self._settle_now()
        under_way = self._flight is not None and sequence.decode_from >= 0
        return max(0, sequence.generated(self._batch.step) - under_way)

    # ---- requests

    def submit(self, request: EngineRequest, now_s: float) -> Sequence:
        """Accept a request at ``now_s``; calls come in order of time.

        Raises: ValueError for an id in use or lengths that the engine cannot hold.
        """
        total = request.prompt_tokens + request.output_tokens
        if request.prompt_tokens < 1 or request.output_tokens < 1 or total > self.config.max_model_len:
            raise ValueError(f"{request.prompt_tokens} + {request.output_tokens} tokens (limit: at least 1 each, "
                             f"{self.config.max_model_len} together)")  # fmt: skip
        if request.request_id in self._known:
            raise ValueError(f"request id {request.request_id!r} is in use")
        full, hashes = request.prompt_tokens // BLOCK_TOKENS, request.block_hashes
        sequence = Sequence(
            request=request,
            arrival_s=now_s,
            queued_s=now_s + self.ingress_s,
            target=request.prompt_tokens,
            serial=self._submitted,
            hashes=hashes if len(hashes) <= full else hashes[:full],
        )
        self._submitted += 1
        self._known[request.request_id] = sequence
        self._arriving.append(sequence)
        if not self._shut:
            self._stop_before(sequence.queued_s)
        return sequence

    def abort(self, request_id: str) -> Sequence | None:
        """Drop a request wherever it is and free its blocks; ``None`` when it is unknown or finished."""
        self._interrupt()
        sequence = self._known.pop(request_id, None)
        if sequence is None:
            return None
        if request_id in self._batch.members:
            self._leave_batch(sequence)
        elif sequence is self._partial:
            self._partial = None
        elif sequence in self._arriving:
            self._arriving.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._release(sequence)
        self._counters.aborted += 1
        return sequence

    def abort_all(self) -> None:
        """Drop every request."""
        for request_id in list(self._known):
            self.abort(request_id)

    # ---- time

    @property
    def due_s(self) -> float | None:
        """When :meth:`turn` is to be called next; ``None`` while there is nothing to do."""
        if self._flight is not None:
            return self._flight.end_s
        return None if self._hung else self.next_start_s(self._end_s)

    def turn(self, now_s: float) -> StepResult | None:
        """What ended at ``now_s``; the next steps begin if there is something to do."""
        ended = None
        if (flight := self._flight) is not None:
            if flight.end_s > now_s:
                return None
            self._run_to(self._last)
            ended, self._flight = flight, None
        if not self._hung:
            start_s = self.next_start_s(now_s)
            if start_s is not None and start_s <= now_s:
                self._flight = self._begin(now_s, leap=True)
        return ended

    def next_start_s(self, now_s: float) -> float | None:
        """When the next step can start: ``now_s``, or the earliest arrival; ``None`` while there is nothing to do."""
        if self._batch.members or self._partial is not None or self._waiting:
            return now_s
        return max(now_s, self._arriving[0].queued_s) if self._arriving else None

    def step(self, now_s: float) -> StepResult | None:
        """Compute the step that starts at ``now_s``; ``None`` when there is nothing to do."""
        return self._begin(now_s, leap=False)

    def hang(self) -> None:
        """The present step ends, and no other begins."""
        self._interrupt()
        self._hung = True

    def resume(self) -> None:
        """Steps begin again."""
        self._hung = False

    def crash(self) -> None:
        """Lose every request and the cache."""
        self.abort_all()
        self._kv.forget()
        self._flight = self._blocked = self._pace = None
        self._hung = False

    # ---- a step, or a leap over many

    def _begin(self, now_s: float, *, leap: bool) -> StepResult | None:
        while self._arriving and self._arriving[0].queued_s <= now_s:
            self._waiting.push(self._arriving.popleft())
        preempted = self._make_room()
        batch = self._batch
        decoding, context = len(batch.members), batch.context
        result = StepResult(start_s=now_s, end_s=now_s, steps=1, decoding=decoding, prefill_tokens=0, first=[],
                            gaps_s=[], finished=[], preempted=preempted)  # fmt: skip
        if not leap:
            result.decoded = list(batch.members.values())
        if blocks := batch.advance(1):
            self._kv.allocate(blocks)
        self._last = batch.step
        chunks = self._schedule_prompts(self.config.max_num_batched_tokens - decoding, now_s, preempted)
        if chunks:
            self._compute_chunks(result, chunks, context)
        elif decoding:
            self._decode(result, context, leap=leap and not preempted)
        else:
            return None
        self._end_s = result.end_s
        self._counters.steps += 1
        self._counters.generation_tokens += decoding + len(result.first)
        self._finish_due(result)
        return result

    def _compute_chunks(self, result: StepResult, chunks: list[_Chunk], context: int) -> None:
        """The step with prompts in it."""
        result.prefill_tokens = sum(length for _, length, _ in chunks)
        result.end_s += self._slow_factor * self.config.timer.step_s(
            decoding=result.decoding, context=context, prefill=result.prefill_tokens,
            attention=sum(length * (present + length / 2) for _, length, present in chunks),
        )  # fmt: skip
        self._pace = self._partial = None
        for sequence, _, _ in chunks:
            if sequence.remaining:
                self._partial = sequence
            else:
                self._first_token(sequence, result)

    def _decode(self, result: StepResult, context: int, *, leap: bool) -> None:
        """A step without prompts, or as many as nothing can come between."""
        batch, now_s = self._batch, result.start_s
        if self._pace is None or now_s != self._end_s:
            timer, slow = self.config.timer, self._slow_factor
            first_s = slow * timer.step_s(decoding=result.decoding, context=context)
            self._pace = Pace(now_s, first_s, slow * timer.coefficients.d_kv * result.decoding / 1000.0)
            self._pace_from = batch.step - 1
        more = batch.until_finish() if leap else 0
        if more:
            self._last += batch.until_short(self._kv.free, more)
        result.end_s = self._pace.ends_s(self._last - self._pace_from)
        result.steps = self._last - batch.step + 1
        if more and self._arriving and not self._shut:
            self._shorten(result, self._arriving[0].queued_s)

    def _finish_due(self, result: StepResult) -> None:
        for sequence in self._batch.finishing():
            self._leave_batch(sequence)
            self._release(sequence)
            del self._known[sequence.request.request_id]
            sequence.close(result.end_s)
            result.finished.append(sequence)
            self._counters.finished += 1

    # ---- a leap under way

    def _settle_now(self) -> None:
        if self._flight is not None and self._last > self._batch.step and self._clock is not None:
            self._settle(self._clock())

    def _settle(self, now_s: float) -> None:
        """Book the steps of the leap that have begun by ``now_s``."""
        if self._pace is not None:
            self._run_to(min(self._last, self._pace_from + self._pace.ended(now_s) + 1))

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
        pace, step = self._pace, self._batch.step
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

    # ---- the batch

    def _make_room(self) -> list[Sequence]:
        """Preempt until the blocks that decoding needs in the next step are free."""
        preempted: list[Sequence] = []
        while self._batch.need(1) > self._kv.free:
            victim = self._victim()
            self._preempt(victim)
            preempted.append(victim)
        return preempted

    def _victim(self) -> Sequence:
        members = self._batch.members
        if not self.config.priority_scheduling:
            return self._partial or members[next(reversed(members))]
        running = [*members.values(), *([self._partial] if self._partial is not None else [])]
        return max(running, key=lambda sequence: sequence.rank)

    def _leave_batch(self, sequence: Sequence) -> None:
        self._batch.leave(sequence)
        self._pace = None

    def _preempt(self, sequence: Sequence) -> None:
        """Give up the blocks; prompt and answer so far are computed again later."""
        if sequence is self._partial:
            self._partial = None
        else:
            sequence.emitted = sequence.generated(self._batch.step)
            sequence.last_token_s = self._end_s
            self._leave_batch(sequence)
        self._release(sequence)
        sequence.target = sequence.request.prompt_tokens + sequence.emitted
        sequence.computed = 0
        sequence.decode_from = sequence.finish_step = -1
        sequence.preemptions += 1
        self._counters.preemptions += 1
        self._waiting.put_back(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence.run is not None:
            self._hash_answer(sequence)
            self._commit(sequence)
            self._kv.release(sequence.run, sequence.private)
            sequence.run, sequence.private, sequence.blocks = None, 0, 0

    def _hash_answer(self, sequence: Sequence) -> None:
        """Name the blocks that the answer filled, so that a follow-up prompt finds them."""
        request = sequence.request
        answer = sequence.computed - request.prompt_tokens
        if request.tail is None or answer <= 0:
            return
        prompt = list(sequence.hashes[: request.prompt_tokens // BLOCK_TOKENS])
        sequence.hashes = prompt + chain_output(request.tail, answer, parent=prompt[-1] if prompt else 0)

    # ---- prompts

    def _schedule_prompts(self, budget: int, now_s: float, preempted: list[Sequence]) -> list[_Chunk]:
        """Chunks of this step within ``budget`` tokens; nobody is admitted in a step that preempted."""
        chunks: list[_Chunk] = []
        if (partial := self._partial) is not None:
            length = min(partial.remaining, budget)
            if blocks_of(partial.computed + length) - partial.blocks > self._kv.free:
                self._preempt(partial)
                preempted.append(partial)
            else:
                chunks.append(self._compute(partial, length))
                budget -= length
        self._shut = budget <= 0
        while budget > 0 and self._waiting and not preempted:
            if len(self._batch.members) + len(chunks) >= self.config.max_num_seqs:
                self._shut = True
                break
            if not self._admit(now_s):
                self._shut = not self.config.priority_scheduling
                break
            sequence = self._waiting.pop()
            chunks.append(self._compute(sequence, min(sequence.remaining, budget)))
            budget -= chunks[-1][1]
        return chunks

    def _admit(self, now_s: float) -> bool:
        """Whether the head of the queue fits; if so it holds the blocks of its prefix that are here."""
        head, kv = self._waiting.head(), self._kv
        if self._blocked == (head, kv.version):
            return False
        limit = min(len(head.hashes), (head.target - 1) // BLOCK_TOKENS)
        run, hits, unused = kv.find(head.hashes, limit, kv.root())
        if blocks_of(head.target) - hits > kv.free - unused:
            self._blocked = (head, kv.version)
            return False
        head.run, head.blocks, head.computed = kv.pin(run, hits), hits, hits * BLOCK_TOKENS
        if head.scheduled_s is None:
            head.scheduled_s, head.cached_tokens = now_s, head.computed
            self._counters.prefix_queries += head.target
            self._counters.prefix_hits += head.computed
        return True

    def _compute(self, sequence: Sequence, length: int) -> _Chunk:
        present = sequence.computed
        more = blocks_of(present + length) - sequence.blocks
        if more > 0:
            self._kv.allocate(more)
            sequence.private += more
            sequence.blocks += more
        sequence.computed += length
        self._commit(sequence)
        self._counters.computed_tokens += length
        return sequence, length, present

    def _commit(self, sequence: Sequence) -> None:
        """Make the full blocks findable."""
        full = min(sequence.computed // BLOCK_TOKENS, len(sequence.hashes))
        if sequence.run is not None and full > sequence.run.end:
            sequence.run, hashed = self._kv.commit(sequence.run, sequence.hashes, full)
            sequence.private -= hashed

    def _first_token(self, sequence: Sequence, result: StepResult) -> None:
        self._batch.join(sequence)
        result.first.append(sequence)
        if sequence.first_token_s is None:
            sequence.first_token_s = result.end_s
            self._counters.prompt_tokens += sequence.request.prompt_tokens
            self._counters.cached_tokens += sequence.cached_tokens
        elif sequence.last_token_s is not None:
            result.gaps_s.append(result.end_s - sequence.last_token_s)
