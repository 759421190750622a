"""The measured experiments, simulated: one engine under inference-perf's ``shared_prefix`` load. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.hardware import Precision
from simulator.calibrate import Run
from simulator.cluster import Arrival, Cluster, Outcome, round_robin
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.published import MAX_MODEL_LEN, MAX_NUM_SEQS, Workload
from simulator.sequence import EngineRequest
from simulator.steptime import StepTimer, kv_tokens_for
from simulator.tokens import BLOCK_TOKENS

_WARM_UP = 0.1
"""Share of a stage's requests that is not counted while the batch fills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One measured experiment: its stages, and the whole of it."""

    name: str
    workload_name: str
    workload: Workload
    whole: Run
    stages: Sequence[Run]
    measured_itl_s: float
    """Of the whole, as the client counted output tokens."""

    @property
    def pair(self) -> tuple[str, str, int, Precision]:
        """Model, GPU, number of GPUs, precision."""
        return self.whole.model, self.whole.gpu, self.whole.tensor_parallel, self.whole.precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Simulated means of some requests, seconds."""

    requests: float
    ttft_s: float
    e2e_s: float
    output_tokens: float

    @property
    def itl_s(self) -> float:
        """Between tokens."""
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


def simulate(experiment: Experiment, timer: StepTimer, seed: int, *, share: float = 1.0) -> list[Means]:
    """Means of the whole experiment, then of each of its stages.

    Args:
        experiment: which one.
        timer: step times of its engine.
        seed: of the arrivals.
        share: of each stage's published duration, to simulate less.
    """
    # Text seeds do not depend on the interpreter's hash seed.
    rng = random.Random(f"{experiment.name} {seed}")
    cluster = Cluster([Engine(_config(experiment, timer), ingress_s=timer.ingress_s)], round_robin())
    prompts = _prompts(experiment.workload)
    rng.shuffle(prompts)
    stages, start_s = [], 0.0
    for index, rate in enumerate(experiment.workload.stages_rps):
        gaps = [rng.expovariate(1.0) for _ in range(int(rate * experiment.workload.stage_s * share))]
        at_s = _spread(gaps, start_s, experiment.workload.stage_s * share)
        outcomes = cluster.run(_arrivals(experiment.workload, prompts, at_s, name=f"{index}"))
        start_s = max(outcome.end_s for outcome in outcomes)
        stages.append(_means(outcomes, experiment.workload))
    return [_whole(stages), *stages]


def _config(experiment: Experiment, timer: StepTimer) -> EngineConfig:
    run = experiment.whole
    tokens = kv_tokens_for(run.model, run.gpu, run.tensor_parallel, precision=run.precision)
    return EngineConfig(
        timer=timer,
        blocks=tokens // BLOCK_TOKENS,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=run.max_num_batched_tokens or 2048,
        max_model_len=MAX_MODEL_LEN,
    )


def _prompts(workload: Workload) -> list[tuple[int, ...]]:
    """Block hashes of every prompt; those of one group share the blocks of its system prompt."""
    blocks, shared = workload.prompt_tokens // BLOCK_TOKENS, workload.system_tokens // BLOCK_TOKENS
    return [
        tuple(_hash(group, user if block >= shared else 0, block) for block in range(blocks))
        for group in range(workload.groups)
        for user in range(1, workload.users + 1)
    ]


def _hash(group: int, user: int, block: int) -> int:
    """A number of its own for each block."""
    return ((group + 1) << 40) + (user << 20) + block


def _spread(gaps: Sequence[float], start_s: float, seconds: float) -> list[float]:
    """Arrival times as inference-perf's ``constant`` load has them: exponential gaps that fill the stage exactly."""
    stretch = seconds / sum(gaps)
    return [start_s + stretch * passed for passed in itertools.accumulate(gaps)]


def _arrivals(
    workload: Workload, prompts: Sequence[tuple[int, ...]], at_s: Sequence[float], *, name: str
) -> list[Arrival]:
    return [
        Arrival(at_s=moment, request=EngineRequest(
            request_id=f"{name}-{index}", prompt_tokens=workload.prompt_tokens, output_tokens=workload.output_tokens,
            block_hashes=prompts[index % len(prompts)]))
        for index, moment in enumerate(at_s)
    ]  # fmt: skip


def _means(outcomes: Sequence[Outcome], workload: Workload) -> Means:
    counted = sorted(outcomes, key=lambda outcome: outcome.arrival_s)[int(len(outcomes) * _WARM_UP) :]
    return Means(
        requests=len(outcomes), ttft_s=sum(outcome.ttft_s for outcome in counted) / len(counted),
        e2e_s=sum(outcome.e2e_s for outcome in counted) / len(counted), output_tokens=workload.output_tokens,
    )  # fmt: skip


def _whole(stages: Sequence[Means]) -> Means:
    total = sum(stage.requests for stage in stages)
    return Means(
        requests=total, ttft_s=sum(stage.ttft_s * stage.requests for stage in stages) / total,
        e2e_s=sum(stage.e2e_s * stage.requests for stage in stages) / total, output_tokens=stages[0].output_tokens,
    )  # fmt: skip
