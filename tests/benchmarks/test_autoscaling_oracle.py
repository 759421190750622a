"""The clairvoyant, work and capacity, the judging of runs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.autoscaling import need
from benchmarks.autoscaling.case import Fleet, Slo, engine_request, lone_ttft_s, met, ttft_limit_s
from benchmarks.autoscaling.episode import STAGES, episode
from benchmarks.autoscaling.findings import published_average
from benchmarks.autoscaling.oracle import best
from benchmarks.autoscaling.pool import Bounds
from benchmarks.autoscaling.score import score
from benchmarks.autoscaling.trail import Trail, on_axis
from simulator.cluster import Loss, Outcome
from simulator.config import engine_config
from simulator.workload import TimedRequest

CONFIG = Fleet(bounds=Bounds(low=1, high=8), initial=1).config


def test_the_published_episode_costs_the_published_oracle() -> None:
    assert published_average(episode(1)) == pytest.approx(4.50, abs=0.005)
    flat = best(np.repeat([3, 3, 5, 6, 7, 3, 3], [11, 12, 12, 12, 12, 12, 10]), bin_s=30.0, startup_s=0.0,
                bounds=Bounds(low=3, high=8), initial=3)  # fmt: skip
    assert flat.average == pytest.approx(4.33, abs=0.005)


@pytest.mark.parametrize(
    ("gap_bins", "kept"),
    [pytest.param(2, True, id="a-short-gap-is-bridged"), pytest.param(20, False, id="a-long-gap-is-not")],
)
def test_a_replica_idles_through_a_gap_shorter_than_its_start(gap_bins: int, kept: bool) -> None:
    plan = best([1, 1, 1, 2, 2] + [1] * gap_bins + [2, 2], bin_s=30.0, startup_s=90.0,
                bounds=Bounds(low=1, high=3), initial=1)  # fmt: skip
    assert (plan.serving[5] == 2) == kept
    assert plan.starts == (1 if kept else 2)


def test_what_nobody_could_have_started_in_time_is_left_out() -> None:
    plan = best([4, 4, 4, 4], bin_s=60.0, startup_s=100.0, bounds=Bounds(low=1, high=8), initial=2)
    assert plan.serving.tolist() == [2, 2, 4, 4]
    assert plan.late_bins == 2


def _cost(counts: tuple[int, ...], initial: int, bin_s: float, startup_s: float) -> float:
    starts = sum(max(after - before, 0) for before, after in itertools.pairwise((initial, *counts)))
    return sum(counts) * bin_s + starts * startup_s


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.floats(0.0, 40.0), st.integers(1, 3))
def test_no_plan_is_cheaper(wanted: list[int], startup_s: float, initial: int) -> None:
    plan = best(wanted, bin_s=10.0, startup_s=startup_s, bounds=Bounds(low=1, high=3), initial=initial)
    reachable = [index * 10.0 >= startup_s for index in range(len(wanted))]
    least = [max(min(one, 3 if free else initial), 1) for one, free in zip(wanted, reachable, strict=True)]
    most = [3 if free else initial for free in reachable]
    options = itertools.product(*(range(low, high + 1) for low, high in zip(least, most, strict=True)))
    assert plan.replica_s == pytest.approx(min(_cost(one, initial, 10.0, startup_s) for one in options))


@given(st.lists(st.integers(1, 8), min_size=1, max_size=30))
def test_the_plan_serves_its_need(wanted: list[int]) -> None:
    plan = best(wanted, bin_s=60.0, startup_s=0.0, bounds=Bounds(low=1, high=8), initial=1)
    assert all(have >= want for have, want in zip(plan.serving.tolist(), wanted, strict=True))


def test_a_perfect_forecast_asks_one_start_up_ahead() -> None:
    plan = best([1, 1, 1, 4, 1], bin_s=60.0, startup_s=100.0, bounds=Bounds(low=1, high=8), initial=1)
    assert [plan.asked(at_s, 100.0) for at_s in (0.0, 79.0, 80.0, 180.0, 240.0)] == [1, 1, 4, 4, 1]


# ---- work


def _lengths(prompt: int, output: int, *, cached: float = 0.0, count: int = 1) -> need.Lengths:
    requests = [TimedRequest(arrival_s=float(index), input_tokens=prompt, output_tokens=output)
                for index in range(count)]  # fmt: skip
    return need.Lengths.of(requests, [cached] * count)


def test_work_follows_the_reference() -> None:
    prefill, decode = need.work_s(CONFIG, _lengths(4000, 1000))
    c = CONFIG.timer.coefficients
    assert prefill[0] == pytest.approx((c.p1 * 4000 + c.p2 * 4000**2) / 1000)
    together = need.batch(CONFIG, 4000, 1000)
    assert together == pytest.approx(307_328 / 5000, rel=0.001)  # memory binds before latency
    fixed_ms = (0.13 + 0.032 * 64 + c.d0) / together
    assert decode[0] == pytest.approx(1000 * (c.d_s + c.d_kv * 4500 + fixed_ms) / 1000)


def test_the_batch_ends_where_a_step_takes_fifty_milliseconds() -> None:
    config = engine_config("Llama-3.1-8B", "l40s")
    together = need.batch(config, 1000, 200)
    assert config.timer.step_s(decoding=round(together), context=round(together * 1100)) <= need.ITL_S
    assert config.timer.step_s(decoding=round(together) + 2, context=round((together + 2) * 1100)) > need.ITL_S


def test_a_cached_prefix_is_no_work() -> None:
    bare, _ = need.work_s(CONFIG, _lengths(4000, 1))
    half, _ = need.work_s(CONFIG, _lengths(4000, 1, cached=2000.0))
    assert half[0] < bare[0]
    assert half[0] > 0.5 * bare[0]  # its attention still reads what is cached


def test_load_keeps_all_work() -> None:
    lengths = _lengths(2000, 300, count=50)
    loads = need.load(CONFIG, lengths, span_s=120.0, bin_s=10.0)
    prefill, decode = need.work_s(CONFIG, lengths)
    assert loads.sum() * 10.0 == pytest.approx(float((prefill + decode).sum()))


def test_replicas_round_up_and_keep_the_floor() -> None:
    assert need.replicas(np.array([0.0, 0.85, 0.86, 2.0]), 0.85, 1).tolist() == [1, 1, 2, 3]


def test_a_replica_bears_the_published_rate() -> None:
    case = episode(1)
    bearing = need.sustainable(case, case.requests[:500], seed=1)
    assert 1.3 < bearing.rps < 1.6  # published: 1.4 to 1.5
    assert bearing.rho == pytest.approx(bearing.rps * 0.663, rel=0.02)


# ---- cases and judging


def test_the_episode_has_the_published_requests() -> None:
    case = episode(3)
    assert len(case.requests) == sum(rate * length_s for rate, length_s in STAGES)
    assert all(3500 <= one.input_tokens <= 4500 and 900 <= one.output_tokens <= 1100 for one in case.requests)
    rates = [sum(330 + 360 * index <= one.arrival_s < 690 + 360 * index for one in case.requests) / 360
             for index in range(5)]  # fmt: skip
    assert rates == pytest.approx([4, 6, 8, 10, 4])
    assert case.requests == episode(3).requests != episode(4).requests


def test_recorded_ids_become_blocks_that_are_shared_as_recorded() -> None:
    one, other = (
        engine_request("r", TimedRequest(arrival_s=0, input_tokens=1100, output_tokens=1, hash_ids=ids))
        for ids in ((4, 5, 6), (4, 5, 9))
    )
    assert len(one.block_hashes) == 1100 // 16
    same = [a == b for a, b in zip(one.block_hashes, other.block_hashes, strict=True)]
    assert same == [True] * 64 + [False] * 4


def test_a_prompt_that_cannot_make_the_target_gets_twice_its_lone_time() -> None:
    slo = Slo(ttft_s=3.0)
    assert ttft_limit_s(slo, CONFIG, 4000) == 3.0
    assert ttft_limit_s(slo, CONFIG, 100_000) == pytest.approx(2 * lone_ttft_s(CONFIG, 100_000))


@pytest.mark.parametrize(
    ("ttft_s", "e2e_s", "loss", "good"),
    [
        pytest.param(2.9, 12.0, None, True, id="both-met"),
        pytest.param(3.1, 12.0, None, False, id="late-first-token"),
        pytest.param(2.0, 22.0, None, False, id="slow-tokens"),
        pytest.param(2.0, 3.0, Loss.TIMEOUT, False, id="lost"),
    ],
)
def test_a_request_is_good_when_it_meets_everything(
    ttft_s: float, e2e_s: float, loss: Loss | None, good: bool
) -> None:  # fmt: skip
    outcome = Outcome(request_id="0", engine=0, arrival_s=0.0, ttft_s=ttft_s, e2e_s=e2e_s, output_tokens=101,
                      cached_tokens=0, preemptions=0, loss=loss)  # fmt: skip
    assert met(outcome, Slo(), 3.0) is good


def test_intervals_on_the_axis() -> None:
    assert on_axis([(0.0, 3.0), (1.0, 99.0)], 4).tolist() == [1, 2, 2, 1]


def test_the_window_goes_on_until_the_pool_is_back_at_its_floor() -> None:
    case = episode(1)
    plan = best([3] * 81, bin_s=30.0, startup_s=100.0, bounds=case.fleet.bounds, initial=3)
    trail = Trail(initial=3, total=10.0, good=9.0, events=[(0.0, 4), (2500.0, 3)], end_s=3630.0,
                  paid=[(0.0, 3630.0)] * 3 + [(0.0, 2530.0)], serving=[(0.0, 3630.0)] * 3)  # fmt: skip
    found = score(case, trail, np.full(243, 3), plan)
    assert found.window_s == 2530.0
    assert found.avg_replicas == pytest.approx(4.0)
    assert found.gpu_hours == pytest.approx(4 * 2530 * 2 / 3600)
    assert found.gpu_hours_vs_oracle == pytest.approx(4 / 3)
    assert found.goodput_vs_oracle == pytest.approx(0.9 * 3 / 4)
    assert found.short_s == 0.0
    assert found.scale_events_per_hour == pytest.approx(2 * 3600 / 2530)


def test_a_pool_that_never_shrinks_is_not_waited_for() -> None:
    trail = Trail(initial=8, end_s=3630.0, paid=[(0.0, 3630.0)] * 8)
    assert trail.settled_s(2430.0, 3) == 2430.0
