"""Command lines of engines, with the flags that vLLM and SGLang really have. Pure.

Every vLLM flag here is checked against vLLM's own parser (``make test-engine``). The source documents' environment
variables (``VLLM_DISAGG_MODE``, ``VLLM_KV_CACHE_OFFLOAD`` ...) do not exist in vLLM; these flags do what they mean.
"""

from __future__ import annotations

import json
from typing import Any, Final

from alerts.buckets import engine_families
from fleet.errors import ConfigError
from fleet.slo import LatencyTarget, Slo, SloBook
from planner.document import InferenceCluster, Role, size_bytes
from planner.render.parts import ENGINE_PORT, variant

GIB: Final = 1024**3
EVENTS_PORT: Final = 5557
REPLAY_PORT: Final = 5558
NIXL_PORT: Final = 5600
BOOTSTRAP_PORT: Final = 8998
CACHE_DIR: Final = "/var/cache/kv"
MODEL_DIR: Final = "/models"
BLOCK_TOKENS: Final = 16
_BACKENDS: Final = {"rdma": ["UCX"], "ucx": ["UCX"], "tcp": ["UCX"], "uccl": ["UCCL"]}


def command(cluster: InferenceCluster, role: str) -> list[str]:
    """The engine's command line.

    Raises: ConfigError for what that engine cannot do.
    """
    spec = cluster.roles()[role]
    return _sglang(cluster, role, spec) if spec.engine == "sglang" else _vllm(cluster, role, spec)


def environment(cluster: InferenceCluster, role: str) -> list[dict[str, Any]]:
    """The engine's environment."""
    spec, found = cluster.roles()[role], [{"name": "HOME", "value": "/tmp"}]  # noqa: S108 - an emptyDir
    if spec.engine == "vllm":
        found.append({"name": "VLLM_NO_USAGE_STATS", "value": "1"})
        if cluster.spec.prefill is not None and cluster.spec.transport.protocol == "nixl":
            address = {"fieldRef": {"fieldPath": "status.podIP"}}
            found.append({"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": address})  # type: ignore[dict-item]
            found.append({"name": "VLLM_NIXL_SIDE_CHANNEL_PORT", "value": str(NIXL_PORT)})
            if cluster.spec.transport.backend == "tcp":
                found.append({"name": "UCX_TLS", "value": "tcp"})
    if cluster.spec.model.token_secret:
        secret = {"secretKeyRef": {"name": cluster.spec.model.token_secret, "key": "token"}}
        found.append({"name": "HF_TOKEN", "valueFrom": secret})  # type: ignore[dict-item]
    return found


def model_source(cluster: InferenceCluster) -> str:
    """What the engine loads: a hub name, or a folder of the mounted claim."""
    uri = cluster.spec.model.uri
    if uri.startswith("pvc://"):
        _claim, _, path = uri.removeprefix("pvc://").partition("/")
        return f"{MODEL_DIR}/{path}".rstrip("/")
    return uri.removeprefix("hf://") or cluster.spec.model.name


def claim(cluster: InferenceCluster) -> str | None:
    """The volume claim that holds the model; ``None``: it comes from the hub or the image."""
    uri = cluster.spec.model.uri
    return uri.removeprefix("pvc://").partition("/")[0] if uri.startswith("pvc://") else None


def _vllm(cluster: InferenceCluster, role: str, spec: Role) -> list[str]:
    model, cache, tuned = cluster.spec.model, cluster.spec.cache, spec.optimization
    args = ["vllm", "serve", model_source(cluster), "--served-model-name", model.name, "--port", str(ENGINE_PORT),
            "--tensor-parallel-size", str(spec.hardware.count), "--block-size", str(BLOCK_TOKENS),
            "--gpu-memory-utilization", f"{spec.gpu_memory_utilization:g}"]  # fmt: skip
    args += _option("--quantization", None if model.quantization == "none" else model.quantization)
    args += _option("--max-model-len", model.max_model_len)
    args += _option("--max-num-seqs", spec.max_num_seqs)
    args += _option("--max-num-batched-tokens", spec.max_num_batched_tokens)
    args += ["--enable-prefix-caching" if cache.prefix_caching else "--no-enable-prefix-caching"]
    args += ["--attention-backend", "FLASH_ATTN"] if tuned.flash_attention else []
    args += ["--enforce-eager"] if tuned.fused_kernels is False else []
    args += ["--kv-cache-dtype", "fp8"] if tuned.kv_compression < 1 else []
    args += ["--enable-expert-parallel"] if spec.expert_parallel else []
    args += ["--data-parallel-size", str(spec.data_parallel)] if spec.data_parallel > 1 else []
    args += ["--pipeline-parallel-size", str(spec.hardware.nodes)] if _pipelined(spec) else []
    if (transfer := kv_transfer(cluster)) is not None:
        args += ["--kv-transfer-config", json.dumps(transfer)]
    args += ["--kv-events-config", json.dumps(_events(cluster, role))]
    if families := engine_families(SloBook(default=objectives(cluster))):
        args += ["--custom-histogram-buckets", json.dumps(families)]
    return [*args, *spec.extra_args]


