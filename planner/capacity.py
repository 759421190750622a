"""What a replica bears under a promise, in closed form. Pure.

One engine runs steps: every step decodes all its sequences and computes at most ``max_num_batched_tokens`` of prompt.
Little's law closes the loop between rate, batch and step time (:mod:`simulator.steady`); a prompt waits for the prompts
before it as in a queue with general service times, shared by the replicas. Bursts beyond Poisson and router mistakes
are not in it: ``fleet plan size`` checks its answer with the simulator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.special import ndtr

from planner.demand import Demand, Promise
from planner.memory import BLOCK_TOKENS, Hardware, memory
from simulator.config import MODEL_CONTEXT, EngineConfig, engine_config
from simulator.steady import Load, Steady, steady
from simulator.steptime import INGRESS_S

MOST_BUSY: Final = 0.95
"""No replica is planned to be busier than that with prompts."""
MOST_FULL: Final = 0.9
"""No KV cache is planned to be fuller than that in the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Engine limits; ``None`` leaves vLLM's default."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One replica at a steady rate."""

    rps: float
    ttft_s: float
    """At the promise's objective."""
    tpot_s: float
    batch: float
    kv_utilisation: float
    prefill_busy: float
    """Share of time in which prompts are computed, 0..1."""

    def keeps(self, promise: Promise) -> bool:
        """Both targets are met, and the replica is not planned over its limits."""
        return (self.ttft_s <= promise.ttft_s and self.tpot_s <= promise.tpot_s
                and self.prefill_busy <= MOST_BUSY and self.kv_utilisation <= MOST_FULL)  # fmt: skip


def config_for(hardware: Hardware, limits: Limits | None = None) -> EngineConfig:
    """The engine of a replica, with its KV cache as planned.

    Raises: ConfigError when the weights do not fit.
    """
    chosen, room = limits or Limits(), memory(hardware).kv_capacity_tokens
    config = engine_config(hardware.model, hardware.gpu, hardware.tensor_parallel, max_num_seqs=chosen.max_num_seqs,
                           max_num_batched_tokens=chosen.max_num_batched_tokens,
                           precision=hardware.precision)  # fmt: skip
    blocks = room // BLOCK_TOKENS
    return replace(config, blocks=blocks, max_model_len=min(MODEL_CONTEXT, blocks * BLOCK_TOKENS))


def state_at(config: EngineConfig, demand: Demand, promise: Promise, *, rps: float, replicas: int = 1) -> State:
    """One of ``replicas`` replicas that serve ``rps`` each.

    Args:
        config: of the engine.
        demand: lengths and reuse; its own rate is not read.
        promise: its objective says at which quantile TTFT is given.
        rps: requests per second of one replica.
        replicas: how many share the queue: the more there are, the less a prompt waits.
    """
    uncached = demand.uncached_tokens
    load = Load(rate_rps=rps, prompt_tokens=demand.input_tokens, output_tokens=demand.output_tokens,
                cached_tokens=demand.input_tokens - uncached)  # fmt: skip
    found = steady(config.timer, load)
    service_s = _prefill_s(config, demand, found.batch)
    busy = rps * service_s
    spread = _spread(config, demand, found.batch)
    wait_s = _wait_s(busy, service_s, spread, replicas, 1.0 - promise.objective)
    longest_s = _prompt_s(config, demand, found.batch, _quantile(demand.length_sigma, promise.objective))
    ttft_s = found.ttft_s - found.wait_s + wait_s + longest_s - _prompt_s(config, demand, found.batch, 1.0)
    tokens = found.batch * (demand.input_tokens + demand.output_tokens / 2)
    return State(
        rps=rps, ttft_s=max(ttft_s, INGRESS_S), batch=found.batch, prefill_busy=min(busy, 1.0),
        tpot_s=_tpot_s(found, demand, promise, rps * service_s**2 * spread),
        kv_utilisation=_held(tokens, demand, config),
    )  # fmt: skip


def sustainable_rps(config: EngineConfig, demand: Demand, promise: Promise, *, replicas: int = 1) -> float:
    """The highest rate of one replica that keeps the promise; 0 when even an idle one does not."""
    low, high = 0.0, 1.0
    while high < 1e5 and _keeps(config, demand, promise, high, replicas):
        low, high = high, high * 2
    if low == 0.0 and not _keeps(config, demand, promise, 1e-3, replicas):
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _keeps(config, demand, promise, middle, replicas) else (low, middle)
    return low


