"""From runs to the JSON results, the bars and the notes. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.result import Bar
from benchmarks.routing.figures import MAIN, StageFigures, median_of
from benchmarks.routing.published import LADDER, SATURATED_RPS
from benchmarks.routing.workloads import Slo

OURS: Final = "ours"
WITHOUT: Final = "ours-without-predictor"
"""The same profile without a latency model."""
UNTOLD: Final = "ours-untold"
"""The same profile without an SLO file: nobody tells it what is late."""
REFUSES: Final = "ours-refuses"
"""The same profile behind an admission that refuses at once whom no engine is likely to serve within the limits."""
WAITS: Final = "ours-waits"
"""The same, but these wait while their TTFT limit leaves time."""
NOT_RIVALS: Final = frozenset({OURS, REFUSES, WAITS, "ours-precise", "clairvoyant", WITHOUT, UNTOLD,
                               "ours-without-counters", "ours-without-both"})  # fmt: skip
"""Ours is compared with every other arm: these know more, or are ours."""
PAIRS: Final = (
    (OURS, WITHOUT), (OURS, UNTOLD), (WAITS, REFUSES), (WAITS, OURS), ("ours-without-counters", "ours-without-both"),
    ("documents", "documents-without-predictor"), (OURS, "token-load"),
)  # fmt: skip
"""With the latency model and without it, with targets and without, and beside plain token load."""
SERVICE: Final = "random"
"""What the published plain Service is held against: kube-proxy draws an endpoint for each new connection. The guide
calls it round robin, but turns would give half the TTFT that it published at 10 and 15 requests/s."""
_TOP: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arm on one workload with one seed."""

    workload: str
    what: str
    main: str
    slo: Slo
    arm: str
    seed: int
    stages: Sequence[StageFigures]
    whole: StageFigures
    prediction_error: float | None = None


def workloads(runs: Sequence[Run]) -> list[str]:
    """Names, in order of appearance."""
    return list(dict.fromkeys(run.workload for run in runs))


def arms(runs: Sequence[Run]) -> list[str]:
    """Names, in order of appearance."""
    return list(dict.fromkeys(run.arm for run in runs))


def of(runs: Sequence[Run], workload: str, arm: str) -> list[Run]:
    """The runs of one arm on one workload, by seed."""
    return [run for run in runs if (run.workload, run.arm) == (workload, arm)]


def pairs(runs: Sequence[Run], workload: str) -> list[tuple[str, str, float, float]]:
    """Of :data:`PAIRS`, those that ran: how far the first is ahead by the main figure, and how much lower its mean
    end-to-end latency is, both in percent of the second's."""
    found = []
    for one, other in PAIRS:
        first, second = of(runs, workload, one), of(runs, workload, other)
        if first and second:
            slower = median_of([run.whole for run in first], _e2e) / median_of([run.whole for run in second], _e2e)
            ahead = _ahead(main_figure(first), main_figure(second))
            found.append((one, other, ahead, 100.0 * (1.0 - slower)))
    return found


def main_figure(runs: Sequence[Run]) -> float:
    """The median over seeds of the workload's main figure."""
    return median_of([run.whole for run in runs], MAIN[runs[0].main])


def advantage_pct(runs: Sequence[Run], workload: str) -> tuple[float, str]:
    """Ours over the best rival by the main figure's median over seeds, in percent, and that rival."""
    rivals = {arm: main_figure(of(runs, workload, arm)) for arm in arms(runs) if arm not in NOT_RIVALS}
    best = max(rivals, key=lambda arm: rivals[arm])
    return _ahead(main_figure(of(runs, workload, OURS)), rivals[best]), best


def _ahead(ours: float, best: float) -> float:
    return 100.0 * (ours / best - 1.0) if best > 0 else 0.0


def quicker_pct(runs: Sequence[Run], workload: str) -> tuple[float, str]:
    """How much lower the mean end-to-end latency of the best rival is than ours, in percent, and that rival."""
    mean = {arm: median_of([run.whole for run in of(runs, workload, arm)], _e2e) for arm in arms(runs)}
    best = min((arm for arm in mean if arm not in NOT_RIVALS), key=lambda arm: mean[arm])
    return 100.0 * (mean[OURS] / mean[best] - 1.0), best


def worst_seed_pct(runs: Sequence[Run], workload: str) -> float:
    """Ours over the best rival of the same seed, in percent: the worst seed."""
    seeds = {run.seed for run in runs}
    return min(advantage_pct([run for run in runs if run.seed == seed], workload)[0] for seed in seeds)


def step(runs: Sequence[Run], arm: str, rate: float, read: Callable[[StageFigures], float]) -> float:
    """The median over seeds of one figure at one rate of the ladder."""
    return median_of([stage for run in of(runs, "ladder", arm) for stage in run.stages if stage.rate_rps == rate], read)


def service_errors_pct(runs: Sequence[Run], arm: str = SERVICE) -> dict[float, tuple[float, float]]:
    """By rate: an arm's signed errors in tokens/s and mean TTFT against the published plain Service."""
    return {
        rate: (
            100.0 * (step(runs, arm, rate, _tok_s) / row.service_tok_s - 1.0),
            100.0 * (step(runs, arm, rate, _ttft) / row.service_ttft_s - 1.0),
        )
        for rate, row in LADDER.items()
    }


def _tok_s(figures: StageFigures) -> float:
    return figures.output_tok_s


def _ttft(figures: StageFigures) -> float:
    return figures.ttft_s.mean


