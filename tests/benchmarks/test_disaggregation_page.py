"""The page on prefill and decode apart shows what the bench found."""

import json
from pathlib import Path

import pytest

from benchmarks.disaggregation.page import BEGIN, RESULT, tables
from benchmarks.marked import written

PAGE = Path(__file__).resolve().parents[2] / "docs" / "disaggregation.md"


def test_the_tables_are_those_of_the_committed_result():
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page, BEGIN, tables(json.loads(RESULT.read_text(encoding="utf-8")))), "make generate"


def test_who_is_ahead_is_said_in_bold():
    names = ["aggregated 9 x TP2", "aggregated 5 x TP4", "8P1D TP2/TP2", "8P2D TP2/TP2", "6P3D TP2/TP2", "5P5D TP2/TP2",
             "3P6D TP2/TP2", "8P1D TP1/TP4", "8P2D TP1/TP4", "8P4D TP1/TP4"]  # fmt: skip
    rates = {name: [0.1, 0.1, 0.3] for name in names}
    rates |= {"aggregated 5 x TP4": [0.2, 0.2, 0.1], "8P2D TP1/TP4": [0.1, 0.25, 0.3]}
    text = tables({"results": {"5000/1000": {"TTFT 2 s, TPOT 25 ms": rates}}})
    assert "| 5:1 | TTFT 2 s, TPOT 25 ms | aggregated 5 x TP4: 0.200/s | 8P2D TP1/TP4: 0.250/s | **+25 %** |" in text
    assert "| layout | GPUs | 5:1, 2 s, 25 ms |" in text
    assert "| 8P2D TP1/TP4 | 16 | **125** † |" in text
    assert "| 8P4D TP1/TP4 | 24 | 50 |" in text


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="lacks"):
        written("# A page", BEGIN, "a table")
