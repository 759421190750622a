"""Switches the faults of one engine on and off: at start, by a call, after a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from simulator.api_types import ApiError
from simulator.faults import Fault, FaultKind, Faults, check_fault
from simulator.realtime import Runner

log = logging.getLogger(__name__)


class FaultSwitch:
    """What ``POST /sim/fault`` turns."""

    def __init__(self, runner: Runner, faults: Faults) -> None:
        """No fault."""
        self._runner, self.faults = runner, faults
        self._timers: list[asyncio.TimerHandle] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.crash: Callable[[], None] = lambda: None
        """Ends the engine at once."""
        self.refuse: Callable[[], None] = lambda: None
        """Refuses new connections."""
        self.accept: Callable[[], Awaitable[None]] | None = None
        """Takes them again."""

    def arm(self, planned: Iterable[Fault]) -> None:
        """Begin with these faults."""
        for fault in planned:
            self._plan(fault)

    def set(self, body: bytes) -> dict[str, Any]:
        """Carry out a call; the faults that are active then.

        Raises: ApiError 400.
        """
        try:
            fault = check_fault(msgspec.json.decode(body, type=Fault))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise ApiError(400, f"Invalid fault: {error}") from None
        self._plan(fault)
        return self.shown()

    def shown(self) -> dict[str, Any]:
        """Active faults."""
        return {"active": [msgspec.to_builtins(fault) for fault in self.faults.active.values()]}

    def stop(self) -> None:
        """Turn no more switches."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _plan(self, fault: Fault) -> None:
        loop = asyncio.get_running_loop()
        if fault.kind is FaultKind.NONE:
            self.stop()
            for kind in list(self.faults.active):
                self._heal(kind)
            return
        if fault.after_s:
            self._timers.append(loop.call_later(fault.after_s, self._begin, fault))
        else:
            self._begin(fault)
        if fault.seconds is not None:
            self._timers.append(loop.call_later(fault.after_s + fault.seconds, self._heal, fault.kind))

    def _begin(self, fault: Fault) -> None:
        log.warning("fault: %s", msgspec.json.encode(fault).decode())
        self.faults.active[fault.kind] = fault
        match fault.kind:
            case FaultKind.SLOW:
                self._runner.engine.slow_factor = fault.factor
            case FaultKind.HANG:
                self._runner.pause("hang")
            case FaultKind.REFUSE:
                self.refuse()
            case FaultKind.CRASH:
                self.crash()
            case _:  # decided request by request
                pass

    def _heal(self, kind: FaultKind) -> None:
        if self.faults.active.pop(kind, None) is None:
            return
        log.warning("fault: %s is over", kind.value)
        if kind is FaultKind.SLOW:
            self._runner.engine.slow_factor = 1.0
        elif kind is FaultKind.HANG:
            self._runner.resume("hang")
        elif kind is FaultKind.REFUSE and self.accept is not None:
            task = asyncio.ensure_future(self.accept())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
