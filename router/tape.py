"""Records live traffic to a file that the simulator and the benches replay."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from pathlib import Path
from typing import Final

from fleet import workload
from fleet.errors import ConfigError
from fleet.history import RequestOutcome
from router.recorder import Facts
from router.replayable import hash_ids
from router.ticket import Ticket

log = logging.getLogger(__name__)

MAX_REQUESTS: Final = 1_000_000
"""A recording ends by itself after so many requests: about 200 MB."""
_WAITING: Final = 10_000
"""Lines that may wait for the disk; more are dropped and counted."""


class Tape:
    """Writes one line for each request that was answered; a thread of its own writes to the disk.

    Args:
        path: the file; what it held is replaced.
        limit: requests recorded at most.
    Raises: ConfigError when the file cannot be written.
    """

    def __init__(self, path: Path, *, limit: int = MAX_REQUESTS) -> None:
        self._path, self._left = path, limit
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"the recording cannot be written: {error.strerror}", where=str(path),
                              next_step="Check --record-workload.") from error  # fmt: skip
        self._seed = secrets.randbits(64)
        self._start_s: float | None = None
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING)
        self.dropped = 0
        """Requests that were not recorded because the disk was too slow."""
        self._thread = threading.Thread(target=self._write, name="workload recording", daemon=True)
        self._thread.start()

    def __call__(self, ticket: Ticket, seen: Facts) -> None:
        """Record a finished request."""
        if ticket.outcome is not RequestOutcome.OK or self._left <= 0:
            return
        if self._start_s is None:
            self._start_s = ticket.started_at_s
        self._left -= 1
        try:
            self._lines.put_nowait(self._line(ticket, seen, self._start_s))
        except queue.Full:
            self.dropped += 1
        if not self._left:
            log.warning("the recording %s is full", self._path)

    def _line(self, ticket: Ticket, seen: Facts, start_s: float) -> str:
        guessed, said = ticket.input_tokens, seen.usage.prompt_tokens
        tokens = guessed if said is None else said
        block = (ticket.block_tokens if ticket.pick else 0) * (tokens / guessed if guessed else 1.0)
        ids = hash_ids(ticket.hashes, block_tokens=block, input_tokens=tokens, seed=self._seed) if block else []
        return workload.line(arrival_s=max(0.0, ticket.started_at_s - start_s), input_tokens=max(1, tokens),
                             output_tokens=max(1, seen.output_tokens), model=ticket.model,
                             hash_ids=ids)  # fmt: skip

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._file.write(line + "\n")
                if self._lines.empty():
                    self._file.flush()
            except OSError:
                log.exception("the recording %s cannot be written: it ends here", self._path)
                self._left = 0
                return

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._left = 0
        self._lines.put(None)
        self._thread.join(timeout=10.0)
        self._file.close()
        if self.dropped:
            log.warning(
                "%d requests are missing from the recording %s: the disk was too slow", self.dropped, self._path
            )
