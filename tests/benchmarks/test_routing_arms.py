"""Each baseline by its published rule."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.routing.arms import (
    BASELINES,
    Blend,
    CacheAware,
    LeastRequest,
    LMetric,
    PowerOfTwo,
    Random,
    RoundRobin,
    StickyUntilSaturated,
)
from benchmarks.routing.clairvoyant import exact_delay
from fleet.types import EngineSample
from tests.benchmarks.routing_builders import asked, engines, front

NOWHERE = (0, 0, 0)


def picks(arm, where, ask, times=300):
    return Counter(arm.pick(ask, where, 0.0) for _ in range(times))


@pytest.mark.parametrize("kind", BASELINES, ids=lambda kind: kind.name)
def test_one_endpoint_takes_all(kind):
    assert picks(kind(engines(1), 1), front((3, 10)), asked(0), times=5) == {0: 5}


@pytest.mark.parametrize("kind", BASELINES, ids=lambda kind: kind.name)
def test_the_same_seed_decides_alike(kind):
    where = front((2, 100), (2, 100), (2, 100))
    runs = [[kind(engines(), seed).pick(asked(*NOWHERE), where, 0.0) for _ in range(20)] for seed in (7, 7)]
    assert runs[0] == runs[1]


def test_random_is_uniform():
    counts = picks(Random(engines(), 1), front((9, 9), (0, 0), (0, 0)), asked(*NOWHERE), times=900)
    assert all(count > 240 for count in counts.values())


def test_round_robin_goes_round_and_starts_anywhere_in_a_stage():
    arm, where = RoundRobin(engines(), 1), front(*[(0, 0)] * 3)
    turns = [arm.pick(asked(*NOWHERE), where, 0.0) for _ in range(7)]
    assert turns == [0, 1, 2, 0, 1, 2, 0]
    starts = set()
    for _ in range(40):
        arm.begin()
        starts.add(arm.pick(asked(*NOWHERE), where, 0.0))
    assert starts == {0, 1, 2}


def test_least_request_takes_the_fewest_and_breaks_ties_at_random():
    assert set(picks(LeastRequest(engines(), 1), front((2, 0), (1, 900), (1, 0)), asked(640, 0, 0))) == {1, 2}


def test_power_of_two_takes_the_less_loaded_of_two():
    """The most loaded never; the least loaded whenever it is drawn: in two thirds of the pairs."""
    counts = picks(PowerOfTwo(engines(), 1), front((5, 0), (3, 0), (1, 0)), asked(*NOWHERE), times=3000)
    assert counts[0] == 0
    assert counts[2] / 3000 == pytest.approx(2 / 3, abs=0.04)


# ---- cache_aware: threshold rule


@pytest.mark.parametrize(
    ("loads", "imbalanced"),
    [
        pytest.param((0, 64), False, id="a difference of 64 is not above 64"),
        pytest.param((0, 65), True, id="65 more, and infinitely many times as many"),
        pytest.param((200, 299), False, id="99 more but less than one and a half times"),
        pytest.param((200, 301), True, id="both thresholds passed"),
        pytest.param((10, 70), False, id="six times as many but only 60 more"),
    ],
)
def test_cache_aware_balances_only_past_both_thresholds(loads, imbalanced):
    assert CacheAware(engines(2), 1).imbalanced(loads) is imbalanced


def test_cache_aware_follows_its_tree_above_the_threshold():
    arm, where = CacheAware(engines(), 1), front(*[(0, 0)] * 3)
    first = arm.pick(asked(*NOWHERE), where, 0.0)
    assert picks(arm, where, asked(*NOWHERE)) == {first: 300}, "the whole prompt is in its tree there"


def test_cache_aware_sends_a_stranger_to_the_smallest_tree():
    arm, where = CacheAware(engines(), 1), front(*[(0, 0)] * 3)
    arm.tree.record(where.urls[0], [1, 2, 3])
    arm.tree.record(where.urls[1], [4])
    assert arm.pick(asked(*NOWHERE), where, 0.0) == 2


@pytest.mark.parametrize(("known", "follows"), [(3, False), (4, True)], ids=["0.3 is not above 0.3", "0.4 is"])
def test_cache_aware_threshold(known, follows):
    arm, where = CacheAware(engines(), 1), front(*[(0, 0)] * 3)
    ask = asked(*NOWHERE)
    arm.tree.record(where.urls[0], list(ask.inference.block_hashes[:known]) + [999] * 9)
    assert (arm.pick(ask, where, 0.0) == 0) is follows


def test_cache_aware_takes_the_shortest_queue_out_of_balance():
    arm, where = CacheAware(engines(), 1), front((70, 0), (1, 0), (0, 0))
    arm.tree.record(where.urls[0], asked(*NOWHERE).inference.block_hashes)
    assert arm.pick(asked(*NOWHERE), where, 0.0) == 2


# ---- LMetric


def test_lmetric_is_tokens_to_compute_times_batch():
    arm, where = LMetric(engines(2), 1), front((4, 100), (1, 900))
    ask = asked(540, 0)
    assert [arm.cost(ask, where, index) for index in (0, 1)] == [(400 + 100) * 5, (900 + 640) * 2]
    assert arm.pick(ask, where, 0.0) == 0


def test_lmetric_counts_one_token_where_all_is_cached():
    assert LMetric(engines(1), 1).cost(asked(640), front((2, 0)), 0) == 3


# ---- sticky until saturated


@pytest.mark.parametrize(
    ("matched", "waiting", "kept"),
    [
        pytest.param((512, 0, 511), (0, 0, 0), [0], id="exactly four fifths stick"),
        pytest.param((511, 0, 0), (0, 0, 0), [0, 1, 2], id="less stick nowhere"),
        pytest.param((640, 640, 0), (0, 900, 0), [0, 1], id="two hold it"),
        pytest.param((640, 0, 0), (286_720, 0, 0), [0], id="tau tokens ahead still stick"),
        pytest.param((640, 0, 0), (286_721, 0, 0), [0, 1, 2], id="one more breaks it"),
        pytest.param((640, 640, 0), (286_721, 5, 0), [0, 1], id="the best sticky one counts"),
    ],
)
def test_sticky_keeps_the_prefix_until_saturated(matched, waiting, kept):
    assert StickyUntilSaturated(engines(), 1).kept(asked(*matched), waiting) == kept


def test_sticky_then_takes_the_fewest_uncached_tokens_in_flight():
    arm = StickyUntilSaturated(engines(), 1)
    assert arm.pick(asked(640, 640, 0), front((1, 900), (2, 100), (0, 0)), 0.0) == 1


# ---- llm-d's blend


def test_blend_is_the_weighted_sum_of_three_two_two_two():
    """Prefix 3 * 0.5 against queue 2 * (1 - 0) and KV 2 * (0.9 - 0.1): the idle one wins, then the prefix."""
    arm, where = Blend(engines(2), 1), front((0, 0), (0, 0))
    where.samples[:] = [
        EngineSample(at_s=0.0, waiting=4.0, running=1.0, kv_utilisation=0.9),
        EngineSample(at_s=0.0, waiting=0.0, running=1.0, kv_utilisation=0.1),
    ]
    assert arm.pick(asked(320, 0), where, 0.0) == 1
    where.samples[0] = EngineSample(at_s=0.0, waiting=0.0, running=1.0, kv_utilisation=0.7)
    assert arm.pick(asked(320, 0), where, 0.0) == 0


def test_blend_deals_cold_requests_round():
    arm, where = Blend(engines(), 1), front(*[(0, 0)] * 3)
    turns = [arm.pick(asked(*NOWHERE), where, 0.0) for _ in range(9)]
    assert sorted(turns[:3]) == [0, 1, 2]
    assert turns[:3] == turns[3:6] == turns[6:]


def test_blend_leaves_warm_requests_alone():
    arm = Blend(engines(), 1)
    assert arm.no_hit(asked(64, 0, 0), 3) == [0.5, 0.5, 0.5]
    assert arm.no_hit(asked(*NOWHERE), 3) == [1.0, 0.5, 0.0]


def test_the_clairvoyant_knows_the_engine():
    (engine,) = engines(1)
    scorer, cost = exact_delay(engine), engine.config.timer.coefficients
    assert scorer.context_tokens == pytest.approx(cost.d_kv / (cost.eta * cost.p1))
    assert scorer.step_tokens * cost.eta * cost.p1 == pytest.approx(
        1000 * engine.config.timer.step_s(decoding=0, context=0)
    )
