"""The ``InferenceCluster`` file: one description of a model service, from which everything is rendered. Pure.

The shape is the source documents' (model, prefill, decode, transport, cache tiers), with autoscaling, objectives and
routing added. What they name by invented variables is given by what vLLM really has (``docs/planner.md``).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from fleet.errors import ConfigError
from fleet.hardware import GPUS, MODELS, ModelShape, shape_of
from router.located import Located, locate, nearest
from router.profile import PROFILES

API_VERSION: Final = "llm-d.ai/v1"
KIND: Final = "InferenceCluster"
_LABEL: Final = r"^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$"
_QUANTITY: Final = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|K|M|G|T|KB|MB|GB|TB)?$"
Size = Annotated[str, Field(pattern=_QUANTITY, description="Bytes with a unit, such as 320GB or 2Ti.")]


class _Part(BaseModel):
    """A mapping that takes its own keys and no others."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=True, frozen=True)


class Metadata(_Part):
    """Names every object that is rendered."""

    name: str = Field(pattern=_LABEL, description="At most 42 characters: role and kind are appended.")
    namespace: str = Field("default", pattern=_LABEL)
    labels: dict[str, str] = Field(default_factory=dict)


class Model(_Part):
    """What is served."""

    name: str = Field(min_length=1, max_length=256, description="As clients ask for it: meta-llama/Llama-3.1-70B.")
    uri: str = Field("", description="hf://ORG/NAME, pvc://CLAIM/PATH or a path in the image; empty: the name.")
    shape: str = Field("", description="Model of the hardware catalogue; empty: found in the name.")
    quantization: Literal["none", "fp8", "awq", "gptq"] = "none"
    max_model_len: int | None = Field(None, ge=16, le=10_000_000)
    token_secret: str = Field("", description="Secret whose key token holds the hub's token.")


class Hardware(_Part):
    """GPUs of one replica."""

    gpu: str = Field("h100_sxm", description="Product as in the hardware catalogue.")
    count: int = Field(1, ge=1, le=64, description="GPUs of one replica on one node: tensor parallelism.")
    nodes: int = Field(1, ge=1, le=64, description="Nodes of one replica; above 1 a LeaderWorkerSet is rendered.")
    cpu: str = Field("8", pattern=r"^[0-9]+m?$")
    memory: Size = "64Gi"
    node_selector: dict[str, str] = Field(default_factory=dict)
    spot: bool = False


class Optimization(_Part):
    """Engine switches in the source documents' words."""

    flash_attention: bool | None = Field(None, description="true: --attention-backend FLASH_ATTN.")
    fused_kernels: bool | None = Field(None, description="false: --enforce-eager.")
    paged_attention: Literal[True] = Field(True, description="vLLM has no other; here for the documents' sake.")
    kv_compression: float = Field(1.0, description="0.5: an fp8 KV cache; 1: bf16.")

    @model_validator(mode="after")
    def _known_compression(self) -> Optimization:
        if self.kv_compression not in (0.5, 1.0):
            raise ValueError("kvCompression is 0.5 (fp8) or 1 (bf16)")
        return self


class Role(_Part):
    """Engines of one role."""

    replicas: int = Field(1, ge=0, le=4096)
    hardware: Hardware = Hardware()
    engine: Literal["vllm", "sglang"] = "vllm"
    image: str = ""
    expert_parallel: bool = False
    data_parallel: int = Field(1, ge=1, le=256)
    max_num_seqs: int | None = Field(None, ge=1, le=65_536)
    max_num_batched_tokens: int | None = Field(None, ge=1, le=10_000_000)
    gpu_memory_utilization: float = Field(0.9, ge=0.1, le=0.98)
    optimization: Optimization = Optimization()
    extra_args: list[str] = Field(default_factory=list)


class Transport(_Part):
    """How KV goes from prefill to decode."""

    protocol: Literal["nixl", "shared-storage", "mooncake"] = "nixl"
    backend: Literal["rdma", "ucx", "uccl", "tcp"] = "ucx"
    bandwidth: str = Field("200Gbps", pattern=r"^[0-9]+(\.[0-9]+)?Gbps$")

    @property
    def gbit_s(self) -> float:
        """The bandwidth as a number."""
        return float(self.bandwidth.removesuffix("Gbps"))


class Tier(_Part):
    """One tier of the KV cache; exactly one key."""

    gpu: Size | None = None
    cpu: Size | None = None
    nvme: Size | None = None

    @model_validator(mode="after")
    def _one_medium(self) -> Tier:
        if sum(value is not None for value in (self.gpu, self.cpu, self.nvme)) != 1:
            raise ValueError("a tier has one of gpu, cpu, nvme")
        return self


