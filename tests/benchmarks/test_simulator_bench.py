"""The simulator bench: its workloads, its data, what it reports. Small ladders and short stages."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from benchmarks.options import BenchOptions
from benchmarks.registry import BENCHES
from benchmarks.simulator import accuracy, bench, tables
from benchmarks.simulator.data_files import experiments, fitted_runs, held_out_runs
from benchmarks.simulator.experiments import Experiment, simulate
from benchmarks.simulator.kernels import unseen
from benchmarks.simulator.ladder import PUBLISHED, SATURATED_RPS, STAGES, Climb, Step, climb
from fleet.errors import ConfigError
from fleet.hardware import MODELS
from simulator.calibrate import fit_efficiencies, fit_kernels, predict
from simulator.roofline import FITTED
from simulator.steptime import HOST_INGRESS_S, STEPS_AHEAD

SHORT = 0.02
"""Of the stages' published length."""


@pytest.fixture(scope="module")
def measured() -> list[Experiment]:
    return experiments(None)[0]


def named(measured: list[Experiment], name: str) -> Experiment:
    return next(one for one in measured if one.name == name)


# ---- the ladder


def small(seed: int) -> Climb:
    ticks = itertools.count()
    return climb(seed, [(3, 10), (20, 5)], clock=lambda: float(next(ticks)))


def test_the_ladder_repeats_by_seed_and_differs_between_seeds() -> None:
    assert small(1) == small(1)
    assert small(1).steps != small(2).steps


def test_the_warm_up_is_counted_but_not_reported() -> None:
    found = small(1)
    assert [step.rate_rps for step in found.steps] == [3, 20]
    assert found.requests == 750 + 30 + 100
    assert found.wall_s == 3.0  # one tick a stage, the warm-up's included


def test_every_published_step_is_simulated() -> None:
    assert [rate for rate, _ in STAGES] == list(PUBLISHED)


def test_errors_are_signed_and_told_only_where_there_is_a_figure() -> None:
    step = Step(rate_rps=20, requests=1, output_tok_s=6205 * 1.1, ttft_s=18.103 / 2)
    assert (step.throughput_error_pct, step.ttft_error_pct) == (pytest.approx(10), pytest.approx(-50))
    assert Step(rate_rps=7, requests=1, output_tok_s=1, ttft_s=1).throughput_error_pct is None


def test_the_published_service_is_met_at_every_step() -> None:
    """The bars that the ladder's engines are held to; the whole ladder takes about a second."""
    steps = climb(1).steps
    assert max(abs(step.throughput_error_pct or 0) for step in steps) <= 10
    assert max(abs(step.ttft_error_pct or 0) for step in steps if step.rate_rps >= SATURATED_RPS) <= 20


# ---- the measured experiments


def test_the_committed_copy_is_the_published_table(measured: list[Experiment], traces_dir: Path) -> None:
    found, origin = experiments(traces_dir)
    assert found == measured
    assert "traces" in origin


def test_without_the_traces_the_committed_copy_is_used(tmp_path: Path) -> None:
    found, origin = experiments(tmp_path)
    assert len(found) == 13
    assert "committed copy" in origin


def test_the_whole_is_the_mean_of_its_stages_by_requests(measured: list[Experiment]) -> None:
    """The shares of the stages follow from the rates that are assumed for them."""
    for one in measured:
        weights = one.workload.stages_rps
        mean = sum(w * run.e2e_s for w, run in zip(weights, one.stages, strict=True)) / sum(weights)
        assert mean == pytest.approx(one.whole.e2e_s, rel=1e-3), one.name


