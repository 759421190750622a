"""Prefill and decode apart: layouts, what they bear, what is told."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks.cli import bench as command
from benchmarks.disaggregation import bench, goodput
from benchmarks.disaggregation.goodput import Lengths, Slo, arrivals, borne, served
from benchmarks.disaggregation.layouts import DOCUMENTED, LAYOUTS, Layout, Router
from benchmarks.options import BenchOptions
from fleet.errors import ConfigError
from simulator.cluster import Placement
from simulator.sequence import EngineRequest

SHORT = Lengths(prompt=400, answer=20)
LOOSE, TIGHT = Slo(ttft_s=1.0, tpot_s=0.1), Slo(ttft_s=0.5, tpot_s=0.02)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of some seconds."""
    monkeypatch.setattr(goodput, "LEAST", 40)
    monkeypatch.setattr(goodput, "COUNTED_S", 2.0)
    monkeypatch.setattr(goodput, "_LOWEST_RPS_GPU", 2.0)
    monkeypatch.setattr(goodput, "RATIO", 2.0)


@pytest.mark.parametrize(
    ("layout", "name", "gpus"),
    [
        pytest.param(Layout(decode=9), "aggregated 9 x TP2", 18, id="together"),
        pytest.param(Layout(prefill=8, decode=1), "8P1D TP2/TP2", 18, id="apart"),
        pytest.param(Layout(prefill=8, prefill_gpus=1, decode=2, decode_gpus=4), "8P2D TP1/TP4", 16, id="unequal"),
    ],
)
def test_a_layout_is_named_and_counted(layout: Layout, name: str, gpus: int) -> None:
    assert (layout.name, layout.gpus) == (name, gpus)
    assert len(layout.engines()) == layout.prefill + layout.decode


def test_the_documented_ratios_are_among_the_layouts() -> None:
    assert {layout.ratio for layout in LAYOUTS} >= set(DOCUMENTED.values()) == {8.0, 4.0, 2.0}
    for lengths in bench.WORKLOADS:
        assert bench.documented(lengths)


def test_prompts_go_where_the_fewest_tokens_are_under_way_and_answers_where_the_fewest_requests_are() -> None:
    router = Router(Layout(prefill=2, decode=2))
    asks = [EngineRequest(request_id=name, prompt_tokens=size, output_tokens=1) for name, size in
            (("a", 100), ("b", 10), ("c", 10))]  # fmt: skip
    picks = [router.pick(ask, (), 0.0) for ask in asks]
    assert picks == [Placement(prefill=0, decode=2), Placement(prefill=1, decode=3), Placement(prefill=1, decode=2)]
    router.answering("a", 100)
    router.ended("b")
    assert router.pick(asks[0], (), 0.0) == Placement(prefill=0, decode=3)


@pytest.mark.parametrize("layout", [Layout(decode=2), Layout(prefill=1, decode=1)], ids=lambda layout: layout.name)
def test_every_counted_request_is_served_whole(layout: Layout) -> None:
    outcomes = served(layout, SHORT, 5.0, seed=1)
    assert len(outcomes) == 40
    assert all(one.ok and 0 < one.ttft_s < one.e2e_s for one in outcomes)
    sent = arrivals(SHORT, 5.0, seed=1)[20:]
    assert sum(one.output_tokens for one in outcomes) == sum(one.request.output_tokens for one in sent)


def test_the_prompt_computed_elsewhere_costs_a_transfer() -> None:
    together, apart = (served(layout, SHORT, 0.5, seed=1) for layout in (Layout(decode=1), Layout(prefill=1, decode=1)))
    assert min(one.ttft_s for one in apart) > min(one.ttft_s for one in together)


def test_looser_limits_are_borne_at_no_lower_rate_and_a_seed_repeats() -> None:
    layout = Layout(decode=2)
    found = borne(layout, SHORT, (LOOSE, TIGHT), seed=1)
    assert found[LOOSE.name] >= found[TIGHT.name] > 0
    assert found == borne(layout, SHORT, (LOOSE, TIGHT), seed=1)


@pytest.mark.parametrize(
    ("shares", "rate"),
    [
        pytest.param([1.0, 0.95, 0.85, 0.3], 2.0 * 2**0.5, id="half-way-in-the-logarithm"),
        pytest.param([0.8, 0.7], 0.0, id="never"),
        pytest.param([1.0, 1.0], 2.0, id="always"),
        pytest.param([1.0, 0.9, 0.4], 2.0, id="just"),
    ],
)
def test_where_the_share_crosses(shares: list[float], rate: float) -> None:
    assert goodput._crossing([2.0**index for index in range(len(shares))], shares) == pytest.approx(rate)


def test_the_bench_tells_who_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = (Layout(decode=2), Layout(prefill=8, prefill_gpus=1, decode=1), Layout(prefill=2, decode=1))
    monkeypatch.setattr(bench, "LAYOUTS", layouts)
    monkeypatch.setattr(bench, "WORKLOADS", (Lengths(prompt=400, answer=40), Lengths(prompt=20, answer=20)))
    monkeypatch.setattr(bench, "BARS", ("ten", "one"))
    outcome = bench.run(BenchOptions(seeds=(1,)))
    assert set(outcome.results) == {"400/40", "20/20"}
    rows = outcome.tables[0].rows
    assert len(rows) == 2 * len(bench.SLOS)
    assert {row[5] for row in rows} <= {"apart", "together"}
    assert set(outcome.bars) == {"ten", "one"}
    json.dumps(outcome.results)


def test_another_workload_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="has its own workloads"):
        bench.run(BenchOptions(workload="x.csv"))
    assert CliRunner().invoke(command, ["disaggregation", "--workload", "x.csv"]).exit_code != 0
