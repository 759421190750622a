"""Which well-lit path to take, and which means of saving pay, with the reason for each. Pure.

The tree and the cost table are the source documents' (``docs/planner.md`` quotes them); where an estimate of our own
stands beside a published effect, the text says which is which.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from fleet.errors import ConfigError
from fleet.hardware import MODELS, ModelShape
from planner.demand import Demand
from router.located import nearest

HIGH_REUSE: Final = 0.5
LOW_REUSE: Final = 0.2
LONG_PROMPT: Final = 10_000
SMALL_B: Final = 70.0
"""Billions of parameters up to which a model is served by inference scheduling (70B itself is: see :func:`advise`)."""
PD_RATIOS: Final = ((10.0, 8), (5.0, 4), (1.0, 2))
"""Input over output tokens, and prefill replicas for one decode replica: the source documents' starting points."""


class Path(enum.StrEnum):
    """The well-lit paths."""

    SCHEDULING = "inference-scheduling"
    DISAGGREGATION = "pd-disaggregation"
    WIDE_EP = "wide-expert-parallelism"
    PLAIN = "plain-vllm-hpa"


class Network(enum.StrEnum):
    """What connects the nodes."""

    ETHERNET = "ethernet"
    RDMA = "rdma"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the advice depends on."""

    model: str
    demand: Demand
    network: Network = Network.ETHERNET
    interactive: bool = True
    idle_share: float = 0.0
    """Share of the day without a request, 0..1."""
    session_gap_s: float = 0.0
    """Mean pause between the turns of a conversation; 0: single requests."""
    high_end_gpus: bool = True
    """Several GPUs of one replica are the price driver (H100 and up)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises: ConfigError.
        """
        if self.model not in MODELS:
            raise ConfigError(f"unknown model {self.model!r}", next_step=nearest(self.model, MODELS))
        if not 0 <= self.idle_share <= 1:
            raise ConfigError(f"idle share is {self.idle_share:g}", limit="0 to 1", next_step="Give a share of a day.")

    @property
    def shape(self) -> ModelShape:
        """The model's."""
        return MODELS[self.model]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One question of the tree and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """One means of saving: whether to use it, why, and what it did where it was published."""

    name: str
    use: bool
    reason: str
    published: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The path, how it was found, and what to switch on."""

    path: Path
    steps: tuple[Step, ...]
    expected: str
    """Published range of that path."""
    means: tuple[Means, ...]
    prefill_per_decode: int | None = None
    """Starting ratio of prefill to decode replicas, on the disaggregated path."""


EXPECTED: Final = {
    Path.SCHEDULING: "TTFT 50-150 ms, 10-15k tokens/s (published for 7B-70B, prefix reuse above 50 %)",
    Path.DISAGGREGATION: "TTFT 300-500 ms, 20-40k tokens/s (published for 70B-175B, prompts of 10k tokens and more)",
    Path.WIDE_EP: "TTFT above 1 s, 50k tokens/s and more (published for mixtures of experts, offline batches)",
    Path.PLAIN: "no published range: round robin is as good as any picker where nothing is shared",
}


def advise(situation: Situation) -> Advice:
    """The path of the decision tree, and each means of the cost table."""
    path, steps = _path(situation)
    ratio = prefill_per_decode(situation.demand.ratio) if path is Path.DISAGGREGATION else None
    return Advice(path=path, steps=tuple(steps), expected=EXPECTED[path], means=_means(situation, path),
                  prefill_per_decode=ratio)  # fmt: skip


def prefill_per_decode(ratio: float) -> int:
    """Prefill replicas for one decode replica, by input over output tokens: the nearest of the documents' rows.

    >>> [prefill_per_decode(ratio) for ratio in (20.0, 6.0, 1.0, 0.2)]
    [8, 4, 2, 2]
    """
    return min(PD_RATIOS, key=lambda row: abs(row[0] - min(ratio, 10.0)))[1]


def _path(situation: Situation) -> tuple[Path, list[Step]]:
    shape, reuse = situation.shape, situation.demand.shared_ratio
    billions = shape.parameters / 1e9
    if shape.experts and billions > SMALL_B:
        return Path.WIDE_EP, [
            _step("Is it a large mixture of experts?", f"yes: {shape.experts} experts, {billions:.0f}B")
        ]
    steps = [_step("Is it a large mixture of experts?", f"no: {billions:.0f}B parameters")]
    if billions <= SMALL_B + 5:
        high = reuse > HIGH_REUSE
        steps.append(_step("Do prompts share more than half of their tokens?", f"{_yes(high)}: {reuse:.0%}"))
        if situation.demand.input_tokens > LONG_PROMPT and situation.network is Network.RDMA and billions > 30:
            steps.append(
                _step("Prompts above 10k tokens, and RDMA?", f"yes: {situation.demand.input_tokens:.0f} tokens")
            )
            return Path.DISAGGREGATION, steps
        return (Path.SCHEDULING if high else Path.PLAIN), steps
    long = situation.demand.input_tokens > LONG_PROMPT
    steps.append(_step("Are prompts longer than 10k tokens?", f"{_yes(long)}: {situation.demand.input_tokens:.0f}"))
    if long:
        return Path.DISAGGREGATION, steps
    rdma = situation.network is Network.RDMA
    steps.append(_step("Is there RDMA between the nodes?", _yes(rdma)))
    return (Path.DISAGGREGATION if rdma else Path.SCHEDULING), steps


def _means(situation: Situation, path: Path) -> tuple[Means, ...]:
    demand, reuse = situation.demand, situation.demand.shared_ratio
    idle, pause = situation.idle_share, situation.session_gap_s
    return (
        Means(name="prefix caching", use=reuse > LOW_REUSE or reuse == 0,
              reason=f"{reuse:.0%} of the prompt tokens are shared; it costs nothing where none are",
              published="GPUs -30 %, TTFT -90 % at high reuse"),
        Means(name="CPU KV offload", use=pause > 30 and reuse > LOW_REUSE,
              reason=f"turns come {pause:.0f} s apart: their KV outlives the GPU cache only in host memory",
              published="concurrency x10, TTFT +20 %, for infrequent access"),
        Means(name="P/D disaggregation with TP=1 prefill", use=path is Path.DISAGGREGATION and situation.high_end_gpus,
              reason=f"input over output is {demand.ratio:.1f}: prefill needs compute, not memory",
              published="high-end GPUs -20 %, throughput +50 % on long context"),
        Means(name="scale to zero", use=idle > 0.25 and (not situation.interactive or idle > 0.5),
              reason=f"idle {idle:.0%} of the day; the first request waits for a start",
              published="idle cost -100 %, 30 s cold start"),
        Means(name="spot GPUs", use=not situation.interactive,
              reason="batches can be retried" if not situation.interactive else "an eviction breaks answers in flight",
              published="cost -70 %, availability -10 %"),
    )  # fmt: skip


def _step(question: str, answer: str) -> Step:
    return Step(question=question, answer=answer)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
