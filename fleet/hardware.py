"""GPUs, prices, models and step-time coefficients as data. Pure.

Sources: peak figures from NVIDIA's data sheets as collected in ai-dynamo/aiconfigurator's system files (Apache-2.0);
coefficients fitted to aiconfigurator's operator tables (vLLM 0.24.0 on H100, H200 and L40S, 0.14.0 on A100); host
overhead per step and layer from inference-sim (BLIS); model shapes from the models' own ``config.json``; prices are
list prices per GPU-hour, dated. Pairs of model and GPU without coefficients: :mod:`simulator.roofline`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

GIB = 1024**3
Precision = Literal["bf16", "fp8"]
PRECISIONS: Final[tuple[Precision, ...]] = ("bf16", "fp8")
"""Of the linear layers' weights; embeddings, output head and KV cache stay in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a provider lists for one GPU-hour."""

    provider: str
    usd_per_hour: float
    as_of: str
    """Month or day the list was read."""
    terms: str = "on demand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator product."""

    name: str
    hbm_tb_s: float
    bf16_tflops: float
    """Dense."""
    fp8_tflops: float | None
    """Dense; ``None``: no 8-bit floating-point units, so 8-bit weights are computed in 16 bits."""
    memory_gib: float
    link_gb_s: float
    """Between the GPUs of a node, one way: NVLink, or PCIe where there is none."""
    kv_budget_gib: float
    """Memory left for weights and KV cache at vLLM's defaults: about 0.9 of the memory less 4 GiB. The published
    capacities of H100 give 68.05; on the others it is an estimate."""
    power_w: float
    prices: tuple[Price, ...]
    """The first one is the default."""

    @property
    def price_per_hour(self) -> float:
        """US dollars per GPU-hour: the default price."""
        return self.prices[0].usd_per_hour

    @property
    def price_source(self) -> str:
        """Whose price that is, and of when."""
        price = self.prices[0]
        return f"{price.provider} {price.terms}, {price.as_of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the KV cache and the step time need to know of a model: a decoder with grouped-query attention."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    """Width of the feed-forward layer; of one expert in a mixture."""
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    experts: int = 0
    """Routed experts a layer; 0: dense."""
    active_experts: int = 0
    """Routed experts that a token uses."""
    shared_experts: int = 0
    """Experts that every token uses."""

    @property
    def attention_parameters(self) -> int:
        """Of one layer: query, key, value and output projections."""
        return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)

    @property
    def expert_parameters(self) -> int:
        """Of one expert, or of a dense layer's feed-forward part: gate, up and down projections."""
        return 3 * self.hidden * self.intermediate

    @property
    def linear_parameters(self) -> int:
        """All layers' projections, experts included; neither embeddings nor output head."""
        held = self.experts + self.shared_experts if self.experts else 1
        return self.layers * (self.attention_parameters + held * self.expert_parameters)

    @property
    def active_linear_parameters(self) -> int:
        """Of :attr:`linear_parameters`, those that one token is multiplied with."""
        used = self.active_experts + self.shared_experts if self.experts else 1
        return self.layers * (self.attention_parameters + used * self.expert_parameters)

    @property
    def head_parameters(self) -> int:
        """Output head (and as many in the embeddings)."""
        return self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        """Weights of the whole model, norms and biases left out.

        >>> round(MODELS["Qwen3-32B"].parameters / 1e9, 1)
        32.8
        """
        return self.linear_parameters + 2 * self.head_parameters

    @property
    def weight_gib(self) -> float:
        """Weights in bf16, whole model."""
        return 2 * self.parameters / GIB

    @property
    def active_parameters(self) -> int:
        """Weights that one token is multiplied with, output head included.

        >>> round(MODELS["Mixtral-8x7B"].active_parameters / 1e9, 1)
        12.7
        """
        return self.active_linear_parameters + self.head_parameters


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
    reuse: float = 0.0
    """Of the context that several sequences of a batch share, the part whose repeated reading costs nothing, because
    the GPU's second-level cache still holds it. ``sum(K)`` is smaller by that; 0: every sequence reads all of its own."""


_NOV = "2026-11"
_GUIDE = "2026-11-09"

GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="h100_sxm", hbm_tb_s=3.35, bf16_tflops=989, fp8_tflops=1978, memory_gib=80, link_gb_s=450,
            kv_budget_gib=68.05, power_w=700, prices=(
                Price(provider="Lambda", usd_per_hour=3.99, as_of=_NOV, terms="on demand, 8x H100 SXM"),
                Price(provider="Lambda", usd_per_hour=4.29, as_of=_NOV, terms="on demand, 1x H100 SXM"),
                Price(provider="Nebius", usd_per_hour=3.85, as_of=_NOV),
                Price(provider="RunPod", usd_per_hour=2.69, as_of=_NOV, terms="lowest listed"),
                Price(provider="AWS", usd_per_hour=6.88, as_of=_GUIDE, terms="on demand, p5.48xlarge us-east-1"),
                Price(provider="Azure", usd_per_hour=12.29, as_of=_GUIDE, terms="on demand, ND96isr_H100_v5"),
                Price(provider="Google Cloud", usd_per_hour=10.98, as_of="2026-09-26", terms="on demand, a3-highgpu-1g us-central1"),
                Price(provider="Google Cloud", usd_per_hour=6.57, as_of="2026-09-26", terms="spot, a3-highgpu-1g us-central1"),
            )),
        Gpu(name="h200_sxm", hbm_tb_s=4.80, bf16_tflops=989, fp8_tflops=1978, memory_gib=141, link_gb_s=450,
            kv_budget_gib=122.6, power_w=700, prices=(
                Price(provider="Nebius", usd_per_hour=4.50, as_of=_NOV),
                Price(provider="RunPod", usd_per_hour=3.59, as_of=_NOV, terms="lowest listed"),
                Price(provider="Google Cloud", usd_per_hour=10.44, as_of="2026-10-13", terms="on demand, a3-ultragpu"),
                Price(provider="Google Cloud", usd_per_hour=6.26, as_of="2026-10-13", terms="spot, a3-ultragpu"),
            )),
        Gpu(name="b200_sxm", hbm_tb_s=7.7, bf16_tflops=2250, fp8_tflops=4500, memory_gib=180, link_gb_s=900,
            kv_budget_gib=158.0, power_w=1000, prices=(
                Price(provider="Lambda", usd_per_hour=6.69, as_of=_NOV, terms="on demand, lowest listed"),
            )),
        Gpu(name="a100_sxm", hbm_tb_s=2.039, bf16_tflops=312, fp8_tflops=None, memory_gib=80, link_gb_s=300,
            kv_budget_gib=68.05, power_w=400, prices=(
                Price(provider="Lambda", usd_per_hour=2.79, as_of=_NOV, terms="on demand, A100 80 GB"),
                Price(provider="RunPod", usd_per_hour=1.39, as_of=_NOV, terms="lowest listed"),
                Price(provider="AWS", usd_per_hour=3.43, as_of=_GUIDE, terms="on demand, p4de.24xlarge"),
            )),
        Gpu(name="l40s", hbm_tb_s=0.864, bf16_tflops=362, fp8_tflops=733, memory_gib=45, link_gb_s=32,
            kv_budget_gib=37.0, power_w=350, prices=(
                Price(provider="Nebius", usd_per_hour=1.55, as_of=_NOV),
                Price(provider="RunPod", usd_per_hour=0.79, as_of=_NOV, terms="lowest listed"),
            )),
        Gpu(name="l4", hbm_tb_s=0.300, bf16_tflops=121, fp8_tflops=242, memory_gib=24, link_gb_s=32,
            kv_budget_gib=17.65, power_w=72, prices=(
                Price(provider="Google Cloud", usd_per_hour=0.71, as_of=_NOV, terms="about, g2-standard-4 on demand, not verified"),
                Price(provider="AWS", usd_per_hour=0.80, as_of=_NOV, terms="about, g6.xlarge on demand, not verified"),
            )),
    )
}  # fmt: skip

