"""The two worlds, the arms in them, and the bench as a whole on small traffic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.autoscaling import coarse, findings, need, run, workloads
from benchmarks.autoscaling.arms import Fixed, Hpa
from benchmarks.autoscaling.case import Case, Fleet, Slo
from benchmarks.autoscaling.episode import episode
from benchmarks.autoscaling.fluid import Fluid
from benchmarks.autoscaling.hpa import DEFAULT
from benchmarks.autoscaling.pool import Bounds, Life, Pool
from benchmarks.autoscaling.surface import Surface, measure
from benchmarks.autoscaling.world import World
from benchmarks.options import BenchOptions
from fleet.errors import ConfigError
from simulator.workload import RateSource, TimedRequest

SHORT = ((2.0, 60.0), (5.0, 90.0), (1.0, 60.0))


def small(seed: int = 1) -> Case:
    """A short episode with quick starts."""
    case = episode(seed, stages=SHORT)
    return replace(case, fleet=replace(case.fleet, startup_s=(20.0, 20.0)), tail_s=200.0)


@pytest.fixture(autouse=True)
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica's capacity from few requests."""
    monkeypatch.setattr(need, "PROBE_REQUESTS", 300)


class Probe:
    """Asks for numbers at times, and keeps what it was shown."""

    name, interval_s, scrape_s, initial = "probe", 5.0, 15.0, None

    def __init__(self, plan: dict[float, int]) -> None:
        self.plan, self.pools = plan, list[Pool]()

    def step(self, pool: Pool) -> int:
        self.pools.append(pool)
        return max((at_s, replicas) for at_s, replicas in self.plan.items() if at_s <= pool.now_s)[1]


def at(probe: Probe, now_s: float) -> Pool:
    """The first pool shown after a time."""
    return next(pool for pool in probe.pools if pool.now_s >= now_s)


@pytest.fixture(scope="module")
def scaled() -> tuple[Probe, World]:
    probe = Probe({0.0: 3, 50.0: 6, 150.0: 3})
    world = World(small(), probe, seed=1)
    world.run()
    return probe, world


def test_a_replica_is_paid_for_from_its_start_and_serves_after_it(scaled: tuple[Probe, World]) -> None:
    probe, world = scaled
    asked_s = next(at_s for at_s, replicas in world.trail.events if replicas == 6)
    assert sorted(start for start, _ in world.trail.paid)[3:] == [asked_s] * 3
    assert sorted(start for start, _ in world.trail.serving)[3:] == [asked_s + 20.0] * 3
    assert [seen.life for seen in at(probe, asked_s + 5.0).replicas].count(Life.STARTING) == 3
    assert at(probe, asked_s + 21.0).pending == 0


def test_a_replica_that_is_let_go_drains_and_nothing_is_lost(scaled: tuple[Probe, World]) -> None:
    probe, world = scaled
    let_go_s = world.trail.events[-1][0]
    ends = sorted(end for _, end in world.trail.paid)[:3]
    assert all(let_go_s < end < let_go_s + 90.0 for end in ends)
    assert len(at(probe, let_go_s + 1.0).replicas) == 3
    assert world.trail.total == len(world.case.requests)
    assert world.trail.good == world.trail.total


def test_samples_are_as_old_as_a_scrape_allows(scaled: tuple[Probe, World]) -> None:
    probe, _ = scaled
    ages = [pool.now_s - seen.last.at_s for pool in probe.pools for seen in pool.ready if seen.last]
    assert max(ages) <= 15.0 + 1e-9
    assert max(ages) > 10.0
    phases = {round(seen.last.at_s % 15.0, 3) for seen in at(probe, 40.0).replicas if seen.last}
    assert len(phases) == 3  # each target at its own


def test_a_starting_replica_is_not_scraped(scaled: tuple[Probe, World]) -> None:
    probe, _ = scaled
    starting = [seen for pool in probe.pools for seen in pool.replicas if seen.life is Life.STARTING]
    assert starting
    assert all(seen.last is None for seen in starting)


def test_the_router_counts_what_it_sees(scaled: tuple[Probe, World]) -> None:
    probe, world = scaled
    last = probe.pools[-1].router[-1]
    assert last.arrived == last.finished == sum(last.ttft) == sum(last.tpot) == world.trail.total
    assert last.input_tokens == sum(one.input_tokens for one in world.case.requests)
    assert last.output_tokens == sum(one.output_tokens for one in world.case.requests)
    assert last.in_flight == 0