def _pipelined(spec: Role) -> bool:
    """Several nodes of one replica: ranks of experts or data where asked, else a pipeline."""
    return spec.hardware.nodes > 1 and spec.data_parallel == 1


def kv_transfer(cluster: InferenceCluster) -> dict[str, Any] | None:
    """vLLM's ``--kv-transfer-config``: the transport, the tiers, or both behind a MultiConnector."""
    found = [one for one in (_transport(cluster), _tiers(cluster)) if one is not None]
    if len(found) < 2:
        return found[0] if found else None
    return {"kv_connector": "MultiConnector", "kv_role": "kv_both",
            "kv_connector_extra_config": {"connectors": found}}  # fmt: skip


def _transport(cluster: InferenceCluster) -> dict[str, Any] | None:
    if cluster.spec.prefill is None:
        return None
    transport = cluster.spec.transport
    match transport.protocol:
        case "nixl":
            return {"kv_connector": "NixlConnector", "kv_role": "kv_both",
                    "kv_connector_extra_config": {"backends": _BACKENDS[transport.backend]}}  # fmt: skip
        case "mooncake":
            return {"kv_connector": "MooncakeConnector", "kv_role": "kv_both"}
        case _:
            return {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}


def _tiers(cluster: InferenceCluster) -> dict[str, Any] | None:
    cache = cluster.spec.cache
    cpu, nvme = cache.tier("cpu"), cache.tier("nvme")
    if cpu is None and nvme is None:
        return None
    if cache.backend == "lmcache":
        return {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
    if cpu is None:
        raise ConfigError("spec.cache.tiering has nvme without cpu", where=cluster.metadata.name,
                          next_step="Native tiers go through host memory: add {cpu: 64GB}.")  # fmt: skip
    extra: dict[str, Any] = {"cpu_bytes_to_use": size_bytes(cpu), "eviction_policy": cache.eviction}
    if nvme is not None:
        extra |= {"spec_name": "TieringOffloadingSpec", "secondary_tiers": [{"type": "fs", "root_dir": CACHE_DIR}]}
    return {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}


def _events(cluster: InferenceCluster, role: str) -> dict[str, Any]:
    """The engine binds; the router's indexer connects to every pod of the pool."""
    return {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{EVENTS_PORT}",
            "replay_endpoint": f"tcp://*:{REPLAY_PORT}", "topic": f"kv@{variant(cluster, role)}"}  # fmt: skip


def objectives(cluster: InferenceCluster) -> Slo:
    """The file's latency targets as an entry of the SLO file."""
    slo = cluster.spec.slo
    return Slo(model=cluster.spec.model.name, ttft=LatencyTarget(threshold_s=slo.ttft_seconds),
               tpot=LatencyTarget(threshold_s=slo.tpot_seconds))  # fmt: skip


def _sglang(cluster: InferenceCluster, role: str, spec: Role) -> list[str]:
    model, transport = cluster.spec.model, cluster.spec.transport
    args = ["python3", "-m", "sglang.launch_server", "--model-path", model_source(cluster),
            "--served-model-name", model.name, "--host", "0.0.0.0", "--port", str(ENGINE_PORT), "--enable-metrics",
            "--tp-size", str(spec.hardware.count * spec.hardware.nodes),
            "--mem-fraction-static", f"{spec.gpu_memory_utilization:g}"]  # fmt: skip
    args += _option("--quantization", None if model.quantization == "none" else model.quantization)
    args += _option("--context-length", model.max_model_len)
    args += _option("--max-running-requests", spec.max_num_seqs)
    args += _option("--chunked-prefill-size", spec.max_num_batched_tokens)
    args += ["--disable-radix-cache"] if not cluster.spec.cache.prefix_caching else []
    args += ["--kv-cache-dtype", "fp8_e5m2"] if spec.optimization.kv_compression < 1 else []
    args += ["--ep-size", str(spec.hardware.count)] if spec.expert_parallel else []
    args += ["--dp-size", str(spec.data_parallel)] if spec.data_parallel > 1 else []
    if cluster.spec.prefill is not None:
        if transport.protocol == "shared-storage":
            raise ConfigError(
                "SGLang moves KV by nixl or mooncake, not by shared storage",
                where=f"{cluster.metadata.name}: spec.transport.protocol",
                next_step="Write nixl.",
            )
        args += ["--disaggregation-mode", role, "--disaggregation-transfer-backend", transport.protocol,
                 "--disaggregation-bootstrap-port", str(BOOTSTRAP_PORT)]  # fmt: skip
    events = {"publisher": "zmq", "endpoint": f"tcp://*:{EVENTS_PORT}", "topic": f"kv@{variant(cluster, role)}"}
    return [*args, "--kv-events-config", json.dumps(events), *spec.extra_args]


def _option(flag: str, value: object) -> list[str]:
    return [] if value is None else [flag, str(value)]
