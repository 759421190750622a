"""Pages are written once for all who look at the same moment, in threads of their own. No I/O of its own.

Twenty viewers of live pages would otherwise ask, compute and draw twenty times, and wait for each other behind Python's
one lock. Here the first who asks for a page at a tick has it written; who asks meanwhile shares it. A viewer who has
seen an earlier sheet waits :data:`PATIENCE_S` for the new one and is then shown the earlier one again, whose heading
says from when it is.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

T = TypeVar("T")

PATIENCE_S: Final = 1.0
"""So long a viewer with an earlier sheet waits for the new one."""
KEEP_S: Final = 60.0
"""A sheet of the same moment is written anew after so long, for rows that came later still."""
MOST: Final = 48
"""Sheets that are remembered."""
WRITERS: Final = 2
"""Pages written beside each other: while one waits for the database, the other computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written(Generic[T]):
    moment_s: float
    at_s: float
    value: T


class Press(Generic[T]):
    """Writes and remembers sheets; safe for many threads.

    Args:
        clock: seconds that only grow.
        patience_s: see :data:`PATIENCE_S`.
        worked: told how much of a core each writing took, seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        patience_s: float = PATIENCE_S,
        worked: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._clock, self._patience_s, self._worked = clock, patience_s, worked
        self._lock = threading.Lock()
        self._written: dict[Hashable, _Written[T]] = {}
        self._begun: dict[Hashable, Future[T]] = {}
        self._jobs: queue.PriorityQueue[tuple[int, int, Callable[[], None]]] = queue.PriorityQueue()
        self._number = itertools.count()
        self._writers: list[threading.Thread] = []

    def sheet(
        self, key: Hashable, moment_s: float, write: Callable[[], tuple[float, T]], *, oldest_s: float | None = None
    ) -> tuple[T, bool]:
        """The sheet of a page.

        Args:
            key: whose sheet: page, range, filters, time zone.
            moment_s: what it should show: the end of its window.
            write: makes it, in another thread; gives the moment that it shows and the sheet.
            oldest_s: earliest moment of a sheet that may be shown while the new one is written; None: no other one.
        Returns: the sheet, and whether it is the new one.
        Raises: what ``write`` raises.
        """
        with self._lock:
            known = self._written.get(key)
            if known is not None and known.moment_s >= moment_s and self._clock() - known.at_s < KEEP_S:
                return known.value, True
            patient = known is None or oldest_s is None or known.moment_s < oldest_s
            job = self._begun.get(key) or self._submit(key, write, first=patient)
        try:
            return job.result(None if patient else self._patience_s), True
        except NotYet:
            if job.done() or known is None:  # a TimeoutError of the writing itself
                raise
            return known.value, False

    def forget(self) -> None:
        """Write everything anew."""
        with self._lock:
            self._written.clear()

    @property
    def waiting(self) -> int:
        """Writings that have not begun."""
        return self._jobs.qsize()

    def _submit(self, key: Hashable, write: Callable[[], tuple[float, T]], *, first: bool) -> Future[T]:
        """Queue a writing; those for whom somebody looks at nothing come before refreshes."""
        job: Future[T] = Future()
        self._begun[key] = job
        self._jobs.put((0 if first else 1, next(self._number), lambda: self._write(key, write, job)))
        if len(self._writers) < WRITERS:
            thread = threading.Thread(target=self._run, name=f"console-press-{len(self._writers)}", daemon=True)
            self._writers.append(thread)
            thread.start()
        return job

    def _run(self) -> None:
        while True:
            self._jobs.get()[2]()

    def _write(self, key: Hashable, write: Callable[[], tuple[float, T]], job: Future[T]) -> None:
        begun = time.thread_time()
        moment_s, value = 0.0, cast("T", None)
        failed: BaseException | None = None
        try:
            moment_s, value = write()
        except BaseException as error:  # noqa: BLE001 - handed to those who wait for it
            failed = error
        self._worked(time.thread_time() - begun)
        with self._lock:
            self._begun.pop(key, None)
            self._written.pop(key, None)  # the newest last; after a failure nobody is shown what was before
            if failed is None:
                self._written[key] = _Written(moment_s=moment_s, at_s=self._clock(), value=value)
                while len(self._written) > MOST:
                    self._written.pop(next(iter(self._written)))
        if failed is None:
            job.set_result(value)
        else:
            job.set_exception(failed)
