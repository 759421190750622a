"""Engines that go down, fall silent or hang, and their return: events for the console, from one pass to the next."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.history import Event
from fleet.types import FleetSnapshot, ReplicaObservation, ReplicaState, VariantObservation
from wva.standstill import hangs
from wva.types import Policy, key_of

NAMED: Final = 3
"""Engines of a variant that are named when several meet the same in one pass."""
LISTED: Final = 50
"""Those in the event's data."""


class Condition(enum.StrEnum):
    """How an engine is."""

    WELL = "well"
    SILENT = "silent"
    """Ready by the platform's word, but its metrics do not answer."""
    HUNG = "hung"
    DOWN = "down"
    """It ran, and does no longer; the platform may be starting it again."""


class Turn(enum.StrEnum):
    """What happens to an engine."""

    DOWN = "down"
    SILENT = "silent"
    HUNG = "hung"
    GONE = "gone"
    RESTARTED = "restarted"
    """Down and ready again between two passes."""
    READY = "ready"
    ANSWERS = "answers"
    COMPUTES = "computes"
    WHOLE = "whole"
    """A variant that lost engines has all its replicas again: others took their place, or fewer are asked for."""


_BEGINS: Final = {Condition.DOWN: Turn.DOWN, Condition.SILENT: Turn.SILENT, Condition.HUNG: Turn.HUNG}
_ENDS: Final = {Condition.DOWN: Turn.READY, Condition.SILENT: Turn.ANSWERS, Condition.HUNG: Turn.COMPUTES}
_GOOD: Final = frozenset({Turn.WHOLE, *_ENDS.values()})
_WORDS: Final[Mapping[Turn, tuple[str, str]]] = {
    Turn.DOWN: ("is down", "are down"),
    Turn.SILENT: ("does not answer: nothing heard for {time}", "do not answer: nothing heard for {time}"),
    Turn.HUNG: (
        "hangs: {running} under way, and no token for {time}",
        "hang: {running} under way, and no token for {time}",
    ),
    Turn.GONE: ("is gone, though nobody asked for fewer", "are gone, though nobody asked for fewer"),
    Turn.RESTARTED: ("went down and is ready again", "went down and are ready again"),
    Turn.READY: ("is ready again after {time}", "are ready again after {time}"),
    Turn.ANSWERS: ("answers again after {time}", "answer again after {time}"),
    Turn.COMPUTES: ("computes again after {time}", "compute again after {time}"),
}
"""Of one engine, and of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    condition: Condition
    since_s: float
    seen: ReplicaObservation
    first_s: float
    """When a pass first saw it."""


class Incidents:
    """Compares each pass with the one before. What is wrong in the first pass is told, too; what is well is not."""

    def __init__(self, rules: Policy, *, silent_after_s: float | None = None) -> None:
        """Nothing is known yet; without ``silent_after_s`` an engine is silent after the policy's ``stale_after_s``."""
        self._rules = rules
        self._silent_after_s = rules.stale_after_s if silent_after_s is None else silent_after_s
        self._known: dict[str, dict[str, _Known]] = {}
        self._short: dict[str, tuple[float, list[_Known]]] = {}
        """Variants that lost engines for good: since when, and which."""

    def forget(self) -> None:
        """Begin anew: another controller decided meanwhile."""
        self._known, self._short = {}, {}

    def of_pass(self, snapshot: FleetSnapshot, *, read: bool = True) -> Iterator[Event]:
        """What happened to engines since the last pass, one event for all of a variant that met the same.

        Args:
            snapshot: the pass.
            read: whether the source of metrics answered; where it did not, silence says nothing about the engines.
        """
        known: dict[str, dict[str, _Known]] = {}
        for entry in snapshot.variants:
            before = self._known.get(key_of(entry.spec), {})
            now = known[key_of(entry.spec)] = self._judged(entry, before, snapshot.at_s, read=read)
            turns: dict[Turn, list[_Known]] = {}
            for turn, engine in _turns(entry, before, now):
                turns.setdefault(turn, []).append(engine)
            for turn, engines in turns.items():
                yield _event(entry, turn, engines, now, snapshot.at_s)
            yield from self._made_good(entry, before, now, snapshot.at_s)
        self._known = known

    def _made_good(
        self, entry: VariantObservation, before: Mapping[str, _Known], now: Mapping[str, _Known], at_s: float
    ) -> Iterator[Event]:
        """The end of a loss: an engine that went for good does not come back under its name."""
        key = key_of(entry.spec)
        down = [one for name, one in before.items() if name not in now and one.condition is Condition.DOWN]
        if lost := [*_lost(entry, before), *down]:
            began_s = min((one.since_s for one in down), default=at_s)
            since_s, engines = self._short.get(key, (began_s, []))
            self._short[key] = since_s, [*engines, *lost]
        if key in self._short and _well(now) >= entry.requested:
            since_s, engines = self._short.pop(key)
            yield _event(entry, Turn.WHOLE, engines, now, at_s, since_s=since_s)

    def _judged(
        self, entry: VariantObservation, before: Mapping[str, _Known], at_s: float, *, read: bool
    ) -> dict[str, _Known]:
        """Engines by name; those that stop, or start for the first time, are left out."""
        found = {}
        for seen in entry.replicas:
            old, state = before.get(seen.replica.name), seen.replica.state
            if state is ReplicaState.STOPPING or (state is ReplicaState.STARTING and old is None):
                continue
            if old is not None and self._goes_on(seen, old):
                found[seen.replica.name] = old  # ten thousand engines that are well cost little
                continue
            first_s = at_s if old is None else old.first_s
            condition, since_s = self._condition(seen, first_s, at_s)
            if condition is Condition.SILENT and not read:
                if old is None:
                    continue
                condition = old.condition
            if old is not None and old.condition is condition:
                since_s = old.since_s
            found[seen.replica.name] = _Known(condition=condition, since_s=since_s, seen=seen, first_s=first_s)
        return found

    def _goes_on(self, seen: ReplicaObservation, old: _Known) -> bool:
        """Whether it is well, as it was."""
        one = seen.replica
        return (
            old.condition is Condition.WELL and one.state is ReplicaState.READY and not seen.still_s
            and seen.age_s is not None and seen.age_s <= self._silent_after_s
            and one.since_s == old.seen.replica.since_s
        )  # fmt: skip

    def _condition(self, seen: ReplicaObservation, first_s: float, at_s: float) -> tuple[Condition, float]:
        """How it is, and since when by what this pass alone tells."""
        if seen.replica.state is not ReplicaState.READY:
            return Condition.DOWN, at_s
        if hangs(seen, self._rules):
            return Condition.HUNG, at_s - (seen.still_s or 0.0)
        silent_s = at_s - (seen.replica.since_s or first_s) if seen.age_s is None else seen.age_s
        return (Condition.SILENT, at_s - silent_s) if silent_s > self._silent_after_s else (Condition.WELL, at_s)


