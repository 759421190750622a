"""The decision tree and cost table of the source documents, and what a simulation adds."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fleet.cli import fleet
from fleet.errors import ConfigError
from planner.advisor import Network, Path, Situation, advise, prefill_per_decode
from planner.capacity import Limits, config_for
from planner.demand import Demand, Promise
from planner.expect import expected_effects
from planner.memory import Hardware
from planner.optimise import optimise
from planner.trial import trial
from simulator.workload import TimedRequest


def _situation(model, *, tokens=2000, shared=0.0, network=Network.ETHERNET, **more):
    demand = Demand(rps=5, input_tokens=tokens, output_tokens=400, shared_ratio=shared)
    return Situation(model=model, demand=demand, network=network, **more)


@pytest.mark.parametrize(
    ("situation", "path"),
    [
        pytest.param(_situation("Qwen3-32B", shared=0.8), Path.SCHEDULING, id="32b-that-shares-much"),
        pytest.param(_situation("Llama-3.1-8B", shared=0.1), Path.PLAIN, id="8b-that-shares-little"),
        pytest.param(_situation("Mixtral-8x22B"), Path.WIDE_EP, id="a-large-mixture-of-experts"),
        pytest.param(_situation("Llama-3.1-70B", tokens=12_000, network=Network.RDMA), Path.DISAGGREGATION,
                     id="70b-with-long-prompts-and-rdma"),
        pytest.param(_situation("Llama-3.1-70B", shared=0.6), Path.SCHEDULING, id="70b-that-shares-much"),
    ],
)  # fmt: skip
def test_the_tree_leads_where_the_documents_lead(situation, path):
    found = advise(situation)
    assert found.path is path
    assert all(step.question and step.answer for step in found.steps)


@pytest.mark.parametrize(("ratio", "prefill"), [(10.0, 8), (5.0, 4), (1.0, 2), (100.0, 8), (0.1, 2)])
def test_prefill_to_decode_starts_at_the_documents_ratios(ratio, prefill):
    assert prefill_per_decode(ratio) == prefill


def _uses(**more):
    return {one.name: one.use for one in advise(_situation("Qwen3-32B", shared=0.6, **more)).means}


def test_each_means_is_for_its_own_situation():
    assert _uses()["prefix caching"]
    assert not _uses()["spot GPUs"]
    assert _uses(interactive=False)["spot GPUs"]
    assert _uses(idle_share=0.8)["scale to zero"]
    assert not _uses(idle_share=0.1)["scale to zero"]
    assert _uses(session_gap_s=300)["CPU KV offload"]


def _sharing(count=300):
    """Twenty long prompts, each asked again and again."""
    return [
        TimedRequest(arrival_s=i * 0.25, input_tokens=6000, output_tokens=100, prefix_id=i % 20, prefix_tokens=5600)
        for i in range(count)
    ]


def test_effects_are_simulated_on_the_user_s_own_workload():
    found = {one.name: one for one in expected_effects("Qwen3-32B", "h100_sxm", 2, _sharing(), Promise(ttft_s=1.0))}
    none, some, aware = (found[name] for name in ("round robin, no prefix cache", "round robin, prefix cache",
                                                  "cache-aware routing"))  # fmt: skip
    assert none.hit_ratio == 0.0
    assert aware.hit_ratio > 0.6
    assert aware.ttft_s < some.ttft_s <= none.ttft_s
    assert len({one.gpus for one in found.values()}) == 1
    assert any(name.startswith("P/D apart") for name in found)


def test_the_cheapest_found_keeps_the_promise_and_the_front_only_gets_faster():
    demand, promise = Demand(rps=20, input_tokens=1155, output_tokens=211, length_sigma=0.5), Promise(ttft_s=0.5)
    found = optimise("Llama-3.1-8B", demand, promise, gpus=("h100_sxm", "a100_sxm", "l40s"), most=6)
    costs = [one.cost_per_hour for one in found.tried]
    assert costs == sorted(costs)
    assert all(one.trial.keeps(promise) for one in found.tried)
    front = [one.trial.ttft_s for one in found.tried if one.best]
    assert front == sorted(front, reverse=True)
    cheapest = found.tried[0]
    again = trial(config_for(cheapest.hardware, cheapest.limits), demand, promise, cheapest.trial.replicas)
    assert again == cheapest.trial


def test_a_promise_that_nothing_keeps_is_refused():
    with pytest.raises(ConfigError, match="no GPU and parallelism keeps the promise"):
        optimise("Llama-3.1-70B", Demand(rps=1, input_tokens=9000, output_tokens=10), Promise(ttft_s=0.01))


def test_engine_limits_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="max_num_batched_tokens"):
        config_for(Hardware(model="Llama-3.1-8B", gpu="h100_sxm"), Limits(max_num_seqs=256, max_num_batched_tokens=64))


def test_the_commands_answer_in_json_and_draw_a_plot(tmp_path):
    run = CliRunner().invoke
    numbers = ["--rps", "20", "--input", "1155", "--output", "211"]
    advice = json.loads(run(fleet, ["plan", "advise", "--model", "Qwen3-32B", *numbers, "--json"]).output)
    assert advice["path"] == "plain-vllm-hpa"
    plot = tmp_path / "front.html"
    search = ["plan", "optimise", "--model", "Llama-3.1-8B", *numbers, "--gpus", "h100_sxm", "--most", "2"]
    found = json.loads(run(fleet, [*search, "--json", "--plot", str(plot)]).stdout)
    assert found["tried"][0]["cost_per_hour"] > 0
    assert "US dollars per hour" in plot.read_text(encoding="utf-8")
    for command in (["plan", "hardware"], [*search], ["plan", "advise", "--model", "Qwen3-32B", *numbers]):
        assert run(fleet, command).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--model", "Qwen3-32", "--rps", "1", "--input", "1", "--output", "1"], "Did you mean",
                     id="model"),
        pytest.param(["--model", "Qwen3-32B"], "no demand", id="no-demand"),
        pytest.param(["--model", "Qwen3-32B", "--rps", "1", "--input", "1", "--output", "1", "--idle", "2"],
                     "idle share", id="idle"),
    ],
)  # fmt: skip
def test_bad_advice_questions_get_one_line(arguments, words):
    answer = CliRunner().invoke(fleet, ["plan", "advise", *arguments])
    assert isinstance(answer.exception, ConfigError)
    assert words in str(answer.exception)
