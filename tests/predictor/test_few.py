"""Plain floats for a few candidates, numpy for many: the same latencies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.few import Few
from predictor.model import LatencyModel, Law, build
from predictor.residual import AXES, BINS

URLS, VARIANTS = ("http://a", "http://b", "http://new"), ("fast", "slow", "strange")
MOST = [4000.0, 3000.0, 9000.0, 60.0, 1e5, 20.0, 50.0, 1.0]
"""Largest features of training: rows go beyond."""
loads = st.tuples(
    st.integers(1, 200_000), st.integers(0, 250_000), st.integers(0, 500_000), st.integers(0, 300),
    st.integers(0, 3_000_000), st.integers(0, 200), st.floats(0.0, 1.0),
)  # fmt: skip


def law(columns: int, seed: int, *, table: bool) -> Law:
    rng = np.random.default_rng(seed)
    steps = np.maximum.accumulate(rng.normal(0.0, 0.1, (len(AXES), BINS)), axis=1) if table else None
    return Law(shared=rng.uniform(0.0, 0.01, columns), variants={"fast": rng.uniform(0.0, 0.01, columns)},
               scales={("http://a", "fast"): 0.7, ("http://b", "slow"): 2.0}, samples=10, table=steps,
               quantiles=np.sort(rng.lognormal(0.0, 0.3, (4, 9)), axis=1),
               widths={("http://a", "fast"): (0.6, 1.4), ("http://new", "strange"): (2.0, 0.5)})  # fmt: skip


def model(ttft_table: bool, tpot_table: bool) -> LatencyModel:
    return build(ttft=law(7, 1, table=ttft_table), tpot=law(5, 2, table=tpot_table), ranges=np.array([[0.0] * 8, MOST]),
                 capacities={"fast": 100_000.0}, fitted_at_s=0.0)  # fmt: skip


@pytest.mark.parametrize("tables", [(False, False), (True, False), (False, True), (True, True)])
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(loads, min_size=3, max_size=3))
def test_both_ways_give_the_same(tables, rows):
    made = model(*tables)
    few, batch = Few(made, URLS, VARIANTS), made.at(URLS, VARIANTS)
    for place, column in zip((0, 1, 2, 3, 4, 5, 7), zip(*rows, strict=True), strict=True):
        batch.rows[place] = column
    batch.predict()
    ttft, tpot = zip(*few.predict(rows), strict=True)
    assert ttft == pytest.approx(batch.ttft_s, rel=1e-9)
    assert tpot == pytest.approx(batch.tpot_s, rel=1e-9)
    places = made.places(URLS, VARIANTS)
    for level in (0.05, 0.9, 0.9):
        high = batch.quantiles(level)
        said = made.quantile(batch.rows.T, made.predict_at(batch.rows.T, places), level, places)
        assert high.ttft_s == pytest.approx(said.ttft_s, rel=1e-9)
        assert high.tpot_s == pytest.approx(said.tpot_s, rel=1e-9)
    alike, (ttft_alike, tpot_alike) = few.alike(rows), batch.alike()
    assert [one for one, _ in alike] == pytest.approx(ttft_alike, rel=1e-9)
    assert [one for _, one in alike] == pytest.approx(tpot_alike, rel=1e-9)
