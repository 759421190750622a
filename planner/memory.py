"""GPU memory of one replica: weights, KV cache, and what fits. Pure.

KV bytes of a token are ``2 * layers * kv_heads * head_dim * bytes``: grouped-query models keep few KV heads, so a
formula with the hidden size (multi-head attention) is eight times too large for Llama-3.1-70B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fleet.errors import ConfigError
from fleet.hardware import GIB, GPUS, MODELS, Precision, kv_bytes_per_token, kv_capacity_tokens, weights_gib
from router.located import nearest

BLOCK_TOKENS: Final = 16
"""vLLM's KV block."""
DEFAULT_UTILISATION: Final = 0.9
"""vLLM's ``--gpu-memory-utilization`` at which the published KV capacities were measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One replica's hardware: a model on some GPUs of one kind."""

    model: str
    gpu: str
    tensor_parallel: int = 1
    precision: Precision = "bf16"
    kv_bytes_per_value: int = 2
    """2 for bf16, 1 for an fp8 KV cache."""
    gpu_memory_utilization: float = DEFAULT_UTILISATION

    def __post_init__(self) -> None:
        """Refuse what no cluster has.

        Raises: ConfigError, with the nearest known name.
        """
        if self.model not in MODELS:
            raise ConfigError(f"unknown model {self.model!r}", next_step=nearest(self.model, MODELS))
        if self.gpu not in GPUS:
            raise ConfigError(f"unknown GPU {self.gpu!r}", next_step=nearest(self.gpu, GPUS))
        heads = MODELS[self.model].heads
        if self.tensor_parallel < 1 or heads % self.tensor_parallel:
            raise ConfigError(f"tensor parallelism is {self.tensor_parallel}", limit=f"a divisor of {heads} heads",
                              next_step="Choose 1, 2, 4 or 8.")  # fmt: skip
        if not 0.1 <= self.gpu_memory_utilization <= 0.98:
            raise ConfigError(f"gpu_memory_utilization is {self.gpu_memory_utilization:g}", limit="0.1 to 0.98",
                              next_step="vLLM's default is 0.9.")  # fmt: skip
        if self.kv_bytes_per_value not in (1, 2):
            raise ConfigError(f"{self.kv_bytes_per_value} bytes a KV value", limit="1 (fp8) or 2 (bf16)")

    @property
    def price_per_hour(self) -> float:
        """US dollars for one replica and hour, at the default price of its GPU."""
        return GPUS[self.gpu].price_per_hour * self.tensor_parallel


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Where the memory of one GPU goes, GiB, and what the KV cache of a replica holds."""

    total_gib: float
    weights_gib: float
    kv_gib: float
    other_gib: float
    """Activations, CUDA graphs, libraries, and what ``gpu_memory_utilization`` leaves unused."""
    kv_bytes_per_token: int
    """Whole replica."""
    kv_capacity_tokens: int
    kv_blocks: int
    fits: bool

    def sequences(self, tokens: int) -> int:
        """Sequences of so many tokens that the KV cache holds at once."""
        return max(self.kv_capacity_tokens, 0) // max(tokens, 1)


def memory(hardware: Hardware) -> Memory:
    """How the memory of each GPU is used.

    >>> memory(Hardware(model="Llama-3.1-70B", gpu="h100_sxm", tensor_parallel=4)).kv_bytes_per_token // 1024
    320
    """
    shape, gpu = MODELS[hardware.model], GPUS[hardware.gpu]
    each = weights_gib(shape, hardware.precision) / hardware.tensor_parallel
    moved = (hardware.gpu_memory_utilization - DEFAULT_UTILISATION) * gpu.memory_gib
    per_token = kv_bytes_per_token(shape, bytes_per_value=hardware.kv_bytes_per_value)
    room = kv_capacity_tokens(shape, gpu, hardware.tensor_parallel, precision=hardware.precision)
    room_bytes = room * kv_bytes_per_token(shape) + moved * GIB * hardware.tensor_parallel
    tokens = int(room_bytes / per_token)
    kv_gib = room_bytes / GIB / hardware.tensor_parallel
    return Memory(
        total_gib=gpu.memory_gib, weights_gib=each, kv_gib=max(kv_gib, 0.0),
        other_gib=gpu.memory_gib - each - max(kv_gib, 0.0), kv_bytes_per_token=per_token,
        kv_capacity_tokens=max(tokens, 0), kv_blocks=max(tokens, 0) // BLOCK_TOKENS, fits=tokens >= BLOCK_TOKENS,
    )  # fmt: skip


def require_fit(hardware: Hardware, longest: int) -> Memory:
    """The memory of a replica that can serve requests of ``longest`` tokens.

    Raises: ConfigError when the weights do not fit, or one such request does not.
    """
    found = memory(hardware)
    where = f"{hardware.model} on {hardware.tensor_parallel} x {hardware.gpu}"
    if not found.fits:
        raise ConfigError(f"out of memory: weights take {found.weights_gib:.1f} GiB a GPU", where=where,
                          limit=f"{found.total_gib:.0f} GiB with {hardware.gpu_memory_utilization:.2f} of it for vLLM",
                          next_step=f"Use at least {fitting_parallelism(hardware)} or a larger GPU.")  # fmt: skip
    if longest > found.kv_capacity_tokens:
        raise ConfigError(f"one request of {longest} tokens does not fit the KV cache", where=where,
                          limit=f"{found.kv_capacity_tokens} tokens",
                          next_step="Raise tensor parallelism, or use an fp8 KV cache.")  # fmt: skip
    return found


def fitting_parallelism(hardware: Hardware) -> str:
    """The smallest tensor parallelism at which the weights fit, in words.

    >>> fitting_parallelism(Hardware(model="Llama-3.1-70B", gpu="h100_sxm"))
    'tensor parallelism 4'
    """
    shape, gpu = MODELS[hardware.model], GPUS[hardware.gpu]
    for count in (1, 2, 4, 8):
        enough = kv_capacity_tokens(shape, gpu, count, precision=hardware.precision) >= 32_768
        if shape.heads % count == 0 and enough:
            return f"tensor parallelism {count}"
    return "pipeline parallelism over several nodes"


def transfer_s(tokens: float, hardware: Hardware, *, gbit_s: float, latency_s: float = 0.002) -> float:
    """Seconds to move the KV of ``tokens`` prompt tokens from a prefill to a decode engine.

    Args:
        tokens: prompt tokens.
        hardware: what fixes the bytes of a token.
        gbit_s: bandwidth of the link, gigabits a second.
        latency_s: set-up of one transfer.

    >>> round(transfer_s(10_000, Hardware(model="Llama-3.1-70B", gpu="h100_sxm", tensor_parallel=4), gbit_s=100), 2)
    0.26
    """
    per_token = kv_bytes_per_token(MODELS[hardware.model], bytes_per_value=hardware.kv_bytes_per_value)
    return latency_s + tokens * per_token * 8 / (gbit_s * 1e9)
