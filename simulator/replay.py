"""The open-loop load client: requests leave when the schedule says so, whatever the answers do."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from fleet.stopping import on_stop
from simulator.replay_client import PATHS, Client, body
from simulator.replay_stats import CLIENT_LIMIT, INTERRUPTED, OK, UNFINISHED, Outcome, Tally
from simulator.traces import write_atomically
from simulator.workload import TimedRequest

if sys.platform == "win32":
    _loop_factory = asyncio.new_event_loop
else:
    import resource

    import uvloop

    _loop_factory = uvloop.new_event_loop

log = logging.getLogger(__name__)

DEFAULT_MODEL = "meta-llama/Llama-3.1-8B-Instruct"
_KEEPALIVE_S = 2.0
"""Idle connections close well before servers close them (uvicorn: 5 s), so no request meets a closing one."""
_TICK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How to replay, beside what."""

    target: str
    """Base URL, as :func:`simulator.replay_client.base_url` gives it."""
    model: str
    """Model to ask for, whatever was recorded; empty: the recorded one, else :data:`DEFAULT_MODEL`."""
    api: str = "completions"
    duration_s: float | None = None
    """Stop sending after this long; ``None``: never."""
    drain_s: float = 30.0
    """Wait this long for answers after the last request."""
    stop_drain_s: float = 5.0
    """The same after SIGTERM or SIGINT."""
    max_in_flight: int = 2000
    timeout_s: float = 300.0
    """A request that takes longer has failed."""
    run_id: str = ""
    """Made part of every prompt's own text, so that a second replay meets no prefix cache warmed by the first."""
    status: Path | None = None
    report: Path | None = None
    traffic: dict[str, Any] = field(default_factory=dict)
    """What is replayed, in words and numbers: copied into status and report."""


class Replay:
    """One run of a schedule against a server."""

    def __init__(self, options: ReplayOptions, schedule: Iterator[TimedRequest]) -> None:
        self._options = options
        self._schedule = schedule
        self._tally = Tally()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._broken: BaseException | None = None
        self._started_s = 0.0

    def stop(self) -> None:
        """Send no more; drain briefly; report."""
        self._stop.set()

    async def run(self) -> dict[str, Any]:
        """Replay to the end (or to :meth:`stop`); returns the report, which is also written to its file."""
        options = self._options
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
        timeout = aiohttp.ClientTimeout(total=options.timeout_s)
        self._started_s, cpu_s = time.monotonic(), time.process_time()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            client = Client(session=session, url=options.target + PATHS[options.api], chat=options.api == "chat",
                            tally=self._tally, clock=time.monotonic)  # fmt: skip
            ticker = asyncio.create_task(self._tick())
            ticker.add_done_callback(self._watch)
            try:
                await self._send_all(client)
                await self._drain()
            finally:
                ticker.cancel()
        if self._broken is not None:
            raise self._broken
        return self._finish(time.process_time() - cpu_s)

    async def _send_all(self, client: Client) -> None:
        for number, request in enumerate(self._schedule):
            due_s = self._started_s + request.arrival_s
            if await self._stopped_before(due_s):
                return
            lag_s = max(0.0, time.monotonic() - due_s)
            self._tally.send(request.input_tokens, lag_s)
            if len(self._tasks) >= self._options.max_in_flight:
                self._end(Outcome(kind=CLIENT_LIMIT, detail=f"{len(self._tasks)} requests are open already"))
                continue
            self._spawn(self._one(client, request, number))
        if self._options.duration_s is not None:
            await self._stopped_before(self._started_s + self._options.duration_s)

    async def _stopped_before(self, due_s: float) -> bool:
        """Wait until ``due_s``; True when the replay was stopped first."""
        delay_s = due_s - time.monotonic()
        if delay_s <= 0:
            await asyncio.sleep(0)
            return self._stop.is_set()
        try:
            await asyncio.wait_for(self._stop.wait(), delay_s)
        except TimeoutError:
            return False
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        self._tally.in_flight = len(self._tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._tally.in_flight = len(self._tasks)
        self._watch(task)

    def _watch(self, task: asyncio.Task[None]) -> None:
        """An error of our own ends the replay, loudly."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self._stop.set()

    async def _one(self, client: Client, request: TimedRequest, number: int) -> None:
        options = self._options
        label = f"{number} {options.run_id}"
        model = options.model or request.model or DEFAULT_MODEL
        self._end(await client.send(body(request, model=model, api=options.api, label=label)))

    def _end(self, outcome: Outcome) -> None:
        if outcome.kind != OK and not self._tally.ends[outcome.kind]:
            log.warning("first request that ended as %s: %s", outcome.kind, outcome.detail)
        self._tally.end(outcome)

    async def _drain(self) -> None:
        """Wait for open answers; what is left then is cancelled and counted."""
        patience_s = self._options.stop_drain_s if self._stop.is_set() else self._options.drain_s
        deadline_s = time.monotonic() + patience_s
        while self._tasks and time.monotonic() < deadline_s:
            await asyncio.wait(self._tasks, timeout=0.1)
            if self._stop.is_set():
                deadline_s = min(deadline_s, time.monotonic() + self._options.stop_drain_s)
        left = list(self._tasks)
        kind = INTERRUPTED if self._stop.is_set() else UNFINISHED
        for task in left:
            task.cancel()
            self._end(Outcome(kind=kind, detail=f"{len(left)} requests were open when the drain ended"))
        await asyncio.gather(*left, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            self._write(self._options.status, self._status("running"))
            await asyncio.sleep(_TICK_S)

    def _status(self, state: str) -> dict[str, Any]:
        now_s = time.monotonic()
        head = {"state": state, "at_s": round(time.time(), 3), "elapsed_s": round(now_s - self._started_s, 3)}
        return head | self._tally.status(now_s) | {"traffic": self._options.traffic}

    def _finish(self, cpu_s: float) -> dict[str, Any]:
        report = self._tally.report(duration_s=time.monotonic() - self._started_s)
        report |= {name: getattr(self._options, name) for name in ("target", "api", "traffic")}
        report |= {
            "model": self._options.model or None,
            "seed": self._options.traffic.get("seed"),
            "cpu_s": round(cpu_s, 3),
        }
        self._write(self._options.status, self._status("finished"))
        self._write(self._options.report, report)
        return report

    @staticmethod
    def _write(path: Path | None, document: dict[str, Any]) -> None:
        if path is not None:
            write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def run(options: ReplayOptions, schedule: Iterator[TimedRequest]) -> dict[str, Any]:
    """Replay until the end or SIGTERM/SIGINT; returns the report.

    Raises: ConfigError when the status or report file cannot be written.
    """
    _allow_connections(options.max_in_flight)

    async def supervised() -> dict[str, Any]:
        replay = Replay(options, schedule)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(replay.stop)

        on_stop(stop)
        return await replay.run()

    with asyncio.Runner(loop_factory=_loop_factory) as runner:
        return runner.run(supervised())


def _allow_connections(count: int) -> None:
    """Raise this process's limit of open files as far as it may go and is needed: one connection is one file."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + 100 if hard == resource.RLIM_INFINITY else min(hard, count + 100)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
