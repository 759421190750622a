"""What the ``slo`` analyzer remembers of a group of variants between passes; plain records, as JSON too. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet.types import FittedLaw
from wva.slo.demand import Level, Reading
from wva.slo.forecast import Memory
from wva.slo.law import Correction
from wva.slo.mix import Mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Requests seen at one tabulated level of load, tempered and faded."""

    column: int
    good: float
    missed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantMemory:
    """What one variant taught."""

    correction: Correction
    tallies: tuple[Tally, ...] = ()
    tallied_s: float = 0.0
    fitted: FittedLaw | None = None
    """What the correction corrects, where it is neither calibrated nor estimated (:mod:`wva.slo.prior`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMemory:
    """One model, namespace and role."""

    readings: tuple[Reading, ...] = ()
    level: Level | None = None
    mix: Mix | None = None
    forecast: Memory = field(default_factory=Memory)
    variants: Mapping[str, VariantMemory] = field(default_factory=dict)
    starting: Mapping[str, float] = field(default_factory=dict)
    """Replicas that start, and when they were asked for; 0 where that was not seen."""
    leads_s: tuple[float, ...] = ()
    """Start-up times seen, newest last."""
    answered: float = 0.0
    """Requests whose latencies were measured, old ones faded."""
    missed: float = 0.0
    """Those of them that missed a target: what is spent of the error budget."""
    busy_s: float = 0.0
    """When a request was last seen."""
