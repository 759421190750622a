"""The published ladder's results, to hold the simulation against.

llm-d, guides/optimized-baseline/README.md at 021723b: 8 pods of Qwen3-32B on 2 H100, a plain Kubernetes Service beside
llm-d's router. Two other published runs of the same ladder differ from it: llm-d reached 13 574 tokens/s at rate 60 in
guides/inference-scheduling at 086f217, and 13 528 in benchmark-results/vllm-qwen3-32b-h100 at 53c5b20.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rate of the ladder; tokens/s of output, TTFT in seconds."""

    service_tok_s: float
    llmd_tok_s: float
    service_ttft_s: float
    llmd_ttft_s: float
    service_ttft_p90_s: float
    llmd_ttft_p90_s: float


_ROWS: Final = {
    3: (1797, 1777, 0.415, 0.133, 0.522, 0.162),
    10: (4215, 5066, 0.630, 0.125, 1.014, 0.172),
    15: (5381, 7053, 0.881, 0.122, 1.593, 0.187),
    20: (6205, 11688, 18.103, 0.174, 35.344, 0.283),
    22: (5517, 12436, 20.171, 0.116, 39.436, 0.148),
    25: (5965, 12501, 21.842, 0.116, 42.813, 0.146),
    30: (5702, 13862, 24.597, 0.117, 46.036, 0.148),
    35: (5890, 14026, 24.162, 0.117, 45.190, 0.150),
    40: (6336, 16041, 68.673, 0.153, 126.238, 0.216),
    43: (6588, 16339, 72.429, 0.254, 130.275, 0.218),
    46: (6459, 16665, 70.084, 0.154, 129.810, 0.220),
    49: (6265, 16126, 70.659, 0.151, 133.718, 0.209),
    52: (6303, 16474, 74.326, 0.152, 134.981, 0.219),
    55: (6290, 16854, 72.564, 0.153, 134.034, 0.215),
    57: (6089, 16641, 72.329, 0.153, 135.023, 0.217),
    60: (6551, 17064, 75.586, 0.154, 138.663, 0.217),
}
LADDER: Final = {
    rate: Step(service_tok_s=row[0], llmd_tok_s=row[1], service_ttft_s=row[2], llmd_ttft_s=row[3],
               service_ttft_p90_s=row[4], llmd_ttft_p90_s=row[5])
    for rate, row in _ROWS.items()
}  # fmt: skip
"""By rate, requests per second."""
SATURATED_RPS: Final = 20
"""From this rate on the plain Service's queues grow: TTFT is many seconds."""
