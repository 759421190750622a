"""What one engine decides in one step: who decodes, whose prompt is computed, who is preempted. Pure.

vLLM V1's rules. A step gives every decoding sequence one token and spends what is left of the token budget on prompts:
first the one that is partly computed, then the waiting queue. A request is admitted when its whole prompt fits (vLLM's
``scheduler_reserve_full_isl``; its watermark is 0 by default). When decoding needs blocks and none is free, the
sequence that was admitted last (by priority: the least urgent one) gives up its blocks and goes back to the queue, to
be computed again; nobody is admitted in that step. A request whose KV comes from a lower tier or another engine is
given its blocks and waits beside the queue; one whose LoRA adapter finds no slot lets others pass.
"""

from __future__ import annotations

import heapq
from collections import deque

from simulator.batch import Batch, blocks_of
from simulator.config import EngineConfig
from simulator.kvcache import KVCache
from simulator.lora import AdapterSlots
from simulator.sequence import Counters, Sequence
from simulator.tiers import Offload
from simulator.tokens import BLOCK_TOKENS, chain_output
from simulator.waiting import FirstComeQueue, PriorityQueue, Queue

Chunk = tuple[Sequence, int, int]
"""A sequence, the tokens of it computed in this step, and those that were there before."""


class Scheduler:
    """Queues, batch and blocks of one engine."""

    def __init__(self, config: EngineConfig, offload: Offload | None) -> None:
        """Nothing to do; ``offload`` catches what the GPU's cache evicts."""
        self.config = config
        self.adapters = AdapterSlots(config.lora)
        """Where LoRA adapters are."""
        self._kv = KVCache(config.blocks)
        self._offload = offload
        if offload is not None:
            self._kv.spill = offload.spill
        self._counters = Counters()
        self._known: dict[str, Sequence] = {}
        self._arriving: deque[Sequence] = deque()
        self._waiting: Queue = PriorityQueue() if config.priority_scheduling else FirstComeQueue()
        self._partial: Sequence | None = None  # admitted last, its prompt partly computed
        self._batch = Batch()
        self._loading: dict[str, Sequence] = {}  # admitted, their KV on its way
        self._loads: list[tuple[float, int, Sequence]] = []  # heap of those from tiers, by the time of arrival
        self.fetches: list[Sequence] = []
        """Admitted, their KV in other engines, and nobody has begun to transfer it."""
        self._held: dict[str, Sequence] = {}  # finished, their blocks kept for another engine
        self._blocked: tuple[Sequence, int] | None = None  # queue head that did not fit, at that cache version
        self._shut = False  # whoever arrives during the present steps cannot join before they end
        self._adapter_s = 0.0  # for which the present step waits for adapters
        self._end_s = 0.0  # of the present step, or the last one

    # ---- who decodes

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

    def _preempt(self, sequence: Sequence) -> None:
        """Give up the blocks; prompt and answer so far are computed again later."""
        if sequence is self._partial:
            self._partial = None
        else:
            sequence.emitted = sequence.generated(self._batch.step)
            sequence.last_token_s = self._end_s
            self._batch.leave(sequence)
        self._release(sequence)
        sequence.target = sequence.request.prompt_tokens + sequence.emitted
        sequence.computed = 0
        sequence.decode_from = sequence.finish_step = -1
        sequence.preemptions += 1
        self._counters.preemptions += 1
        self._waiting.put_back(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Give back blocks and adapter, if it has any."""
        self._free_adapter(sequence)
        if sequence.run is not None:
            self._hash_answer(sequence)
            self._commit(sequence)
            self._kv.release(sequence.run, sequence.private)
            sequence.run, sequence.private, sequence.blocks = None, 0, 0

    def _free_adapter(self, sequence: Sequence) -> None:
        if sequence.has_slot:
            sequence.has_slot = False
            self.adapters.leave(sequence.request.adapter)

    def _hash_answer(self, sequence: Sequence) -> None:
        """Name the blocks that the answer filled, so that a follow-up prompt finds them."""
        request = sequence.request
        answer = sequence.computed - request.prompt_tokens
        if request.tail is None or answer <= 0:
            return
        prompt = list(sequence.hashes[: request.prompt_tokens // BLOCK_TOKENS])
        parent = prompt[-1] if prompt else request.parent
        sequence.hashes = prompt + chain_output(request.tail, answer, parent=parent)

    # ---- whose prompt is computed

    def _schedule_prompts(self, budget: int, now_s: float, preempted: list[Sequence]) -> list[Chunk]:
        """Chunks of this step within ``budget`` tokens."""
        chunks: list[Chunk] = []
        if (partial := self._partial) is not None:
            length = min(partial.remaining, budget)
            if blocks_of(partial.computed + length) - partial.blocks > self._kv.free:
                self._preempt(partial)
                preempted.append(partial)
            else:
                chunks.append(self._compute(partial, length, now_s))
                budget -= length
        self._shut = budget <= 0
        if self._waiting and not preempted:
            self._admit_waiting(chunks, budget, now_s)
        return chunks

    def _admit_waiting(self, chunks: list[Chunk], budget: int, now_s: float) -> None:
        waiting, skipped = self._waiting, []
        while budget > 0 and waiting:
            if len(self._batch.members) + len(chunks) >= self.config.max_num_seqs:
                self._shut = True
                break
            head = waiting.head()
            if not self._has_adapter_room(head):
                skipped.append(waiting.pop())
                continue
            if head.run is None and not self._admit(head, now_s):
                self._shut = not self.config.priority_scheduling
                break
            waiting.pop()
            if head.request.request_id not in self._loading:
                chunks.append(self._compute(head, min(head.remaining, budget), now_s))
                budget -= chunks[-1][1]
        self._shut = self._shut or budget <= 0
        for sequence in reversed(skipped):
            waiting.put_back(sequence)

    def _has_adapter_room(self, sequence: Sequence) -> bool:
        adapter = sequence.request.adapter
        return not adapter or sequence.has_slot or self.adapters.may_run(adapter)

    def _admit(self, head: Sequence, now_s: float) -> bool:
        """Whether the head of the queue fits; if so it holds the blocks of its prefix that are here."""
        kv = self._kv
        if self._blocked == (head, kv.version):
            return False
        limit = min(len(head.hashes), (head.target - 1) // BLOCK_TOKENS)
        run, hits, unused = kv.find(head.hashes, limit, kv.root)
        if blocks_of(head.target) - hits > kv.free - unused:
            self._blocked = (head, kv.version)
            return False
        head.run, head.blocks, head.computed = kv.pin(run, hits), hits, hits * BLOCK_TOKENS
        external = self._fetch(head, limit, now_s)
        if head.preemptions == 0:
            head.cached_tokens = head.computed + external
            self._counters.prefix_queries += head.target
            self._counters.prefix_hits += head.computed
            self._counters.external_hits += external
        return True

    def _compute(self, sequence: Sequence, length: int, now_s: float) -> Chunk:
        present = sequence.computed
        if sequence.scheduled_s is None:
            sequence.scheduled_s = now_s
        if sequence.request.adapter and not sequence.has_slot:
            sequence.has_slot = True
            self._adapter_s += self.adapters.enter(sequence.request.adapter)
        self._allocate(sequence, blocks_of(present + length))
        sequence.computed += length
        self._commit(sequence)
        self._counters.computed_tokens += length
        return sequence, length, present

    def _allocate(self, sequence: Sequence, blocks: int) -> None:
        """Let it have a place for its first ``blocks`` blocks."""
        more = blocks - sequence.blocks
        if more > 0:
            self._kv.allocate(more)
            sequence.private += more
            sequence.blocks = blocks

    def _commit(self, sequence: Sequence) -> None:
        """Make the full blocks findable."""
        full = min(sequence.computed // BLOCK_TOKENS, len(sequence.hashes))
        if sequence.run is not None and full > sequence.run.end:
            sequence.run, hashed = self._kv.commit(sequence.run, sequence.hashes, full)
            sequence.private -= hashed

    # ---- KV that comes from elsewhere

    def _fetch(self, head: Sequence, limit: int, now_s: float) -> int:
        """Tokens beyond those that are here which come from a tier or another engine; they are on their way now."""
        if head.request.remote and head.preemptions == 0:
            head.arriving = head.target - 1  # the last token is computed here, for the first output token
            if head.arriving <= head.computed:
                return 0
            self.fetches.append(head)
        elif self._offload is not None:
            reached = self._offload.reach(head.hashes, head.blocks, limit)
            if reached <= head.blocks:
                return 0
            ready_s = self._offload.load(head.hashes, head.blocks, reached, now_s)
            heapq.heappush(self._loads, (ready_s, head.serial, head))
            head.arriving = reached * BLOCK_TOKENS
        else:
            return 0
        self._loading[head.request.request_id] = head
        self._allocate(head, blocks_of(head.target))  # all of the prompt: it must not get stuck half-way
        return head.arriving - head.computed

    def _loaded(self, sequence: Sequence) -> None:
        """Its KV is here: it is next in the queue."""
        del self._loading[sequence.request.request_id]
        sequence.computed = sequence.arriving
        self._commit(sequence)
        self._waiting.put_back(sequence)

    def _take_loaded(self, now_s: float) -> None:
        """Those whose load from a tier has ended, the first admitted first."""
        ended: list[Sequence] = []
        while self._loads and self._loads[0][0] <= now_s:
            sequence = heapq.heappop(self._loads)[2]
            if self._loading.get(sequence.request.request_id) is sequence:
                ended.append(sequence)
        for sequence in sorted(ended, key=lambda one: one.serial, reverse=True):
            self._loaded(sequence)
