"""From what was served to the figures of a stage, and from stages to those of a run. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from benchmarks.routing.run import Served
from benchmarks.routing.workloads import Slo

_PERCENTILES: Final = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One latency over requests, seconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """What one stage (or a whole run) came to."""

    rate_rps: float
    """Offered."""
    requests: int
    span_s: float
    """From the first request to the last answer."""
    output_tok_s: float
    ttft_s: Latency
    tpot_s: Latency
    e2e_s: Latency
    hit_rate: float
    """Prompt tokens found in a cache over prompt tokens."""
    goodput_rps: float
    """Requests that met both limits, over the span."""
    good_pct: float
    """Of the requests offered."""
    imbalance: float
    """Standard deviation over mean, between endpoints, of the tokens served (prompt and output)."""
    preemptions: int
    refused_pct: float = 0.0
    """Of the requests offered: those that an admission turned away."""

    def to_json(self) -> dict[str, Any]:
        """Rounded to what the seeds can tell."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def stage_figures(
    served: Sequence[Served], *, rate_rps: float, slo: Slo, pods: int, counted: float = 1.0, refused: int = 0
) -> StageFigures:  # fmt: skip
    """Figures of the requests of one stage, of which so many more were refused.

    ``counted`` as in :class:`benchmarks.routing.workloads.Workload`.

    Raises: ValueError when there is none.
    """
    if not served:
        raise ValueError("a stage without requests has no figures")
    span_s = max(one.sent_s + one.e2e_s for one in served) - min(one.sent_s for one in served)
    return _figures(served, rate_rps=rate_rps, slo=slo, pods=pods, span_s=span_s, counted=counted, refused=refused)


def run_figures(
    stages: Sequence[tuple[StageFigures, Sequence[Served]]], *, slo: Slo, pods: int, counted: float = 1.0,
    refused: int = 0,
) -> StageFigures:  # fmt: skip
    """Figures of all stages together: their spans are added, the pauses between them do not count."""
    everyone = [one for _, served in stages for one in served]
    span_s = sum(figures.span_s for figures, _ in stages)
    return _figures(everyone, rate_rps=(len(everyone) + refused) / span_s, slo=slo, pods=pods, span_s=span_s,
                    counted=counted, refused=refused)  # fmt: skip


def _figures(
    served: Sequence[Served], *, rate_rps: float, slo: Slo, pods: int, span_s: float, counted: float, refused: int
) -> StageFigures:  # fmt: skip
    good = sum(one.ttft_s <= slo.ttft_s and one.tpot_s <= slo.tpot_s for one in served)
    tokens = [0] * pods
    for one in served:
        tokens[one.engine] += one.prompt_tokens + one.output_tokens
    return StageFigures(
        rate_rps=rate_rps,
        requests=len(served) + refused,
        span_s=span_s,
        output_tok_s=counted * sum(one.output_tokens for one in served) / span_s,
        ttft_s=_latency([one.ttft_s for one in served]),
        tpot_s=_latency([one.tpot_s for one in served]),
        e2e_s=_latency([one.e2e_s for one in served]),
        hit_rate=sum(one.cached_tokens for one in served) / sum(one.prompt_tokens for one in served),
        goodput_rps=good / span_s,
        good_pct=100.0 * good / (len(served) + refused),
        refused_pct=100.0 * refused / (len(served) + refused),
        imbalance=statistics.pstdev(tokens) / statistics.fmean(tokens),
        preemptions=sum(one.preemptions for one in served),
    )


def _latency(values: Sequence[float]) -> Latency:
    p50, p90, p99 = np.percentile(values, _PERCENTILES).tolist()
    return Latency(mean=statistics.fmean(values), p50=p50, p90=p90, p99=p99)


def median_of(runs: Sequence[StageFigures], read: Callable[[StageFigures], float]) -> float:
    """The median over seeds of one figure."""
    return statistics.median(read(run) for run in runs)


MAIN: Final[Mapping[str, Callable[[StageFigures], float]]] = {
    "output_tok_s": lambda figures: figures.output_tok_s,
    "good_pct": lambda figures: figures.good_pct,
}
"""What a workload's arms are compared by; more is better."""
