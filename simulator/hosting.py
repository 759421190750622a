"""Where a manager's engines run: each in a process of its own, or all in this one."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Protocol

from fleet.shell import bind
from simulator.engine_options import EngineOptions
from simulator.replica import Replica

_KILL_AFTER_S = 2.0
CRASHED = 139
"""Return code of an engine in this process that has crashed."""


class Running(Protocol):
    """An engine that was started (an :class:`asyncio.subprocess.Process` is one)."""

    @property
    def returncode(self) -> int | None:
        """``None`` while it runs."""

    async def wait(self) -> int:
        """Returns its return code when it has ended."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it at once."""


class Host(Protocol):
    """Starts engines."""

    async def start(self, options: EngineOptions, *, host: str, port: int) -> Running:
        """A new engine.

        Raises: OSError or FleetError when it cannot be started.
        """


class ProcessHost:
    """Engines as processes: they can be killed from outside, and one that runs wild harms nobody."""

    async def start(self, options: EngineOptions, *, host: str, port: int) -> Running:
        """A new process, which dies with this one."""
        # A session of its own: Ctrl-C reaches only us, and we end the engines in order.
        return await asyncio.create_subprocess_exec(*engine_command(options, host=host, port=port),
                                                    start_new_session=True)  # fmt: skip


class LocalHost:
    """Engines in this process, on its event loop: some hundreds of idle ones fit where ten processes do."""

    async def start(self, options: EngineOptions, *, host: str, port: int) -> Running:
        """A new engine on a port of its own."""
        replica = Replica(options, bind(host, port, what="engine", setting="--engine-port-base"))
        await replica.start()
        return LocalEngine(replica)


class LocalEngine:
    """An engine of this process, with the manners of a process."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._stopping: asyncio.Task[None] | None = None
        self._killed = False

    @property
    def returncode(self) -> int | None:
        """``None`` while it runs."""
        if not self._replica.ended.is_set():
            return None
        return CRASHED if self._replica.crashed else -9 if self._killed else 0

    async def wait(self) -> int:
        """Returns when it has ended."""
        await self._replica.ended.wait()
        return self.returncode or 0

    def terminate(self) -> None:
        """Ask it to end."""
        if self._stopping is None and self.returncode is None:
            self._stopping = asyncio.ensure_future(self._replica.stop())

    def kill(self) -> None:
        """End it at once."""
        self._killed = True
        self._replica.kill()


async def end(engine: Running | None) -> None:
    """SIGTERM, and SIGKILL if that does not help soon."""
    if engine is None or engine.returncode is not None:
        return
    engine.terminate()
    try:
        await asyncio.wait_for(engine.wait(), _KILL_AFTER_S)
    except TimeoutError:
        engine.kill()
        await engine.wait()


def engine_command(options: EngineOptions, *, host: str, port: int) -> list[str]:
    """The command line of one engine process, which dies with this one."""
    return [sys.executable, "-m", "simulator.engine_main", "--die-with-parent", "--parent-pid", str(os.getpid()),
            "--host", host, "--port", str(port), *options.arguments()]  # fmt: skip
