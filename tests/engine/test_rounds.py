"""What the proof makes of several rounds of the same loads; no engine is needed for it."""

from __future__ import annotations

import pytest

from tests.engine.loads import Load
from tests.engine.simulated import Latency, measured_rows, shuffled

LOADS = (
    Load(prompt=128, output=64, rate=2.0),
    Load(prompt=512, output=64, rate=2.0),
    Load(prompt=512, output=64, rate=4.0),
)


def test_a_slow_round_moves_no_load() -> None:
    true = (0.1, 0.2, 0.4)
    rounds = [[Latency(ttft=pace * one / 10, e2e=pace * one) for one in true] for pace in (1.0, 1.6, 0.9)]
    rows = measured_rows(LOADS, rounds)
    assert [row["e2e_ms"] for row in rows] == pytest.approx([100.0, 200.0, 400.0])
    assert [row["ttft_ms"] for row in rows] == pytest.approx([10.0, 20.0, 40.0])
    assert all(row["e2e_spread_pct"] == pytest.approx(0.0, abs=0.1) for row in rows)


def test_what_one_load_alone_met_stays_in_its_spread() -> None:
    rounds = [
        [Latency(ttft=0.01, e2e=one) for one in each] for each in ((0.1, 0.2, 0.4), (0.1, 0.2, 0.6), (0.1, 0.2, 0.4))
    ]
    rows = measured_rows(LOADS, rounds)
    assert [row["e2e_ms"] for row in rows] == pytest.approx([100.0, 200.0, 400.0])
    assert rows[2]["e2e_spread_pct"] == pytest.approx(25.0)
    assert rows[2]["e2e_rounds_ms"] == pytest.approx([400.0, 600.0, 400.0])


def test_each_round_has_every_load_in_an_order_of_its_own() -> None:
    orders = [shuffled(12, number) for number in range(3)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
