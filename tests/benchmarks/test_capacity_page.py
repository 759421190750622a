"""The table of known against guessed prefixes is that of the committed result."""

import json
from pathlib import Path

from benchmarks.routing.capacity_page import ARMS, rows

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "routing-73-capacity" / "routing.json"


def test_the_table_is_that_of_the_result():
    page = (ROOT / "docs" / "kv-cache.md").read_text(encoding="utf-8")
    found = rows(json.loads(RESULT.read_text(encoding="utf-8")))
    assert len(found) == len(ARMS)
    for row in found:
        assert row in page, row


def test_knowing_is_never_worse_than_guessing():
    arms = json.loads(RESULT.read_text(encoding="utf-8"))["results"]["73-capacity"]["arms"]
    known, guessed = arms["ours-precise"]["whole"], arms["ours"]["whole"]
    assert known["good_pct"] >= guessed["good_pct"]
    assert known["ttft_s"]["mean"] <= guessed["ttft_s"]["mean"]
