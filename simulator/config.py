"""What one simulated engine is: model, GPU, limits, with vLLM's defaults. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fleet.errors import ConfigError
from fleet.hardware import DEPLOYMENTS, MODELS, Precision
from simulator.lora import LoraConfig
from simulator.steptime import StepTimer, kv_tokens_for, timer_for
from simulator.tokens import BLOCK_TOKENS

MODEL_CONTEXT = 131_072
"""Longest context of the models in :mod:`fleet.hardware`."""
_LARGE_GPUS = frozenset({"h100_sxm", "h200_sxm"})
"""vLLM's API server picks larger batches on these (70 GiB and more, and no A100)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one engine."""

    timer: StepTimer
    blocks: int
    """KV blocks of :data:`simulator.tokens.BLOCK_TOKENS` tokens."""
    max_num_seqs: int
    """Sequences in one batch."""
    max_num_batched_tokens: int
    """Tokens computed in one step: prompt chunks and one for each decoding sequence."""
    max_model_len: int
    """Prompt and output tokens of one request."""
    priority_scheduling: bool = False
    """Schedule by priority, then by arrival (vLLM's ``--scheduling-policy priority``), instead of by arrival alone."""

    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        """Refuse limits that contradict each other.

        Raises: ConfigError, one line.
        """
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}",
                limit=f">= max_num_seqs {self.max_num_seqs}",
                next_step="Raise it, or lower max_num_seqs.",
            )
        if self.max_model_len > self.blocks * BLOCK_TOKENS:
            raise ConfigError(
                f"max_model_len is {self.max_model_len}", limit=f"{self.blocks * BLOCK_TOKENS} tokens of KV cache",
                next_step="Lower it, or give the engine more kv_tokens.")  # fmt: skip


def engine_config(
    shape: str,
    accelerator: str,
    count: int = 1,
    *,
    kv_tokens: int | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    max_model_len: int | None = None,
    precision: Precision = "bf16",
) -> EngineConfig:
    """A config with vLLM's defaults where ``None`` is given; a KV cache never larger than the GPU's memory.

    Raises: ConfigError for an unknown model or GPU, weights larger than memory, or limits that do not fit.
    """
    timer = timer_for(shape, accelerator, count, precision=precision)
    room = kv_tokens_for(shape, accelerator, count, precision=precision)
    tokens = room if kv_tokens is None else kv_tokens
    if not BLOCK_TOKENS <= tokens <= room:
        raise ConfigError(f"kv_tokens is {tokens}", limit=f"{BLOCK_TOKENS}..{room} on {count} x {accelerator}",
                          next_step="Leave it out to use the whole memory.")  # fmt: skip
    large = accelerator in _LARGE_GPUS
    blocks = tokens // BLOCK_TOKENS
    seqs = max_num_seqs or (1024 if large else 256)
    return EngineConfig(
        timer=timer,
        blocks=blocks,
        max_num_seqs=seqs,
        max_num_batched_tokens=max_num_batched_tokens or max(seqs, 8192 if large else 2048),
        max_model_len=max_model_len or min(MODEL_CONTEXT, blocks * BLOCK_TOKENS),
    )


def deployment_config(name: str) -> EngineConfig:
    """One engine of a published deployment, with vLLM's defaults for all that its calibration does not say.

    Raises: ConfigError for a name that :data:`fleet.hardware.DEPLOYMENTS` lacks.
    """
    found = DEPLOYMENTS.get(name)
    if found is None:
        raise ConfigError(f"unknown deployment {name!r}", limit=", ".join(sorted(DEPLOYMENTS)),
                          next_step="Choose one of those.")  # fmt: skip
    timer = StepTimer(coefficients=found.coefficients, layers=MODELS[found.model].layers, source="fitted")
    general = engine_config(found.model, found.gpu, found.count)
    blocks = found.kv_tokens // BLOCK_TOKENS
    return replace(general, timer=timer, blocks=blocks, max_model_len=min(MODEL_CONTEXT, blocks * BLOCK_TOKENS))