def _e2e(figures: StageFigures) -> float:
    return figures.e2e_s.mean


def bars(runs: Sequence[Run], *, ladder: bool) -> dict[str, Bar]:
    """The bars that these runs can tell; those of the ladder need it at its published rates."""
    found: dict[str, Bar] = {}
    if ladder:
        errors = service_errors_pct(runs)
        found["rr_throughput_error_pct_max"] = Bar(
            value=max(abs(throughput) for throughput, _ in errors.values()), unit="%", limit="<= 10"
        )
        found["rr_ttft_saturated_error_pct_max"] = Bar(
            value=max(abs(ttft) for rate, (_, ttft) in errors.items() if rate >= SATURATED_RPS), unit="%", limit="<= 20"
        )
        found["ours_tok_s_at_60"] = Bar(value=step(runs, OURS, _TOP, _tok_s), unit="tokens/s", limit=">= 17000")
        found["ours_ttft_p90_s_at_60"] = Bar(
            value=step(runs, OURS, _TOP, lambda figures: figures.ttft_s.p90), unit="s", limit="<= 0.22")  # fmt: skip
    worst = min(advantage_pct(runs, workload)[0] for workload in workloads(runs))
    found["ours_vs_best_arm_worst_pct"] = Bar(value=worst, unit="%", limit=">= -2")
    with_it = [pair[2] for workload in workloads(runs) for pair in pairs(runs, workload) if pair[:2] == (OURS, WITHOUT)]
    if with_it:
        found["with_vs_without_predictor_worst_pct"] = Bar(value=min(with_it), unit="%", limit=">= -2")
    return found


def results(runs: Sequence[Run]) -> dict[str, Any]:
    """By workload and arm: medians over seeds of the whole run and of each stage, and the main figure of each seed."""
    return {workload: _workload(runs, workload) for workload in workloads(runs)}


def _workload(runs: Sequence[Run], workload: str) -> dict[str, Any]:
    first = of(runs, workload, OURS)[0]
    ahead, best = advantage_pct(runs, workload)
    later, quickest = quicker_pct(runs, workload)
    return {
        "what": first.what,
        "main_figure": first.main,
        "slo": {"ttft_s": first.slo.ttft_s, "tpot_s": first.slo.tpot_s},
        "best_rival": best,
        "ours_vs_best_pct": round(ahead, 2),
        "ours_vs_best_worst_seed_pct": round(worst_seed_pct(runs, workload), 2),
        "lowest_e2e_rival": quickest,
        "ours_e2e_vs_lowest_pct": round(later, 2),
        "pairs": {f"{one} against {other}": {"ahead_pct": round(ahead, 2), "e2e_lower_pct": round(lower, 2)}
                  for one, other, ahead, lower in pairs(runs, workload)},
        "arms": {arm: _arm(of(runs, workload, arm)) for arm in arms(runs)},
    }  # fmt: skip


def _arm(runs: Sequence[Run]) -> dict[str, Any]:
    errors = [run.prediction_error for run in runs if run.prediction_error is not None]
    return {
        "main_by_seed": {str(run.seed): round(MAIN[run.main](run.whole), 3) for run in runs},
        "whole": _median([run.whole for run in runs]),
        "stages": [_median(list(stages)) for stages in zip(*(run.stages for run in runs), strict=True)],
        "ttft_prediction_median_error": round(statistics.median(errors), 3) if errors else None,
    }


def _median(figures: Sequence[StageFigures]) -> dict[str, Any]:
    """Each figure's median over seeds."""
    found: dict[str, Any] = _middle([figure.to_json() for figure in figures])
    return found


def _middle(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _middle([value[name] for value in values]) for name in values[0]}
    return statistics.median(values)


def notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know."""
    told = [
        "Ours is the router's default profile through its own scheduler, books and prefix index; its latency model "
        "learns from the run's own answers (refit every 20 s on up to 2000 samples; in production 5 s and 10 000).",
        "Ours has the workload's limits as its model's targets, as an SLO file gives them (ADR 51); its requests name "
        "none. ours-untold (--extra) has no targets at all. No rule of others takes any.",
        "Every arm knows what a router knows: engine metrics of up to 1 s ago (0.05 s for llm-d's rules, as they "
        "scrape), its own requests in flight, and an approximate prefix index. ours-precise follows KV events; "
        "clairvoyant also knows answers' lengths and engines' speeds.",
        "Compared by: output tokens/s over the whole drained ladder; elsewhere the share of requests within both "
        "limits. Medians over seeds.",
    ]
    if "ladder" in workloads(runs):
        told.append(
            "Ladder: step times are fitted to half of its published steps (docs/simulator.md). The published plain "
            "Service is held against the arm 'random': kube-proxy draws an endpoint for each connection. Published "
            "TTFT of llm-d's arm holds some 0.05 to 0.1 s of gateway and client that no arm here has."
        )
        told += [_worst_step(runs, arm) for arm in (SERVICE, "round-robin") if of(runs, "ladder", arm)]
    return told


def _worst_step(runs: Sequence[Run], arm: str) -> str:
    rates = {stage.rate_rps for stage in of(runs, "ladder", arm)[0].stages}
    if not rates >= set(LADDER):
        return f"{arm}: not at the published rates, so there is nothing to hold it against"
    errors = service_errors_pct(runs, arm)
    worst = max(errors, key=lambda rate: abs(errors[rate][0]))
    return f"{arm} against the published Service: tokens/s at most {errors[worst][0]:+.1f} % off, at {worst:g}/s"
