"""A run in virtual time: nothing is lost, the router sees only what a router sees, the same seed gives the same run."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.cli import bench as command
from benchmarks.options import BenchOptions
from benchmarks.routing.arms import RoundRobin
from benchmarks.routing.bench import ARMS, BARS, EXTRA, run
from benchmarks.routing.figures import run_figures, stage_figures
from benchmarks.routing.judge import NOT_RIVALS, PAIRS, Run, advantage_pct, bars, results, worst_seed_pct
from benchmarks.routing.ours import Ours
from benchmarks.routing.run import Simulation
from benchmarks.routing.workloads import Ask, Fleet, Scenario, SharedPrefix, Slo, Stage, Workload, ladder, scenario
from router.admission import Verdict
from router.dataplane.replies import Refusal
from simulator.sequence import EngineRequest
from tests.benchmarks.routing_builders import served

FLEET = Fleet(shape="Llama-3.1-8B", count=1, kv_tokens=60_000, pods=3)


def small(*, rate=6.0, fleet=FLEET, seed=1):
    made = ladder(seed, [(rate, 4)], scale=1.0)
    warm, stage = made.stages
    return dataclasses.replace(
        made, fleet=fleet, stages=[dataclasses.replace(warm, asks=warm.asks[:40]), dataclasses.replace(stage)]
    )


def conversations():
    shape = SharedPrefix(groups=2, prompts=2, system_tokens=200, question_tokens=50, output_tokens=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            scenario.__globals__["SCENARIOS"], "C", Scenario(name="C", shape=shape, rates=(4.0,), duration_s=5.0)
        )
        return dataclasses.replace(scenario("C", 1), fleet=FLEET)


@pytest.mark.parametrize("arm", [*ARMS, *EXTRA])
def test_every_request_is_served_once_by_every_arm(arm):
    workload, entry = small(), (ARMS | EXTRA)[arm]
    simulation = Simulation(workload, entry.make, seed=1, precise=entry.precise)
    for stage in workload.stages:
        done = simulation.run(stage)
        assert len(done) == len(stage.asks)
        assert sum(one.output_tokens for one in done) == sum(ask.request.output_tokens for ask in stage.asks)
        assert all(0 < one.ttft_s < one.e2e_s and 0 <= one.engine < FLEET.pods for one in done)
    assert len(simulation.front.ledger) == 0


class Narrow(RoundRobin):
    """Lets so many in at once; others may wait."""

    wait_s = 0.0

    def judge(self, asked, front, now_s, *, waited_s, again):
        full = sum(load.requests_in_flight for load in front.loads()) >= 4
        return Verdict(None, Refusal(429, "full"), self.wait_s) if full else Verdict()


class Patient(Narrow):
    wait_s = 20.0


@pytest.mark.parametrize("arm", [Narrow, Patient])
def test_whom_an_admission_lets_in_waits_or_is_refused_and_is_counted_once(arm):
    workload = small(rate=12.0)
    simulation = Simulation(workload, arm, seed=1)
    found = {}
    for stage in workload.stages:
        done = simulation.run(stage)
        assert len(done) + simulation.refused == len(stage.asks)
        found = {one: stage_figures(done, rate_rps=12.0, slo=Slo(ttft_s=1.0, tpot_s=1.0), pods=3, refused=refused)
                 for one, refused in (("all", simulation.refused), ("served", 0))}  # fmt: skip
    assert len(simulation.front.ledger) == 0
    assert simulation.refused > 0
    assert found["all"].requests == len(workload.stages[-1].asks)
    assert found["all"].refused_pct == pytest.approx(100 * simulation.refused / found["all"].requests)
    assert found["all"].good_pct < found["served"].good_pct
    assert (found["all"].ttft_s.p90 > 1.0) is (arm is Patient), "what it waited is in its TTFT"


@pytest.mark.parametrize("arm", ["round-robin", "blend-3222", "ours"])
def test_the_same_seed_gives_the_same_run(arm):
    entry = ARMS[arm]
    runs = [[Simulation(small(), entry.make, seed=5).run(stage) for stage in small().stages] for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_stage_starts_when_the_one_before_has_drained():
    workload = small()
    simulation = Simulation(workload, RoundRobin, seed=1)
    first, second = (simulation.run(stage) for stage in workload.stages)
    assert min(one.sent_s for one in second) >= max(one.sent_s + one.e2e_s for one in first) - 0.1


def test_turns_of_a_session_wait_for_the_answer_before():
    workload = conversations()
    sent = {}

    class Watching(RoundRobin):
        def pick(self, asked, front, now_s):
            sent[asked.inference.request_id] = now_s
            return super().pick(asked, front, now_s)

        def finished(self, request_id, served, now_s):
            done[request_id] = now_s

    done = {}
    Simulation(workload, Watching, seed=1).run(workload.stages[0])
    sessions = {}
    for ask in workload.stages[0].asks:
        sessions.setdefault(ask.session, []).append(ask.request.request_id)
    assert max(map(len, sessions.values())) > 3
    for turns in sessions.values():
        for before, after in itertools.pairwise(turns):
            assert sent[after] >= done[before]


def test_a_follow_up_finds_the_answer_in_the_cache():
    workload = conversations()
    done = Simulation(dataclasses.replace(workload, fleet=dataclasses.replace(FLEET, pods=1)), RoundRobin, seed=1).run(
        workload.stages[0]
    )
    longest = max(done, key=lambda one: one.prompt_tokens)
    assert longest.cached_tokens > longest.prompt_tokens - 50 - 32


def test_samples_are_as_old_as_the_last_scrape_and_books_are_at_once():
    seen = []

    class Watching(RoundRobin):
        scrape_s = 1.0

        def pick(self, asked, front, now_s):
            ages = [now_s - sample.at_s for sample in front.samples if sample]
            seen.append((max(ages, default=0.0), sum(load.requests_in_flight for load in front.loads())))
            return super().pick(asked, front, now_s)

    stage = Stage(rate_rps=1000.0, duration_s=0.1, asks=[
        Ask(at_s=1.5 + 0.001 * turn, request=EngineRequest(request_id=str(turn), prompt_tokens=64, output_tokens=200))
        for turn in range(20)
    ])  # fmt: skip
    workload = Workload(name="w", what="", stages=[stage], slo=Slo(ttft_s=1, tpot_s=1), main="good_pct", fleet=FLEET)
    Simulation(workload, Watching, seed=1).run(stage)
    assert [requests for _, requests in seen] == list(range(20))
    assert 0.5 < max(age for age, _ in seen) <= 1.0


def test_a_precise_index_says_what_the_engine_finds():
    """Two prompts that do not fit together: what the second pushed out is known where KV events are followed."""
    tiny = dataclasses.replace(FLEET, kv_tokens=9000, pods=1)
    asks = [
        Ask(
            at_s=20.0 * turn,
            request=EngineRequest(
                request_id=str(turn),
                prompt_tokens=6400,
                output_tokens=4,
                block_hashes=tuple(range(1000 * which, 1000 * which + 400)),
            ),
        )
        for turn, which in enumerate((1, 2, 1))
    ]
    stage = Stage(rate_rps=0.05, duration_s=60.0, asks=asks)
    workload = Workload(name="w", what="", stages=[stage], slo=Slo(ttft_s=1, tpot_s=1), main="good_pct", fleet=tiny)
    matched = []

    class Watching(RoundRobin):
        def pick(self, asked, front, now_s):
            matched.append(asked.matched[0])
            return super().pick(asked, front, now_s)

    done = Simulation(workload, Watching, seed=1, precise=True).run(stage)
    assert matched == [one.cached_tokens for one in done]
    assert 0 < matched[-1] < 6400


def test_ours_learns_from_the_run():
    workload = small(rate=30.0)
    simulation = Simulation(workload, Ours, seed=1)
    for stage in workload.stages:
        simulation.run(stage)
    assert simulation.arm.learning.model is not None
    assert len(simulation.arm.learning.pool) == sum(len(stage.asks) for stage in workload.stages)


# ---- figures and judgement


def test_figures_of_a_stage():
    done = [served(sent_s=float(turn), engine=turn % 2, ttft_s=0.1 * (turn + 1), cached=25) for turn in range(4)]
    found = stage_figures(done, rate_rps=1.0, slo=Slo(ttft_s=0.25, tpot_s=0.05), pods=2)
    assert (found.requests, found.span_s, found.output_tok_s, found.good_pct, found.goodput_rps) == (
        4,
        4.0,
        50.0,
        50,
        0.5,
    )
    assert (found.hit_rate, found.imbalance) == (0.25, 0.0)
    assert (found.ttft_s.mean, found.ttft_s.p50) == (pytest.approx(0.25), pytest.approx(0.25))


def test_imbalance_is_the_variation_of_tokens_between_endpoints():
    done = [served(engine=0), served(engine=0), served(engine=0), served(engine=1)]
    assert stage_figures(done, rate_rps=1.0, slo=Slo(ttft_s=1, tpot_s=1), pods=2).imbalance == pytest.approx(0.5)


def test_stages_add_up_without_the_pauses_between_them():
    slo = Slo(ttft_s=1, tpot_s=1)
    stages = []
    for start_s in (0.0, 100.0):
        done = [served(sent_s=start_s), served(sent_s=start_s + 1.0)]
        stages.append((stage_figures(done, rate_rps=2.0, slo=slo, pods=1), done))
    assert run_figures(stages, slo=slo, pods=1).output_tok_s == 50.0


def judged(figure_by_arm, seed=1):
    def one(arm, tokens):
        figures = stage_figures(
            [served(output=tokens)], rate_rps=60.0, slo=Slo(ttft_s=1, tpot_s=1), pods=1
        )  # fmt: skip
        return Run(
            workload="w", what="", main="output_tok_s", slo=Slo(ttft_s=1, tpot_s=1), arm=arm, seed=seed,
            stages=[figures], whole=figures,
        )  # fmt: skip

    return [one(arm, tokens) for arm, tokens in figure_by_arm.items()]


def test_ours_is_judged_against_the_best_rival_and_not_against_the_bound():
    runs = judged({"sticky": 100, "lmetric": 200, "ours": 190, "ours-precise": 500, "clairvoyant": 999})
    assert advantage_pct(runs, "w") == (pytest.approx(-5.0), "lmetric")
    bar = bars(runs, ladder=False)["ours_vs_best_arm_worst_pct"]
    assert (bar.value, bar.ok) == (pytest.approx(-5.0), False)


def test_the_worst_seed_is_told_beside_the_median():
    runs = [run for seed, ours in ((1, 100), (2, 90), (3, 100)) for run in judged({"lmetric": 100, "ours": ours}, seed)]
    assert advantage_pct(runs, "w")[0] == pytest.approx(0.0)
    assert worst_seed_pct(runs, "w") == pytest.approx(-10.0)


def test_results_are_json_with_every_arm():
    found = json.loads(json.dumps(results(judged({"lmetric": 100, "ours": 120, "clairvoyant": 130}))))
    assert set(found["w"]["arms"]) == {"lmetric", "ours", "clairvoyant"}
    assert found["w"]["arms"]["ours"]["whole"]["output_tok_s"] == 120.0


# ---- the bench


@pytest.fixture
def workload_file(tmp_path):
    rng, path = np.random.default_rng(1), tmp_path / "load.csv"
    rows = [f"{at_s:.2f},{rng.integers(50, 500)},{rng.integers(5, 40)}" for at_s in np.sort(rng.uniform(0, 5, 40))]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_the_bench_on_a_file(workload_file):
    told = []
    found = run(BenchOptions(seeds=(1, 2), workload=str(workload_file), progress=lambda share, _: told.append(share)))
    assert set(found.results) == {"load"}
    assert set(found.results["load"]["arms"]) == set(ARMS)
    assert set(found.bars) == {"ours_vs_best_arm_worst_pct", "with_vs_without_predictor_worst_pct"} <= set(BARS)
    assert found.results["load"]["arms"]["ours"]["whole"]["good_pct"] == 100.0
    assert told == sorted(told)
    assert found.plots == []


def test_the_command_prints_one_json_object(workload_file):
    done = CliRunner().invoke(command, ["routing", "--workload", str(workload_file), "--seeds", "1", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["bench"], found["seeds"]) == ("routing", [1])
    assert found["bars"]["ours_vs_best_arm_worst_pct"]["ok"] is True


def test_pairs_are_arms_and_ours_without_something_is_no_rival():
    assert {arm for pair in PAIRS for arm in pair} <= set(ARMS | EXTRA)
    assert {arm for arm in ARMS | EXTRA if arm.startswith("ours")} <= NOT_RIVALS


def test_the_predictors_worth_is_the_worst_workloads():
    runs = judged({"lmetric": 100, "ours": 110, "ours-without-predictor": 100})
    lost = judged({"lmetric": 100, "ours": 97, "ours-without-predictor": 100})
    runs += [dataclasses.replace(run, workload="another") for run in lost]
    bar = bars(runs, ladder=False)["with_vs_without_predictor_worst_pct"]
    assert (bar.value, bar.ok) == (pytest.approx(-3.0), False)
    assert "with_vs_without_predictor_worst_pct" not in bars(judged({"lmetric": 1, "ours": 1}), ladder=False)


def test_a_router_without_a_model_predicts_nothing():
    simulation = Simulation(small(), ARMS["ours-without-predictor"].make, seed=1)
    for stage in small().stages:
        simulation.run(stage)
    assert simulation.arm.prediction_error is None
