"""How long engines took to start, as published; for ``Cluster.add_engine(start_s=...)``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """From the decision to the first request that can be served."""

    phases_s: Mapping[str, float]
    spread_s: float = 0.0
    """Starts differ by up to this much either way."""
    source: str

    @property
    def start_s(self) -> float:
        """The mean.

        >>> COLD_STARTS["vllm-8b-l40s-cold"].start_s
        294.0
        """
        return sum(self.phases_s.values())

    def drawn_s(self, share: float) -> float:
        """One start out of the spread: the shortest for ``share`` 0, the longest for 1.

        >>> COLD_STARTS["node-to-serving"].drawn_s(1.0)
        270.0
        """
        return self.start_s + (2.0 * share - 1.0) * self.spread_s


COLD_STARTS: dict[str, ColdStart] = {
    "vllm-8b-l40s-cold": ColdStart(
        phases_s={"download": 61.0, "weights": 33.0, "dynamo": 10.0, "compile": 42.0, "graphs": 54.0, "init": 94.0},
        source="vLLM, 8B on L40S, nothing cached (Tensorfuse, 2025-09)"),
    "vllm-8b-l40s-warm": ColdStart(
        phases_s={"weights": 18.0, "dynamo": 10.0, "compile": 13.0, "graphs": 7.0, "init": 34.0},
        source="vLLM, 8B on L40S, all caches filled (Tensorfuse, 2025-09)"),
    "pod-32b-h100": ColdStart(
        phases_s={"pod": 118.5}, spread_s=20.5,
        source="Qwen3-32B on H100, weights on a volume: 98 to 139 s (llm-d autoscaling benches)"),
    "node-to-serving": ColdStart(
        phases_s={"node and pod": 240.0}, spread_s=30.0,
        source="a Kubernetes node and an engine on it (inference-sim)"),
    "kept-warm": ColdStart(phases_s={"pod": 17.0}, source="an engine that waits for its model (llm-d FMA bench)"),
}  # fmt: skip
