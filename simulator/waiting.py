"""An engine's queue of requests: first come first served, or by priority. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from simulator.sequence import Sequence


class Queue(Protocol):
    """Requests that wait for the scheduler."""

    def __len__(self) -> int:
        """How many wait."""

    def __iter__(self) -> Iterator[Sequence]:
        """All of them, in no particular order."""

    def head(self) -> Sequence:
        """The next one; the queue is not empty."""

    def pop(self) -> Sequence:
        """Take the next one; the queue is not empty."""

    def push(self, sequence: Sequence) -> None:
        """A new one."""

    def put_back(self, sequence: Sequence) -> None:
        """One that was taken before: preempted, skipped, or loaded."""

    def remove(self, sequence: Sequence) -> None:
        """Take this one, which is there."""


class FirstComeQueue(deque[Sequence]):
    """In order of arrival; who is put back goes to the head."""

    def head(self) -> Sequence:
        """As :class:`Queue`."""
        return self[0]

    def pop(self) -> Sequence:  # type: ignore[override]  # the head of a queue is its left end
        """As :class:`Queue`."""
        return self.popleft()

    def push(self, sequence: Sequence) -> None:
        """As :class:`Queue`."""
        self.append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """As :class:`Queue`."""
        self.appendleft(sequence)


class PriorityQueue:
    """The lowest priority value first, then in order of arrival; preempted ones have no privilege (as in vLLM)."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        """Empty."""
        self._heap: list[tuple[tuple[int, float, int], Sequence]] = []

    def __len__(self) -> int:
        """As :class:`Queue`."""
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        """As :class:`Queue`."""
        return (sequence for _, sequence in self._heap)

    def head(self) -> Sequence:
        """As :class:`Queue`."""
        return self._heap[0][1]

    def pop(self) -> Sequence:
        """As :class:`Queue`."""
        return heapq.heappop(self._heap)[1]

    def push(self, sequence: Sequence) -> None:
        """As :class:`Queue`."""
        heapq.heappush(self._heap, (sequence.rank, sequence))

    def put_back(self, sequence: Sequence) -> None:
        """As :class:`Queue`."""
        self.push(sequence)

    def remove(self, sequence: Sequence) -> None:
        """As :class:`Queue`."""
        self._heap = [entry for entry in self._heap if entry[1] is not sequence]
        heapq.heapify(self._heap)
