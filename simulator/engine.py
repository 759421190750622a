"""One engine in virtual time: vLLM V1's scheduling over a KV cache and a step-time model. Pure and deterministic.

A step gives every decoding sequence one token and spends what is left of the token budget on prompts: first the one
that is partly computed, then the waiting queue in order of arrival. A request is admitted when its whole prompt fits
(vLLM's ``scheduler_reserve_full_isl``). When decoding needs blocks and none is free, the sequence that was admitted
last gives up its blocks and goes back to the head of the queue, to be computed again.

The caller owns time: it asks :meth:`Engine.next_start_s`, calls :meth:`Engine.step` then, and the step's tokens
exist at ``end_s`` of its result. Work per step does not depend on how long sequences are, and hardly on how many
decode: their progress is the step number, their need of blocks is counted by phase.
"""

from __future__ import annotations

from collections import defaultdict, deque

from simulator.config import EngineConfig
from simulator.kvcache import KVCache
from simulator.sequence import Counters, EngineRequest, Sequence, StepResult
from simulator.steptime import INGRESS_S
from simulator.tokens import BLOCK_TOKENS, chain_output

_Chunk = tuple[Sequence, int, int]
"""A sequence, the tokens of it computed in this step, and those that were there before."""


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


class Engine:
    """A simulated engine; see the module's text for its rules."""

    def __init__(self, config: EngineConfig, *, ingress_s: float = INGRESS_S, slow_factor: float = 1.0) -> None:
        """An idle engine.

        Args:
            config: model, GPU and limits.
            ingress_s: seconds before the scheduler sees a request.
            slow_factor: step times are this many times longer (a throttled GPU); may be set at any time.
        """
        self.config, self.ingress_s, self.slow_factor = config, ingress_s, slow_factor
        self.kv = KVCache(config.blocks)
        self.counters = Counters()
        self._arriving: deque[Sequence] = deque()
        self._waiting: deque[Sequence] = deque()
        self._decoding: dict[str, Sequence] = {}  # in order of admission
        self._partial: Sequence | None = None  # admitted last, its prompt partly computed
        self._known: dict[str, Sequence] = {}
        self._step = 0
        self._end_s = 0.0
        self._context = 0  # tokens that the decoding sequences' attention reads in the next step
        self._phase = [0] * BLOCK_TOKENS  # decoding sequences that need a block at steps of that phase
        self._blocked: tuple[Sequence, int] | None = None  # queue head that did not fit, at that cache version
        self._finish_at: defaultdict[int, list[Sequence]] = defaultdict(list)
        self._flight: StepResult | None = None
        self._hung = False

    @property
    def due_s(self) -> float | None:
        """When :meth:`turn` is to be called next; ``None`` while there is nothing to do."""
        if self._flight is not None:
            return self._flight.end_s
        return None if self._hung else self.next_start_s(self._end_s)

    def turn(self, now_s: float) -> StepResult | None:
        """What ended at ``now_s``; the next step begins if there is something to do."""
        ended, self._flight = self._flight, None
        start_s = None if self._hung else self.next_start_s(now_s)
        if start_s is not None and start_s <= now_s:
            self._flight = self.step(now_s)
        return ended

    def hang(self, _now_s: float) -> None:
        """No step begins any more."""
        self._hung = True

    def resume(self, _now_s: float) -> None:
        """Steps begin again."""
        self._hung = False

    def set_slow(self, factor: float, _now_s: float) -> None:
        """From the next step on, steps take ``factor`` times as long."""
        self.slow_factor = factor

    def abort_all(self) -> None:
        """Drop every request."""
        for request_id in list(self._known):
            self.abort(request_id)

    def crash(self) -> None:
        """Lose every request and the cache."""
        self.abort_all()
        self._flight = None
        self.kv = KVCache(self.config.blocks)
        self._blocked = None

    def delivered_tokens(self, sequence: Sequence, now_s: float) -> int:
        """Tokens of ``sequence`` that exist at ``now_s``."""
        generated = sequence.generated(self._step)
        return max(0, generated - (self._flight is not None and self._flight.end_s > now_s and generated > 0))

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._decoding) + (self._partial is not None)

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
        return len(self._known)

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
        sequence = Sequence(
            request=request,
            arrival_s=now_s,
            queued_s=now_s + self.ingress_s,
            target=request.prompt_tokens,
            hashes=list(request.block_hashes[: request.prompt_tokens // BLOCK_TOKENS]),
        )
        self._known[request.request_id] = sequence
        self._arriving.append(sequence)
        return sequence

    def abort(self, request_id: str) -> Sequence | None:
        """Drop a request wherever it is and free its blocks; ``None`` when it is unknown or finished."""
        sequence = self._known.pop(request_id, None)
        if sequence is None:
            return None
        if request_id in self._decoding:
            self._leave_batch(sequence)
            self._cancel_finish(sequence)
        elif sequence is self._partial:
            self._partial = None
        else:
            (self._waiting if sequence in self._waiting else self._arriving).remove(sequence)
        self._release(sequence)
        self.counters.aborted += 1
        return sequence

    def next_start_s(self, now_s: float) -> float | None:
        """When the next step can start: ``now_s``, or the earliest arrival; ``None`` while there is nothing to do."""
        if self._decoding or self._partial is not None or self._waiting:
            return now_s
        return max(now_s, self._arriving[0].queued_s) if self._arriving else None

    def step(self, now_s: float) -> StepResult | None:
        """Compute the step that starts at ``now_s``; ``None`` when there is nothing to do."""
        while self._arriving and self._arriving[0].queued_s <= now_s:
            self._waiting.append(self._arriving.popleft())
        preempted = self._make_room()
        self._step += 1
        decoded = list(self._decoding.values())
        context = self._context
        self._grow(len(decoded))
        chunks = self._schedule_prompts(self.config.max_num_batched_tokens - len(decoded), now_s, preempted)
        if not decoded and not chunks:
            return None
        prefill = sum(length for _, length, _ in chunks)
        duration_s = self.slow_factor * self.config.timer.step_s(
            decoding=len(decoded), context=context, prefill=prefill,
            attention=sum(length * (present + length / 2) for _, length, present in chunks),
        )  # fmt: skip
        result = StepResult(start_s=now_s, duration_s=duration_s, prefill_tokens=prefill, decoded=decoded, first=[],
                            gaps_s=[], finished=[], preempted=preempted)  # fmt: skip
        self._complete(result, [sequence for sequence, _, _ in chunks])
        return result

    # ---- decoding: what all sequences do in a step is book-kept without a loop over them

    def _make_room(self) -> list[Sequence]:
        """Preempt the last admitted until the blocks that decoding needs in the next step are free."""
        preempted: list[Sequence] = []
        while self._phase[(self._step + 1) % BLOCK_TOKENS] > self.kv.free:
            victim = self._partial or self._decoding[next(reversed(self._decoding))]
            self._preempt(victim)
            preempted.append(victim)
        return preempted

    def _grow(self, decoding: int) -> None:
        if blocks := self._phase[self._step % BLOCK_TOKENS]:
            self.kv.allocate(blocks)
        self._context += decoding

    def _join_batch(self, sequence: Sequence) -> None:
        sequence.decode_from = self._step
        sequence.finish_step = self._step + sequence.request.output_tokens - sequence.emitted - 1
        self._decoding[sequence.request.request_id] = sequence
        self._finish_at[sequence.finish_step].append(sequence)
        self._phase[(self._step + 1 - sequence.target) % BLOCK_TOKENS] += 1
        self._context += sequence.target + 1

    def _leave_batch(self, sequence: Sequence) -> None:
        """Out of the decoding set; it still holds its blocks, those it has grown by included."""
        steps = self._step - sequence.decode_from
        del self._decoding[sequence.request.request_id]
        self._phase[(sequence.decode_from + 1 - sequence.target) % BLOCK_TOKENS] -= 1
        self._context -= sequence.target + steps + 1
        sequence.computed = sequence.target + steps
        sequence.private += _blocks(sequence.computed) - _blocks(sequence.target)

    def _cancel_finish(self, sequence: Sequence) -> None:
        due = self._finish_at[sequence.finish_step]
        due.remove(sequence)
        if not due:
            del self._finish_at[sequence.finish_step]

    def _preempt(self, sequence: Sequence) -> None:
        """Give up the blocks; prompt and answer so far are computed again later."""
        if sequence is self._partial:
            self._partial = None
        else:
            sequence.emitted = sequence.generated(self._step)
            sequence.last_token_s = self._end_s
            self._leave_batch(sequence)
            self._cancel_finish(sequence)
        self._release(sequence)
        sequence.target = sequence.request.prompt_tokens + sequence.emitted
        sequence.computed = sequence.committed = 0
        sequence.decode_from = sequence.finish_step = -1
        sequence.preemptions += 1
        self.counters.preemptions += 1
        self._waiting.appendleft(sequence)

    def _release(self, sequence: Sequence) -> None:
        self._hash_answer(sequence)
        self._commit(sequence)
        self.kv.release(sequence.held, sequence.private)
        sequence.held, sequence.private = [], 0

    def _hash_answer(self, sequence: Sequence) -> None:
        """Name the blocks that the answer filled, so that a follow-up prompt finds them."""
        request = sequence.request
        answer = sequence.computed - request.prompt_tokens
        if request.tail is None or answer <= 0:
            return
        prompt = sequence.hashes[: request.prompt_tokens // BLOCK_TOKENS]
        sequence.hashes = prompt + chain_output(request.tail, answer, parent=prompt[-1] if prompt else 0)

    # ---- prompts

    def _schedule_prompts(self, budget: int, now_s: float, preempted: list[Sequence]) -> list[_Chunk]:
        """Chunks of this step within ``budget`` tokens; nobody is admitted in a step that preempted."""
        chunks: list[_Chunk] = []
        if (partial := self._partial) is not None:
            length = min(partial.remaining, budget)
            if _blocks(partial.computed + length) - _blocks(partial.computed) > self.kv.free:
                self._preempt(partial)
                preempted.append(partial)
            else:
                chunks.append(self._compute(partial, length))
                budget -= length
        while budget > 0 and self._waiting and not preempted:
            if len(self._decoding) + len(chunks) >= self.config.max_num_seqs or not self._admit(now_s):
                break
            sequence = self._waiting.popleft()
            chunks.append(self._compute(sequence, min(sequence.remaining, budget)))
            budget -= chunks[-1][1]
        return chunks

    def _admit(self, now_s: float) -> bool:
        """Whether the head of the queue fits; if so it holds the blocks of its prefix that are here."""
        head = self._waiting[0]
        if self._blocked == (head, self.kv.version):
            return False
        hits = self.kv.match(head.hashes, (head.target - 1) // BLOCK_TOKENS)
        prefix = head.hashes[:hits]
        if _blocks(head.target) - hits > self.kv.free - self.kv.unpinned(prefix):
            self._blocked = (head, self.kv.version)
            return False
        self.kv.pin(prefix)
        head.held, head.committed, head.computed = prefix, hits, hits * BLOCK_TOKENS
        if head.scheduled_s is None:
            head.scheduled_s, head.cached_tokens = now_s, head.computed
            self.counters.prefix_queries += head.target
            self.counters.prefix_hits += head.computed
        return True

    def _compute(self, sequence: Sequence, length: int) -> _Chunk:
        present = sequence.computed
        blocks = _blocks(present + length) - _blocks(present)
        self.kv.allocate(blocks)
        sequence.private += blocks
        sequence.computed += length
        self._commit(sequence)
        self.counters.computed_tokens += length
        return sequence, length, present

    def _commit(self, sequence: Sequence) -> None:
        """Make the full blocks findable; content that is here already stays a private copy."""
        full = min(sequence.computed // BLOCK_TOKENS, len(sequence.hashes))
        for value in sequence.hashes[sequence.committed : full]:
            if self.kv.commit(value):
                sequence.held.append(value)
                sequence.private -= 1
        sequence.committed = max(sequence.committed, full)

    # ---- the step's end

    def _complete(self, result: StepResult, prompts: list[Sequence]) -> None:
        self._end_s = result.end_s
        self._partial = None
        for sequence in prompts:
            if sequence.remaining:
                self._partial = sequence
            else:
                self._first_token(sequence, result)
        for sequence in self._finish_at.pop(self._step, ()):
            self._leave_batch(sequence)
            self._release(sequence)
            del self._known[sequence.request.request_id]
            sequence.close(result.end_s)
            result.finished.append(sequence)
        self.counters.steps += 1
        self.counters.generation_tokens += result.emitted
        self.counters.finished += len(result.finished)

    def _first_token(self, sequence: Sequence, result: StepResult) -> None:
        self._join_batch(sequence)
        result.first.append(sequence)
        if sequence.first_token_s is None:
            sequence.first_token_s = result.end_s
            self.counters.prompt_tokens += sequence.request.prompt_tokens
            self.counters.cached_tokens += sequence.cached_tokens
        elif sequence.last_token_s is not None:
            result.gaps_s.append(result.end_s - sequence.last_token_s)