def _turns(
    entry: VariantObservation, before: Mapping[str, _Known], now: Mapping[str, _Known]
) -> Iterator[tuple[Turn, _Known]]:
    """What happened, each with the engine as it was where something ended, else as it is."""
    for name, engine in now.items():
        old, condition = before.get(name), engine.condition
        if engine is old:
            continue
        if condition is not Condition.WELL:
            if old is None or old.condition is not condition:
                yield _BEGINS[condition], engine
        elif old is not None and old.condition is not Condition.WELL:
            yield _ENDS[old.condition], old
        elif old is not None and engine.seen.replica.since_s > old.seen.replica.since_s + 1.0:
            yield Turn.RESTARTED, engine
    yield from ((Turn.GONE, engine) for engine in _lost(entry, before))


def _lost(entry: VariantObservation, before: Mapping[str, _Known]) -> Sequence[_Known]:
    """Engines that are no longer there, beyond those that the platform was asked to do without."""
    present = {seen.replica.name for seen in entry.replicas}
    gone = [engine for name, engine in before.items() if name not in present]
    asked = max(len(before) - entry.requested, 0)
    untold = [engine for engine in gone if engine.condition is not Condition.DOWN]
    return untold[: max(len(gone) - asked, 0)]


def _well(now: Mapping[str, _Known]) -> int:
    return sum(engine.condition is Condition.WELL for engine in now.values())


def _event(
    entry: VariantObservation, turn: Turn, engines: Sequence[_Known], now: Mapping[str, _Known], at_s: float,
    *, since_s: float | None = None,
) -> Event:  # fmt: skip
    spec, names, well = entry.spec, [engine.seen.replica.name for engine in engines], _well(now)
    told = (
        f"{spec.name} has all its replicas again after {_time(at_s - since_s)}"
        if since_s is not None
        else _sentence(turn, engines, at_s)
    )
    return Event(
        at_s=at_s, kind="engine", subject=names[0] if len(names) == 1 and since_s is None else spec.name,
        message=f"{told}; {well} of {max(entry.requested, well)} replicas serve",
        severity="info" if turn in _GOOD else "warning" if well else "critical",
        data={
            "state": "resolved" if turn in _GOOD else "open", "turn": str(turn), "variant": spec.name,
            "namespace": spec.namespace, "model": spec.model, "engines": names[:LISTED],
            "endpoints": [engine.seen.replica.url for engine in engines[:LISTED]],
        },
    )  # fmt: skip


def _sentence(turn: Turn, engines: Sequence[_Known], at_s: float) -> str:
    """Plain words; times are how long it lasted, for the longest."""
    running = sum((engine.seen.sample.running or 0.0) if engine.seen.sample else 0.0 for engine in engines)
    lasted_s = at_s - min(engine.since_s for engine in engines)
    words = _WORDS[turn][len(engines) > 1].format(
        time=_time(lasted_s),
        running=f"{running:.0f} request{'' if running == 1 else 's'}",
    )
    if len(engines) == 1:
        return f"{engines[0].seen.replica.url or engines[0].seen.replica.name} {words}"
    more = f" and {len(engines) - NAMED} more" if len(engines) > NAMED else ""
    return f"{len(engines)} engines ({', '.join(one.seen.replica.name for one in engines[:NAMED])}{more}) {words}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
