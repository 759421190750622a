"""What one turn of the event loop writes, sent when all that it read has been worked through.

Bytes written in the middle of a turn wake whoever waits for them, for one message; a core that the two share then goes
back and forth between them. Written at the turn's end, one after the other, they find it awake. With few requests under
way there is nothing to gather, and they go out at once.
"""

from __future__ import annotations

import asyncio
from typing import Final

FEW: Final = 4
"""Requests under way up to which bytes go out at once."""
MOST: Final = 32
"""Writes gathered; with that many, nothing is gained by waiting for more."""


class Outbox:
    """Of one event loop."""

    __slots__ = ("_later", "_loop", "_sent", "busy")

    def __init__(self) -> None:
        self._later: list[tuple[asyncio.Transport, bytes]] = []
        self._sent = 0
        """How many of these have been sent."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.busy = 0
        """Requests under way."""

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send ``data``, now or at the turn's end, after all that was written before."""
        later = self._later
        if not later:
            if self.busy <= FEW:
                transport.write(data)
                return
            loop = self._loop
            if loop is None:
                loop = self._loop = asyncio.get_running_loop()
            loop.call_soon(self.flush)
        later.append((transport, data))
        if len(later) >= MOST:
            self.flush()

    def flush(self) -> None:
        """Send what waits: also before a connection is closed."""
        later = self._later
        try:
            while self._sent < len(later):
                transport, data = later[self._sent]
                self._sent += 1
                if not transport.is_closing():
                    transport.write(data)
        finally:
            if self._sent == len(later):
                later.clear()
                self._sent = 0
            elif self._loop is not None:
                self._loop.call_soon(self.flush)
