"""In which order one publisher's batches count, and what to do when one is missing. Pure: times are arguments.

Batches are numbered. The next one is applied, an old one passed over; when numbers are skipped, what came too early
waits and the missing ones are asked for again. What cannot be had any more empties the pod: the index may know too
little, never what is not there. A number that starts again with a newer time is an engine that restarted.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from router.kvevents.wire import Batch

HELD_LIMIT: Final = 10_000
"""Batches that wait for a missing one; as many as an engine keeps to play back."""


class Step(enum.StrEnum):
    """What a batch led to."""

    APPLIED = "applied"
    OLD = "old"
    """Known already, or from before a restart."""
    GAP = "gap"
    """Some before it are missing; it waits."""
    HELD = "held"
    """It waits behind a gap that is known."""
    RESTARTED = "restarted"
    """The engine counts anew: the pod was emptied."""
    BAD = "bad"
    """It cannot be read; the pod was emptied, for it may have said anything."""
    OVERFLOW = "overflow"
    """Too many waited: the missing ones were given up."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do: first clear, then apply, then ask."""

    step: Step
    clear: bool = False
    apply: Sequence[Batch] = ()
    ask_from: int | None = None
    """Play back from this number on."""
    confirmed: bool = False
    """What :meth:`Feed.resume` was told holds; it comes before what is applied."""


class Feed:
    """One publisher: an engine, or one data-parallel rank of it."""

    def __init__(self, *, held_limit: int = HELD_LIMIT) -> None:
        self.next_seq = 0
        """The number that is due."""
        self.at_s: float | None = None
        """Time of the newest batch applied, on the engine's clock."""
        self.gaps = self.lost = 0
        """Gaps seen, and batches given up."""
        self._resumed_s: float | None = None
        self._held: dict[int, Batch] = {}
        self._held_limit = held_limit

    @property
    def fresh(self) -> bool:
        """Nothing was applied yet."""
        return self.at_s is None and self.next_seq == 0

    def resume(self, seq: int, at_s: float) -> None:
        """Go on from what another knew up to batch ``seq``, if the engine still has that very batch: ask from there.

        Numbers begin anew with an engine's restart, times do not: the batch of that number has another time then, and
        what the other knew is of a cache that is gone.
        """
        self.next_seq, self.at_s, self._resumed_s = seq, at_s, at_s

    def unconfirmed(self) -> None:
        """The engine did not confirm it: as if nothing had been told; ask for all that there is."""
        if self._resumed_s is not None:
            self.next_seq, self.at_s, self._resumed_s = 0, None, None

    @property
    def waiting(self) -> bool:
        """A gap is open."""
        return bool(self._held)

    def take(self, seq: int, batch: Batch, *, replayed: bool = False) -> Verdict:
        """A batch came, live or played back; what is played back comes in order."""
        if seq < self.next_seq:
            return self._old_or_restarted(seq, batch, replayed=replayed)
        if seq == self.next_seq and self._resumed_s is not None:
            return self._confirm(batch)
        if seq == self.next_seq:
            return Verdict(Step.APPLIED, apply=self._run(batch))
        return self._skip_to(seq, batch) if replayed else self._early(seq, batch)

    def _confirm(self, batch: Batch) -> Verdict:
        """The batch up to which another knew all, or one of another life of the engine."""
        if batch.at_s != self._resumed_s:
            self.unconfirmed()
            return Verdict(Step.RESTARTED, clear=True)
        self._resumed_s = None
        self._held = {number: held for number, held in self._held.items() if number > self.next_seq}
        return Verdict(Step.APPLIED, confirmed=True, apply=self._run(batch)[1:])

    def _run(self, batch: Batch) -> Sequence[Batch]:
        """The batch that is due and those that waited for it."""
        ready = [batch]
        self.next_seq += 1
        while (after := self._held.pop(self.next_seq, None)) is not None:
            ready.append(after)
            self.next_seq += 1
        self.at_s = max(ready[-1].at_s, self.at_s or 0.0)
        return ready

    def bad(self, seq: int) -> Verdict:
        """A batch came that cannot be read."""
        if seq < self.next_seq:
            return Verdict(Step.OLD)
        self.lost += 1
        self._resumed_s = None
        self._held.clear()
        self.next_seq = seq + 1
        return Verdict(Step.BAD, clear=True)

    def _old_or_restarted(self, seq: int, batch: Batch, *, replayed: bool) -> Verdict:
        newest = max((held.at_s for held in self._held.values()), default=self.at_s or 0.0)
        if replayed or self.at_s is None or batch.at_s <= max(newest, self.at_s):
            return Verdict(Step.OLD)
        self._held.clear()
        self.next_seq, self.at_s, self._resumed_s = 0, None, None
        after = self.take(seq, batch)
        return Verdict(Step.RESTARTED, clear=True, apply=after.apply, ask_from=after.ask_from)

    def _early(self, seq: int, batch: Batch) -> Verdict:
        first = not self._held
        self._held[seq] = batch
        if len(self._held) > self._held_limit:
            return self.give_up(Step.OVERFLOW)
        if not first:
            return Verdict(Step.HELD)
        self.gaps += 1
        return Verdict(Step.GAP, ask_from=self.next_seq)

    def _skip_to(self, seq: int, batch: Batch) -> Verdict:
        """The engine no longer has what came before ``seq``: begin again there."""
        self.lost += seq - self.next_seq
        self._resumed_s = None
        self._held = {number: held for number, held in self._held.items() if number > seq}
        self.next_seq = seq
        return Verdict(Step.APPLIED, clear=True, apply=self._run(batch))

    def played_back(self) -> Verdict:
        """Playing back is over: what is missing still will not come."""
        return self.give_up(Step.APPLIED) if self._held else Verdict(Step.APPLIED)

    def give_up(self, step: Step = Step.APPLIED) -> Verdict:
        """Empty the pod and go on with what waited, gap or not."""
        if not self._held:
            return Verdict(step)
        held = sorted(self._held.items())
        self._held, self._resumed_s = {}, None
        last = held[-1][0]
        self.lost += last + 1 - self.next_seq - len(held)
        self.next_seq = last + 1
        self.at_s = max(held[-1][1].at_s, self.at_s or 0.0)
        start = _after_last_gap([seq for seq, _ in held])
        return Verdict(step, clear=True, apply=[batch for _, batch in held[start:]])


def _after_last_gap(seqs: Sequence[int]) -> int:
    """Where the last unbroken run begins.

    >>> _after_last_gap([3, 4, 7, 8]), _after_last_gap([3, 4])
    (2, 0)
    """
    for place in range(len(seqs) - 1, 0, -1):
        if seqs[place] != seqs[place - 1] + 1:
            return place
    return 0
