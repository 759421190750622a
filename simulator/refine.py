"""Calibration against the simulator itself: queues and bursts are in it, and in no closed form. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final

import numpy as np

from fleet.hardware import StepCoefficients
from simulator.calibrate import Beyond, PairFit, Run, fit_pair
from simulator.cluster import Arrival, Cluster, round_robin
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.sequence import EngineRequest
from simulator.steady import Load, steady
from simulator.steptime import StepTimer
from simulator.tokens import BLOCK_TOKENS

ROUNDS: Final = 3
"""Of fit and simulation, before the last fit; by then the factors have settled."""
REQUESTS: Final = 400
"""Simulated of each run, with each of"""
SEEDS: Final = (1, 2, 3)
"""these."""
_WARM_UP: Final = 0.1
"""Share of the requests that is not counted while the batch fills."""
_MOST: Final = 5.0
"""A simulated mean further above the closed form than this is a queue that grows, and no steady state."""

ConfigOf = Callable[[StepTimer], EngineConfig]
"""The engine that was measured, with these step times."""


def fit_simulated(
    runs: Sequence[Run], prior: StepCoefficients, layers: int, config_of: ConfigOf, *, doubt: float = 1.0
) -> PairFit:
    """As :func:`simulator.calibrate.fit_pair`, with what the simulator gives for each run in place of the closed form.

    The closed form is fitted, the runs are simulated with the result, and the form is fitted anew, multiplied by what
    the simulator gave over what it gave: a search costs one simulation a round, not one a step.

    Raises: ConfigError, as ``fit_pair``.
    """
    beyond: list[Beyond] | None = None
    for _ in range(ROUNDS):
        found = fit_pair(runs, prior, layers, doubt=doubt, beyond=beyond)
        beyond = [_beyond(run, found.timer, config_of) for run in runs]
    return fit_pair(runs, prior, layers, doubt=doubt, beyond=beyond)


def _beyond(run: Run, timer: StepTimer, config_of: ConfigOf) -> Beyond:
    plain = steady(timer, run.load)
    ttft_s, e2e_s = simulate(run.load, config_of(timer))
    return Beyond(ttft=min(ttft_s / plain.ttft_s, _MOST), e2e=min(e2e_s / plain.e2e_s, _MOST))


def simulate(
    load: Load, config: EngineConfig, *, requests: int = REQUESTS, seeds: Sequence[int] = SEEDS
) -> tuple[float, float]:
    """Mean TTFT and E2E, seconds, of one engine under ``load``: Poisson arrivals, prompts that share what is cached."""
    found = [outcome for seed in seeds for outcome in _one(load, config, requests, seed)]
    return fmean(ttft_s for ttft_s, _ in found), fmean(e2e_s for _, e2e_s in found)


def _one(load: Load, config: EngineConfig, requests: int, seed: int) -> list[tuple[float, float]]:
    moments = np.cumsum(np.random.default_rng(seed).exponential(1 / load.rate_rps, requests)).tolist()
    arrivals = [
        Arrival(at_s=at_s, request=EngineRequest(
            request_id=str(number), prompt_tokens=round(load.prompt_tokens), output_tokens=round(load.output_tokens),
            block_hashes=_hashes(load, number)))
        for number, at_s in enumerate(moments)
    ]  # fmt: skip
    engine = Engine(config, ingress_s=config.timer.ingress_s)
    outcomes = Cluster([engine], round_robin()).run(arrivals)
    return [(one.ttft_s, one.e2e_s) for one in outcomes if int(one.request_id) >= _WARM_UP * requests]


def _hashes(load: Load, number: int) -> tuple[int, ...]:
    """The blocks of one prompt: the cached ones are everybody's, the others its own."""
    cached = int(load.cached_tokens) // BLOCK_TOKENS
    full = round(load.prompt_tokens) // BLOCK_TOKENS
    return tuple(block if block < cached else (number + 1 << 20) + block for block in range(full))
