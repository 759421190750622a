"""What the bench reports: bars, table, frontier, notes. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from benchmarks.autoscaling import episode, oracle
from benchmarks.autoscaling.arms import Context
from benchmarks.autoscaling.case import Case
from benchmarks.autoscaling.coarse import TRUSTED_PCT, TRUSTED_POINTS, Gap, doubtful
from benchmarks.autoscaling.need import Array
from benchmarks.autoscaling.oracle import Best, Counts
from benchmarks.autoscaling.score import Score, summary
from benchmarks.result import Bar, Outcome, Plot, Series, Table

OURS: Final = "ours"
FORECAST: Final = "perfect-forecast"
PUBLISHED_RPS: Final = 1.45
"""What a replica bears in the episode, by its publication (1.4 to 1.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A seed's case with everything that was found out beforehand."""

    context: Context
    need: Counts
    loads: Array
    """Work by bin, replica-seconds a second."""
    cached_share: float
    attaining: Best | None
    """The clairvoyant's cheapest plan that keeps the promise in the simulation; ``None``: none was found."""
    headroom: float
    """Its factor over the counted need."""


def outcome(
    note: str, settings: Sequence[Setting], scores: Mapping[str, Sequence[Score]], gaps: Sequence[Gap]
) -> Outcome:  # fmt: skip
    """Everything that the bench found."""
    case = settings[0].context.case
    found = {arm: summary(per_seed) for arm, per_seed in scores.items()}
    facts = _oracle_facts(settings)
    return Outcome(
        results={"workload": case.name, "oracle": facts, "arms": found,
                 "coarse_mode": [{**asdict(gap), "trusted": gap.trusted} for gap in gaps]},
        bars=_bars(found[OURS], drained=case.drained), tables=[_table(found, doubtful(gaps)), *_gap_table(gaps)],
        plots=[_frontier(case.name, scores, settings)], notes=_notes(note, settings, facts, gaps),
    )  # fmt: skip


def _bars(ours: Mapping[str, float], *, drained: bool) -> dict[str, Bar]:
    return {
        "attainment_pct": Bar(value=ours["attainment_pct"], unit="%", limit=">= 99"),
        "avg_replicas": Bar(value=ours["avg_replicas"], unit="replicas", limit="<= 5.0" if drained else "report"),
        "gpu_hours_vs_oracle": Bar(value=ours["gpu_hours_vs_oracle"], unit="ratio", limit="<= 1.15"),
        "scale_events_per_hour": Bar(value=ours["scale_events_per_hour"], unit="1/h", limit="report"),
        "attainment_pct_min": Bar(value=ours["attainment_pct_min"], unit="%", limit=">= 98"),
    }


def _oracle_facts(settings: Sequence[Setting]) -> dict[str, Any]:
    """Medians over seeds."""

    def median(pick: Callable[[Setting], float]) -> float:
        return statistics.median(pick(one) for one in settings)

    first, count = settings[0].context, settings[0].context.case.fleet.count
    kept = [one.attaining.replica_s * count / 3600.0 for one in settings if one.attaining]
    return {
        "replica_rps": first.bearing.rps, "rho": first.bearing.rho,
        "avg_replicas": median(lambda one: one.context.best.average),
        "gpu_hours": median(lambda one: one.context.best.replica_s * count / 3600.0),
        "starts": median(lambda one: one.context.best.starts),
        "peak_replicas": median(lambda one: float(one.need.max())),
        "cached_share": median(lambda one: one.cached_share),
        "attaining_gpu_hours": statistics.median(kept) if kept else None,
        "attaining_headroom": median(lambda one: one.headroom),
    }  # fmt: skip


_COLUMNS: Final = {
    "attained %": "attainment_pct", "worst seed %": "attainment_pct_min", "avg replicas": "avg_replicas",
    "GPU-hours": "gpu_hours", "cost $": "cost_usd", "GPU-hours / oracle": "gpu_hours_vs_oracle",
    "goodput per GPU-hour / oracle": "goodput_vs_oracle", "scale events / h": "scale_events_per_hour",
    "s under need": "short_s",
}  # fmt: skip


def _table(found: Mapping[str, Mapping[str, float]], doubted: Sequence[str]) -> Table:
    """Arms that the coarse mode is not valid for are marked."""
    rows = [[f"{arm} (?)" if arm in doubted else arm, *(figures[key] for key in _COLUMNS.values())]
            for arm, figures in found.items()]  # fmt: skip
    return Table(title="Arms (medians over seeds)", columns=["arm", *_COLUMNS], rows=rows)


def _gap_table(gaps: Sequence[Gap]) -> list[Table]:
    if not gaps:
        return []
    columns = ("arm", "fine: attained %", "coarse: attained %", "points", "fine: replicas", "coarse: replicas", "valid")
    rows = [(gap.arm, gap.fine_attained_pct, gap.coarse_attained_pct, f"{gap.attained_points:+.2f}",
             gap.fine_replicas, gap.coarse_replicas, "yes" if gap.trusted else "**no**") for gap in gaps]  # fmt: skip
    return [Table(title="Coarse against fine mode on the busiest 40 minutes", columns=columns, rows=rows)]


def _frontier(name: str, scores: Mapping[str, Sequence[Score]], settings: Sequence[Setting]) -> Plot:
    series = [Series(name=arm, x=[one.gpu_hours for one in per_seed], y=[one.attainment_pct for one in per_seed],
                     markers_only=True) for arm, per_seed in scores.items()]  # fmt: skip
    bound = [one.context.best.replica_s * one.context.case.fleet.count / 3600.0 for one in settings]
    oracles = Series(name="oracle", x=bound, y=[100.0] * len(bound), markers_only=True)
    return Plot(title=f"Attainment against GPU-hours: {name}", x_label="GPU-hours", y_label="requests within SLO, %",
                series=[*series, oracles])  # fmt: skip


def _notes(note: str, settings: Sequence[Setting], facts: Mapping[str, Any], gaps: Sequence[Gap]) -> list[str]:
    context = settings[0].context
    case, best = context.case, context.best
    low, high = case.fleet.startup_s
    mode = "coarse mode (a fluid over the engine's measured rates)" if case.curve else "fine mode (engines)"
    notes = [
        f"{note}; {case.what}",
        f"SLO per request: TTFT <= {case.slo.ttft_s:g} s (twice its lone time for a prompt that needs more) and "
        f"TPOT <= {case.slo.tpot_s:g} s",
        f"{case.fleet.shape} on {case.fleet.count} x {case.fleet.accelerator}, {case.fleet.bounds.low} to "
        f"{case.fleet.bounds.high} replicas, start-up {low:g} to {high:g} s, router {case.router}, {mode}",
        f"a replica bears {context.bearing.rps:.3g} requests/s at 99 % (measured; {context.bearing.rho:.2f} of its "
        f"work); the oracle needs {best.average:.2f} replicas with start-up, counted in bins of {case.bin_s:g} s",
        _kept(facts),
        "ours: the production collector and decision with the analyzer slo and default settings, behind an HPA; "
        "it knows the variant's model, GPUs and targets, and nothing else of the case",
    ]
    if case.drained:
        notes.append(_published(case))
    if any(one.cached_share for one in settings):
        notes.append(f"the oracle counts on the {100 * facts['cached_share']:.1f} % of prompt tokens that the static "
                     "pool finds in its caches")  # fmt: skip
    return [*notes, *_gap_note(gaps)]


def _kept(facts: Mapping[str, Any]) -> str:
    if facts["attaining_gpu_hours"] is None:
        return "no headroom tried lets the perfect forecast attain 99 %"
    hours, counted = facts["attaining_gpu_hours"], facts["gpu_hours"]
    return (f"the perfect forecast attains 99 % with {facts['attaining_headroom']:g} times the counted need: "
            f"{hours:.4g} GPU-hours (the bar compares with {counted:.4g})")  # fmt: skip


def _gap_note(gaps: Sequence[Gap]) -> list[str]:
    """The coarse mode's error, and the arms that it is not valid for."""
    if not gaps:
        return []
    kept, doubted = [gap for gap in gaps if gap.trusted], doubtful(gaps)
    told = []
    if kept:
        points, replicas = (max(map(abs, column)) for column in
                            zip(*((gap.attained_points, gap.replicas_pct) for gap in kept), strict=True))  # fmt: skip
        told.append(
            "error of the coarse mode, every arm run in both on the busiest 40 minutes: up to "
            f"{points:.1f} points of attainment and {replicas:.1f} % of replicas where it is valid"
        )
    if doubted:
        told.append(
            f"(?) the coarse mode is not valid for {', '.join(doubted)}: off by more than "
            f"{TRUSTED_POINTS:g} points or {TRUSTED_PCT:g} %; their rules flap, and a few requests decide "
            "where they turn. Run them on a shorter workload, which is simulated request by request."
        )
    return told


def _published(case: Case) -> str:
    """The clairvoyant's figure at the published capacity, beside the published one."""
    if case.name != episode.NAMES[0]:
        return "figures go on until the pool is back at its floor"
    return (f"at the published {PUBLISHED_RPS} requests/s a replica the oracle is {published_average(case):.2f} "
            "(reference 4.50); figures go on until the pool is back at its floor; published for the KEDA SLO law: "
            "95.8 % at 5.93 replicas, from predicted latencies (here: measured ones)")  # fmt: skip


def published_average(case: Case) -> float:
    """Replicas of the clairvoyant on the episode when a replica bears :data:`PUBLISHED_RPS`."""
    counts = [max(case.fleet.bounds.low, int(np.ceil(rate / PUBLISHED_RPS))) for rate, _ in episode.STAGES]
    wanted = np.repeat(counts, [int(length_s / 30) for _, length_s in episode.STAGES])
    return oracle.best(wanted, bin_s=30.0, startup_s=100.0, bounds=case.fleet.bounds,
                       initial=case.fleet.initial).average  # fmt: skip
