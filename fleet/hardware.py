"""GPUs, prices, models and step-time coefficients as data. Pure.

Sources: peak figures from NVIDIA's data sheets as collected in ai-dynamo/aiconfigurator's system files (Apache-2.0);
coefficients fitted to aiconfigurator's operator tables (vLLM 0.24.0 on H100, H200 and L40S, 0.14.0 on A100); host
overhead per step and layer from inference-sim (BLIS); prices are on-demand list prices per GPU-hour, dated.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator product."""

    name: str
    hbm_tb_s: float
    bf16_tflops: float
    memory_gib: float
    kv_budget_gib: float
    """Memory left for weights and KV cache at vLLM's defaults (published H100 capacities give 68.05 GiB)."""
    power_w: float
    price_per_hour: float
    """US dollars per GPU-hour, on demand."""
    price_source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the KV cache and the step time need to know of a model."""

    name: str
    layers: int
    kv_heads: int
    head_dim: int
    weight_gib: float
    """Weights in bf16, whole model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCoefficients:
    """Milliseconds of one engine step.

    ``o + max(d0 + d_s*B, eta*(p0 + p1*(P+B)) if P) + d_kv*sum(K) + eta*2*p2*sum(c*(k + c/2))`` where ``B`` sequences
    decode with contexts ``K``, ``P`` prompt tokens are computed in chunks ``c`` that follow ``k`` tokens, and ``o`` is
    the host's overhead, ``0.13 + 0.032*layers``.
    """

    d0: float
    d_s: float
    d_kv: float
    p0: float
    p1: float
    p2: float
    eta: float = 1.13
    """Prefill kernels run this much slower in an engine than alone (fitted to published engines)."""


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="h100_sxm", hbm_tb_s=3.35, bf16_tflops=989, memory_gib=80, kv_budget_gib=68.05, power_w=700,
            price_per_hour=3.99, price_source="Lambda on demand, 8x H100 SXM, 2026-11"),
        Gpu(name="h200_sxm", hbm_tb_s=4.80, bf16_tflops=989, memory_gib=141, kv_budget_gib=122.6, power_w=700,
            price_per_hour=4.50, price_source="Nebius on demand, 2026-11"),
        Gpu(name="a100_sxm", hbm_tb_s=2.039, bf16_tflops=312, memory_gib=80, kv_budget_gib=68.05, power_w=400,
            price_per_hour=2.79, price_source="Lambda on demand, A100 80 GB, 2026-11"),
        Gpu(name="l40s", hbm_tb_s=0.864, bf16_tflops=362, memory_gib=45, kv_budget_gib=37.0, power_w=350,
            price_per_hour=1.55, price_source="Nebius on demand, 2026-11"),
    )
}  # fmt: skip

MODELS: dict[str, ModelShape] = {
    model.name: model
    for model in (
        ModelShape(name="Llama-3.1-8B", layers=32, kv_heads=8, head_dim=128, weight_gib=14.96),
        ModelShape(name="Qwen3-32B", layers=64, kv_heads=8, head_dim=128, weight_gib=61.03),
        ModelShape(name="Llama-3.1-70B", layers=80, kv_heads=8, head_dim=128, weight_gib=131.42),
    )
}

