"""What a Prometheus answers about a large fleet, as bytes: the JSON that it really sends. Deterministic by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from fleet.signals import ROUTER_REQUESTS, RUNNING, WAITING, Signal
from fleet.sources import queries
from fleet.sources.traffic import ENGINES, ROUTER
from fleet.types import Replica, ReplicaState, Variant, VariantSpec
from router.metrics import LATENCY_BOUNDS

Array = NDArray[np.float64]
EPOCH_S: Final = 1.7e9
PASS_S: Final = 15.0
_BOUNDS: Final = (*map(str, LATENCY_BOUNDS), "+Inf")
_VARIANTS_PER_MODEL: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a fleet."""

    variants: int
    endpoints: int

    @property
    def each(self) -> int:
        """Endpoints of a variant."""
        return self.endpoints // self.variants


class LargeFleet:
    """Variants and their engines, and Prometheus's answers about them at any pass."""

    def __init__(self, size: Size, seed: int) -> None:
        self.size = size
        rng = np.random.default_rng(seed)
        self._load = rng.uniform(0.05, 0.95, size.endpoints)
        self._noise = np.random.default_rng([seed, 1])
        self.hosts = [f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}:8000" for n in range(1, size.endpoints + 1)]
        self.models = [f"org/model-{n:04d}" for n in range(max(1, size.variants // _VARIANTS_PER_MODEL))]

    def variants(self) -> tuple[Variant, ...]:
        """What the platform says."""
        each = self.size.each
        return tuple(
            Variant(spec=self._spec(n), requested=each, replicas=tuple(
                Replica(name=f"v{n:04d}-{i}", url=f"http://{self.hosts[n * each + i]}", variant=f"v{n:04d}",
                        state=ReplicaState.READY, since_s=EPOCH_S - 3600.0) for i in range(each)))
            for n in range(self.size.variants)
        )  # fmt: skip

    def _spec(self, n: int) -> VariantSpec:
        gpu = ("h100_sxm", "a100_sxm", "h200_sxm", "l40s")[n % _VARIANTS_PER_MODEL]
        model = self.models[n // _VARIANTS_PER_MODEL % len(self.models)]
        return VariantSpec(name=f"v{n:04d}", namespace="models", model=model, accelerator=gpu,
                           cost_per_hour=(3.99, 2.79, 4.5, 1.55)[n % _VARIANTS_PER_MODEL],
                           min_replicas=1, max_replicas=4 * self.size.each)  # fmt: skip

    def answers(self, index: int) -> Mapping[str, bytes]:
        """Query -> answer, ``index`` passes after the start."""
        at_s = EPOCH_S + index * PASS_S
        load = np.clip(self._load + self._noise.normal(0, 0.02, self.size.endpoints), 0.0, 1.0)
        config = {"engine": "0", "num_gpu_blocks": "27183", "block_size": "16"}
        found: dict[str, Iterator[dict[str, str]]] = {
            queries.raw(): self._raw(load, index),
            queries.kv_utilisation(): self._by_host("vllm:kv_cache_usage_perc", load),
            queries.cache_config(): ({"instance": host, **config, "_v": "1"} for host in self.hosts),
            queries.sampled_at(): ({"instance": host, "_v": f"{at_s - 7.5}"} for host in self.hosts),
            queries.gpu_active(): self._by_pod(load),
            queries.router_queue(): self._by_model("0"),
            queries.router_queue_sampled_at(): self._by_model(f"{at_s - 7.5}"),
            queries.router_traffic(): self._traffic(ROUTER.series, index),
            queries.engine_traffic(): self._traffic(ENGINES.series, index),
        }
        for signal in (ROUTER_REQUESTS, RUNNING):
            found[queries.traffic_sampled_at(signal)] = self._by_model(f"{at_s - 7.5}")
        for signal in queries.RATES.values():
            rates = zip(self.hosts, load, strict=True)
            found[queries.rate(signal, 30.0)] = ({"instance": host, "_v": f"{1000 * one:.3f}"} for host, one in rates)
        return {query: _vector(rows, at_s) for query, rows in found.items()}

    def _by_model(self, value: str) -> Iterator[dict[str, str]]:
        for model in self.models:
            yield {"model_name": model, "target_model_name": model, "_v": value}

    def _by_pod(self, values: Array) -> Iterator[dict[str, str]]:
        for n, value in enumerate(values.tolist()):
            yield {
                "exported_pod": f"v{n // self.size.each:04d}-{n % self.size.each}",
                "pod": "dcgm",
                "_v": f"{value:.4g}",
            }

    def _by_host(self, name: str, values: Array) -> Iterator[dict[str, str]]:
        for host, value in zip(self.hosts, values.tolist(), strict=True):
            yield {"__name__": name, "instance": host, "_v": f"{value:.6g}"}

    def _raw(self, load: Array, index: int) -> Iterator[dict[str, str]]:
        for signal in queries.RAW.values():
            yield from self._by_host(signal.name, _values(signal, load, index))

    def _traffic(self, series: frozenset[str], index: int) -> Iterator[dict[str, str]]:
        for name in sorted(series):
            if name.partition(":")[0] not in ("vllm", name):
                continue  # the names of other engines and versions answer nothing here
            for rank, model in enumerate(self.models):
                labels = {"__name__": name, "model_name": model, "target_model_name": model}
                if not name.endswith("_bucket"):
                    yield {**labels, "_v": f"{1000 + 300 * (index + 1) + rank}"}
                    continue
                for step, bound in enumerate(_BOUNDS):
                    yield {**labels, "le": bound, "streaming": "true", "_v": f"{(100 + 30 * index) * min(step, 12)}"}


def _values(signal: Signal, load: Array, index: int) -> Array:  # fmt: skip
    if signal is WAITING:
        return np.asarray(np.floor(np.maximum(load - 0.8, 0.0) * 40), dtype=np.float64)
    if signal is RUNNING:
        return np.asarray(np.floor(load * 200), dtype=np.float64)
    return np.asarray(np.floor(load * 1e4 * (index + 10)), dtype=np.float64)


def _vector(rows: Iterator[dict[str, str]], at_s: float) -> bytes:
    result = []
    for row in rows:
        value = row.pop("_v")
        result.append({"metric": row, "value": [at_s, value]})
    return msgspec.json.encode({"status": "success", "data": {"resultType": "vector", "result": result}})
