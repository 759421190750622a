"""Which fleet and traffic a seed stands for. Pure.

Model, GPU, lengths, shared beginnings, the height and length of the waves are all drawn, so that no constant of the
predictor can be fitted to one of them; the mean rate is a drawn share of what the fleet can do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchmarks.predictor.traffic import TrafficSpec
from benchmarks.predictor.world import FleetSpec
from simulator.steptime import timer_for

MACHINES: Final = (
    ("Llama-3.1-8B", "a100_sxm", 1), ("Llama-3.1-8B", "h100_sxm", 1), ("Llama-3.1-8B", "l40s", 1),
    ("Qwen3-32B", "h100_sxm", 2), ("Llama-3.1-70B", "h100_sxm", 4), ("Qwen3-32B", "a100_sxm", 4),
)  # fmt: skip
"""Models and GPUs whose step times were measured."""
_BATCH: Final = 48
"""Sequences at which an engine is called busy: beyond it, latency targets of chat are missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One seed's world."""

    seed: int
    fleet: FleetSpec
    traffic: TrafficSpec
    load: float
    """Mean rate as a share of what the fleet can do at a batch of 48."""

    @property
    def name(self) -> str:
        """In a table."""
        fleet = self.fleet
        return f"{fleet.pods} x {fleet.shape} on {fleet.count} {fleet.accelerator}, load {self.load:.2f}"


def case(seed: int, *, requests: int, scale: float = 1.0) -> Case:
    """The world of a seed.

    Args:
        seed: draws everything.
        requests: length of the run.
        scale: on the rate.
    """
    rng = np.random.default_rng([seed, 2026])
    shape, accelerator, count = MACHINES[int(rng.integers(len(MACHINES)))]
    fleet = FleetSpec(shape=shape, accelerator=accelerator, count=count, kv_tokens=None, pods=int(rng.integers(3, 7)))
    traffic = TrafficSpec(
        requests=requests, swing=float(rng.uniform(0.4, 0.8)), period_s=float(rng.uniform(150.0, 400.0)),
        burst=float(rng.uniform(1.0, 2.5)),
        input_tokens=(float(rng.uniform(400.0, 1200.0)), float(rng.uniform(0.8, 1.1))),
        output_tokens=(float(rng.uniform(180.0, 350.0)), float(rng.uniform(0.5, 0.8))),
        groups=int(rng.integers(10, 40)), shared=float(rng.uniform(0.4, 0.8)),
    )  # fmt: skip
    load = float(rng.uniform(0.45, 0.75)) * scale
    return Case(seed=seed, fleet=fleet, traffic=replace(traffic, rate_rps=load * _most_rps(fleet, traffic)), load=load)


def slowed(one: Case, factor: float, *, requests: int) -> Case:
    """The same with a last pod that takes ``factor`` times as long."""
    return replace(one, fleet=replace(one.fleet, slow=(factor,)), traffic=replace(one.traffic, requests=requests))


def _most_rps(fleet: FleetSpec, traffic: TrafficSpec) -> float:
    """Requests a second of all pods at a batch of 48, prompts and answers of mean length, half of a prefix cached."""
    timer = timer_for(fleet.shape, fleet.accelerator, fleet.count)
    own = traffic.input_tokens[0] * float(np.exp(traffic.input_tokens[1] ** 2 / 2))
    prefix = traffic.shared * sum(traffic.prefix_tokens) / 2
    output = traffic.output_tokens[0] * float(np.exp(traffic.output_tokens[1] ** 2 / 2))
    context = _BATCH * (own + prefix + output / 2)
    step_s = timer.step_s(decoding=_BATCH, context=int(context))
    prompt_s = timer.step_s(decoding=0, context=0, prefill=8192) / 8192 * (own + prefix / 2)
    return fleet.pods / (output * step_s / _BATCH + prompt_s)