MODELS: dict[str, ModelShape] = {
    model.name: model
    for model in (
        ModelShape(name="Llama-3.1-8B", layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128, vocab=128256),
        ModelShape(name="Qwen3-32B", layers=64, hidden=5120, intermediate=25600, heads=64, kv_heads=8, head_dim=128, vocab=151936),
        ModelShape(name="Llama-3.1-70B", layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128, vocab=128256),
        ModelShape(name="Llama-3.3-70B", layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128, vocab=128256),
        ModelShape(name="Llama-2-7B", layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_dim=128, vocab=32000),
        ModelShape(name="Llama-2-70B", layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128, vocab=32000),
        ModelShape(name="CodeLlama-34B", layers=48, hidden=8192, intermediate=22016, heads=64, kv_heads=8, head_dim=128, vocab=32000),
        ModelShape(name="Yi-34B", layers=60, hidden=7168, intermediate=20480, heads=56, kv_heads=8, head_dim=128, vocab=64000),
        ModelShape(name="Mistral-Nemo", layers=40, hidden=5120, intermediate=14336, heads=32, kv_heads=8, head_dim=128, vocab=131072),
        ModelShape(name="Qwen2.5-7B", layers=28, hidden=3584, intermediate=18944, heads=28, kv_heads=4, head_dim=128, vocab=152064),
        ModelShape(name="Qwen3-8B", layers=36, hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128, vocab=151936),
        ModelShape(name="Qwen3-14B", layers=40, hidden=5120, intermediate=17408, heads=40, kv_heads=8, head_dim=128, vocab=151936),
        ModelShape(name="Mixtral-8x7B", layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128, vocab=32000, experts=8, active_experts=2),
        ModelShape(name="Mixtral-8x22B", layers=56, hidden=6144, intermediate=16384, heads=48, kv_heads=8, head_dim=128, vocab=32000, experts=8, active_experts=2),
        ModelShape(name="Qwen3-30B-A3B", layers=48, hidden=2048, intermediate=768, heads=32, kv_heads=4, head_dim=128, vocab=151936, experts=128, active_experts=8),
        ModelShape(name="Qwen3-Coder-480B-A35B", layers=62, hidden=6144, intermediate=2560, heads=96, kv_heads=8, head_dim=128, vocab=151936, experts=160, active_experts=8),
        ModelShape(name="Llama-4-Scout-17B-16E", layers=48, hidden=5120, intermediate=8192, heads=40, kv_heads=8, head_dim=128, vocab=202048, experts=16, active_experts=1, shared_experts=1),
    )
}  # fmt: skip

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A published deployment with step times fitted to its own results; the general coefficients stay beside it."""

    name: str
    model: str
    gpu: str
    count: int
    """GPUs of one engine."""
    engine: str
    as_of: str
    source: str
    kv_tokens: int
    """Of one engine's KV cache."""
    coefficients: StepCoefficients


DEPLOYMENTS: Final[dict[str, Deployment]] = {
    deployment.name: deployment
    for deployment in (
        Deployment(
            name="llm-d-optimized-baseline", model="Qwen3-32B", gpu="h100_sxm", count=2,
            engine="vLLM as of the guide, --gpu-memory-utilization=0.95", as_of="2026-08",
            source="llm-d guides/optimized-baseline/README.md @021723b", kv_tokens=339_936,
            coefficients=StepCoefficients(d0=9.79, d_s=0.0238, d_kv=4.421e-05, p0=2.18, p1=0.0428, p2=1.51e-06, eta=1.113, reuse=0.425)),
    )
}  # fmt: skip
"""KV cache: the 307,328 tokens that are published for this engine are those of vLLM's default, 0.9 of the memory; the
guide asks for 0.95, which is 3.98 GiB more on each GPU of 79.65 GiB. How the rest was fitted: ``docs/simulator.md``,
:mod:`benchmarks.routing.fitting`."""


@lru_cache(maxsize=4096)
def shape_of(model: str) -> ModelShape | None:
    """The shape that a served model's name contains, the longest one; ``None`` when there is none.

    >>> shape_of("RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic").name
    'Llama-4-Scout-17B-16E'
    """
    found = [shape for name, shape in MODELS.items() if name.lower() in model.lower()]
    return max(found, key=lambda shape: len(shape.name), default=None)


def weights_gib(model: ModelShape, precision: Precision = "bf16") -> float:
    """Weights of the whole model; in fp8 the linear layers take one byte a weight.

    >>> round(weights_gib(MODELS["Llama-3.1-8B"], "fp8"), 1)
    8.5
    """
    return model.weight_gib - (model.linear_parameters / GIB if precision == "fp8" else 0.0)


def kv_bytes_per_token(model: ModelShape, *, bytes_per_value: int = 2) -> int:
    """KV-cache bytes of one token, whole model (keys and values, grouped-query heads).

    >>> kv_bytes_per_token(MODELS["Llama-3.1-70B"]) // 1024
    320
    """
    return 2 * model.layers * model.kv_heads * model.head_dim * bytes_per_value


def kv_capacity_tokens(model: ModelShape, gpu: Gpu, tensor_parallel: int, *, precision: Precision = "bf16") -> int:
    """Tokens of KV cache that one replica holds; 0 or less means that the weights do not fit.

    >>> kv_capacity_tokens(MODELS["Qwen3-32B"], GPUS["h100_sxm"], 2) // 1000
    307
    """
    free = gpu.kv_budget_gib * GIB - weights_gib(model, precision) * GIB / tensor_parallel
    return int(free / (kv_bytes_per_token(model) / tensor_parallel))
