"""``docs/wva.md`` says what the committed results of ``fleet bench autoscaling`` say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.autoscaling.page import BEGIN, row, table
from benchmarks.marked import written

PAGE = Path(__file__).parents[2] / "docs" / "wva.md"


def test_the_page_holds_the_committed_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, BEGIN, table()) == page, "run make generate"


def test_a_policy_that_misses_or_cannot_be_trusted_is_not_the_cheapest() -> None:
    arms = {
        "ours": (99.5, 1.2),
        "cheap": (98.9, 0.9),
        "doubted": (99.9, 1.0),
        "dear": (99.9, 2.0),
        "keeps": (99.1, 1.5),
    }
    result = {"results": {
        "oracle": {"attaining_gpu_hours": None},
        "arms": {name: {"attainment_pct": kept, "gpu_hours_vs_oracle": cost} for name, (kept, cost) in arms.items()},
        "coarse_mode": [{"arm": "doubted", "trusted": False}, {"arm": "keeps", "trusted": True}],
    }}  # fmt: skip
    assert row("autoscaling", result).endswith("| 99.50 %, 1.20 | none found | keeps: 99.10 %, 1.50 |")


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks"):
        written("no marks", BEGIN, table())


def test_the_cost_is_compared_with_the_clairvoyants_that_keeps_the_targets_too() -> None:
    ours = {"attainment_pct": 99.3, "gpu_hours_vs_oracle": 1.23, "gpu_hours": 45.8}
    result = {"results": {"oracle": {"attaining_gpu_hours": 45.4}, "arms": {"ours": ours}, "coarse_mode": None}}
    assert row("autoscaling", result).endswith("| 99.30 %, 1.23 | 1.01 | none |")
