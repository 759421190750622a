"""The published SLO episode of llm-d's KEDA benchmark (2026): a staged ramp on one variant. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.autoscaling.case import Case, Fleet, Slo
from benchmarks.autoscaling.pool import Bounds
from simulator.workload import timed

STAGES: Final = ((2.0, 330.0), (4.0, 360.0), (6.0, 360.0), (8.0, 360.0), (10.0, 360.0), (4.0, 360.0), (1.0, 300.0))
"""Requests per second and seconds of each stage (llm-d's SLO-aware benchmark)."""
NAMES: Final = ("slo_episode", "slo_episode_poisson")


def episode(
    seed: int, *, scale: float = 1.0, even: bool = True, stages: Sequence[tuple[float, float]] = STAGES
) -> Case:  # fmt: skip
    """The published episode: 4000 +- 300 tokens in (3500..4500), 1000 +- 80 out (900..1100), constant rates."""
    rng = np.random.default_rng(seed)
    arrivals: list[float] = []
    start_s = 0.0
    for rate, length_s in stages:
        count = round(rate * scale * length_s)
        times = (np.arange(count) + rng.random()) / count if even else np.sort(rng.random(rng.poisson(count)))
        arrivals += (start_s + times * length_s).tolist()
        start_s += length_s
    inputs = np.clip(rng.normal(4000, 300, len(arrivals)), 3500, 4500)
    outputs = np.clip(rng.normal(1000, 80, len(arrivals)), 900, 1100)
    return Case(
        name="slo_episode" if even else "slo_episode_poisson",
        what="Qwen3-32B on 2 H100, 4000 in, 1000 out, 2-4-6-8-10-4-1 requests/s, 3 to 8 replicas",
        fleet=Fleet(bounds=Bounds(low=3, high=8), initial=3, startup_s=(100.0, 100.0)),
        slo=Slo(), span_s=start_s, bin_s=10.0, poisson=not even, drained=True, tail_s=1200.0,
        requests=timed(np.array(arrivals), inputs, outputs),
    )  # fmt: skip