def replicas_for(config: EngineConfig, demand: Demand, promise: Promise, *, most: int = 10_000) -> int | None:
    """The fewest replicas that keep the promise at ``demand.rps``; ``None`` when no number does.

    Monotone: more demand never needs fewer.
    """
    low, high = 0, 1
    while not _enough(config, demand, promise, high):
        if high >= most:
            return None
        low, high = high, min(high * 2, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _enough(config, demand, promise, middle) else (middle, high)
    return high


def _enough(config: EngineConfig, demand: Demand, promise: Promise, replicas: int) -> bool:
    return _keeps(config, demand, promise, demand.rps / replicas, replicas)


def _keeps(config: EngineConfig, demand: Demand, promise: Promise, rps: float, replicas: int) -> bool:
    state = state_at(config, demand, promise, rps=rps, replicas=replicas)
    return state.keeps(promise) and state.batch <= config.max_num_seqs


def _prefill_s(config: EngineConfig, demand: Demand, batch: float) -> float:
    """Engine time of prompts in the mean, seconds: attention grows with the square of their length."""
    c, chunk = config.timer.coefficients, demand.uncached_tokens
    more = c.eta * c.p2 * chunk**2 * (math.exp(demand.length_sigma**2) - 1)
    return _prompt_s(config, demand, batch, 1.0) + more / 1000.0


def _prompt_s(config: EngineConfig, demand: Demand, batch: float, length: float) -> float:
    """Engine time of a prompt of ``length`` times the mean, seconds."""
    c, chunk = config.timer.coefficients, demand.uncached_tokens * length
    cached = demand.input_tokens * length - chunk
    steps = max(chunk / config.max_num_batched_tokens, 1.0)
    linear = c.eta * (c.p0 * steps + c.p1 * (chunk + batch)) + config.timer.overhead_ms * steps
    attention = c.eta * 2 * c.p2 * chunk * (cached + chunk / 2)
    return (linear + attention) / 1000.0


def _spread(config: EngineConfig, demand: Demand, batch: float) -> float:
    """Mean square over squared mean of a prompt's engine time: 1 when all are alike."""
    if demand.length_sigma == 0.0:
        return 1.0
    points, weights = np.polynomial.hermite_e.hermegauss(16)
    lengths = np.exp(points * demand.length_sigma - demand.length_sigma**2 / 2)
    times = np.array([_prompt_s(config, demand, batch, float(length)) for length in lengths])
    mean = float(weights @ times)
    return float(weights @ times**2) * float(weights.sum()) / mean**2


def _tpot_s(found: Steady, demand: Demand, promise: Promise, squares: float) -> float:
    """Mean time per token that a share of ``objective`` of the requests stays under.

    While a request decodes, others' prompts come between its tokens: their number is Poisson and their times spread, so
    its mean varies by ``sqrt(step * squares / n)`` over its ``n`` tokens, and short answers vary most. That more come
    during its own prompt is within this spread.

    Args:
        found: means.
        demand: spread of the answers' lengths.
        promise: its objective.
        squares: prompts per second times their mean square of engine time.
    """
    mean = max(found.itl_s, found.step_s) - found.after_s / max(demand.output_tokens - 1, 1.0)
    points, weights = np.polynomial.hermite_e.hermegauss(12)
    tokens = np.maximum(demand.output_tokens * np.exp(points * demand.length_sigma - demand.length_sigma**2 / 2), 1.0)
    deviations = np.sqrt(mean * squares / tokens)
    low, high = mean, mean + 6 * float(deviations.max()) + 1e-9
    for _ in range(40):
        middle = (low + high) / 2
        beyond = float(weights @ ndtr((mean - middle) / deviations)) / float(weights.sum())
        low, high = (middle, high) if beyond > 1 - promise.objective else (low, middle)
    return high


def _wait_s(busy: float, service_s: float, spread: float, replicas: int, beyond: float) -> float:
    """Wait in the queue that all but a share ``beyond`` stay under (M/G/n: Kingman's mean by Sakasegawa's exponent,
    and an exponential tail)."""
    if busy >= 1.0:
        return math.inf
    probability = busy ** (math.sqrt(2 * (replicas + 1)) - 1)
    if probability <= beyond:
        return 0.0
    mean_when_waiting = spread / 2 * service_s / (replicas * (1 - busy))
    return mean_when_waiting * math.log(probability / beyond)


def _quantile(sigma: float, objective: float) -> float:
    """Length at the objective over the mean length, at least 1 (lognormal)."""
    if sigma == 0.0:
        return 1.0
    normal = {0.5: 0.0, 0.9: 1.2816, 0.95: 1.6449, 0.99: 2.3263}
    nearest = min(normal, key=lambda known: abs(known - objective))
    return max(1.0, math.exp(normal[nearest] * sigma - sigma**2 / 2))


def _held(tokens: float, demand: Demand, config: EngineConfig) -> float:
    """KV utilisation in the mean: what is cached by several is held once."""
    own = tokens * (1.0 - 0.8 * demand.cached_ratio)
    return own / (config.blocks * BLOCK_TOKENS)
