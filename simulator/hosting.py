"""Where a manager's engines run: each in a process of its own, or all in this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
from typing import Protocol

from fleet.errors import ConfigError
from fleet.shell import bind, die_with_parent
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


class VllmHost:
    """Real vLLM servers as processes."""

    def __init__(self, program: str, model: str, arguments: str = "") -> None:
        """Args:
        program: vLLM's, a name on PATH or a path.
        model: a folder or a hub name.
        arguments: further ones, split as a shell splits words.

        Raises: ConfigError when the program is not there, or the arguments cannot be split.
        """
        found = shutil.which(program)
        if found is None:
            raise ConfigError(f"no program {program!r}", where="--vllm",
                              next_step="Install vLLM (pip install 'llm-fleet[engine]') or name its path.")  # fmt: skip
        try:
            self._more = shlex.split(arguments)
        except ValueError as error:
            raise ConfigError(f"{arguments!r}: {error}", where="--vllm-args", next_step="Close the quote.") from error
        self._program, self._model = found, model

    def command(self, options: EngineOptions, *, host: str, port: int) -> list[str]:
        """The command line of one server."""
        limits = (("--max-num-seqs", options.max_num_seqs), ("--max-model-len", options.max_model_len),
                  ("--max-num-batched-tokens", options.max_num_batched_tokens))  # fmt: skip
        given = [word for flag, value in limits if value is not None for word in (flag, str(value))]
        return [
            *(self._program, "serve", self._model, "--host", host, "--port", str(port)),
            *("--served-model-name", options.model, "--tensor-parallel-size", str(options.accelerator_count)),
            *given, *self._more,
        ]  # fmt: skip

    async def start(self, options: EngineOptions, *, host: str, port: int) -> Running:
        """A new server in a session of its own, so that its workers end with it."""
        command = self.command(options, host=host, port=port)
        process = await asyncio.create_subprocess_exec(*command, start_new_session=True, preexec_fn=die_with_parent)
        return ProcessGroup(process)


class ProcessGroup:
    """A server with its workers: killed as one, for a worker that outlives its server keeps the GPU."""

    def __init__(self, leader: asyncio.subprocess.Process) -> None:
        self._leader = leader

    @property
    def returncode(self) -> int | None:
        """The server's; ``None`` while it runs."""
        return self._leader.returncode

    async def wait(self) -> int:
        """Returns when the server has ended, and takes what is left of its workers along."""
        code = await self._leader.wait()
        self._signal(signal.SIGKILL)
        return code

    def terminate(self) -> None:
        """Ask the server to end; it ends its workers."""
        if self.returncode is None:
            self._leader.terminate()

    def kill(self) -> None:
        """End all of them at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # nobody is left
            os.killpg(self._leader.pid, number)


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
