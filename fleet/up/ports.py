"""Free ports for all parts; one that is taken is replaced, and said."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import IO

from fleet.shell import bind
from fleet.up.plan import Ports

_ENGINES = 32
"""Ports kept free above ``engine_base``."""


def is_free(host: str, port: int) -> bool:
    """Whether ``port`` can be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


class PortBook:
    """Ports that this run has chosen, locked against other runs until it ends.

    Between the choice of a port and its part's start another run could choose the same one, and then take the other's
    part for its own; a lock file a port (the kernel drops the lock with the process) keeps them apart.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / f"llm-fleet-ports-{os.getuid()}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._locks: dict[int, IO[bytes]] = {}

    def take(self, host: str, port: int) -> bool:
        """Lock ``port`` for this run if it is free; False if it is not."""
        if port in self._locks or not is_free(host, port):
            return False
        lock = (self._folder / str(port)).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._locks[port] = lock
        return True

    def take_block(self, host: str, first: int) -> int:
        """Lock :data:`_ENGINES` ports in a row; returns the first."""
        while True:
            block = range(first, first + _ENGINES)
            if all(port not in self._locks and is_free(host, port) for port in block) and self.take(host, first):
                return first
            first += _ENGINES

    def release(self) -> None:
        """Give all ports back."""
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()


def choose(host: str, wanted: Ports, book: PortBook) -> tuple[Ports, list[str]]:
    """Ports that are free, as near above the wanted ones as there are, and a word for each that was replaced.

    Raises: ConfigError for a host that is no address of this machine.
    """
    bind(host, 0, what="fleet up", setting="--port").close()
    chosen: dict[str, int] = {}
    notes: list[str] = []
    for name, port in asdict(wanted).items():
        if name == "engine_base":
            chosen[name] = book.take_block(host, port)
        else:
            chosen[name] = next(candidate for candidate in range(port, 65_000) if book.take(host, candidate))
        if chosen[name] != port:
            notes.append(f"{name.replace('_', ' ')} {port} -> {chosen[name]}")
    return Ports(**chosen), notes
