"""Fits in a process of their own, so that they take no time from predictions, nor their death the service.

The process is spawned, never forked: the service has threads, and a lock that one of them holds would be held for ever
in a fork. It is asked over a pipe and answers within a limit or is killed; nothing that happens to it (killed for
memory, stopped, stuck in a library) can make the asking thread wait longer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final, Protocol

from threadpoolctl import threadpool_limits

from fleet.errors import FleetError
from fleet.shell import die_with_parent

LIMIT_S: Final = 60.0
"""A fit of 10 000 rows takes about a second; the process's first answer includes its start."""


class FitError(FleetError):
    """A fit that raised, died or took too long."""


class Worker(Protocol):
    """Where work is done away from the caller."""

    def run(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """``work(*arguments, **named)``.

        Raises: FitError when there is no answer.
        """
        ...

    def stop(self) -> None:
        """Give up what is under way."""


class FittingProcess:
    """One process, started when first needed and again after each failure. For one thread; ``stop`` for any."""

    def __init__(self, *, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._child: _Child | None = None

    def run(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """See :class:`Worker`; everything is pickled on its way, ``work`` by its name."""
        child = self._child = self._child or _Child.start()
        try:
            child.pipe.send((work, arguments, named))
            if not child.pipe.poll(self._limit_s):
                raise FitError(f"no answer in {self._limit_s:g} s; its process was killed", where="fit")
            done, answer = child.pipe.recv()
        except (EOFError, OSError) as error:
            self.stop()
            raise FitError(f"its process died ({type(error).__name__})", where="fit") from None
        except FitError:
            self.stop()
            raise
        if not done:
            raise FitError(answer, where="fit")
        return answer

    def stop(self) -> None:
        """Kill the process, whatever it does."""
        child, self._child = self._child, None
        if child is not None:
            child.process.kill()
            child.process.join(1.0)  # its end of the pipe closes with it, and whoever waits on ours is told


@dataclass(frozen=True, slots=True)
class _Child:
    process: SpawnProcess
    pipe: Connection[Any, Any]

    @classmethod
    def start(cls) -> _Child:
        """A process that waits for work."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), name="fitting", daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours)


def one_thread() -> None:
    """This process computes in one thread: on small matrices several only fight over the cores.

    The environment is for OpenMP of what is imported later: it reads it when it is loaded.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    threadpool_limits(1)


def _serve(pipe: Connection[Any, Any]) -> None:
    """Do what comes over the pipe until it is closed."""
    die_with_parent()
    one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service ends its process
    while True:
        try:
            work, arguments, named = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, work(*arguments, **named)
        except Exception as error:  # noqa: BLE001 - it is the caller's: told there, with its type
            answer = False, f"{type(error).__name__}: {error}"
        pipe.send(answer)
