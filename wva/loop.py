"""The control loop: collect, decide, actuate, record, on a scheduler that outlives every failure."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.exc import SQLAlchemyError

from fleet.errors import ConfigError, FleetError, SourceError
from fleet.history import History, HistoryWriter
from fleet.platform import Platform
from fleet.types import Decision, FleetSnapshot
from wva import snapshot_file
from wva.actuate import Actuated, actuate, changes
from wva.collect import Collector, Problem
from wva.decide import decide
from wva.doubt import held, uncontradicted
from wva.incidents import Incidents
from wva.metrics import WvaMetrics
from wva.operator import Keeper, Operator
from wva.overrides import Overrides, told
from wva.overrides import specs as narrowed
from wva.record import Recorder
from wva.targets import Targets
from wva.types import Policy, WvaState

log = logging.getLogger(__name__)

PRUNE_EVERY_S = 3600.0
JUMP_S = 2.0
"""The clock may run ahead of or behind steady time by so much between two passes before it counts as a jump."""
REPEAT_S = 60.0
"""A problem that lasts is logged again after so long, not at every pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The outcome of the last pass that decided."""

    snapshot: FleetSnapshot
    decisions: tuple[Decision, ...]
    problems: tuple[Problem, ...]
    policy: Policy | None = None
    """How it decided."""


class Reporter(Protocol):
    """Is told of each pass that decided."""

    def __call__(
        self, at_s: float, decisions: Sequence[Decision], scaled: Sequence[Decision], problems: Sequence[Problem]
    ) -> tuple[Problem, ...]:
        """What was decided at ``at_s``, what the platform was asked for, what failed; gives what fails in telling."""
        ...


class ControlLoop:
    """One controller: what it reads, what it moves, what it remembers.

    Args:
        collector: reads the fleet.
        platform: is asked for replicas.
        history: where passes are recorded.
        policy: how decisions are damped.
        state_file: where the state survives a restart; a damaged one is reported and begun anew.
        dry_run: decide and publish only.
        decision_every_s: see :class:`wva.record.Recorder`.
        keep_s: history older than this is pruned once an hour.
        clock: Unix time in seconds.
        steady: seconds that never jump, to notice when ``clock`` does; ``None``: not looked at.
        leads: whether this controller decides; one that does not neither decides nor publishes.
        keeper: where an operator's overrides are kept; ``None``: nobody may lay any.
        targets: latency targets of variants that bring none.
        silent_after_s: an engine that was not heard for so long is told of; ``None``: the policy's ``stale_after_s``.
    """

    def __init__(
        self, collector: Collector, platform: Platform, history: History, *, policy: Policy, state_file: Path,
        dry_run: bool = False, decision_every_s: float = 30.0, keep_s: float = 14 * 86_400.0,
        clock: Callable[[], float] = time.time, steady: Callable[[], float] | None = None,
        leads: Callable[[], bool] = lambda: True, keeper: Keeper | None = None,
        targets: Targets | None = None, silent_after_s: float | None = None,
    ) -> None:  # fmt: skip
        self._collector, self._platform, self._history = collector, platform, history
        self._policy, self._state_file, self._dry_run = policy, state_file, dry_run
        self._keep_s, self._clock, self._steady, self._leads = keep_s, clock, steady, leads
        self._targets = targets or Targets()
        self._offset_s: float | None = None
        self._reporter: Reporter | None = None
        self._writer, self._recorder = HistoryWriter(history), Recorder(decision_every_s)
        self._incidents = Incidents(policy, silent_after_s=silent_after_s)
        self._write_failures = 0
        self.operator = None if keeper is None else Operator(keeper, self._writer, clock)
        self._logged: dict[str, float] = {}
        self._late_said_s = -math.inf
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self.metrics = WvaMetrics()
        self.state = self._restored()
        self.last: Pass | None = None
        self.follows = False
        """Whether another controller decides."""

    def report_to(self, reporter: Reporter) -> None:
        """Call ``reporter`` after each pass that decided."""
        self._reporter = reporter

    def start(self, interval_s: float) -> None:
        """Run a pass now and then every ``interval_s``; a pass that takes longer delays the next, never doubles it."""
        self._scheduler.add_listener(self._job_failed, EVENT_JOB_ERROR)
        self._scheduler.add_listener(lambda _event: self._late(interval_s), EVENT_JOB_MAX_INSTANCES)
        once = {"max_instances": 1, "coalesce": True, "misfire_grace_time": None}
        now = datetime.now(UTC)
        self._scheduler.add_job(self.run_once, "interval", seconds=interval_s, next_run_time=now, id="pass", **once)
        self._scheduler.add_job(self.prune, "interval", seconds=PRUNE_EVERY_S, next_run_time=now, id="prune", **once)
        self._scheduler.start()

    def hurry(self) -> None:
        """Let the next pass come now rather than at its time; one that runs is not doubled."""
        if self._scheduler.running:
            self._scheduler.modify_job("pass", next_run_time=datetime.now(UTC))

    def stop(self) -> None:
        """Let the pass in progress finish, write what is held, release the history."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
        self._writer.close()
        self._history.close()

    def run_once(self) -> Pass | None:
        """One pass; ``None`` when the platform could not be read and everything stays as it was."""
        started, now_s = time.perf_counter(), self._clock()
        knows = self._recalls(now_s)
        if not self._takes_part(now_s):
            return None
        if not knows:
            self.metrics.unavailable()
            return None
        self._notice_jump(now_s)
        try:
            snapshot, problems = self._collector.collect(now_s)
        except SourceError as error:
            self._report(Problem.of("platform", error), now_s)
            self.metrics.unavailable()
            self.metrics.timed("error", time.perf_counter() - started)
            return None
        laid = self.operator.now if self.operator else Overrides()
        specs = self._targets.completed(narrowed(snapshot, laid))
        decisions, self.state = decide(snapshot, specs, self.state, now_s, self._policy)
        decisions = told(uncontradicted(held(decisions, _source_failure(problems)), snapshot), laid)
        done = actuate(self._platform, decisions, dry_run=self._dry_run)
        self._publish(snapshot, decisions, done)
        self._tell_incidents(snapshot, read=not _source_failure(problems))
        problems = (*problems, *done.problems, *self._saved(), *self._history_problems())
        if self._reporter:
            problems = (*problems, *self._reporter(now_s, decisions, done.scaled, problems))
        for problem in problems:
            self._report(problem, now_s)
        self.last = Pass(snapshot=snapshot, decisions=decisions, problems=problems, policy=self._policy)
        self.metrics.timed("error" if problems else "success", time.perf_counter() - started)
        return self.last

    def _takes_part(self, now_s: float) -> bool:
        """Whether this controller leads; one that follows forgets its last pass, so that nothing old is served."""
        leads = self._leads()
        if leads == self.follows:
            log.info("%s", "decides from now on" if leads else "follows: another controller decides")
            self.state = without_windows(self.state)
            self._incidents.forget()
        self.follows = not leads
        self.metrics.leading(leads, now_s)
        if not leads:
            self.last = None
        return leads

    def _recalls(self, now_s: float) -> bool:
        """Whether an operator's overrides are known; until they are, what people had paused might be scaled."""
        if self.operator is None:
            return True
        try:
            self.operator.recall()
        except FleetError as error:
            self._report(Problem.of("overrides", error), now_s)
        return self.operator.known

    def _notice_jump(self, now_s: float) -> None:
        """Begin the stabilisation windows anew, and trust no age, when the clock did not run as steady time did."""
        if self._steady is None:
            return
        offset_s = now_s - self._steady()
        jump_s = 0.0 if self._offset_s is None else offset_s - self._offset_s
        self._offset_s = offset_s
        if abs(jump_s) > JUMP_S:
            line = f"clock: jumped by {jump_s:.1f} s; windows begin anew"
            self._report(Problem(component="clock", error_type="jump", line=line), now_s)
            self._collector.forget(jump_s)
            self.state = without_windows(self.state)

    def prune(self) -> None:
        """Delete history that is older than it is kept."""
        now_s = self._clock()
        try:
            removed = self._history.prune(now_s - self._keep_s)
        except SQLAlchemyError as error:
            self._report(_history_problem(error), now_s)
        else:
            log.info("history: %d rows older than %.1f days pruned", removed, self._keep_s / 86_400)

    def _publish(self, snapshot: FleetSnapshot, decisions: tuple[Decision, ...], done: Actuated) -> None:
        moved = changes(decisions, self.last.decisions if self.last else ())
        for decision in moved:
            self.metrics.scaled(decision)
            log.info("%s: %d desired, %s: %s", decision.variant, decision.desired, decision.reason, decision.detail)
        self.metrics.decided(snapshot, decisions)
        for row in self._recorder.rows(snapshot, decisions, [each for each in done.scaled if each in moved]):
            self._writer.put(row)

    def _tell_incidents(self, snapshot: FleetSnapshot, *, read: bool) -> None:
        """Log and record what happened to engines."""
        for event in self._incidents.of_pass(snapshot, read=read):
            level = logging.INFO if event.severity == "info" else logging.WARNING
            log.log(level, "%s: %s", event.subject, event.message)
            self._writer.put(event)

    def _restored(self) -> WvaState:
        if not self._state_file.exists():
            return WvaState()
        try:
            state = snapshot_file.read(WvaState, self._state_file, ours=True)
        except ConfigError as error:
            log.warning("state: %s Begun anew.", error)
            return WvaState()
        log.info("state: goes on with %d variants of %s", len(state.variants), self._state_file)
        return state

    def _saved(self) -> tuple[Problem, ...]:
        try:
            snapshot_file.write(self._state_file, self.state)
        except OSError as error:
            line = f"{self._state_file}: state not saved: {error.strerror}"
            return (Problem(component="state", error_type=type(error).__name__, line=line),)
        return ()

    def _history_problems(self) -> tuple[Problem, ...]:
        """Writes that failed since the last pass; the rows wait in the writer and are tried again."""
        failed, self._write_failures = self._writer.failures - self._write_failures, self._writer.failures
        line = f"history: writes fail and are tried again: {self._writer.last_error}"
        return (Problem(component="history", error_type="write", line=line),) if failed else ()

    def _report(self, problem: Problem, now_s: float) -> None:
        """Count each problem; log it when it is new, and once a minute while it lasts, unless that is done."""
        self.metrics.failed(problem.component, problem.error_type)
        if not problem.told and now_s - self._logged.get(problem.line, -REPEAT_S) >= REPEAT_S:
            held = " Replicas are held." if problem.component in ("platform", "source") else ""
            log.warning("%s.%s", problem.line.rstrip("."), held)
            self._logged = {problem.line: now_s, **{k: v for k, v in self._logged.items() if now_s - v < REPEAT_S}}

    def _late(self, interval_s: float) -> None:
        """A pass was due while one ran: said once a minute while that lasts."""
        now_s = self._clock()
        if now_s - self._late_said_s >= REPEAT_S:
            self._late_said_s = now_s
            log.warning("a pass takes longer than the interval of %g s, and the next waits for it. "
                        "Look for engines that do not answer, or raise WVA_INTERVAL_S.", interval_s)  # fmt: skip

    def _job_failed(self, event: JobExecutionEvent) -> None:
        """A defect in a pass: APScheduler logs it with its traceback and comes again."""
        self.metrics.failed("loop", type(event.exception).__name__)


def without_windows(state: WvaState) -> WvaState:
    """``state`` without past recommendations: each stabilisation window starts full again."""
    kept = {key: replace(each, recommendations=()) for key, each in state.variants.items()}
    return replace(state, variants=kept)


def _source_failure(problems: Sequence[Problem]) -> str:
    """Why nothing was read in this pass; empty: something was."""
    return next((one.line for one in problems if one.component == "source"), "")


def _history_problem(error: SQLAlchemyError) -> Problem:
    line = f"history: not pruned: {getattr(error, 'orig', None) or error}"
    return Problem(component="history", error_type=type(error).__name__, line=line)
