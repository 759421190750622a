"""What the proof makes of several rounds of the same loads; no engine is needed for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tests.engine.loads import Load
from tests.engine.simulated import REFERENCE, Latency, Round, measured_rows, shuffled, with_references

LOADS = (
    Load(prompt=128, output=64, rate=2.0),
    Load(prompt=512, output=64, rate=2.0),
    Load(prompt=512, output=64, rate=4.0),
)


ORDERS = ((0, 1, 2), (2, 0, 1), (1, 2, 0))
TRUE = (0.1, 0.2, 0.4)


def a_round(order: Sequence[int], paces: Sequence[float], e2e: Sequence[float] = TRUE) -> Round:
    """With a machine whose pace goes from one reference to the next evenly in its logarithm."""
    while_run = [math.sqrt(one * other) for one, other in pairwise(paces)]
    seen = [pace * e2e[index] for index, pace in zip(order, while_run, strict=True)]
    return Round(order=order, loads=[Latency(ttft=one / 10, e2e=one) for one in seen],
                 references=[Latency(ttft=0.01 * pace, e2e=0.3 * pace) for pace in paces])  # fmt: skip


def test_a_machine_that_slows_down_within_a_round_moves_no_load() -> None:
    paces = ((1.0, 1.0, 1.0, 1.0), (1.0, 1.5, 2.2, 1.6), (0.8, 1.0, 0.9, 1.0))
    rows = measured_rows(LOADS, [a_round(order, pace) for order, pace in zip(ORDERS, paces, strict=True)])
    assert [row["e2e_ms"] for row in rows] == pytest.approx([100.0, 200.0, 400.0])
    assert [row["ttft_ms"] for row in rows] == pytest.approx([10.0, 20.0, 40.0])
    assert all(row["e2e_spread_pct"] == pytest.approx(0.0, abs=0.1) for row in rows)


def test_a_load_on_a_slow_machine_counts_as_a_higher_one() -> None:
    rows = measured_rows(LOADS, [a_round(ORDERS[0], (2.0, 2.0, 2.0, 2.0))])
    assert [row["rate_rps"] for row in rows] == [2.0, 2.0, 4.0], "the only pace is the usual one"
    rows = measured_rows(LOADS, [a_round(ORDERS[0], (1.0, 1.0, 1.0, 4.0))])
    assert [row["rate_rps"] for row in rows] == [2.0, 2.0, 8.0]
    assert rows[2]["e2e_ms"] == pytest.approx(400.0)


def test_what_one_load_alone_met_stays_in_its_spread() -> None:
    rounds = [a_round(order, (1.0,) * 4, e2e) for order, e2e in zip(ORDERS, (TRUE, (0.1, 0.2, 0.6), TRUE), strict=True)]
    rows = measured_rows(LOADS, rounds)
    assert [row["e2e_ms"] for row in rows] == pytest.approx([100.0, 200.0, 400.0])
    assert rows[2]["e2e_spread_pct"] == pytest.approx(25.0)
    assert rows[2]["e2e_rounds_ms"] == pytest.approx([400.0, 600.0, 400.0])


def test_the_reference_runs_around_each_load() -> None:
    assert with_references(LOADS) == [REFERENCE, LOADS[0], REFERENCE, LOADS[1], REFERENCE, LOADS[2], REFERENCE]


def test_each_round_has_every_load_in_an_order_of_its_own() -> None:
    orders = [shuffled(12, number) for number in range(3)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
