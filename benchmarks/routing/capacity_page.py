"""Rows of the table in ``docs/kv-cache.md``: known against guessed prefixes with one router; a test keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.routing.catalog import CAPACITY

ARMS: Final = {
    "ours": "ours, guessed", "ours-precise": "ours, known by events", "blend-3222": "llm-d's blend",
    "cache-aware": "cache-aware (SMG)", "sticky": "sticky until saturated", "random": "any engine",
}  # fmt: skip
"""Arm -> its name there."""


def rows(result: Mapping[str, Any]) -> list[str]:
    """Lines of a Markdown table: arm, good share, tokens/s, TTFT mean and P90, hit rate."""
    arms = result["results"][CAPACITY]["arms"]
    found = []
    for arm, name in ARMS.items():
        whole = arms[arm]["whole"]
        ttft = whole["ttft_s"]
        cells = (f"{whole['good_pct']:.1f}", f"{whole['output_tok_s']:,.0f}".replace(",", " "), f"{ttft['mean']:.2f}",
                 f"{ttft['p90']:.2f}", f"{whole['hit_rate']:.3f}")  # fmt: skip
        found.append(f"| {name} | {' | '.join(cells)} |")
    return found
