"""The bench's workloads: what arrives when, and what of it is shared. Pure: the seed is an argument.

A workload is a row of stages, each a rate for some time. A stage starts when the one before has drained, as the
published ladders do it. A request may belong to a session: its turn is sent when its time has come *and* the answer
to the turn before is there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.routing.prompts import Text, recorded_hashes, words
from simulator.sequence import EngineRequest
from simulator.workload import TimedRequest

Rng = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request of a stage."""

    at_s: float
    """Seconds after the stage's start."""
    request: EngineRequest
    session: int | None = None
    """Turns of one session go one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A rate for some time."""

    rate_rps: float
    duration_s: float
    asks: Sequence[Ask]
    """In order of time."""
    warm_up: bool = False
    """It fills the caches and is not reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a request must meet to count as good, seconds."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The engines that serve a workload."""

    shape: str = "Qwen3-32B"
    accelerator: str = "h100_sxm"
    count: int = 2
    kv_tokens: int | None = 307_328
    """As published for this model on two H100."""
    deployment: str = ""
    """A published one (:data:`fleet.hardware.DEPLOYMENTS`) instead of the four above."""
    pods: int = 8
    slow: tuple[float, ...] = ()
    """Step times of the first pods, as multiples of the others': another GPU, or a throttled one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Stages, and by what figure arms are compared."""

    name: str
    what: str
    stages: Sequence[Stage]
    slo: Slo
    main: str
    """The figure that arms are compared by: ``output_tok_s`` or ``good_pct``."""
    fleet: Fleet = Fleet()
    counted: float = 1.0
    """Output tokens that the published load generator counts, over those that the engines generate."""


# ---- the published ladder

WARM_UP: Final = (15, 50)
LADDER: Final = (
    (3, 20), (10, 20), (15, 20), (20, 38), (22, 34), (25, 30), (30, 25), (35, 21),
    (40, 38), (43, 36), (46, 33), (49, 30), (52, 29), (55, 27), (57, 26), (60, 25),
)  # fmt: skip
"""Requests per second and seconds of each stage."""
_ANSWER: Final = 1000
"""Output tokens that every engine generates for a request: end-of-sequence is ignored. (E2E - TTFT) / ITL of the
published runs is 1000 to 1001."""
_COUNTED: Final = 0.942
"""Of them, those that the load generator finds when it tokenises the answers' text; published rates count these."""
_STRETCH: Final = 7576 / 7200
"""Prompts of 6000 and 1200 random tokens are 7576 tokens on average once their text is tokenised again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """Groups of prompts that share a system prompt, as inference-perf makes them."""

    groups: int
    prompts: int
    """In each group."""
    system_tokens: int
    question_tokens: int
    output_tokens: int
    stretch: float = 1.0
    """Tokens of the text over tokens asked for."""

    def systems(self, rng: Rng) -> list[Text]:
        """One system prompt for each group."""
        count = round(self.system_tokens * self.stretch)
        return [Text().then(words(count, rng)) for _ in range(self.groups)]

    def question(self, rng: Rng) -> bytes:
        """A new question."""
        return words(round(self.question_tokens * self.stretch), rng)


GUIDE: Final = Fleet(deployment="llm-d-optimized-baseline")
"""The engines of the published ladder."""


def ladder(
    seed: int, stages: Sequence[tuple[float, float]] = LADDER, *, scale: float = 1.0, name: str = "ladder",
    fleet: Fleet = GUIDE,
) -> Workload:  # fmt: skip
    """The published ladder: 750 prompts in a shuffled order, from the first one again in every stage.

    With another name and another fleet: the same traffic on other engines.
    """
    rng = np.random.default_rng(seed)
    shape = SharedPrefix(groups=150, prompts=5, system_tokens=6000, question_tokens=1200, output_tokens=_ANSWER,
                         stretch=_STRETCH)  # fmt: skip
    prompts = [system.then(shape.question(rng)) for system in shape.systems(rng) for _ in range(shape.prompts)]
    order = [prompts[index] for index in rng.permutation(len(prompts))]
    steps = [WARM_UP, *stages]
    made = []
    for index, (rate, duration) in enumerate(steps):
        times = itertools.islice(poisson_seconds(rate * scale, rng), int(rate * scale * duration))
        made.append(_single_turn(order, times, shape.output_tokens, f"s{index}"))
    return Workload(
        name=name, what="8 pods of Qwen3-32B on 2 H100, 150 groups x 5 prompts, 7576 in, 1000 out (942 counted)",
        stages=[Stage(rate_rps=rate * scale, duration_s=duration, asks=asks, warm_up=index == 0)
                for index, ((rate, duration), asks) in enumerate(zip(steps, made, strict=True))],
        slo=Slo(ttft_s=2.0, tpot_s=0.1), main="output_tok_s", counted=_COUNTED, fleet=fleet,
    )  # fmt: skip


def _single_turn(order: Sequence[Text], times: Iterable[float], output: int, name: str) -> list[Ask]:
    return [
        Ask(at_s=at_s, request=_request(f"{name}-{index}", text, output))
        for index, (at_s, text) in enumerate(zip(times, itertools.cycle(order)))
    ]  # fmt: skip


def _request(name: str, text: Text, output: int, *, follow_up: bool = False) -> EngineRequest:
    return EngineRequest(request_id=name, prompt_tokens=text.count, output_tokens=output, block_hashes=text.hashes,
                         tail=text.tail if follow_up else None)  # fmt: skip


def poisson_seconds(rate: float, rng: Rng) -> Iterator[float]:
    """Arrival times as inference-perf draws them: a Poisson count for each second, exponential gaps that fill it."""
    for second in itertools.count():
        count = int(rng.poisson(rate))
        gaps = rng.exponential(1.0, count)
        yield from (second + np.cumsum(gaps) / gaps.sum()).tolist() if count else ()


# ---- scenarios A to D


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One of the published multi-turn scenarios at some rates."""

    name: str
    shape: SharedPrefix
    rates: tuple[float, ...]
    slo: Slo = Slo(ttft_s=2.0, tpot_s=0.1)
    duration_s: float = 100.0


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="A", rates=(65.0,), shape=SharedPrefix(
            groups=6, prompts=1000, system_tokens=1000, question_tokens=30, output_tokens=1000)),
        Scenario(name="B", rates=(14.0,), shape=SharedPrefix(
            groups=6, prompts=1000, system_tokens=1000, question_tokens=3000, output_tokens=1000)),
        Scenario(name="C", rates=(7.0, 11.0), shape=SharedPrefix(
            groups=150, prompts=5, system_tokens=6000, question_tokens=1200, output_tokens=1000)),
        Scenario(name="D", rates=(7.0,), shape=SharedPrefix(
            groups=150, prompts=5, system_tokens=1000, question_tokens=6200, output_tokens=1000)),
    )
}  # fmt: skip
"""Lengths, groups and 100 s a rate are published. Rates and limits are ours, for eight pods: the highest whole rate
(A: multiple of 5) at which round robin serves 19 in 20 requests within the limits, and for C, where caches matter most,
also the highest at which the best published rule does. Above these rates somebody must wait whatever the rule."""


