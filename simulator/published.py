"""Workloads of published measurements, as facts. Pure.

inference-perf's ``shared_prefix`` workloads behind inference-sim's measured runs: from the ``profile.yaml`` files in
inference-sim/training (general, codegen, roleplay) and the data's README in inference-sim/inference-sim (reasoning).
A prompt is a system prompt and a question; there are few, and they come again and again, so after the first round
vLLM's prefix cache holds all of a prompt but its last block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulator.steady import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One ``shared_prefix`` workload."""

    groups: int
    """System prompts."""
    users: int
    """Questions per system prompt."""
    system_tokens: int
    question_tokens: int
    output_tokens: int
    stages_rps: tuple[float, ...]
    stage_s: float

    @property
    def prompt_tokens(self) -> int:
        """System prompt and question."""
        return self.system_tokens + self.question_tokens

    def load(self, rate_rps: float) -> Load:
        """One stage of it, the prompts in the prefix cache."""
        new = Load(rate_rps=rate_rps, prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens)
        return Load(rate_rps=rate_rps, prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens,
                    cached_tokens=new.full_hit())  # fmt: skip


WORKLOADS: Final[dict[str, Workload]] = {
    "general": Workload(groups=9, users=5, system_tokens=100, question_tokens=447, output_tokens=248,
                        stages_rps=(2.5, 6.0), stage_s=600.0),
    "codegen": Workload(groups=11, users=4, system_tokens=100, question_tokens=466, output_tokens=247,
                        stages_rps=(5.0, 10.0), stage_s=600.0),
    "roleplay": Workload(groups=10, users=5, system_tokens=150, question_tokens=600, output_tokens=251,
                         stages_rps=(6.0,), stage_s=1200.0),
    "reasoning": Workload(groups=23, users=1, system_tokens=100, question_tokens=934, output_tokens=1448,
                          stages_rps=(1.0,), stage_s=1200.0),
}  # fmt: skip
"""Rates are published but for ``general``, which was run at a reduced rate. The means of its stages and of the whole
give the stages' shares of the requests, 5 to 12; where a model was also run with ``codegen`` (Llama-4-Scout,
Llama-3.1-70B), interpolating the latency between that workload's rates gives 5.8 and 6.2 requests/s for the second
stage. Hence 2.5 and 6."""

MAX_NUM_SEQS: Final = 128
MAX_MODEL_LEN: Final = 4096
"""Of the engines in these measurements (``exp-config.yaml``)."""
GPU_NAMES: Final = {"H100": "h100_sxm"}
"""Their names of GPUs in ours."""
