"""The published scaling rules, each against its formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.autoscaling import hpa
from benchmarks.autoscaling.pool import TPOT_BOUNDS_S, Bounds, quantile
from benchmarks.autoscaling.rules import aibrix, dynamo, keda, upstream

BOUNDS = Bounds(low=1, high=20)


@pytest.mark.parametrize(
    ("total", "target", "replicas", "wanted"),
    [
        pytest.param(16.0, 1.0, 8, 16, id="twice-the-target-doubles"),
        pytest.param(8.6, 1.0, 8, 8, id="within-ten-percent-keeps"),
        pytest.param(12.0, 1.0, 11, 11, id="one-more-of-eleven-is-lost-in-the-tolerance"),
        pytest.param(9.0, 1.0, 10, 10, id="one-less-of-ten-is-lost-in-the-tolerance"),
        pytest.param(13.0, 1.0, 11, 13, id="two-more-of-eleven-survive"),
        pytest.param(0.0, 1.0, 4, 0, id="nothing-wants-nothing"),
        pytest.param(70.0, 16.0, 3, 5, id="rounds-up"),
    ],
)
def test_average_value(total: float, target: float, replicas: int, wanted: int) -> None:
    assert hpa.average_value(total, target, replicas) == wanted


@pytest.mark.parametrize(
    ("used", "starting", "wanted"),
    [
        pytest.param([1.0] * 4, 0, 5, id="busy-engines-grow"),
        pytest.param([1.0] * 4, 2, 6, id="starting-ones-count-as-idle-on-the-way-up"),
        pytest.param([0.4] * 4, 0, 2, id="half-used-halves"),
        pytest.param([0.82] * 4, 0, 4, id="inside-the-tolerance-keeps"),
        pytest.param([], 3, 3, id="nothing-known-keeps"),
    ],
)
def test_utilisation(used: list[float], starting: int, wanted: int) -> None:
    assert hpa.utilisation(used, 0.8, starting=starting) == wanted


def _asked(behavior: hpa.Behavior, wishes: list[tuple[float, int]], replicas: int) -> list[int]:
    damper, found = hpa.Damper(behavior), []
    for now_s, wish in wishes:
        replicas = damper.ask(wish, replicas, now_s=now_s, bounds=BOUNDS)
        found.append(replicas)
    return found


def test_default_behaviour_at_most_doubles_or_adds_four_in_fifteen_seconds() -> None:
    assert _asked(hpa.DEFAULT, [(0.0, 20), (5.0, 20), (15.0, 20)], 3) == [7, 7, 14]


def test_scale_down_takes_the_highest_recommendation_of_five_minutes() -> None:
    wishes = [(0.0, 6), (150.0, 4), (285.0, 3), (301.0, 3), (451.0, 3)]
    assert _asked(hpa.DEFAULT, wishes, 6) == [6, 6, 6, 4, 3]


def test_a_target_first_seen_counts_as_a_recommendation() -> None:
    assert _asked(hpa.DEFAULT, [(0.0, 1), (299.0, 1), (301.0, 1)], 8)[:2] == [8, 8]


def test_the_slo_guide_walks_down_one_pod_in_two_minutes() -> None:
    wishes = [(at_s, 3) for at_s in range(0, 500, 15)]
    asked = _asked(keda.SLO_BEHAVIOR, [(float(at_s), wish) for at_s, wish in wishes], 6)
    assert [asked[index] for index in (11, 12, 19, 20, 21, 28, 29, 32)] == [6, 5, 5, 4, 4, 3, 3, 3]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 20))
def test_an_hpa_never_leaves_its_bounds(wishes: list[int], replicas: int) -> None:
    asked = _asked(hpa.DEFAULT, [(15.0 * index, wish) for index, wish in enumerate(wishes)], replicas)
    assert all(BOUNDS.low <= one <= BOUNDS.high for one in asked)


@pytest.mark.parametrize(
    ("signal", "provisioned", "ready", "wanted"),
    [
        pytest.param(2.0, 3, 3, 11, id="clamped-signal-asks-for-the-whole-ratio"),
        pytest.param(0.6, 3, 3, 4, id="a-little-above-adds-one"),
        pytest.param(1.1, 6, 3, 6, id="starting-replicas-are-credited"),
        pytest.param(0.45, 5, 5, 5, id="inside-the-band-holds"),
        pytest.param(0.25, 8, 8, 5, id="below-the-band-drops-the-share"),
        pytest.param(0.39, 8, 8, 8, id="just-below-the-band-rounds-to-nothing"),
        pytest.param(0.25, 8, 4, 5, id="no-credit-on-the-way-down"),
        pytest.param(0.0, 8, 8, 0, id="no-traffic-drains"),
    ],
)
def test_slo_law(signal: float, provisioned: int, ready: int, wanted: int) -> None:
    assert keda.slo_replicas(signal, provisioned, ready, keda.SloLaw()) == wanted


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "signal"),
    [
        pytest.param(1.5, 0.02, 0.5, id="ttft-is-worse"),
        pytest.param(0.3, 0.04, 0.4, id="tpot-is-worse"),
        pytest.param(60.0, 0.04, 2.0, id="clamped"),
        pytest.param(None, None, 0.0, id="no-traffic-reads-zero"),
    ],
)
def test_slo_signal(ttft_s: float | None, tpot_s: float | None, signal: float) -> None:
    assert keda.slo_signal(ttft_s, tpot_s, ttft_slo_s=3.0, tpot_slo_s=0.1, clamp=2.0) == pytest.approx(signal)


def test_smoothing_averages_the_last_three_evaluations() -> None:
    assert keda.smoothed([(0.0, 9.0), (15.0, 0.3), (30.0, 0.6), (45.0, 0.9)], 45.0, 45.0) == pytest.approx(0.6)


def test_the_queue_rule_takes_the_larger_of_its_triggers() -> None:
    rule = keda.QueueRule()
    assert keda.queue_replicas(0.0, 96.0, 4, rule) == 6
    assert keda.queue_replicas(9.0, 96.0, 4, rule) == 9


@pytest.mark.parametrize(
    ("loads", "current", "desired", "pending", "wanted"),
    [
        pytest.param([(0.2, 0), (0.3, 0)], 2, 2, 0, 1, id="idle-gives-one-back"),
        pytest.param([(0.72, 0), (0.74, 0)], 2, 2, 0, 3, id="too-little-kv-to-spare-adds-one"),
        pytest.param([(0.3, 3), (0.3, 2)], 2, 2, 0, 3, id="too-little-queue-to-spare-adds-one"),
        pytest.param([(0.9, 0), (0.85, 9)], 2, 2, 0, 3, id="all-saturated-adds-one-only"),
        pytest.param([(0.45, 0), (0.45, 0)], 2, 2, 0, 2, id="the-rest-could-not-take-it"),
        pytest.param([(0.9, 9)], 1, 2, 1, 2, id="frozen-while-one-starts"),
        pytest.param([(0.9, 9)] * 10, 10, 11, 0, 11, id="frozen-for-ever-when-the-hpa-swallows-the-step"),
        pytest.param([(0.1, 0)], 1, 1, 0, 1, id="the-last-one-stays"),
    ],
)
def test_upstream_v1(
    loads: list[tuple[float, float]], current: int, desired: int, pending: int, wanted: int
) -> None:  # fmt: skip
    found = upstream.v1_replicas(loads, current=current, desired=desired, pending=pending, config=upstream.V1Config())
    assert found == wanted


def _v2(usage: float, count: int, *, queue: float = 0.0, pending: int = 0) -> int:
    replicas = [upstream.V2Replica(kv_usage=usage, kv_tokens=300_000, queue=queue)] * count
    wanted, _ = upstream.v2_replicas(replicas, current=count + pending, pending=pending, mean_in=4000, mean_out=1000,
                                     low=1, state=upstream.V2State(), config=upstream.V2Config())  # fmt: skip
    return wanted


def test_upstream_v2_counts_tokens() -> None:
    # capacity of a replica 0.8 * 300 000; three of them at 90 % hold 810 000: 810 000 / 0.85 - 720 000 is missing
    assert _v2(0.9, 3) == 4
    # 120 000 / 0.70 = 171 429 are needed of 960 000: 788 571 to spare, three replicas of 240 000
    assert _v2(0.1, 4) == 1
    assert _v2(0.6, 3) == 3


def test_upstream_v2_credits_replicas_that_start() -> None:
    assert _v2(0.9, 3, pending=1) == 4


def test_upstream_v2_learns_the_capacity_of_a_queueing_replica() -> None:
    full = upstream.V2Replica(kv_usage=0.16, kv_tokens=300_000, queue=8)
    _, state = upstream.v2_replicas([full], current=1, pending=0, mean_in=100, mean_out=50, low=1,
                                    state=upstream.V2State(), config=upstream.V2Config())  # fmt: skip
    calm = upstream.V2Replica(kv_usage=0.1, kv_tokens=300_000, queue=0)
    assert upstream.v2_capacity(calm, 100, 50, state, upstream.V2Config()) == pytest.approx(48_000)
    assert upstream.v2_capacity(calm, 100, 800, state, upstream.V2Config()) > 48_000  # another bucket of lengths


def test_upstream_v2_derives_capacity_from_batch_and_lengths() -> None:
    replica = upstream.V2Replica(kv_usage=0.1, kv_tokens=300_000, queue=0)
    # min(8192 * 10 / 1010, 256) = 81.1 sequences of 1000 + 10 / 2 tokens
    assert upstream.v2_capacity(replica, 1000, 10, upstream.V2State(), upstream.V2Config()) == pytest.approx(
        8192 * 10 / 1010 * 1005
    )


@pytest.mark.parametrize(
    ("stable", "panic", "current", "wanted"),
    [
        pytest.param(2.6, 2.6, 4, 6, id="sum-over-target"),
        pytest.param(9.0, 9.0, 4, 8, id="at-most-twice"),
        pytest.param(0.1, 0.1, 8, 4, id="at-least-half"),
        pytest.param(1.0, 4.5, 4, 8, id="panic-takes-the-short-window"),
    ],
)
def test_kpa(stable: float, panic: float, current: int, wanted: int) -> None:
    found, _ = aibrix.kpa_replicas(stable, panic, current, aibrix.KpaState(), now_s=0.0, config=aibrix.KpaConfig())
    assert found == wanted


def test_kpa_in_panic_never_shrinks_and_then_waits_for_its_delay() -> None:
    config, state = aibrix.KpaConfig(), aibrix.first(6, now_s=0.0, config=aibrix.KpaConfig())
    found = []
    for now_s in (0.0, 170.0, 200.0, 351.0):
        wanted, state = aibrix.kpa_replicas(1.0, 1.0, 6, state, now_s=now_s, config=config)
        found.append(wanted)
    assert found == [6, 6, 6, 3]


@pytest.mark.parametrize(
    ("mean", "current", "wanted"),
    [
        pytest.param(0.9, 5, 9, id="ratio-of-the-mean"),
        pytest.param(1.0, 5, 10, id="at-most-twice"),
        pytest.param(0.54, 5, 5, id="inside-the-tolerance"),
        pytest.param(0.3, 5, 3, id="shrinks-by-the-ratio"),
        pytest.param(0.01, 5, 2, id="at-most-halved"),
    ],
)
def test_apa(mean: float, current: int, wanted: int) -> None:
    assert aibrix.apa_replicas(mean, current, aibrix.ApaConfig()) == wanted


def test_pending_pods_damp_aibrix_both_ways() -> None:
    assert aibrix.guarded(10, 0.9, current=6, ready=3, target=0.5) == 6
    assert aibrix.guarded(3, 0.25, current=6, ready=3, target=0.5) == 5
    assert aibrix.kpa_guarded(2, 1.0, current=6, ready=4, target=0.5) == 4


def test_forecast_is_the_last_value_until_there_are_five() -> None:
    assert dynamo.forecast([10.0, 20.0, 40.0, 80.0]) == 80.0
    assert dynamo.forecast([5.0] * 9) == 5.0
    assert dynamo.forecast([100.0, 110.0, 100.0, 110.0, 100.0]) == pytest.approx(110.0)
    assert dynamo.forecast([1000.0, 500.0, 100.0, 50.0, 1.0]) >= 0.0


def _latency() -> dynamo.Latency:
    return dynamo.Latency(ttft_s=lambda queued, kv: 0.5 + queued / 16_000, itl_s=lambda kv: 0.02 + kv * 2e-7,
                          ttft_slo_s=3.0, itl_slo_s=0.1, max_kv_tokens=300_000)  # fmt: skip


@pytest.mark.parametrize(
    ("workers", "wanted"),
    [
        pytest.param([(60_000, 100_000)] * 3, 4, id="all-break-ttft"),
        pytest.param([(60_000, 100_000), (0, 100_000), (60_000, 100_000)], 3, id="one-that-keeps-it-holds"),
        pytest.param([(0, 20_000)] * 3, 2, id="the-others-could-take-it"),
        pytest.param([(0, 220_000)] * 3, 3, id="the-cache-of-the-others-is-too-small"),
        pytest.param([(25_000, 20_000)] * 3, 3, id="queueing-would-pass-eighty-percent"),
        pytest.param([(0, 10)], 1, id="the-last-one-stays"),
    ],
)
def test_planner_load_mode(workers: list[tuple[float, float]], wanted: int) -> None:
    seen = [dynamo.Worker(queued_tokens=queued, kv_tokens=kv) for queued, kv in workers]
    assert dynamo.load_replicas(seen, _latency(), dynamo.PlannerConfig()) == wanted


def test_quantile_interpolates_inside_a_bucket() -> None:
    counts = [0.0] * (len(TPOT_BOUNDS_S) + 1)
    counts[5] = 100.0  # 20 to 40 ms
    assert quantile(0.9, counts, TPOT_BOUNDS_S) == pytest.approx(0.038)
    assert quantile(0.9, [0.0] * len(counts), TPOT_BOUNDS_S) is None