def test_gauges_and_counters_are_the_engines(scaled: tuple[Probe, World]) -> None:
    probe, _ = scaled
    busiest = max((seen.last for pool in probe.pools for seen in pool.ready if seen.last), key=lambda one: one.running)
    assert 0.1 < busiest.kv_usage <= 1.0
    assert busiest.busy_s > 0.9 * (busiest.at_s - 20.0) or busiest.running > 0
    assert all(later.generation_tokens >= before.generation_tokens
               for pool in probe.pools[-1:] for seen in pool.ready
               for before, later in zip(seen.samples, seen.samples[1:], strict=False))  # fmt: skip


def test_the_same_seed_gives_the_same_run() -> None:
    def once(seed: int) -> tuple[float, list[tuple[float, int]]]:
        context = run.prepare(small(), run.learn(small(), 1), 1).context
        trail = World(context.case, run.ARMS["aibrix-apa"](context), seed=seed).run()
        return trail.good, trail.events

    assert once(1) == once(1)


def test_an_hpa_sees_requested_replicas_and_not_only_ready_ones() -> None:
    seen: list[tuple[int, int]] = []

    def wish(pool: Pool) -> int:
        seen.append((pool.requested, len(pool.ready)))
        return 6

    World(small(), Hpa("greedy", wish, DEFAULT), seed=1).run()
    assert seen[0] == (3, 3)
    assert (6, 3) in seen
    assert seen[-1] == (6, 6)


# ---- the bench


def test_every_arm_runs_and_the_forecast_keeps_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "find", lambda *_: (small, "a short episode"))
    found = run.run(BenchOptions(seeds=(1,)))
    arms = found.results["arms"]
    assert set(arms) == set(run.ARMS)
    assert arms["static-peak"]["attainment_pct"] == 100.0
    assert arms["perfect-forecast"]["attainment_pct"] >= 99.0
    assert arms["perfect-forecast"]["avg_replicas"] < arms["static-peak"]["avg_replicas"]
    assert set(found.bars) == set(run.BENCH.bars)
    assert found.bars["attainment_pct"].value == arms[findings.OURS]["attainment_pct"]
    assert [series.name for series in found.plots[0].series] == [*run.ARMS, "oracle"]
    assert "KEDA SLO law" in " ".join(found.notes)


def test_a_request_csv_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = [f"{index * 0.5},{300 + index},40" for index in range(400)]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    found = run.run(BenchOptions(seeds=(1,), workload=str(path), scale=2.0))
    assert found.results["workload"] == "mine"
    assert found.bars["avg_replicas"].limit == "report"
    assert found.results["oracle"]["peak_replicas"] == 1.0
    assert found.results["arms"]["static-peak"]["attainment_pct"] == 100.0


def test_shared_prefixes_are_found_where_they_were_sent_before() -> None:
    shared = [
        TimedRequest(arrival_s=0.4 * index, input_tokens=2100, output_tokens=20, hash_ids=(1, 2, 3, 4, 9 + index))
        for index in range(60)
    ]
    case = Case(name="shared", what="", fleet=Fleet(bounds=Bounds(low=1, high=4), initial=2), slo=Slo(), span_s=24.0,
                bin_s=10.0, requests=shared, router="prefix_affine")  # fmt: skip
    trail = World(case, Fixed(2), seed=1).run()
    assert np.mean(trail.cached[5:]) == pytest.approx(2048, abs=64)


def test_an_unknown_workload_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="no_such_trace"):
        workloads.find("no_such_trace", 1.0, [])


def test_a_rate_curve_of_ones_own_gets_assumed_lengths(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("t_s,rps\n0,2\n60,4\n120,2\n")
    make, note = workloads.find(str(path), 1.0, [])
    assert np.mean([one.input_tokens for one in make(1).requests]) == pytest.approx(1618, rel=0.2)
    assert "lengths are assumed" in note


def test_a_trace_too_long_for_requests_becomes_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "MAX_REQUESTS", 500)
    path = tmp_path / "mine.csv"
    rows = [f"{index * 0.5},{200 + index},40" for index in range(400)]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    curve = workloads.find(str(path), 3.0, [])[0](1).curve
    assert curve is not None
    assert curve.rates_rps[1] == pytest.approx(6.0)
    assert (curve.mean_input, curve.mean_output) == (pytest.approx(399.5), 40.0)


def test_named_traces_have_the_rate_of_the_bench(traces_dir: Path) -> None:
    make, note = workloads.find("m-large_week", 1.0, [traces_dir])
    case = make(1)
    assert case.curve is not None
    assert case.curve.native_rps == pytest.approx(21.0, abs=0.5)
    assert "x0.1" in note


# ---- the coarse mode


