"""Starts the parts, restarts what crashes with back-off, ends them all."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import requests

from fleet.up.plan import Part

_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 15.0
_STABLE_S = 30.0
"""A part that ran so long starts again without back-off."""
_LIVENESS_EVERY_S, _HUNG_AFTER_S = 5.0, 60.0
"""A part that was healthy is asked this often, and restarted when it has not been well for this long."""
STARTUP_S = 60.0
"""A part that is not healthy by then is reported (and waited for no longer)."""


@dataclass(slots=True)
class Running:
    """One part's process and what happened to it."""

    part: Part
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    healthy: bool = False
    deaths: list[str] = field(default_factory=list)
    """A line for each time it died."""
    backoff_s: float = _FIRST_BACKOFF_S
    next_start_at: float = 0.0
    done: bool = False
    """Ended by itself with exit code 0 (the traffic does, after its duration)."""
    was_healthy: bool = False
    last_well_at: float = 0.0
    next_check_at: float = 0.0
    refused: str = ""
    """Its one line when it refused its arguments (exit code 2 before it was ever up): a restart cannot help."""

    @property
    def state(self) -> str:
        """``waiting``, ``starting``, ``up``, ``restarting`` or ``done``."""
        if self.done:
            return "done"
        if self.process is None:
            return "restarting" if self.deaths else "waiting"
        return "up" if self.healthy else "starting"


class Supervisor:
    """Owns the processes; :meth:`tick` is called a few times a second.

    Args:
        parts: what to run.
        logs: folder of the parts' logs.
        report: called with a line for a person whenever something starts, dies or comes back.
        clock: monotonic seconds.
        environment: variables of every part, beside our own.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        logs: Path,
        report: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._environment = environment
        self.running = {part.name: Running(part) for part in parts}
        self._logs, self._report, self._clock = logs, report, clock
        self._session = requests.Session()
        self.stopping = False
        logs.mkdir(parents=True, exist_ok=True)

    def tick(self) -> None:
        """Start what is due, notice what died, check what is starting."""
        for running in self.running.values():
            if running.process is not None:
                self._reap(running)
            if running.process is None and not running.done and not self.stopping and self._may_start(running):
                self._start(running)
            if running.process is not None and running.part.health_url:
                self._check(running)

    def ready(self) -> bool:
        """Whether every part is up (or done)."""
        return all(running.healthy or running.done for running in self.running.values())

    def refusal(self) -> str:
        """The line of a part that refused its arguments, or an empty string."""
        return next((running.refused for running in self.running.values() if running.refused), "")

    def died(self) -> list[str]:
        """A line for each death, in no order."""
        return [line for running in self.running.values() for line in running.deaths]

    def stop(self, grace_s: float = 12.0) -> None:
        """End every process: traffic first, then the rest; what does not end in time is killed."""
        self.stopping = True
        for group in ([r for n, r in self.running.items() if n == "traffic"], list(self.running.values())):
            for running in group:
                _signal(running, signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            while any(r.process and r.process.poll() is None for r in group) and time.monotonic() < deadline:
                time.sleep(0.05)
        for running in self.running.values():
            _signal(running, signal.SIGKILL)
            if running.process:
                running.process.wait()

    def _may_start(self, running: Running) -> bool:
        ready = all(self.running[name].healthy for name in running.part.after if name in self.running)
        due = ready and self._clock() >= running.next_start_at
        return due and (not running.part.gate_url or self._answers(running.part.gate_url))

    def _start(self, running: Running) -> None:
        environment = {**os.environ, **self._environment, "PYTHONUNBUFFERED": "1"}
        with self.log_of(running.part.name).open("ab") as log:
            running.process = subprocess.Popen(
                running.part.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )
        running.started_at, running.healthy = self._clock(), not running.part.health_url
        if running.deaths:
            self._report(running.part.name, f"{running.part.name} restarted (pid {running.process.pid})")

    def log_of(self, name: str) -> Path:
        """The log file of a part."""
        return self._logs / f"{name}.log"

    def _reap(self, running: Running) -> None:
        process = running.process
        code = process.poll() if process else None
        if process is None or code is None:
            return
        running.process, running.healthy = None, False
        if self.stopping or (code == 0 and not running.part.health_url):
            running.done = code == 0
            return
        tail = last_line(self.log_of(running.part.name))
        if code == 2 and not running.was_healthy:
            running.refused = tail or f"{running.part.name} refused its arguments"
            running.done = True
            return
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lived_s = self._clock() - running.started_at
        running.backoff_s = _FIRST_BACKOFF_S if lived_s > _STABLE_S else min(2 * running.backoff_s, _MAX_BACKOFF_S)
        running.next_start_at = self._clock() + running.backoff_s
        line = f"{running.part.name} died ({cause}) after {lived_s:.0f} s; restart in {running.backoff_s:.1f} s"
        running.deaths.append(line)
        self._report(running.part.name, f"{line}; last log line: {tail}" if tail else line)

    def _check(self, running: Running) -> None:
        """Ask a starting part on each tick, a healthy one now and then; end one that hangs, to be started anew."""
        now = self._clock()
        if running.healthy and now < running.next_check_at:
            return
        well = self._answers(running.part.health_url)
        running.next_check_at = now + _LIVENESS_EVERY_S
        if well:
            running.healthy, running.last_well_at = True, now
        elif running.healthy and now - running.last_well_at > _HUNG_AFTER_S:
            self._report(
                running.part.name, f"{running.part.name} has not been well for {_HUNG_AFTER_S:.0f} s; ending it"
            )
            _signal(running, signal.SIGKILL)
        running.was_healthy = running.was_healthy or running.healthy

    def _answers(self, url: str) -> bool:
        try:
            return self._session.get(url, timeout=1.0).status_code == 200
        except requests.RequestException:
            return False


def _signal(running: Running, number: int) -> None:
    if running.process and running.process.poll() is None:
        try:
            os.killpg(running.process.pid, number)
        except ProcessLookupError:
            return


def last_line(log: Path) -> str:
    """The last non-empty line of a log, at most 300 characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
