"""Carries decisions out: asks the platform for replicas, and says what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fleet.errors import SourceError
from fleet.history import Event
from fleet.platform import Platform
from fleet.types import Decision, Direction
from wva.collect import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Actuated:
    """What was done in one pass."""

    scaled: tuple[Decision, ...] = ()
    problems: tuple[Problem, ...] = ()


def actuate(platform: Platform, decisions: Sequence[Decision], *, dry_run: bool) -> Actuated:
    """Scale where a decision changes the request; a variant that refuses does not keep the others from scaling."""
    if dry_run or not platform.can_scale:
        return Actuated()
    scaled, problems = [], []
    for decision in decisions:
        if decision.direction is Direction.HOLD:
            continue
        try:
            platform.scale(decision.variant, decision.desired)
        except SourceError as error:
            problems.append(Problem.of("platform", error))
        else:
            scaled.append(decision)
    return Actuated(scaled=tuple(scaled), problems=tuple(problems))


def changes(decisions: Iterable[Decision], before: Iterable[Decision]) -> tuple[Decision, ...]:
    """Decisions that want something else than the ones before, and would change the replicas asked for."""
    wanted = {(decision.namespace, decision.variant): decision.desired for decision in before}
    return tuple(
        decision
        for decision in decisions
        if decision.direction is not Direction.HOLD
        and wanted.get((decision.namespace, decision.variant)) != decision.desired
    )


def scale_event(decision: Decision) -> Event:
    """The history's row for a scaling that was asked for."""
    before = int(decision.signals["requested"] or 0)
    change = f"scaled {decision.direction} from {before} to {decision.desired}"
    return Event(
        at_s=decision.at_s,
        kind="scale",
        subject=decision.variant,
        message=f"{decision.variant} {change}: {decision.detail}",
        data={
            "variant": decision.variant, "direction": str(decision.direction), "from": before,
            "to": decision.desired, "reason": str(decision.reason),
        },
    )  # fmt: skip
