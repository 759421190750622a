"""The decoding sequences of an engine, book-kept without a loop over them. Pure.

In every step each of them gives one token. So a sequence's progress is the step number less that of its first token;
it needs a new block each 16 steps, at steps of one *phase*; and when it finishes is known when it joins.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from simulator.pace import Pace
from simulator.sequence import Sequence
from simulator.tokens import BLOCK_TOKENS


def blocks_of(tokens: int) -> int:
    """Blocks that hold ``tokens``."""
    return -(-tokens // BLOCK_TOKENS)


class Batch:
    """Sequences that decode, in order of admission."""

    __slots__ = ("_due", "_ends", "_phase", "context", "members", "pace", "step")

    def __init__(self) -> None:
        """Nobody, at step 0."""
        self.members: dict[str, Sequence] = {}
        self.step = 0
        """Number of the last step that began."""
        self.context = 0
        """Tokens that their attention reads in the next step."""
        self.pace: Pace | None = None
        """Of the steps since the members last changed, if there were any."""
        self._phase = [0] * (2 * BLOCK_TOKENS)  # members that need a block at steps of that phase, twice over
        self._due: dict[int, list[Sequence]] = {}  # by the step that gives their last token
        self._ends: list[int] = []  # heap of the keys of _due, and some that have gone

    def join(self, sequence: Sequence) -> None:
        """A sequence whose prefill the present step completes; it decodes from the next one on."""
        step, self.pace = self.step, None
        sequence.decode_from = step
        sequence.finish_step = finish = step + sequence.request.output_tokens - sequence.emitted - 1
        self.members[sequence.request.request_id] = sequence
        if finish in self._due:
            self._due[finish].append(sequence)
        else:
            self._due[finish] = [sequence]
            heapq.heappush(self._ends, finish)
        phase = (step + 1 - sequence.target) % BLOCK_TOKENS
        self._phase[phase] += 1
        self._phase[phase + BLOCK_TOKENS] += 1
        self.context += sequence.target + 1

    def leave(self, sequence: Sequence) -> None:
        """A member that goes after the present step; it takes the blocks that it has grown by with it."""
        steps, self.pace = self.step - sequence.decode_from, None
        del self.members[sequence.request.request_id]
        phase = (sequence.decode_from + 1 - sequence.target) % BLOCK_TOKENS
        self._phase[phase] -= 1
        self._phase[phase + BLOCK_TOKENS] -= 1
        self.context -= sequence.target + steps + 1
        sequence.computed = sequence.target + steps
        blocks = blocks_of(sequence.computed)
        sequence.private += blocks - sequence.blocks
        sequence.blocks = blocks
        due = self._due.get(sequence.finish_step)
        if due is not None:
            due.remove(sequence)
            if not due:
                del self._due[sequence.finish_step]

    def finishing(self) -> Iterable[Sequence]:
        """Those to whom the present step gives the last token; they are still members."""
        due = self._due.get(self.step)
        return () if due is None else tuple(due)

    def advance(self, steps: int) -> int:
        """That many more steps have begun; the blocks that they need."""
        need = self.need(steps)
        self.step += steps
        self.context += steps * len(self.members)
        return need

    def need(self, steps: int) -> int:
        """Blocks that the next ``steps`` steps need."""
        first = (self.step + 1) % BLOCK_TOKENS
        if steps == 1:
            return self._phase[first]
        turns, rest = divmod(steps, BLOCK_TOKENS)
        return turns * len(self.members) + sum(self._phase[first : first + rest])

    def until_finish(self) -> int:
        """Steps to the next one that gives somebody the last token; at least one member."""
        ends = self._ends
        while ends[0] not in self._due:
            heapq.heappop(ends)
        return ends[0] - self.step

    def until_short(self, blocks: int, limit: int) -> int:
        """The most steps, ``limit`` at most, that need no more than ``blocks`` blocks; at least one member."""
        members = len(self.members)
        if (limit // BLOCK_TOKENS + 1) * members <= blocks:
            return limit
        turns, left = divmod(blocks, members)
        steps = turns * BLOCK_TOKENS
        while steps < limit and (need := self._phase[(self.step + 1 + steps) % BLOCK_TOKENS]) <= left:
            left -= need
            steps += 1
        return min(steps, limit)
