"""The published 8-pod ladder behind a plain Kubernetes Service: speed of the simulator, and its error at every step.

The guide calls its baseline round robin; kube-proxy draws an endpoint at random for each connection, and TTFT at 10 and
15 requests/s, twice what turns would give, is what drawing gives. The order of the prompts is not published; here each
request draws one.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from simulator.cluster import Arrival, Cluster, Outcome
from simulator.config import deployment_config
from simulator.engine import Engine
from simulator.picks import at_random
from simulator.sequence import EngineRequest
from simulator.tokens import BLOCK_TOKENS

PODS: Final = 8
DEPLOYMENT: Final = "llm-d-optimized-baseline"
"""Whose engines (:data:`fleet.hardware.DEPLOYMENTS`)."""
GROUPS: Final = 150
PROMPTS: Final = 5
"""In each group."""
SYSTEM_TOKENS: Final = 6_000
PROMPT_TOKENS: Final = 7_576
"""Published are 6000 and 1200 tokens asked for, and 7576 on average once the text was tokenised again."""
OUTPUT_TOKENS: Final = 1_000
"""Generated for every request; end-of-sequence is ignored."""
COUNTED: Final = 0.942
"""Of them, those that the load generator found in the answers' text (942 on average); published rates count these."""
WARM_UP: Final = (15.0, 50.0)
STAGES: Final[tuple[tuple[float, float], ...]] = (
    (3, 20), (10, 20), (15, 20), (20, 38), (22, 34), (25, 30), (30, 25), (35, 21),
    (40, 38), (43, 36), (46, 33), (49, 30), (52, 29), (55, 27), (57, 26), (60, 25),
)  # fmt: skip
"""Requests per second, and seconds of sending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the run without a router (a Kubernetes service) measured at one rate."""

    output_tok_s: float
    ttft_s: float
    """Mean."""


PUBLISHED: Final[dict[float, Published]] = {
    rate: Published(output_tok_s=tokens, ttft_s=ttft)
    for rate, tokens, ttft in (
        (3, 1797, 0.415), (10, 4215, 0.630), (15, 5381, 0.881), (20, 6205, 18.103), (22, 5517, 20.171),
        (25, 5965, 21.842), (30, 5702, 24.597), (35, 5890, 24.162), (40, 6336, 68.673), (43, 6588, 72.429),
        (46, 6459, 70.084), (49, 6265, 70.659), (52, 6303, 74.326), (55, 6290, 72.564), (57, 6089, 72.329),
        (60, 6551, 75.586),
    )
}  # fmt: skip
"""Source: llm-d, guides/optimized-baseline/README.md."""
SATURATED_RPS: Final = 20.0
"""From this rate on, the published run queues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of the ladder, simulated."""

    rate_rps: float
    requests: int
    output_tok_s: float
    ttft_s: float

    @property
    def throughput_error_pct(self) -> float | None:
        """Against the published figure; ``None`` where there is none."""
        known = PUBLISHED.get(self.rate_rps)
        return 100 * (self.output_tok_s / known.output_tok_s - 1) if known else None

    @property
    def ttft_error_pct(self) -> float | None:
        """Likewise, of the mean TTFT."""
        known = PUBLISHED.get(self.rate_rps)
        return 100 * (self.ttft_s / known.ttft_s - 1) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """The whole ladder, once."""

    steps: Sequence[Step]
    """Without the warm-up."""
    requests: int
    """With the warm-up."""
    wall_s: float
    """Spent simulating; making the workload is not in it."""


def climb(
    seed: int, stages: Sequence[tuple[float, float]] = STAGES, *, clock: Callable[[], float] = time.process_time
) -> Climb:
    """Run warm-up and ``stages`` (rate, seconds); a stage begins when the one before it has drained.

    The clock is that of this process's own time on a core: the wall's, on a core that nobody else uses.
    """
    config = deployment_config(DEPLOYMENT)
    cluster = Cluster([Engine(config) for _ in range(PODS)], at_random(random.Random(f"pods {seed}").randrange))
    rng, prompts, steps, wall_s, start_s = random.Random(seed), _prompts(), [], 0.0, 0.0
    for index, (rate, seconds) in enumerate([WARM_UP, *stages]):
        arrivals = _arrivals(rng, prompts, rate, int(rate * seconds), start_s, name=f"{index}")
        begun = clock()
        outcomes = cluster.run(arrivals)
        wall_s += clock() - begun
        steps.append(_measure(rate, start_s, outcomes))
        start_s = max(outcome.end_s for outcome in outcomes)
    return Climb(steps=steps[1:], requests=sum(step.requests for step in steps), wall_s=wall_s)


def _prompts() -> list[tuple[int, ...]]:
    """Block hashes of all prompts: a group shares its system prompt's blocks."""
    shared, blocks = SYSTEM_TOKENS // BLOCK_TOKENS, PROMPT_TOKENS // BLOCK_TOKENS
    return [
        tuple(((group + 1) << 40) + ((prompt + 1 if block >= shared else 0) << 20) + block for block in range(blocks))
        for group in range(GROUPS)
        for prompt in range(PROMPTS)
    ]


def _arrivals(
    rng: random.Random, prompts: Sequence[tuple[int, ...]], rate: float, count: int, start_s: float, *, name: str
) -> list[Arrival]:  # fmt: skip
    moments = itertools.accumulate((rng.expovariate(rate) for _ in range(count)), initial=start_s)
    return [
        Arrival(at_s=at_s, request=EngineRequest(request_id=f"{name}-{index}", prompt_tokens=PROMPT_TOKENS,
                                                 output_tokens=OUTPUT_TOKENS, block_hashes=rng.choice(prompts)))
        for index, at_s in enumerate(itertools.islice(moments, 1, None))
    ]  # fmt: skip


def _measure(rate_rps: float, start_s: float, outcomes: Sequence[Outcome]) -> Step:
    seconds = max(outcome.end_s for outcome in outcomes) - start_s
    return Step(
        rate_rps=rate_rps, requests=len(outcomes),
        output_tok_s=COUNTED * sum(outcome.output_tokens for outcome in outcomes) / seconds,
        ttft_s=sum(outcome.ttft_s for outcome in outcomes) / len(outcomes),
    )  # fmt: skip
