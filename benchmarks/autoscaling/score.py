"""Figures of a run beside the clairvoyant's, and their medians over seeds. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.autoscaling.case import Case
from benchmarks.autoscaling.oracle import Best, Counts
from benchmarks.autoscaling.trail import Trail


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One arm on one seed."""

    attainment_pct: float
    """Requests that met both targets."""
    avg_replicas: float
    """Paid for, starting and draining ones included, over the window."""
    gpu_hours: float
    cost_usd: float
    gpu_hours_vs_oracle: float
    """Over the same window."""
    goodput_vs_oracle: float
    """Good requests per GPU-hour, over the clairvoyant's (all of its requests are good)."""
    scale_events_per_hour: float
    short_s: float
    """Seconds with fewer serving replicas than the clairvoyant's need."""
    window_s: float


def score(case: Case, trail: Trail, need: Counts, best: Best) -> Score:
    """The figures of one run.

    The window ends with the load, or, where the publication counts so, when the pool is back at its floor; the
    clairvoyant is then charged its floor for the rest.
    """
    fleet = case.fleet
    end_s = trail.settled_s(case.span_s, fleet.bounds.low) if case.drained else case.span_s
    paid_s = trail.replica_s(end_s)
    best_s = best.replica_s + fleet.bounds.low * (end_s - case.span_s)
    share = trail.good / trail.total if trail.total else 0.0
    hours = paid_s / 3600.0
    return Score(
        attainment_pct=100.0 * share, avg_replicas=paid_s / end_s, gpu_hours=hours * fleet.count,
        cost_usd=hours * fleet.cost_per_hour, gpu_hours_vs_oracle=paid_s / best_s,
        goodput_vs_oracle=share * best_s / paid_s, scale_events_per_hour=trail.changes(end_s) * 3600.0 / end_s,
        short_s=trail.short_s(need, case.bin_s), window_s=end_s,
    )  # fmt: skip


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """Median of each figure over seeds, and the lowest attainment."""
    columns: Mapping[str, list[float]] = {
        name: [asdict(one)[name] for one in scores] for name in Score.__dataclass_fields__
    }
    medians = {name: statistics.median(values) for name, values in columns.items()}
    return {**medians, "attainment_pct_min": min(columns["attainment_pct"])}
