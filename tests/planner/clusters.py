"""InferenceCluster files for tests: the committed example, and variations of it."""

from __future__ import annotations

from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "docs/examples/cluster.yaml"
TEXT = EXAMPLE.read_text(encoding="utf-8")

AGGREGATED = """
apiVersion: llm-d.ai/v1
kind: InferenceCluster
metadata: {name: qwen}
spec:
  model: {name: Qwen/Qwen3-32B}
  decode: {replicas: 3, hardware: {gpu: h100_sxm, count: 2}}
"""

SGLANG = """
apiVersion: llm-d.ai/v1
kind: InferenceCluster
metadata: {name: deepseek-like}
spec:
  model: {name: served-under-this-name, shape: Qwen3-Coder-480B-A35B, quantization: fp8}
  decode:
    engine: sglang
    replicas: 2
    expertParallel: true
    hardware: {gpu: h200_sxm, count: 8}
  autoscaling: {scaler: keda, decode: {min: 0, max: 4}}
  monitoring: {enabled: false}
"""

NODES = """
apiVersion: llm-d.ai/v1
kind: InferenceCluster
metadata: {name: wide}
spec:
  model: {name: Qwen3-Coder-480B-A35B, quantization: fp8, tokenSecret: hub}
  decode:
    replicas: 2
    expertParallel: true
    dataParallel: 2
    hardware: {gpu: h100_sxm, count: 8, nodes: 2}
  cache: {backend: lmcache, tiering: [{cpu: 512GB}]}
"""

ALL = {"example": TEXT, "aggregated": AGGREGATED, "sglang": SGLANG, "nodes": NODES}