def scenario(name: str, seed: int, *, scale: float = 1.0) -> Workload:
    """Scenario ``A`` to ``D``: sessions take turns, each turn carries the conversation so far."""
    spec = SCENARIOS[name]
    rng = np.random.default_rng([seed, ord(name)])
    stages = [_multi_turn(spec, rate * scale, rng, f"s{index}") for index, rate in enumerate(spec.rates)]
    shape = spec.shape
    return Workload(
        name=f"scenario-{name}", stages=stages, slo=spec.slo, main="good_pct",
        what=f"{shape.groups} groups x {shape.prompts} sessions, {shape.system_tokens} system + "
             f"{shape.question_tokens} a question, {shape.output_tokens} out",
    )  # fmt: skip


def _multi_turn(spec: Scenario, rate: float, rng: Rng, name: str) -> Stage:
    """Sessions in a shuffled order, round after round; a stage starts new conversations."""
    shape = spec.shape
    systems = shape.systems(rng)
    order = rng.permutation(shape.groups * shape.prompts).tolist()
    talks: dict[int, Text] = {}
    asks = []
    times = itertools.islice(poisson_seconds(rate, rng), int(rate * spec.duration_s))
    for index, (at_s, session) in enumerate(zip(times, itertools.cycle(order))):
        text = talks.get(session, systems[session // shape.prompts]).then(shape.question(rng))
        request = _request(f"{name}-{index}", text, shape.output_tokens, follow_up=True)
        asks.append(Ask(at_s=at_s, request=request, session=session))
        talks[session] = text.answered(shape.output_tokens)
    return Stage(rate_rps=rate, duration_s=spec.duration_s, asks=asks)


# ---- traces


def trace(
    requests: Sequence[TimedRequest], *, name: str, what: str, slo: Slo, span_s: float, fleet: Fleet, limit_tokens: int
) -> Workload:  # fmt: skip
    """Recorded requests as one stage; those longer than ``limit_tokens`` in all cannot be served and are left out."""
    asks = [
        Ask(at_s=request.arrival_s, request=EngineRequest(
            request_id=str(index), prompt_tokens=request.input_tokens, output_tokens=request.output_tokens,
            block_hashes=recorded_hashes(request)))
        for index, request in enumerate(requests)
        if request.input_tokens + request.output_tokens <= limit_tokens
    ]  # fmt: skip
    stage = Stage(rate_rps=len(asks) / span_s, duration_s=span_s, asks=asks)
    return Workload(name=name, what=what, stages=[stage], slo=slo, main="good_pct", fleet=fleet)
