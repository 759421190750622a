"""How far the coarse mode is from the fine one: the same arms on the same hour, in both. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchmarks.autoscaling.arms import Arm
from benchmarks.autoscaling.case import Case, fitting
from benchmarks.autoscaling.fluid import Fluid
from benchmarks.autoscaling.surface import Surface
from benchmarks.autoscaling.trail import Trail
from benchmarks.autoscaling.world import World

WINDOW_S: Final = 2400.0
"""Of the busiest time, on which every arm is run in both modes: several starts and stabilisation windows long."""
TRUSTED_POINTS: Final = 2.0
TRUSTED_PCT: Final = 5.0
"""An arm whose attainment is further off than so many points, or its replicas than so many per cent, is not to be
compared by its figures from the coarse mode: its rule flaps, and where it turns is decided by a few requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One arm in both modes on the shared window."""

    arm: str
    fine_attained_pct: float
    coarse_attained_pct: float
    fine_replicas: float
    coarse_replicas: float

    @property
    def attained_points(self) -> float:
        """Coarse less fine, percentage points."""
        return self.coarse_attained_pct - self.fine_attained_pct

    @property
    def replicas_pct(self) -> float:
        """Coarse over fine, percent."""
        return 100.0 * (self.coarse_replicas / self.fine_replicas - 1.0)

    @property
    def trusted(self) -> bool:
        """Whether the coarse mode's figures of this arm say something."""
        return abs(self.attained_points) <= TRUSTED_POINTS and abs(self.replicas_pct) <= TRUSTED_PCT


def window(case: Case, length_s: float = WINDOW_S) -> Case:
    """The part of a curve's case in the middle of which the rate is highest.

    Raises: ValueError for a case without a curve.
    """
    curve = case.curve
    if curve is None:
        raise ValueError(f"{case.name} has no rate curve")
    count = min(max(round(length_s / curve.bin_s), 2), len(curve.rates_rps))
    top = int(np.argmax(curve.rates_rps))
    first = min(max(top - count // 2, 0), len(curve.rates_rps) - count)
    part = replace(curve, rates_rps=tuple(curve.rates_rps[first : first + count]))
    return replace(case, curve=part, span_s=part.span_s)


def with_requests(case: Case, seed: int) -> Case:
    """The same traffic as requests, for the fine mode.

    Raises: ValueError for a case without a curve.
    """
    if case.curve is None:
        raise ValueError(f"{case.name} has no rate curve")
    drawn = case.curve.cycle(np.random.default_rng([seed, 5]), 1.0)
    return replace(case, curve=None, requests=fitting(drawn, case.fleet.config))


def gaps(
    case: Case, surface: Surface, makers: Sequence[Callable[[], Arm]], seed: int
) -> list[Gap]:  # fmt: skip
    """Each arm on ``case`` (a curve with its bounds set) in both modes."""
    fine = with_requests(case, seed)
    found = []
    for make in makers:
        arm = make()
        one, other = World(fine, arm, seed=seed).run(), Fluid(case, make(), surface, seed=seed).run()
        found.append(Gap(
            arm=arm.name, fine_attained_pct=_attained(one), coarse_attained_pct=_attained(other),
            fine_replicas=one.replica_s(case.span_s) / case.span_s,
            coarse_replicas=other.replica_s(case.span_s) / case.span_s,
        ))  # fmt: skip
    return found


def doubtful(gaps: Sequence[Gap]) -> list[str]:
    """Arms that the coarse mode is not valid for."""
    return [gap.arm for gap in gaps if not gap.trusted]


def _attained(trail: Trail) -> float:
    return 100.0 * trail.good / trail.total if trail.total else 0.0
