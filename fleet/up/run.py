"""The loop of ``fleet up``: start, show, wait, stop, report."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import requests
from rich.console import Console
from rich.live import Live
from sqlalchemy.exc import SQLAlchemyError

from fleet.errors import ConfigError
from fleet.history import Event, History, cause_of, shown
from fleet.platform import HttpPlatform, Platform, StaticPlatform
from fleet.sources.exposition import parse
from fleet.up import report
from fleet.up.collect import Collector
from fleet.up.plan import TRAFFIC, TRAFFIC_REPORT, Ports, UpOptions, environment, parts
from fleet.up.supervisor import STARTUP_S, Supervisor
from fleet.up.view import Screen, render

_TICK_S = 0.2
_LOOK_S = 1.0
"""Between two looks for what happened to engines."""
_LEFT_FOR_DRAIN_S = 40.0
"""The traffic may need so long after its duration to see its last answers."""


class Up:
    """One run of the whole loop.

    Args:
        options: what was asked.
        ports: where the parts listen (already checked to be free).
        history: open and writable.
        say: a line for a person (standard error when headless).
    """

    def __init__(self, options: UpOptions, ports: Ports, history: History, say: Callable[[str], None]) -> None:
        self.options, self.ports, self.history = options, ports, history
        self._say = say
        self.news: list[str] = []
        self._next_look, self._trouble = 0.0, ""
        self.started_at = time.time()
        self.supervisor = Supervisor(parts(options, ports), logs=options.home / "logs", report=self._report,
                                     environment=environment(options))  # fmt: skip
        platform: Platform = (
            StaticPlatform(options.engines.split(","), model=options.model)
            if options.engines
            else HttpPlatform(f"http://{options.host}:{ports.sim}", timeout_s=1.0)
        )
        for left in (TRAFFIC, TRAFFIC_REPORT):  # of an earlier run in this folder: its figures are not ours
            (options.home / left).unlink(missing_ok=True)
        self.collector = Collector(history, platform, options.home / TRAFFIC)
        self._stop = threading.Event()
        self._engine_restarts = 0
        self._predictor = predictor_figures("")

    def addresses(self) -> dict[str, str]:
        """Where a person or a client goes."""
        base = f"http://{self.options.host}"
        found = {
            "requests": f"{base}:{self.ports.router}/v1",
            "router admin": f"{base}:{self.ports.router_admin}",
            "controller": f"{base}:{self.ports.wva}",
            "predictor": f"{base}:{self.ports.predictor}",
            "alerts": f"{base}:{self.ports.alerts}/alerts",
        }
        if self.options.console:
            found = {"console": f"{base}:{self.ports.console}"} | found
        return found if self.options.engines else found | {"simulator": f"{base}:{self.ports.sim}"}

    def stop(self) -> None:
        """End the run at the next tick."""
        self._stop.set()

    def run(self, *, headless: bool, console: Console, notes: tuple[str, ...]) -> None:
        """Run until stopped, until the duration has passed and the traffic has drained, or until a part refuses."""
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, lambda *_: self.stop())
        try:
            if headless:
                self._headless()
            else:
                self._interactive(console, notes)
        finally:
            self._say("stopping every process ...")
            self._last_words()
            self.supervisor.stop()
        if refusal := self.supervisor.refusal():
            raise ConfigError(refusal.removeprefix("fleet: ").removeprefix("Error: "))

    def _ticks(self) -> bool:
        """One tick; False when the run is over."""
        self.supervisor.tick()
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_S
            for line in self.collector.engine_news(self.started_at):
                self._tell(line)
            self._watch_history()
        time.sleep(_TICK_S)
        if self._stop.is_set() or self.supervisor.refusal():
            return False
        return not self._over()

    def _over(self) -> bool:
        duration_s = self.options.duration_s
        if duration_s is None:
            return False
        traffic = self.supervisor.running.get("traffic")
        if traffic is None:
            return time.time() - self.started_at > duration_s
        late = time.time() - self.started_at > duration_s + STARTUP_S + _LEFT_FOR_DRAIN_S
        return traffic.done or late

    def _headless(self) -> None:
        announced, next_line_at = False, time.monotonic() + 10.0
        while self._ticks():
            if not announced and self.supervisor.ready():
                announced = True
                self._say(f"all parts are up after {time.time() - self.started_at:.0f} s: {self._address_line()}")
            if time.monotonic() >= next_line_at:
                next_line_at += 10.0
                self._say(self._progress())

    def _interactive(self, console: Console, notes: tuple[str, ...]) -> None:
        with Live(console=console, refresh_per_second=4, screen=False, transient=False) as live:
            while self._ticks():
                live.update(render(self._screen(notes)))

    def _screen(self, notes: tuple[str, ...]) -> Screen:
        now_s = time.time()
        return Screen(
            lines=self.collector.lines(now_s),
            parts={name: running.state for name, running in self.supervisor.running.items()},
            addresses=self.addresses(),
            notes=notes,
            news=self.news,
            traffic=self.collector.traffic(),
            elapsed_s=now_s - self.started_at,
        )

    def _address_line(self) -> str:
        return ", ".join(f"{name} {address}" for name, address in self.addresses().items())

    def _progress(self) -> str:
        traffic = self.collector.traffic()
        replicas = ", ".join(
            f"{line.variant} {line.ready}/{'-' if line.desired is None else line.desired}"
            + ("" if line.saturation is None else f" at {line.saturation:.2f}")
            for line in self.collector.lines(time.time())
        )
        counts = f"{traffic.get('sent', 0)} sent, {traffic.get('ok', 0)} ok"
        return f"{time.time() - self.started_at:.0f} s: {counts}; {replicas}"

    def _watch_history(self) -> None:
        """Say when the history cannot be read, and when it can again: figures are missing meanwhile."""
        trouble = self.collector.trouble
        if trouble != self._trouble:
            self._tell(_unreadable(self.options.history_url, trouble) if trouble else "the history can be read again")
        self._trouble = trouble

    def _tell(self, line: str) -> None:
        """Under the table, or as a line of a run without one."""
        self.news.append(f"{time.strftime('%H:%M:%S')} {line}")
        self._say(line)

    def _report(self, part: str, line: str) -> None:
        self._tell(line)
        came_back = "restarted" in line
        try:
            self.history.add([Event(at_s=time.time(), kind="process", subject=part, message=line,
                                    severity="info" if came_back else "critical")])  # fmt: skip
        except SQLAlchemyError as error:  # what is recorded must not end what runs
            self._tell(f"not recorded: {cause_of(error)}")

    def _ask(self, port: int, path: str) -> str:
        """A page of a part that may already be gone; an empty string then."""
        try:
            return requests.get(f"http://{self.options.host}:{port}{path}", timeout=2.0).text
        except requests.RequestException:
            return ""

    def _last_words(self) -> None:
        """What only running parts can tell: the predictor's figures, and engines that crashed and came back."""
        self._predictor = predictor_figures(self._ask(self.ports.predictor, "/status"))
        self._engine_restarts = engine_restarts(self._ask(self.ports.sim, "/metrics"))

    def summary(self) -> dict[str, Any]:
        """The JSON object that the run ends with."""
        ended_at = time.time()
        since = self.started_at
        requests, events, samples = self._recorded()
        figures = report.summary(requests=requests, events=events, samples=samples, started_at=since, ended_at=ended_at)
        return {
            **figures,
            "started_at": report.timestamp(self.started_at),
            "predictor": self._predictor,
            "client": self._client_report(),
            "parts": {name: {"deaths": len(running.deaths)} for name, running in self.supervisor.running.items()},
            "engine_restarts": self._engine_restarts,
            "died": self._died(),
            "addresses": self.addresses(),
            "history": shown(self.options.history_url),
            "seed": self.options.seed,
        }

    def failed(self) -> bool:
        """Whether any part or engine died, restarted since or not."""
        return bool(self._died()) or self._engine_restarts > 0

    def _died(self) -> list[str]:
        """What died on the way, the history included."""
        trouble = self._trouble
        return [*self.supervisor.died(), *([_unreadable(self.options.history_url, trouble)] if trouble else [])]

    def _recorded(self) -> tuple[list[dict[str, Any]], ...]:
        """Requests, events and replicas of this run; nothing where the history cannot be read, which is then said."""
        read = partial(self.history.read, since_s=self.started_at)
        try:
            return read("requests"), read("events"), read("samples", signal=report.REPLICA_SIGNALS)
        except SQLAlchemyError as error:
            self._trouble = cause_of(error)
            return [], [], []

    def _client_report(self) -> Mapping[str, Any]:
        path = self.options.home / TRAFFIC_REPORT
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}


def _unreadable(url: str, trouble: str) -> str:
    """One line on a history that cannot be read.

    >>> _unreadable("sqlite:////tmp/h.sqlite3", "database disk image is malformed")
    'the history cannot be read, figures are missing: sqlite:////tmp/h.sqlite3: database disk image is malformed'
    """
    return f"the history cannot be read, figures are missing: {shown(url)}: {trouble}"


def predictor_figures(status: str) -> dict[str, Any]:
    """Of the predictor's ``/status``, what the report shows.

    >>> predictor_figures("")
    {'samples': 0, 'error': None, 'cold': True}
    """
    try:
        found = json.loads(status)
    except ValueError:
        found = {}
    return {"samples": found.get("samples", 0), "error": found.get("error"), "cold": found.get("cold", True)}


def engine_restarts(page: str) -> int:
    """Engines that the simulator had to restart, from its metrics page.

    >>> engine_restarts('sim_engine_restarts_total{variant="a"} 2.0')
    2
    """
    return int(sum(point.value for point in parse(page, {"sim_engine_restarts_total"})))
