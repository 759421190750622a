"""A simulated fleet whose step times no formula of the predictor describes: noise, stalls, tiles. Pure by seed.

The engine's own law (host overhead, the larger of memory and compute, attention that grows with the square of a chunk)
is not the predictor's. On top of it kernels work on whole tiles of sequences, every step varies by a few per cent, and
now and then one stands still for a while.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from simulator.config import EngineConfig, engine_config
from simulator.engine import Engine
from simulator.sequence import StepResult
from simulator.steptime import StepTimer

Rng = np.random.Generator

TILE: Final = 16
"""Sequences that kernels work on at once: a batch of 17 costs as much as one of 32."""
NOISE: Final = 0.05
"""Standard deviation of a step's time, as a share."""
STALL_SHARE: Final = 3e-4
"""Share of steps that stand still (a collective that waits, a pause of the host)."""
STALL_S: Final = 0.25
"""Mean of such a pause, exponential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoughTimer(StepTimer):
    """A step timer with tiles; with a generator, noise and stalls too."""

    rng: Rng | None = None

    def step_s(
        self, *, decoding: float, context: float, prefill: int = 0, attention: float = 0.0, repeated: int = 0
    ) -> float:
        """See :class:`simulator.steptime.StepTimer`."""
        tiled = math.ceil(decoding / TILE) * TILE
        # No zero-argument super() in a dataclass with slots.
        expected_s = StepTimer.step_s(self, decoding=tiled, context=context, prefill=prefill, attention=attention,
                                      repeated=repeated)  # fmt: skip
        if self.rng is None:
            return expected_s
        stall_s = float(self.rng.exponential(STALL_S)) if self.rng.random() < STALL_SHARE else 0.0
        return expected_s * math.exp(NOISE * float(self.rng.standard_normal()) - NOISE**2 / 2) + stall_s


class RoughEngine(Engine):
    """An engine that asks its timer before every step: nothing is leapt over."""

    def _begin(self, now_s: float, *, leap: bool) -> StepResult | None:
        self._batch.pace = None
        return super()._begin(now_s, leap=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """Engines of one variant."""

    shape: str = "Llama-3.1-8B"
    accelerator: str = "a100_sxm"
    count: int = 1
    kv_tokens: int | None = 120_000
    pods: int = 4
    slow: tuple[float, ...] = ()
    """Step times of the last pods, as multiples of the others'."""
    stretch: tuple[float, ...] = field(default=())
    """Like ``slow``, for all pods from the first: small differences between machines."""


def rough_config(spec: FleetSpec, rng: Rng | None) -> EngineConfig:
    """One engine's limits, with a timer of its own."""
    config = engine_config(spec.shape, spec.accelerator, spec.count, kv_tokens=spec.kv_tokens)
    timer = config.timer
    rough = RoughTimer(coefficients=timer.coefficients, layers=timer.layers, source=timer.source, rng=rng)
    return replace(config, timer=rough)


def engines(spec: FleetSpec, rng: Rng) -> Sequence[Engine]:
    """Idle engines, each with its own noise."""
    factors = [1.0] * (spec.pods - len(spec.slow)) + list(spec.slow)
    return [
        RoughEngine(rough_config(spec, child), ingress_s=rough_config(spec, None).timer.ingress_s, slow_factor=factor)
        for factor, child in zip(factors, rng.spawn(spec.pods), strict=True)
    ]
