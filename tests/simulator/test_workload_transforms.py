"""Scaling, warping, looping and prefixes keep what they promise to keep."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from simulator.workload import (
    Plan,
    PrefixAssumption,
    RateSource,
    TimedRequest,
    TraceSource,
    arrivals_along,
    assign_prefixes,
    scale_rate,
    schedule,
    shift,
    span_of,
    warp,
)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def trace(count: int = 600, span_s: float = 600.0) -> list[TimedRequest]:
    """Evenly spaced requests, three times as dense in the second half."""
    half, early = span_s / 2, count // 4
    marks = (*np.linspace(0, half, early, endpoint=False), *np.linspace(half, span_s, count - early, endpoint=False))
    return [
        TimedRequest(arrival_s=float(mark), input_tokens=1000 + index, output_tokens=10)
        for index, mark in enumerate(marks)
    ]


requests = st.lists(
    st.builds(
        TimedRequest,
        arrival_s=st.floats(0, 1e5),
        input_tokens=st.integers(1, 10_000),
        output_tokens=st.integers(1, 1000),
        hash_ids=st.lists(st.integers(0, 50), max_size=3).map(tuple),
    ),
    max_size=40,
).map(lambda items: sorted(items, key=lambda item: item.arrival_s))


@pytest.mark.parametrize(
    "factor", [pytest.param(0.1, id="thinned"), pytest.param(1.0, id="as-it-is"), pytest.param(3.7, id="duplicated")]
)
def test_rate_scaling_gives_the_wanted_number_and_keeps_the_shape(factor: float) -> None:
    original = trace(8000)
    scaled = scale_rate(original, factor, span_s=600.0, rng=rng())
    assert len(scaled) == pytest.approx(8000 * factor, rel=0.05)
    early = sum(item.arrival_s < 300 for item in scaled) / len(scaled)
    assert early == pytest.approx(0.25, abs=0.03)


def test_copies_are_spread_around_the_original_and_not_a_burst() -> None:
    scaled = scale_rate(trace(100), 4.0, span_s=600.0, rng=rng(), jitter_s=30.0)
    assert len({item.arrival_s for item in scaled}) == 400


def test_copies_add_no_prefix_hits_that_the_trace_did_not_have() -> None:
    original = [
        TimedRequest(arrival_s=float(at), input_tokens=1024, output_tokens=1, hash_ids=(7, at + 8)) for at in range(20)
    ]
    scaled = scale_rate(original, 3.0, span_s=20.0, rng=rng())
    first_blocks = {item.hash_ids[0] for item in scaled}
    assert len(first_blocks) == 3, "each generation of copies shares its own first block"
    assert len({item.hash_ids for item in scaled}) == 60


@given(requests, st.floats(0.0, 5.0), st.integers(0, 99))
def test_scaling_stays_sorted_inside_the_span_and_keeps_lengths(
    items: list[TimedRequest], factor: float, seed: int
) -> None:
    span_s = span_of(items)
    scaled = scale_rate(items, factor, span_s=span_s, rng=rng(seed))
    assert all(0 <= item.arrival_s <= span_s for item in scaled)
    assert all(one.arrival_s <= two.arrival_s for one, two in itertools.pairwise(scaled))
    assert {(item.input_tokens, item.output_tokens) for item in scaled} <= {
        (item.input_tokens, item.output_tokens) for item in items
    }


@given(requests, st.floats(0.01, 100.0))
def test_warping_divides_times_and_changes_nothing_else(items: list[TimedRequest], factor: float) -> None:
    for before, after in zip(items, warp(items, factor), strict=True):
        assert after.arrival_s == pytest.approx(before.arrival_s / factor)
        assert (after.input_tokens, after.output_tokens, after.hash_ids) == (
            before.input_tokens,
            before.output_tokens,
            before.hash_ids,
        )


def test_shifting_moves_every_arrival_alike() -> None:
    assert [item.arrival_s for item in shift(trace(4, 4.0), 10.0)] == [
        10.0,
        12.0,
        pytest.approx(12.667, abs=1e-3),
        pytest.approx(13.333, abs=1e-3),
    ]


def test_a_looped_trace_has_a_gap_at_the_joint() -> None:
    items = [TimedRequest(arrival_s=float(at), input_tokens=1, output_tokens=1) for at in range(10)]
    source = TraceSource(requests=items, span_s=span_of(items))
    looped = list(schedule(source, Plan(period_s=10.0, mean_rps=1.0), rng(), until_s=30.0))
    assert [item.arrival_s for item in looped] == pytest.approx(list(range(30)))


def test_the_schedule_has_the_chosen_mean_rate_and_the_shape_in_every_cycle() -> None:
    source = TraceSource(requests=trace(6000), span_s=600.0)
    drawn = list(schedule(source, Plan(period_s=120.0, mean_rps=13.0), rng(), until_s=1200.0))
    assert len(drawn) / 1200 == pytest.approx(13.0, rel=0.03)
    per_half = np.bincount([int(item.arrival_s // 60) for item in drawn], minlength=20)
    assert np.all(per_half[1::2] > 2 * per_half[::2]), "the second half of each cycle is three times as dense"


def test_cycles_differ_but_the_same_seed_repeats_them() -> None:
    source = TraceSource(requests=trace(6000), span_s=600.0)
    plan = Plan(period_s=100.0, mean_rps=5.0, prefixes=PrefixAssumption())
    first, again = (list(schedule(source, plan, rng(7), until_s=200.0)) for _ in range(2))
    assert first == again
    assert first != list(schedule(source, plan, rng(8), until_s=200.0))
    cycles = [[item.input_tokens for item in first if lo <= item.arrival_s < lo + 100] for lo in (0, 100)]
    assert cycles[0] != cycles[1]


def test_an_endless_schedule_goes_on() -> None:
    source = TraceSource(requests=trace(60), span_s=600.0)
    drawn = list(itertools.islice(schedule(source, Plan(period_s=1.0, mean_rps=10.0), rng()), 500))
    assert drawn[-1].arrival_s == pytest.approx(50.0, rel=0.2)


@pytest.mark.parametrize(("mean_rps", "what"), [
    pytest.param(1e-9, "yields no request", id="a-rate-that-never-sends"),
    pytest.param(1e9, "would hold", id="a-cycle-that-fits-no-memory"),
])  # fmt: skip
def test_an_impossible_rate_is_one_clear_line(mean_rps: float, what: str) -> None:
    source = TraceSource(requests=trace(100), span_s=600.0)
    with pytest.raises(ConfigError, match=what):
        next(schedule(source, Plan(period_s=1.0, mean_rps=mean_rps), rng()))


def test_assumed_prefixes_cover_the_stated_share_of_the_median_prompt() -> None:
    source = TraceSource(requests=trace(4000), span_s=600.0)
    drawn = list(
        schedule(
            source,
            Plan(period_s=100.0, mean_rps=40.0, prefixes=PrefixAssumption(count=8, share=0.3)),
            rng(),
            until_s=100.0,
        )
    )
    assert {item.prefix_id for item in drawn} == set(range(8))
    median = np.median([item.input_tokens for item in drawn])
    assert {item.prefix_tokens for item in drawn} == {int(median * 0.3) // 16 * 16}


def test_prefixes_can_be_switched_off() -> None:
    source = TraceSource(requests=trace(400), span_s=600.0)
    drawn = list(schedule(source, Plan(period_s=100.0, mean_rps=4.0), rng(), until_s=100.0))
    assert {item.prefix_id for item in drawn} == {None}


@given(requests, st.integers(0, 12), st.integers(0, 2000))
def test_a_prefix_is_shorter_than_its_prompt_and_never_replaces_a_recorded_one(
    items: list[TimedRequest], count: int, tokens: int
) -> None:
    for before, after in zip(items, assign_prefixes(items, count=count, tokens=tokens, rng=rng()), strict=True):
        assert 0 <= after.prefix_tokens < after.input_tokens
        if before.hash_ids:
            assert after == before


@pytest.mark.parametrize("shape", [pytest.param(1.0, id="poisson"), pytest.param(0.3, id="bursty")])
def test_arrivals_follow_bins_and_burstiness(shape: float) -> None:
    drawn = arrivals_along(np.array([1000.0, 0.0, 9000.0]), np.array([0.0, 10.0, 20.0, 30.0]), shape=shape, rng=rng())
    counts = np.histogram(drawn, [0.0, 10.0, 20.0, 30.0])[0]
    assert counts[1] <= 1
    assert counts[0] == pytest.approx(1000, rel=0.2)
    assert counts[2] == pytest.approx(9000, rel=0.1)
    gaps = np.diff(drawn[drawn >= 20.0])
    assert gaps.std() / gaps.mean() == pytest.approx(shape**-0.5, rel=0.1)


def test_a_rate_curve_draws_lengths_around_its_means() -> None:
    source = RateSource(bin_s=600.0, rates_rps=(1.0, 3.0), mean_input=1618.0, mean_output=107.0)
    drawn = source.cycle(rng(), 10.0)
    assert len(drawn) == pytest.approx(24_000, rel=0.03)
    assert np.mean([item.input_tokens for item in drawn]) == pytest.approx(1618, rel=0.05)
    assert np.mean([item.output_tokens for item in drawn]) == pytest.approx(107, rel=0.05)
    assert sum(item.arrival_s >= 600 for item in drawn) / len(drawn) == pytest.approx(0.75, abs=0.02)