class Cache(_Part):
    """Tiers of the KV cache beyond the GPU."""

    type: Literal["local", "distributed"] = "local"
    backend: Literal["native", "lmcache"] = "native"
    capacity: Size | None = None
    eviction: Literal["lru"] = "lru"
    tiering: list[Tier] = Field(default_factory=list)
    prefix_caching: bool = True

    def tier(self, medium: Literal["cpu", "nvme"]) -> str | None:
        """Size of that tier; ``None``: there is none."""
        return next((getattr(one, medium) for one in self.tiering if getattr(one, medium)), None)


class Bounds(_Part):
    """Replicas at least and at most."""

    min: int = Field(1, ge=0, le=4096)
    max: int = Field(10, ge=1, le=4096)

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Autoscaling(_Part):
    """What wva and the HPA (or KEDA) may do."""

    enabled: bool = True
    scaler: Literal["hpa", "keda"] = "hpa"
    prefill: Bounds = Bounds(min=2, max=10)
    decode: Bounds = Bounds(min=1, max=40)
    saturation_threshold: float = Field(0.8, gt=0, le=1)
    scale_down_threshold: float = Field(0.3, ge=0, lt=1)
    prometheus_url: str = Field("http://prometheus-operated.monitoring:9090", description="KEDA reads it.")

    @model_validator(mode="after")
    def _ordered(self) -> Autoscaling:
        if self.scale_down_threshold >= self.saturation_threshold:
            raise ValueError("scaleDownThreshold is not below saturationThreshold")
        return self


class Objectives(_Part):
    """Latency targets, seconds at P95."""

    ttft_seconds: float = Field(0.2, gt=0, le=3600)
    tpot_seconds: float = Field(0.1, gt=0, le=60)


class Routing(_Part):
    """Who picks the endpoint."""

    mode: Literal["picker", "proxy"] | None = Field(
        None, description="Behind a Gateway, or our own proxy. Absent: picker, but proxy where prefill is given."
    )
    gateway: str = Field("inference-gateway", pattern=_LABEL)
    profile: str = Field("default", description="Profile of the router (docs/router.md).")
    replicas: int = Field(2, ge=1, le=64)
    fail_open: bool = False
    hostnames: list[str] = Field(default_factory=list)
    predictor_url: str = Field(
        "", pattern=r"^(https?://\S+)?$", description="Of the predictor whose model the router fetches."
    )
    history_secret: str = Field(
        "", pattern=rf"^$|{_LABEL}", description="Secret (key url) of the history that this predictor learns from."
    )
    kv_index_secret: str = Field(
        "", pattern=rf"^$|{_LABEL}", description="Secret (key url) of the Redis or Valkey in which routers share it."
    )


class Monitoring(_Part):
    """Objects of the Prometheus operator."""

    enabled: bool = True
    interval: str = Field("15s", pattern=r"^[0-9]+(ms|s|m)$")
    namespace: str = Field("monitoring", pattern=_LABEL, description="From where Prometheus may scrape.")


class Spec(_Part):
    """A model service."""

    model: Model
    prefill: Role | None = Field(None, description="Absent: engines do both phases.")
    decode: Role = Role()
    transport: Transport = Transport()
    cache: Cache = Cache()
    autoscaling: Autoscaling = Autoscaling()
    slo: Objectives = Objectives()
    routing: Routing = Routing()
    monitoring: Monitoring = Monitoring()


class InferenceCluster(_Part):
    """The whole file."""

    api_version: Literal["llm-d.ai/v1"] = API_VERSION
    kind: Literal["InferenceCluster"] = KIND
    metadata: Metadata
    spec: Spec

    @property
    def shape(self) -> ModelShape:
        """Of the model, for sizing and cost.

        Raises: ConfigError when the name does not tell.
        """
        model = self.spec.model
        found = MODELS.get(model.shape) if model.shape else shape_of(model.name)
        if found is None:
            raise ConfigError(f"no shape is known for model {model.shape or model.name!r}",
                              next_step=f"Set model.shape. {nearest(model.shape or model.name, MODELS)}")  # fmt: skip
        return found

    @property
    def mode(self) -> Literal["picker", "proxy"]:
        """Who picks: our own proxy hands KV over between prefill and decode, behind a Gateway nobody would."""
        return self.spec.routing.mode or ("picker" if self.spec.prefill is None else "proxy")

    def roles(self) -> dict[str, Role]:
        """By role name: prefill and decode, or both in one."""
        if self.spec.prefill is None:
            return {"both": self.spec.decode}
        return {"prefill": self.spec.prefill, "decode": self.spec.decode}

    def bounds(self, role: str) -> Bounds:
        """Within which that role scales."""
        return self.spec.autoscaling.prefill if role == "prefill" else self.spec.autoscaling.decode


