"""The table of ``docs/wva.md`` beside other policies, from the committed results; a test keeps the page to it.

``python -m benchmarks.autoscaling.page docs/wva.md`` writes it (``make generate``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.marked import written

RESULTS: Final = Path(__file__).parents[1] / "results"
WORKLOADS: Final = {
    "autoscaling": "published episode, 5 seeds", "autoscaling-azure2023_conv": "azure2023_conv x20",
    "autoscaling-mooncake_synthetic": "mooncake_synthetic x4", "autoscaling-m-large_week": "a week of m-large x0.1",
    "autoscaling-azure2024_conv_week": "a week of Azure 2024, conversations",
}  # fmt: skip
"""Folder of a committed result -> what it is."""
BEGIN: Final = "<!-- from benchmarks/results/autoscaling*, written by make generate -->"
KEPT_PCT: Final = 99.0
"""Requests within the targets that a policy must reach to be named as the cheapest."""
_OURS: Final = ("ours", "ours-late", "perfect-forecast")


def row(name: str, result: Mapping[str, Any]) -> str:
    """One workload: ours, and the cheapest other policy that keeps the targets."""
    arms: Mapping[str, Mapping[str, float]] = result["results"]["arms"]
    doubtful = {one["arm"] for one in result["results"]["coarse_mode"] or () if not one["trusted"]}
    kept = {arm: one for arm, one in arms.items()
            if arm not in _OURS and arm not in doubtful and one["attainment_pct"] >= KEPT_PCT}  # fmt: skip
    best = min(kept, key=lambda arm: kept[arm]["gpu_hours_vs_oracle"], default=None)
    other = f"{best}: {_both(kept[best])}" if best else "none"
    page = "autoscaling.md" if name == "autoscaling" else f"{name}/autoscaling.md"
    kept_hours = result["results"]["oracle"]["attaining_gpu_hours"]
    over_kept = f"{arms['ours']['gpu_hours'] / kept_hours:.2f}" if kept_hours else "none found"
    return f"| [{WORKLOADS[name]}](../benchmarks/results/{page}) | {_both(arms['ours'])} | {over_kept} | {other} |"


def _both(arm: Mapping[str, float]) -> str:
    """Attainment and cost.

    >>> _both({"attainment_pct": 99.7, "gpu_hours_vs_oracle": 1.1428})
    '99.70 %, 1.14'
    """
    return f"{arm['attainment_pct']:.2f} %, {arm['gpu_hours_vs_oracle']:.2f}"


def table(folder: Path = RESULTS) -> str:
    """All workloads."""
    rows = []
    for name in WORKLOADS:
        path = folder / ("" if name == "autoscaling" else name) / "autoscaling.json"
        rows.append(row(name, json.loads(path.read_text(encoding="utf-8"))))
    head = ("| workload | `slo`: within targets, GPU-hours over the clairvoyant's | over its cheapest that keep 99 % "
            "| cheapest other that keeps 99 % |")  # fmt: skip
    return "\n".join([head, "|---|---|---|---|", *rows])


def main(path: Path) -> None:
    """Write the table into the page at ``path``."""
    path.write_text(written(path.read_text(encoding="utf-8"), BEGIN, table()), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
