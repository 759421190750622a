"""Several engines in virtual time, fed through a picker: the loop under the benches. Pure and deterministic.

Engines come and go while requests run, and fail as planned. A picker may place a request on two engines: one computes
the prompt, the other fetches its KV over a link that all transfers share, and gives the answer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from simulator.agenda import Agenda, Fabric
from simulator.engine import Engine
from simulator.link import LinkSpec
from simulator.members import Failure, FailureKind, Flight, Member, State
from simulator.outcome import Arrival, Loss, Outcome, finished, lost
from simulator.picks import Pick, Placement, SplitPick, round_robin
from simulator.sequence import EngineRequest, StepResult
from simulator.sequence import Sequence as Progress

__all__ = ["Arrival", "Cluster", "Failure", "FailureKind", "Loss", "Member", "Outcome", "Pick", "Placement",
           "SplitPick", "State", "round_robin"]  # fmt: skip


CLIENT_TIMEOUT_S = 3600.0


class Cluster(Agenda):
    """Engines, a picker and an agenda of what happens next."""

    def __init__(
        self,
        engines: Sequence[Engine],
        pick: Pick | SplitPick,
        *,
        timeout_s: float = CLIENT_TIMEOUT_S,
        link: LinkSpec | None = None,
        kv_bytes_per_token: float = 0.0,
        on_first_token: Callable[[int, Progress, float], object] | None = None,
        on_outcome: Callable[[Outcome], object] | None = None,
        on_step: Callable[[int, StepResult], object] | None = None,
    ) -> None:
        """Ready engines at time 0.

        Args:
            engines: numbered from 0; more may be added later.
            pick: chooses among the engines that are offered.
            timeout_s: seconds after which a client gives up.
            link: between prefill and decode engines; ``None``: prompts are there at once.
            kv_bytes_per_token: what a transfer over ``link`` moves (:func:`fleet.hardware.kv_bytes_per_token`).
            on_first_token: called when a first token exists: engine number, sequence, time.
            on_outcome: called when a request's last token exists, or it is lost; it may :meth:`submit` more.
            on_step: called when an engine's step, or leap over many, is over: engine number, what it did.

        Raises: ValueError for a timeout that is not a positive number of seconds.
        """
        if not 0.0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s is {timeout_s}; it must be above 0 and finite")
        super().__init__()
        self.members: list[Member] = []
        """Every engine that was ever added, by number."""
        self.engines: list[Engine] = []
        """Those that the picker may choose, in order of number."""
        self._offered: list[Member] = []
        self._pick, self._timeout_s = pick, timeout_s
        self._on_first_token, self._on_outcome, self._on_step = on_first_token, on_outcome, on_step
        self._fabric = None if link is None else Fabric(self, link)
        self._kv_bytes = kv_bytes_per_token
        self._planned = 0  # agenda entries of requests that come later
        self._flights: dict[str, Flight] = {}
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
        entries = self._entries
        while entries and (self._flights or self._held or self._planned or entries[0][0] <= until_s):
            self._advance(entries[0][0])
        self.now_s = max(self.now_s, until_s)
        return self._outcomes

    def submit(self, arrival: Arrival) -> None:
        """One more request; from callbacks, for the present or the future.

        Raises: ValueError for the past.
        """
        self._planned += 1
        self._plan_arrival(arrival.at_s, lambda _now_s: self._come(arrival))

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
        choice = self._pick(request, self.engines, self.now_s)
        if isinstance(choice, int):
            self._send(request, self._offered[choice], Flight(arrival))
        else:
            prefill = replace(request, output_tokens=1, tail=None, hold=True)
            flight = Flight(arrival, decode=self._offered[choice.decode])
            self._send(prefill, self._offered[choice.prefill], flight)

    def _send(self, request: EngineRequest, member: Member, flight: Flight) -> None:
        """A request, or one leg of it, to an engine."""
        flight.member = member
        if member.state in (State.DOWN, State.GONE):
            loss = Loss.REMOVED if member.state is State.GONE else member.loss
            self._flights.pop(request.request_id, None)
            self._end(flight.lost(self.now_s, loss))
            self._forget(flight)
            return
        flight.sequence = member.engine.submit(request, self.now_s)
        self._flights[request.request_id] = flight
        member.in_flight += 1
        self._replan(member)

    def _end(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)

    def _lose(self, request_id: str, loss: Loss) -> None:
        """The client of a request in flight gets no more of it."""
        flight = self._flights.pop(request_id)
        if flight.member is not None:
            flight.member.in_flight -= 1
        self._end(flight.lost(self.now_s, loss))
        if flight.holder is not None or flight.decode is not None:  # neither leg goes on without the other
            self._abort(flight)
            self._forget(flight)

    def _abort(self, flight: Flight) -> None:
        if (member := flight.member) is not None and member.state is not State.GONE:
            member.engine.abort(flight.arrival.request.request_id)
            if flight.decode is not None:  # in its last step already: nobody will fetch what it would keep
                member.engine.free_held(flight.arrival.request.request_id)
            self._replan(member)
            self._leave_if_drained(member)

    def _expire(self, now_s: float) -> None:
        """Clients whose time is up go away; their engines stop working for them."""
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, request_id, arrival_s = self._deadlines.popleft()
            flight = self._flights.get(request_id)
            if flight is not None and flight.arrival.at_s == arrival_s:
                self._lose(request_id, Loss.TIMEOUT)
                self._abort(flight)
            elif request_id in self._held and self._held[request_id].at_s == arrival_s:
                self._end(lost(self._held.pop(request_id), -1, None, at_s=now_s, loss=Loss.TIMEOUT))
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
                self._plan_turn(due_s, member.number, member.ticket)

    def _act(self, number: int, ticket: int, at_s: float) -> None:
        member = self.members[number]
        if member.ticket != ticket:
            return
        self.now_s, member.due_s = at_s, None
        result = member.engine.turn(at_s)
        self._replan(member)
        if member.engine.fetches:
            self._fetch(member)
        if result is not None:
            self._report(member, result)

    def _report(self, member: Member, result: StepResult) -> None:
        if self._on_step is not None:
            self._on_step(member.number, result)
        if self._on_first_token is not None:
            for sequence in result.first:
                if sequence.first_token_s == result.end_s and not sequence.request.hold and self._flies(sequence):
                    self._on_first_token(member.number, sequence, result.end_s)
        if result.finished:
            for sequence in result.finished:
                flight = self._flights.get(sequence.request.request_id)
                if flight is not None and flight.sequence is sequence:
                    self._land(member, flight, sequence)
            self._leave_if_drained(member)

    def _flies(self, sequence: Progress) -> bool:
        flight = self._flights.get(sequence.request.request_id)
        return flight is not None and flight.sequence is sequence

    def _land(self, member: Member, flight: Flight, sequence: Progress) -> None:
        """A sequence gave its last token: of the answer, or of the prefill leg."""
        if flight.decode is not None:
            self._hand_over(member, flight, sequence)
            return
        member.in_flight -= 1
        del self._flights[sequence.request.request_id]
        self._end(finished(member.number, flight.arrival.at_s, sequence, flight.cached_tokens))
        self._forget(flight)

    # ---- prefill here, decode there

    def _hand_over(self, member: Member, flight: Flight, sequence: Progress) -> None:
        """The prompt is computed; ``member`` keeps its blocks until the other engine has them."""
        flight.holder, flight.cached_tokens = member, sequence.cached_tokens
        decode, flight.decode = flight.decode, None
        flight.sequence = None  # what the prefill engine gave is not for the client
        if decode is not None:
            self._send(replace(flight.arrival.request, remote=True), decode, flight)

    def _fetch(self, member: Member) -> None:
        """Sequences that ``member`` has admitted need their prompts from where they were computed."""
        for sequence in member.engine.take_fetches():
            name = sequence.request.request_id
            if self._fabric is None:
                self._fetched(name)
            else:
                size = (sequence.arriving - sequence.computed) * self._kv_bytes
                self._fabric.begin(name, size, lambda _now_s, name=name: self._fetched(name))  # type: ignore[misc]

    def _fetched(self, request_id: str) -> None:
        flight = self._flights[request_id]
        self._forget(flight)
        if flight.member is not None:
            flight.member.engine.fetched(request_id)
            self._replan(flight.member)

    def _forget(self, flight: Flight) -> None:
        """Nobody needs the prefill engine's blocks any more."""
        if (holder := flight.holder) is not None:
            flight.holder = None
            holder.in_flight -= 1
            holder.engine.free_held(flight.arrival.request.request_id)
            if self._fabric is not None:
                self._fabric.cancel(flight.arrival.request.request_id)
            self._replan(holder)
            self._leave_if_drained(holder)

    # ---- engines come, go and fail

    def add_engine(self, engine: Engine, *, at_s: float | None = None, start_s: float = 0.0) -> int:
        """A new engine, paid for from ``at_s`` (default: now) and ready ``start_s`` later; its number.

        Published times of starts are in :mod:`simulator.coldstart`.
        """
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
        """Let an engine fail as planned; it is spared if it is not ready then, or suffers from something already.

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
            for request_id in [name for name, flight in self._flights.items() if flight.uses(member)]:
                self._lose(request_id, loss)

    def _fail(self, failure: Failure) -> None:
        member = self.members[failure.engine]
        if member.state is not State.READY or member.failure is not None:
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
        for one in self.members:  # ranks that step together waited for it
            self._replan(one)
        if member.state is not State.DRAINING:
            self._ready(member)
