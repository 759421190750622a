"""A writer thread, so that no event loop ever waits for the disk."""

from __future__ import annotations

import logging
import queue
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from fleet.history.store import History, Row
from fleet.history.wire import values_of

log = logging.getLogger(__name__)

_STOP = object()
GOOD_BATCH = 500
"""So many rows are written without waiting for more."""
MAX_BATCH = 5_000
"""Rows of one transaction at most."""


class HistoryWriter:
    """Collects rows and writes them in batches from a thread of its own.

    Args:
        history: where to write.
        flush_s: longest time a row waits (default 0.5 s: what a ``kill -9`` can lose).
        max_rows: rows held at most; beyond it the newest are dropped and counted (``dropped``), never silently.
    """

    def __init__(self, history: History, *, flush_s: float = 0.5, max_rows: int = 50_000) -> None:
        self._history, self._flush_s = history, flush_s
        self._queue: queue.Queue[object] = queue.Queue(maxsize=max_rows)
        self.dropped = 0
        self.written = 0
        self.last_error = ""
        self._said = ""
        self.failures = 0
        """Writes that failed, each tried again."""
        self._thread = threading.Thread(target=self._run, name="history-writer", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        """Hand over a row; never blocks."""
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self.dropped += 1

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is held and stop."""
        self._queue.put(_STOP)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pending: list[Row] = []
        stopping = False
        while not stopping or pending:
            stopping = self._fill(pending, wait=not stopping) or stopping
            if pending and not self._write(pending):
                if stopping:
                    log.error("history: %d rows lost at shutdown: %s", len(pending), self.last_error)
                    return
                time.sleep(self._flush_s)

    def _fill(self, pending: list[Row], *, wait: bool) -> bool:
        """Move queued rows to ``pending`` until a batch is full or the first may wait no longer; True when to stop."""
        deadline = time.monotonic() + self._flush_s
        while len(pending) < MAX_BATCH:
            left_s = deadline - time.monotonic()
            try:
                patient = wait and left_s > 0 and len(pending) < GOOD_BATCH
                item = self._queue.get(timeout=left_s) if patient else self._queue.get_nowait()
            except queue.Empty:
                return False
            if item is _STOP:
                return True
            pending.append(item)  # type: ignore[arg-type]  # only put() feeds the queue
        return False

    def _write(self, pending: list[Row]) -> bool:
        try:
            refused = self._history.keep(values_of(pending).items())
        except SQLAlchemyError as error:
            self.last_error = str(getattr(error, "orig", None) or error)
            self.failures += 1
            if self.last_error != self._said:  # once, not twice a second for as long as it lasts
                count, cause = len(pending), self.last_error
                log.warning("history: %d rows wait, the write failed and is tried again: %s", count, cause)
            self._said = self.last_error
            return False
        if self._said:
            log.info("history: it can be written again")
            self._said = ""
        self.written += len(pending) - refused
        self.dropped += refused
        pending.clear()
        return True