def curve_case(rates: tuple[float, ...] = (4.0, 12.0, 6.0)) -> Case:
    """Ten minutes along a curve of short requests."""
    curve = RateSource(bin_s=200.0, rates_rps=rates, mean_input=900.0, mean_output=60.0, sigma=0.5)
    return Case(name="curve", what="", fleet=Fleet(bounds=Bounds(low=1, high=6), initial=2), slo=Slo(), span_s=600.0,
                bin_s=60.0, curve=curve)  # fmt: skip


@pytest.fixture(scope="module")
def surface() -> Surface:
    case = curve_case()

    def draw(count: int) -> list[TimedRequest]:
        assert case.curve is not None
        return case.curve.cycle(np.random.default_rng(count), 1.3 * (count + 20) / 4400.0)[:count]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.autoscaling.surface.MEASURED", 800)
        return measure(case.fleet.config, case.slo, draw)


def test_more_in_flight_is_more_work_done_until_it_saturates(surface: Surface) -> None:
    assert surface.rps[0] == 0.0
    assert surface.rps[16] > 2 * surface.rps[4] > 4 * surface.rps[1]
    assert surface.good[4] == 1.0
    assert surface.good[-1] < 0.1
    running, waiting, usage = (surface.gauges[:, :, column].mean(axis=1) for column in range(3))
    assert usage[64] > usage[8] > usage[0] == 0.0
    assert running[8] + waiting[8] <= 8
    assert (np.diff(surface.gauges[:, :, 1], axis=1) >= 0).all()  # ranks go by the queue
    assert surface.ttft.sum(axis=1) == pytest.approx(np.ones(surface.last + 1))


def test_the_fluid_keeps_what_comes_in(surface: Surface) -> None:
    case = curve_case()
    probe = Probe({0.0: 2, 100.0: 4, 420.0: 2})
    fluid = Fluid(case, probe, surface, seed=1)
    trail = fluid.run()
    last = probe.pools[-1].router[-1]
    assert last.arrived == pytest.approx(last.finished + last.in_flight, rel=1e-6)
    assert trail.total == pytest.approx(200 * (4 + 12 + 6), rel=0.1)
    assert sum(last.ttft) == pytest.approx(last.arrived)
    assert 0.99 < trail.good / trail.total <= 1.0
    starts = sorted(start for start, _ in trail.serving)[2:]
    assert all(98.0 <= start - trail.events[0][0] <= 139.0 for start in starts)


def test_an_idle_vessel_empties_and_leaves(surface: Surface) -> None:
    fluid = Fluid(curve_case((0.05, 0.0, 0.0)), Probe({0.0: 2, 400.0: 1}), surface, seed=1)
    trail = fluid.run()
    assert sorted(end for _, end in trail.paid)[0] < 420.0


def test_the_coarse_mode_stays_near_the_fine_one(surface: Surface) -> None:
    for gap in coarse.gaps(curve_case(), surface, [lambda: Fixed(2), lambda: Probe({0.0: 1, 150.0: 3})], seed=1):
        assert abs(gap.attained_points) < 2.0
        assert abs(gap.replicas_pct) < 5.0


def test_the_shared_window_holds_the_highest_rate() -> None:
    part = coarse.window(curve_case((1.0, 2.0, 3.0, 9.0, 2.0, 1.0)), 400.0)
    assert part.curve is not None
    assert part.curve.rates_rps == (3.0, 9.0)
    assert part.span_s == 400.0


@pytest.mark.parametrize(
    ("attained", "replicas", "doubted"),
    [
        pytest.param(98.1, 4.1, [], id="near-in-both"),
        pytest.param(96.9, 4.0, ["rule"], id="attainment-too-far-off"),
        pytest.param(99.0, 4.3, ["rule"], id="replicas-too-far-off"),
    ],
)
def test_an_arm_that_the_coarse_mode_is_off_for_is_named(attained: float, replicas: float, doubted: list[str]) -> None:
    gap = coarse.Gap(arm="rule", fine_attained_pct=99.0, coarse_attained_pct=attained, fine_replicas=4.0,
                     coarse_replicas=replicas)  # fmt: skip
    assert coarse.doubtful([gap]) == doubted


@pytest.mark.parametrize("name", ["documents", "sessions"])
def test_generated_prompts_share_beginnings_and_follow_their_seed(name: str) -> None:
    make, note = workloads.find(name, 0.1, [])
    case, again, other = make(1), make(1), make(2)
    assert case.requests == again.requests != other.requests
    assert [one.arrival_s for one in case.requests] == sorted(one.arrival_s for one in case.requests)
    blocks = [block for one in case.requests for block in one.hash_ids]
    assert len(set(blocks)) < 0.5 * len(blocks), "most beginnings were there before"
    assert case.router == "prefix_affine" and name in note