def schema() -> dict[str, Any]:
    """JSON Schema of the file."""
    found = InferenceCluster.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "inferencecluster.schema.json", **found}


def parse(text: str, *, where: str) -> InferenceCluster:
    """The file's content.

    Raises: ConfigError with the line of what is wrong, and the nearest right word.
    """
    tree = locate(text, where=where)
    try:
        found = InferenceCluster.model_validate(_plain(tree))
    except ValidationError as error:
        raise _refusal(tree, error) from error
    if found.spec.routing.profile not in PROFILES:
        profile = found.spec.routing.profile
        raise _at(tree, profile, f"unknown profile {profile!r}", nearest(profile, PROFILES))
    if found.spec.prefill is not None and found.mode == "picker":
        raise _at(tree, "picker", "behind a Gateway each decode engine needs a sidecar, which is not rendered",
                  "Write routing: {mode: proxy}, which hands KV over itself.")  # fmt: skip
    for role in found.roles().values():
        if role.hardware.gpu not in GPUS:
            raise _at(tree, role.hardware.gpu, f"unknown GPU {role.hardware.gpu!r}", nearest(role.hardware.gpu, GPUS))
    return found


def size_bytes(size: str) -> int:
    """Bytes of a size.

    >>> size_bytes("2Ti"), size_bytes("320GB")
    (2199023255552, 320000000000)
    """
    number, unit = re.fullmatch(r"([0-9.]+)(.*)", size).groups()  # type: ignore[union-attr]
    powers = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30,
              "Ti": 2**40}  # fmt: skip
    return round(float(number) * powers[unit.removesuffix("B")])


def _plain(tree: Located) -> Any:
    if isinstance(tree.value, dict):
        return {key: _plain(value) for key, value in tree.value.items()}
    if isinstance(tree.value, list):
        return [_plain(value) for value in tree.value]
    return tree.value


def _refusal(tree: Located, error: ValidationError) -> ConfigError:
    """The first problem, at its line, with what would have been right."""
    problem = error.errors()[0]
    place = [part for part in problem["loc"] if not isinstance(part, str) or part != "function-after"]
    node, path, fields = tree, "", InferenceCluster.model_fields
    known: tuple[str, ...] = ()
    for part in place:
        known = tuple(to_camel(name) for name in fields)
        child = _child(node, part)
        path += f".{part}" if isinstance(part, str) else f"[{part}]"
        fields = _fields_below(fields, part)
        if child is None:
            break
        node = child
    where, last = path.lstrip("."), str(place[-1]) if place else "the file"
    match problem["type"]:
        case "extra_forbidden":
            return node.refuse(f"unknown key {where!r}", next_step=nearest(last, known))
        case "missing":
            return node.refuse(f"{where} is missing", next_step="Add it.")
        case "literal_error":
            allowed = str(problem.get("ctx", {}).get("expected", "")).replace("'", "")
            step = (
                nearest(str(node.value), re.split(r", | or ", allowed))
                if isinstance(node.value, str)
                else "Choose one."
            )
            return node.refuse(f"{where} is {node.value!r}", limit=allowed, next_step=step)
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            return node.refuse(f"{where or 'the file'}: {message[:1].lower()}{message[1:]}",
                               next_step="See docs/planner.md for an example.")  # fmt: skip


def _child(node: Located, part: int | str) -> Located | None:
    if isinstance(node.value, dict) and isinstance(part, str):
        return node.value.get(part)
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]  # type: ignore[no-any-return]
    return None


def _fields_below(fields: Any, part: int | str) -> Any:
    """The fields of the model that ``part`` leads to; the same ones for a list's index."""
    if isinstance(part, int):
        return fields
    for name, info in fields.items():
        if part in (name, info.alias):
            for kind in (info.annotation, *getattr(info.annotation, "__args__", ())):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    return kind.model_fields
    return {}


def _at(tree: Located, value: object, what: str, step: str) -> ConfigError:
    """An error at the first place that holds ``value``."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if node.value == value:
            return node.refuse(what, next_step=step)
        stack += (
            node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
        )
    return tree.refuse(what, next_step=step)
