"""The page of performance evidence: it is what the committed results say, and all that they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.overview import RESULTS, found, render
from benchmarks.result import Bar

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == render(), "run: make generate"


def test_every_bar_of_every_result_is_on_the_page() -> None:
    bars = [(name, bar) for _, result in found() for name, bar in result["bars"].items()]
    assert len(bars) > 20
    assert re.findall(r"^\| `(\w+)` \|", render(), flags=re.MULTILINE) == [name for name, _ in bars]


def test_verdicts_are_those_of_the_limits() -> None:
    for path, result in found():
        for name, bar in result["bars"].items():
            judged = Bar(value=bar["value"], unit=bar["unit"], limit=bar["limit"]).ok
            assert judged == bar["ok"], f"{path} {name}"


def test_a_missed_bar_is_said_and_an_unknown_value_is_no_number(tmp_path: Path) -> None:
    result = next(result for _, result in found(RESULTS))
    result["bars"] = {"too_slow": Bar(value=None, unit="s", limit="< 2").to_json(),
                      "told": Bar(value=3.0, unit="1/h", limit="report").to_json()}  # fmt: skip
    (tmp_path / "x.json").write_text(json.dumps(result), encoding="utf-8")
    page = render(tmp_path)
    assert "| `too_slow` | - s | < 2 | **no** |" in page
    assert "| `told` | 3 1/h | report | told only |" in page
