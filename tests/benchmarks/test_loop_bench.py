"""The loop bench on a small fleet: the answers are ones that the source reads, and the parts are production's."""

from __future__ import annotations

import json

import pytest

from benchmarks.loop.answers import EPOCH_S, LargeFleet, Size
from benchmarks.loop.bench import judged
from benchmarks.loop.child import measure

SMALL = Size(variants=4, endpoints=12)


def test_answers_are_what_a_prometheus_sends_and_differ_by_pass():
    fleet = LargeFleet(SMALL, 1)
    first, second = fleet.answers(0), fleet.answers(1)
    assert first.keys() == second.keys()
    for query, body in first.items():
        document = json.loads(body)
        assert document["status"] == "success", query
        for entry in document["data"]["result"]:
            at_s, value = entry["value"]
            assert at_s == EPOCH_S
            assert float(value) >= 0
    assert first != second


@pytest.mark.parametrize("analyzer", ["saturation", "v1", "v2", "slo"])
def test_a_pass_sees_every_engine_with_the_same_number_of_queries(analyzer):
    small, larger = (measure(size, 1, analyzer) for size in (SMALL, Size(variants=8, endpoints=80)))
    assert (small["endpoints"], larger["endpoints"]) == (12, 80)
    assert small["queries"] == larger["queries"]
    assert 0 < small["decide_s"] < small["pass_s"] * 10


def test_bars_are_of_the_default_analyzer():
    figures = {"pass_s": 0.5, "wall_s": 0.6, "decide_s": 0.1, "rss_mb": 200.0, "queries": 15, "endpoints": 12.0,
               "answers_mb": 1.0}  # fmt: skip
    from benchmarks.loop.bench import BENCH, DEFAULT

    slow = {**figures, "pass_s": 9.0}
    sized = {**figures, "decide_s": 0.3}
    found = judged([(DEFAULT, 1, figures), ("other", 1, slow), ("slo", 1, sized)], {**figures, "queries": 15})
    assert set(found.bars) == set(BENCH.bars)
    assert found.bars["pass_s"].value == 0.5
    assert (found.bars["slo_decide_s"].value, found.bars["slo_decide_s"].limit) == (0.3, "report")
    assert found.bars["promql_queries"].ok
    more = judged([(DEFAULT, 1, {**figures, "queries": 16})], {**figures, "queries": 15})
    assert not more.bars["promql_queries"].ok
