"""Several engines in virtual time, fed through a picker: the loop under the benches. Pure and deterministic.

Everything happens in order of time; ties go to engines (the lower number first), then to callbacks in the order in
which they were planned, then to arrivals. Engines come and go while requests run, and fail as planned.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from simulator.engine import Engine
from simulator.members import Failure, FailureKind, Member, State
from simulator.outcome import Arrival, Loss, Outcome, finished, lost
from simulator.sequence import EngineRequest, StepResult
from simulator.sequence import Sequence as Progress

__all__ = ["Arrival", "Cluster", "Failure", "FailureKind", "Loss", "Member", "Outcome", "Pick", "State", "round_robin"]

Pick = Callable[[EngineRequest, Sequence[Engine], float], int]
"""Index of the engine that takes a request at a time; the engines are those that are offered, in order of number."""
Callback = Callable[[float], object]
"""Something to do at a time; it is given the time."""
CLIENT_TIMEOUT_S = 3600.0
_ENGINE, _CALLBACK, _ARRIVAL = 0, 1, 2


def round_robin() -> Pick:
    """Each engine in turn."""
    turn = -1

    def pick(_request: EngineRequest, engines: Sequence[Engine], _now_s: float) -> int:
        nonlocal turn
        turn = (turn + 1) % len(engines)
        return turn

    return pick


class Cluster:
    """Engines, a picker and an agenda of what happens next."""

    def __init__(
        self,
        engines: Sequence[Engine],
        pick: Pick,
        *,
        timeout_s: float = CLIENT_TIMEOUT_S,
        on_first_token: Callable[[int, Progress, float], object] | None = None,
        on_outcome: Callable[[Outcome], object] | None = None,
        on_step: Callable[[int, StepResult], object] | None = None,
    ) -> None:
        """Ready engines at time 0.

        Args:
            engines: numbered from 0; more may be added later.
            pick: chooses among the engines that are offered.
            timeout_s: seconds after which a client gives up.
            on_first_token: called when a first token exists: engine number, sequence, time.
            on_outcome: called when a request's last token exists, or it is lost; it may :meth:`submit` more.
            on_step: called when an engine's step, or leap over many, is over: engine number, what it did.

        Raises: ValueError for a timeout that is not a positive number of seconds.
        """
        if not 0.0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s is {timeout_s}; it must be above 0 and finite")
        self.now_s = 0.0
        self.members: list[Member] = []
        """Every engine that was ever added, by number."""
        self.engines: list[Engine] = []
        """Those that the picker may choose, in order of number."""
        self._offered: list[Member] = []
        self._pick, self._timeout_s = pick, timeout_s
        self._on_first_token, self._on_outcome, self._on_step = on_first_token, on_outcome, on_step
        self._agenda: list[tuple[float, int, int, int | Callback]] = []
        self._serial = 0
        self._planned = 0  # agenda entries of requests that come later
        self._flights: dict[str, tuple[Member, Progress, float]] = {}
        self._held: dict[str, Arrival] = {}  # nobody was offered when they came
        self._deadlines: deque[tuple[float, str, float]] = deque()
        self._outcomes: list[Outcome] = []
        for engine in engines:
            self.add_engine(engine)

    # ---- the run

    def run(self, arrivals: Iterable[Arrival] = (), *, until_s: float = 0.0) -> list[Outcome]:
        """Outcomes in order of completion, once every request has ended and ``until_s`` has passed.

        Args:
            arrivals: in order of time.
            until_s: callbacks and engines go on at least until then.

        Raises: ValueError for arrivals out of order.
        """
        self._outcomes = []
        for arrival in arrivals:
            if arrival.at_s < self.now_s:
                raise ValueError(f"an arrival at {arrival.at_s} s comes after {self.now_s} s")
            self._advance(arrival.at_s)
            self._receive(arrival)
        while self._agenda and (self._flights or self._held or self._planned or self._agenda[0][0] <= until_s):
            self._advance(self._agenda[0][0])
        self.now_s = max(self.now_s, until_s)
        return self._outcomes

    def submit(self, arrival: Arrival) -> None:
        """One more request; from callbacks, for the present or the future.

        Raises: ValueError for the past.
        """
        self._planned += 1
        self._plan(arrival.at_s, _ARRIVAL, lambda _now_s: self._come(arrival))

    def at(self, at_s: float, callback: Callback) -> None:
        """Call ``callback`` once at ``at_s``.

        Raises: ValueError for the past.
        """
        self._plan(at_s, _CALLBACK, callback)

    def every(self, period_s: float, callback: Callback, *, start_s: float | None = None) -> None:
        """Call ``callback`` at ``start_s`` (default: one period from now) and each ``period_s`` after it.

        Raises: ValueError for a period that is not above 0.
        """
        if not period_s > 0.0:
            raise ValueError(f"period_s is {period_s}; it must be above 0")
        first_s, turn = self.now_s + period_s if start_s is None else start_s, 0

        def again(now_s: float) -> None:
            nonlocal turn
            turn += 1
            self.at(first_s + turn * period_s, again)
            callback(now_s)

        self.at(first_s, again)

    def _plan(self, at_s: float, rank: int, what: Callback) -> None:
        if at_s < self.now_s:
            raise ValueError(f"{at_s} s is in the past; it is {self.now_s} s")
        self._serial += 1
        heapq.heappush(self._agenda, (at_s, rank, self._serial, what))

    def _advance(self, limit_s: float) -> None:
        """Everything that happens by ``limit_s``."""
        agenda = self._agenda
        while agenda and agenda[0][0] <= limit_s:
            at_s, _, key, what = heapq.heappop(agenda)
            if callable(what):
                self.now_s = at_s
                what(at_s)
            elif self.members[key].ticket == what:
                self.now_s = at_s
                self._turn(self.members[key])
        self.now_s = max(self.now_s, limit_s)

    # ---- requests

    def _come(self, arrival: Arrival) -> None:
        self._planned -= 1
        self._receive(arrival)

    def _receive(self, arrival: Arrival) -> None:
        request_id = arrival.request.request_id
        if request_id in self._flights or request_id in self._held:
            raise ValueError(f"request id {request_id!r} is in use")
        self._deadlines.append((self.now_s + self._timeout_s, request_id, arrival.at_s))
        if len(self._deadlines) == 1:
            self.at(self._deadlines[0][0], self._expire)
        self._dispatch(arrival)

    def _dispatch(self, arrival: Arrival) -> None:
        request = arrival.request
        if not self.engines:
            self._held[request.request_id] = arrival
            return
        member = self._offered[self._pick(request, self.engines, self.now_s)]
        if member.state is State.DOWN:
            self._end(lost(request.request_id, member.number, arrival.at_s, None, at_s=self.now_s, loss=member.loss))
            return
        sequence = member.engine.submit(request, self.now_s)
        self._flights[request.request_id] = member, sequence, arrival.at_s
        member.in_flight += 1
        self._replan(member)

    def _end(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)

    def _lose(self, request_id: str, loss: Loss) -> None:
        """The client of a request in flight gets no more of it."""
        member, sequence, arrival_s = self._flights.pop(request_id)
        member.in_flight -= 1
        self._end(lost(request_id, member.number, arrival_s, sequence, at_s=self.now_s, loss=loss,
                       output_tokens=member.engine.delivered_tokens(sequence)))  # fmt: skip

    def _expire(self, now_s: float) -> None:
        """Clients whose time is up go away; their engines stop working for them."""
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, request_id, arrival_s = self._deadlines.popleft()
            flight = self._flights.get(request_id)
            if flight is not None and flight[2] == arrival_s:
                self._lose(request_id, Loss.TIMEOUT)
                flight[0].engine.abort(request_id)
                self._replan(flight[0])
                self._leave_if_drained(flight[0])
            elif request_id in self._held and self._held[request_id].at_s == arrival_s:
                del self._held[request_id]
                self._end(lost(request_id, -1, arrival_s, None, at_s=now_s, loss=Loss.TIMEOUT))
        while self._deadlines and self._over(self._deadlines[0]):
            self._deadlines.popleft()
        if self._deadlines:
            self.at(self._deadlines[0][0], self._expire)

    def _over(self, deadline: tuple[float, str, float]) -> bool:
        return deadline[1] not in self._flights and deadline[1] not in self._held

    # ---- engines at work

    def _replan(self, member: Member) -> None:
        """Put on the agenda when the engine acts next, if that has changed."""
        due_s = member.engine.due_s
        if due_s != member.due_s:
            member.due_s = due_s
            member.ticket += 1
            if due_s is not None:
                heapq.heappush(self._agenda, (max(due_s, self.now_s), _ENGINE, member.number, member.ticket))

    def _turn(self, member: Member) -> None:
        member.due_s = None
        result = member.engine.turn(self.now_s)
        self._replan(member)
        if result is not None:
            self._report(member, result)

    def _report(self, member: Member, result: StepResult) -> None:
        if self._on_step is not None:
            self._on_step(member.number, result)
        if self._on_first_token is not None:
            for sequence in result.first:
                if sequence.first_token_s == result.end_s and sequence.request.request_id in self._flights:
                    self._on_first_token(member.number, sequence, result.end_s)
        for sequence in result.finished:
            flight = self._flights.pop(sequence.request.request_id, None)
            if flight is not None:
                member.in_flight -= 1
                self._end(finished(member.number, flight[2], sequence))
        if result.finished:
            self._leave_if_drained(member)

    # ---- engines come, go and fail

    def add_engine(self, engine: Engine, *, at_s: float | None = None, start_s: float = 0.0) -> int:
        """A new engine, paid for from ``at_s`` (default: now) and ready ``start_s`` later; its number."""
        member = Member(number=len(self.members), engine=engine, added_s=self.now_s if at_s is None else at_s)
        self.members.append(member)
        engine.attach(lambda: self.now_s)
        ready_s = member.added_s + start_s
        if ready_s <= self.now_s:
            self._ready(member)
        else:
            self.at(ready_s, lambda _now_s: self._ready(member) if member.state is State.STARTING else None)
        return member.number

    def drain(self, number: int, *, grace_s: float = math.inf) -> None:
        """No new requests for this engine; it leaves when it has none, or after ``grace_s`` with what it has."""
        member = self.members[number]
        if member.state is State.GONE:
            return
        member.state = State.DRAINING
        self._offer(member, offered=False)
        self._leave_if_drained(member)
        if member.state is State.DRAINING and grace_s < math.inf:
            self.at(self.now_s + grace_s, lambda _now_s: self.remove(number))

    def remove(self, number: int) -> None:
        """Take the engine away now; what it was doing is lost."""
        member = self.members[number]
        if member.state is not State.GONE:
            member.state, member.left_s = State.GONE, self.now_s
            self._offer(member, offered=False)
            self._lose_all(member, Loss.REMOVED)
            member.engine.crash()
            self._replan(member)

    def fail(self, failure: Failure) -> None:
        """Let an engine fail as planned.

        Raises: ValueError for the past.
        """
        self.at(failure.at_s, lambda _now_s: self._fail(failure))

    def replica_s(self, until_s: float | None = None) -> float:
        """Seconds of engines paid for by ``until_s`` (default: now), starting ones included."""
        return sum(member.paid_s(self.now_s if until_s is None else until_s) for member in self.members)

    def _ready(self, member: Member) -> None:
        member.state, member.ready_s = State.READY, min(member.ready_s, self.now_s)
        self._offer(member, offered=True)
        held, self._held = self._held, {}
        for arrival in held.values():
            self._dispatch(arrival)

    def _offer(self, member: Member, *, offered: bool) -> None:
        if member.offered != offered:
            member.offered = offered
            self._offered = [one for one in self.members if one.offered]
            self.engines = [one.engine for one in self._offered]

    def _leave_if_drained(self, member: Member) -> None:
        if member.state is State.DRAINING and not member.in_flight:
            self.remove(member.number)

    def _lose_all(self, member: Member, loss: Loss) -> None:
        if member.in_flight:
            for request_id in [name for name, flight in self._flights.items() if flight[0] is member]:
                self._lose(request_id, loss)

    def _fail(self, failure: Failure) -> None:
        member = self.members[failure.engine]
        if member.state is not State.READY:
            return
        member.failure = failure
        if failure.kind in (FailureKind.CRASH, FailureKind.NETWORK):
            member.state = State.DOWN
            member.loss = Loss.CRASH if failure.kind is FailureKind.CRASH else Loss.NETWORK
            self._lose_all(member, member.loss)
        if failure.kind is FailureKind.CRASH:
            member.engine.crash()
        elif failure.kind is FailureKind.HANG:
            member.engine.hang()
        elif failure.kind is FailureKind.SLOW:
            member.engine.slow_factor = failure.factor
        self._replan(member)
        if failure.seen_s < math.inf:
            self.at(failure.seen_s, lambda _now_s: self._see(member, failure))
        if failure.duration_s < math.inf:
            self.at(failure.at_s + failure.duration_s, lambda _now_s: self._heal(member, failure))

    def _see(self, member: Member, failure: Failure) -> None:
        if member.failure is failure:
            self._offer(member, offered=False)

    def _heal(self, member: Member, failure: Failure) -> None:
        member.failure = None
        if member.state is State.GONE:
            return
        if failure.kind is FailureKind.NETWORK:  # the engine learns that its clients are gone
            member.engine.abort_all()
        member.engine.resume()
        member.engine.slow_factor = 1.0
        self._replan(member)
        if member.state is not State.DRAINING:
            self._ready(member)
