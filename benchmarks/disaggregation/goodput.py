"""The highest rate that a layout bears: nine in ten requests within both limits. Pure.

Requests arrive at random, with lengths spread around their means; nothing is shared, so caches do not decide. Rates are
tried upwards in equal ratios, and between the last that is borne and the first that is not the share is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.disaggregation.layouts import SHAPE, Layout, Router
from fleet.hardware import MODELS, kv_bytes_per_token
from simulator.cluster import Arrival, Cluster, Outcome
from simulator.link import LINKS, LinkSpec
from simulator.sequence import EngineRequest
from simulator.sequence import Sequence as Progress

CARD_BYTES_S: Final = 200e9 / 8
"""A network card of 200 Gbit/s for each engine, as the source documents have it."""
SHARE: Final = 0.9
"""Of requests that must meet both limits, for a rate to count as borne (DistServe, OSDI'24)."""
COUNTED_S: Final = 120.0
"""Whose requests are counted, after half as long that fills the engines; several times an answer's own."""
LEAST: Final = 300
"""Requests counted, where the rate gives fewer."""
SPREAD: Final = 0.3
"""Of lengths: sigma of their lognormal distribution."""
RATIO: Final = 1.12
"""Between a rate and the next."""
_LOWEST_RPS_GPU, _HIGHEST_RPS_GPU = 0.03, 30.0
_MISSED: Final = 0.5
"""With a smaller share within all limits nothing higher is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens in and out."""

    prompt: int
    answer: int

    @property
    def name(self) -> str:
        """As a table writes it."""
        return f"{self.prompt}/{self.answer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits on a request's first token and on its mean time per further token, seconds."""

    ttft_s: float
    tpot_s: float

    @property
    def name(self) -> str:
        """As a table writes it."""
        return f"TTFT {self.ttft_s:g} s, TPOT {1000 * self.tpot_s:g} ms"

    def met(self, outcome: Outcome) -> bool:
        """By one request."""
        gaps = max(1, outcome.output_tokens - 1)
        return outcome.ttft_s <= self.ttft_s and (outcome.e2e_s - outcome.ttft_s) / gaps <= self.tpot_s


def counted(rate_rps: float) -> int:
    """Requests that are counted at a rate; half as many come before."""
    return max(LEAST, round(rate_rps * COUNTED_S))


def arrivals(lengths: Lengths, rate_rps: float, seed: int) -> list[Arrival]:
    """The traffic of a seed at a rate."""
    rng = np.random.default_rng([seed, lengths.prompt, lengths.answer])
    count = counted(rate_rps) * 3 // 2
    at_s = np.cumsum(rng.exponential(1.0, count)) / rate_rps
    prompts, answers = (
        np.maximum(2, np.rint(mean * rng.lognormal(-(SPREAD**2) / 2, SPREAD, count))).astype(int)
        for mean in (lengths.prompt, lengths.answer)
    )
    return [
        Arrival(at_s=float(when), request=EngineRequest(request_id=str(index), prompt_tokens=int(prompt),
                                                        output_tokens=int(answer)))
        for index, (when, prompt, answer) in enumerate(zip(at_s, prompts, answers, strict=True))
    ]  # fmt: skip


def served(layout: Layout, lengths: Lengths, rate_rps: float, seed: int) -> list[Outcome]:
    """What became of the counted requests."""
    router = Router(layout)
    link = LinkSpec(bytes_per_s=CARD_BYTES_S * layout.decode, flow_bytes_per_s=CARD_BYTES_S,
                    congestion=LINKS["uccl"].congestion)  # fmt: skip

    def first_token(_number: int, progress: Progress, _now_s: float) -> None:
        router.answering(progress.request.request_id, progress.request.prompt_tokens)

    cluster = Cluster(layout.engines(), router.pick, link=link, kv_bytes_per_token=kv_bytes_per_token(MODELS[SHAPE]),
                      on_first_token=first_token, on_outcome=lambda outcome: router.ended(outcome.request_id),
                      timeout_s=1e7)  # fmt: skip
    outcomes = cluster.run(arrivals(lengths, rate_rps, seed))
    before = counted(rate_rps) // 2
    return [one for one in outcomes if int(one.request_id) >= before]


def borne(layout: Layout, lengths: Lengths, slos: Sequence[Slo], seed: int) -> Mapping[str, float]:
    """Requests per second for each GPU that the layout bears under each of the limits; 0: not even the lowest rate."""
    shares: dict[str, list[float]] = {slo.name: [] for slo in slos}
    rates: list[float] = []
    while not rates or (rates[-1] < _HIGHEST_RPS_GPU and max(found[-1] for found in shares.values()) >= _MISSED):
        rates.append(rates[-1] * RATIO if rates else _LOWEST_RPS_GPU)
        outcomes = served(layout, lengths, rates[-1] * layout.gpus, seed)
        for slo in slos:
            shares[slo.name].append(sum(map(slo.met, outcomes)) / len(outcomes))
    return {name: _crossing(rates, found) for name, found in shares.items()}


def _crossing(rates: Sequence[float], shares: Sequence[float]) -> float:
    """The highest rate with :data:`SHARE`, on a line between the two rates around it (in the logarithm)."""
    last = max((index for index, share in enumerate(shares) if share >= SHARE), default=-1)
    if last < 0:
        return 0.0
    if last + 1 == len(rates):
        return rates[last]
    above, below = shares[last], shares[last + 1]
    return rates[last] * math.exp(math.log(rates[last + 1] / rates[last]) * (above - SHARE) / (above - below))
