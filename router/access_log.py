"""One line of JSON for every finished request: who, what, where, how long. No prompt, no answer, no credentials."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from router.recorder import Facts
from router.ticket import Ticket

_HELD = 256
"""Lines written at once at the latest."""


class AccessLog:
    """Collects lines; :meth:`flush` writes them, to be called about once a second.

    Args:
        path: the file, appended to; ``-``: standard output.
    Raises: OSError when the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._out: BinaryIO = sys.stdout.buffer if str(path) == "-" else path.open("ab")
        self._lines: list[bytes] = []
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, ticket: Ticket, seen: Facts) -> None:
        """Note one request."""
        self._lines.append(self._encode({
            "at_s": round(ticket.started_at_s, 3), "request_id": ticket.request_id, "tenant": ticket.tenant,
            "model": ticket.model, "endpoint": ticket.url, "status": ticket.status, "outcome": str(ticket.outcome),
            "streaming": ticket.streaming, "input_tokens": ticket.input_tokens, "output_tokens": seen.output_tokens,
            "ttft_s": seen.ttft_s, "e2e_s": seen.e2e_s, "tried": len(ticket.tried),
        }))  # fmt: skip
        if len(self._lines) >= _HELD:
            self.flush()

    def flush(self) -> None:
        """Write what was noted."""
        if self._lines:
            self._out.write(b"\n".join(self._lines) + b"\n")
            self._out.flush()
            self._lines.clear()

    def close(self) -> None:
        """Write and close."""
        self.flush()
        if self._out is not sys.stdout.buffer:
            self._out.close()