def test_a_table_that_is_none_gives_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "calibration"
    folder.mkdir()
    (folder / "blis_trainval_actuals.csv").write_text("exp_id,stage_index\n1,0\n")
    with pytest.raises(ConfigError, match="is no table of measured experiments") as caught:
        experiments(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_simulated_experiment_repeats_by_seed(measured: list[Experiment]) -> None:
    one = named(measured, "64")
    timer = accuracy.shipped(one)
    assert simulate(one, timer, 1, share=SHORT) == simulate(one, timer, 1, share=SHORT)
    assert simulate(one, timer, 1, share=SHORT) != simulate(one, timer, 2, share=SHORT)


def test_the_whole_of_a_simulation_weighs_its_stages_by_requests(measured: list[Experiment]) -> None:
    one = named(measured, "63")
    whole, slow, fast = simulate(one, accuracy.shipped(one), 1, share=SHORT)
    assert fast.requests == 2 * slow.requests
    assert whole.e2e_s == pytest.approx((slow.e2e_s + 2 * fast.e2e_s) / 3)
    assert whole.itl_s == pytest.approx((whole.e2e_s - whole.ttft_s) / 246)


def test_measured_answers_are_compared_in_the_clients_tokens(measured: list[Experiment]) -> None:
    found = accuracy.misses([named(measured, "20260217")], accuracy.shipped, (1,), share=SHORT)
    assert len(found) == 3
    assert found[0].itl_pct < found[0].itl_generated_pct - 15  # 196 tokens counted of 247


def test_a_fit_is_closer_than_what_is_shipped(measured: list[Experiment]) -> None:
    some = [named(measured, "62")]
    before = accuracy.medians(accuracy.misses(some, accuracy.shipped, (1,), share=SHORT))
    after = accuracy.medians(accuracy.misses(some, accuracy.fitted(measured), (1,), share=SHORT))
    assert after["e2e"] < before["e2e"] / 3


def test_leaving_out_uses_the_other_experiments_of_the_pair_alone(measured: list[Experiment]) -> None:
    code, general = named(measured, "61"), named(measured, "60")
    left_out = accuracy.left_out(measured)
    assert left_out(code).coefficients == accuracy.fitted([general])(general).coefficients
    assert left_out(code).coefficients != accuracy.fitted(measured)(code).coefficients


# ---- what ships is what the data gives


def test_the_shipped_efficiencies_are_those_that_the_runs_give() -> None:
    found = fit_efficiencies(fitted_runs(), fit_kernels())
    for name in FITTED.__slots__:
        assert getattr(found.efficiencies, name) == pytest.approx(getattr(FITTED, name), rel=0.01), name
    assert found.host_s == pytest.approx(HOST_INGRESS_S, rel=0.01)
    assert found.steps_ahead == pytest.approx(STEPS_AHEAD, rel=0.01)


def test_no_model_of_the_test_is_in_the_fit(measured: list[Experiment]) -> None:
    fitted = {run.model for run in fitted_runs()}
    assert fitted == {"CodeLlama-34B", "Llama-2-70B", "Mixtral-8x7B"}
    assert not fitted & {one.whole.model for one in measured}
    assert not fitted & {run.model for run in held_out_runs()}


def test_a_model_that_nothing_was_fitted_to_is_predicted() -> None:
    fit = fit_efficiencies(fitted_runs(), fit_kernels())
    for run in held_out_runs():
        assert predict(run, fit).e2e_s == pytest.approx(run.e2e_s, rel=0.05), run.name


def test_leaving_a_gpu_out_is_harder_than_knowing_it() -> None:
    found = {one.what: one for one in unseen()}
    assert {"a100_sxm", "h100_sxm", "h200_sxm", "l40s"} <= set(found)
    assert set(found) - {"a100_sxm", "h100_sxm", "h200_sxm", "l40s"} <= set(MODELS)
    assert found["a100_sxm"].decode_pct >= found["a100_sxm"].seen_decode_pct


# ---- the report


@pytest.fixture(scope="module")
def outcome(measured: list[Experiment]) -> bench.Outcome:
    some = [named(measured, name) for name in ("60", "61", "64")]
    sets = {
        "unseen": accuracy.misses(some, accuracy.shipped, (1,), share=SHORT),
        "in_sample": accuracy.misses(some, accuracy.fitted(some), (1,), share=SHORT),
    }
    sets["left_out"] = sets["unseen"]
    return bench.judged([small(1), small(2)], sets, "a test")


def test_the_bars_are_those_of_the_design(outcome: bench.Outcome) -> None:
    limits = {name: bar.limit for name, bar in outcome.bars.items()}
    assert limits == {"requests_per_s": ">= 10000", "e2e_err_pct": "<= 6.7", "itl_err_pct": "<= 7.1",
                      "ttft_err_pct": "<= 17.6"}  # fmt: skip
    assert tuple(limits) == BENCHES["simulator"].bars


def test_the_speed_is_the_median_over_seeds(outcome: bench.Outcome) -> None:
    assert outcome.results["speed"]["requests_per_s"] == [293, 293]  # 880 requests in 3 ticks
    assert outcome.bars["requests_per_s"].value == 293


def test_errors_in_the_bars_are_medians_of_experiments_left_out(outcome: bench.Outcome) -> None:
    rows = [row for row in outcome.results["experiments"]["left_out"] if row["stage"] < 0]
    assert outcome.bars["e2e_err_pct"].value == pytest.approx(sorted(abs(row["e2e_pct"]) for row in rows)[1])


def test_the_results_are_json_and_the_tables_and_plots_complete(outcome: bench.Outcome) -> None:
    json.dumps(outcome.results)
    assert [len(table.rows) for table in outcome.tables][:4] == [3, 3, 5, 2]
    assert all(len(row) == len(table.columns) for table in outcome.tables for row in table.rows)
    assert [len(plot.series) for plot in outcome.plots] == [2, 2]
    assert any("General" in note or "general" in note for note in outcome.notes)
    assert len(outcome.results["ladder"]["steps"]) == 2


@pytest.mark.parametrize("options", [{"workload": "azure2023_conv"}, {"scale": 2.0}], ids=["workload", "scale"])
def test_it_takes_no_other_workload(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="published workloads only"):
        bench.run(BenchOptions(**options))  # type: ignore[arg-type]  # parametrised by name


def test_every_kind_of_fit_is_explained() -> None:
    assert set(tables.MEANING) == {"left_out", "unseen", "in_sample"}