COEFFICIENTS: dict[tuple[str, str, int], StepCoefficients] = {
    ("Llama-3.1-8B", "h100_sxm", 1): StepCoefficients(
        d0=6.01, d_s=0.0100, d_kv=4.199e-05, p0=1.23, p1=0.0162, p2=7.71e-07, eta=1.2),
    ("Llama-3.1-8B", "h100_sxm", 2): StepCoefficients(d0=3.69, d_s=0.0061, d_kv=2.101e-05, p0=1.03, p1=0.0109, p2=3.46e-07),
    ("Qwen3-32B", "h100_sxm", 1): StepCoefficients(d0=24.39, d_s=0.0286, d_kv=8.741e-05, p0=3.47, p1=0.0772, p2=2.98e-06),
    ("Qwen3-32B", "h100_sxm", 2): StepCoefficients(d0=13.14, d_s=0.0238, d_kv=4.376e-05, p0=2.18, p1=0.0428, p2=1.51e-06),
    ("Qwen3-32B", "h100_sxm", 4): StepCoefficients(d0=7.76, d_s=0.0164, d_kv=2.194e-05, p0=4.48, p1=0.0244, p2=6.46e-07),
    ("Llama-3.1-70B", "h100_sxm", 2): StepCoefficients(d0=26.51, d_s=0.0260, d_kv=5.277e-05, p0=2.87, p1=0.0916, p2=2.81e-06),
    ("Llama-3.1-70B", "h100_sxm", 4): StepCoefficients(d0=14.48, d_s=0.0277, d_kv=2.711e-05, p0=6.25, p1=0.0503, p2=1.85e-06),
    ("Llama-3.1-70B", "h100_sxm", 8): StepCoefficients(d0=9.25, d_s=0.0181, d_kv=1.380e-05, p0=5.10, p1=0.0330, p2=4.40e-07),
    ("Llama-3.1-8B", "h200_sxm", 1): StepCoefficients(d0=4.58, d_s=0.0100, d_kv=3.002e-05, p0=1.05, p1=0.0164, p2=7.52e-07),
    ("Llama-3.1-8B", "h200_sxm", 2): StepCoefficients(d0=3.00, d_s=0.0072, d_kv=1.464e-05, p0=0.97, p1=0.0109, p2=3.28e-07),
    ("Qwen3-32B", "h200_sxm", 1): StepCoefficients(d0=18.36, d_s=0.0351, d_kv=6.143e-05, p0=1.00, p1=0.0787, p2=3.12e-06),
    ("Qwen3-32B", "h200_sxm", 2): StepCoefficients(d0=10.11, d_s=0.0248, d_kv=2.975e-05, p0=3.06, p1=0.0418, p2=1.75e-06),
    ("Qwen3-32B", "h200_sxm", 4): StepCoefficients(d0=6.39, d_s=0.0167, d_kv=1.518e-05, p0=3.73, p1=0.0244, p2=8.99e-07),
    ("Llama-3.1-70B", "h200_sxm", 2): StepCoefficients(d0=19.96, d_s=0.0329, d_kv=3.433e-05, p0=1.24, p1=0.0951, p2=2.19e-06),
    ("Llama-3.1-70B", "h200_sxm", 4): StepCoefficients(d0=11.30, d_s=0.0290, d_kv=1.781e-05, p0=2.13, p1=0.0563, p2=6.88e-07),
    ("Llama-3.1-70B", "h200_sxm", 8): StepCoefficients(d0=7.34, d_s=0.0217, d_kv=1.007e-05, p0=4.81, p1=0.0322, p2=5.70e-07),
    ("Llama-3.1-8B", "a100_sxm", 1): StepCoefficients(
        d0=11.20, d_s=0.0273, d_kv=8.079e-05, p0=6.29, p1=0.0500, p2=2.05e-06, eta=1.2),
    ("Llama-3.1-8B", "a100_sxm", 2): StepCoefficients(d0=6.41, d_s=0.0180, d_kv=4.391e-05, p0=2.85, p1=0.0320, p2=6.76e-07),
    ("Qwen3-32B", "a100_sxm", 1): StepCoefficients(d0=43.89, d_s=0.0919, d_kv=1.706e-04, p0=17.49, p1=0.2114, p2=6.42e-06),
    ("Qwen3-32B", "a100_sxm", 2): StepCoefficients(d0=24.01, d_s=0.0796, d_kv=8.575e-05, p0=16.14, p1=0.1173, p2=3.02e-06),
    ("Qwen3-32B", "a100_sxm", 4): StepCoefficients(d0=13.79, d_s=0.0431, d_kv=4.296e-05, p0=6.88, p1=0.0743, p2=5.64e-07),
    ("Llama-3.1-70B", "a100_sxm", 2): StepCoefficients(d0=49.60, d_s=0.1465, d_kv=1.060e-04, p0=32.46, p1=0.2500, p2=3.44e-06),
    ("Llama-3.1-70B", "a100_sxm", 4): StepCoefficients(d0=26.81, d_s=0.1055, d_kv=5.233e-05, p0=29.55, p1=0.1336, p2=2.55e-06),
    ("Llama-3.1-70B", "a100_sxm", 8): StepCoefficients(d0=16.47, d_s=0.0626, d_kv=2.579e-05, p0=26.07, p1=0.0874, p2=3.63e-07),
    ("Llama-3.1-8B", "l40s", 1): StepCoefficients(
        d0=20.92, d_s=0.0363, d_kv=1.916e-04, p0=2.70, p1=0.0552, p2=2.88e-06, eta=1.2),
    ("Llama-3.1-8B", "l40s", 2): StepCoefficients(d0=10.78, d_s=0.0428, d_kv=9.440e-05, p0=3.47, p1=0.0528, p2=1.71e-06),
}  # fmt: skip


def kv_bytes_per_token(model: ModelShape, *, bytes_per_value: int = 2) -> int:
    """KV-cache bytes of one token, whole model (keys and values, grouped-query heads).

    >>> kv_bytes_per_token(MODELS["Llama-3.1-70B"]) // 1024
    320
    """
    return 2 * model.layers * model.kv_heads * model.head_dim * bytes_per_value


def kv_capacity_tokens(model: ModelShape, gpu: Gpu, tensor_parallel: int) -> int:
    """Tokens of KV cache that one replica holds; 0 or less means that the weights do not fit.

    >>> kv_capacity_tokens(MODELS["Qwen3-32B"], GPUS["h100_sxm"], 2) // 1000
    307
    """
    free = gpu.kv_budget_gib * GIB - model.weight_gib * GIB / tensor_parallel
    return int(free / (kv_bytes_per_token(model) / tensor_parallel))
