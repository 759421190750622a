"""Memory and replicas against published deployments and against the simulator."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.cli import fleet
from fleet.errors import ConfigError
from planner.capacity import config_for, replicas_for, sustainable_rps
from planner.demand import Demand, Promise, demand_of
from planner.memory import Hardware, memory, require_fit, transfer_s
from planner.sizing import size
from planner.trial import smallest, trial
from simulator.workload import TimedRequest


@pytest.mark.parametrize(
    ("model", "parallel", "published"),
    [
        pytest.param("Qwen3-32B", 2, 307_328, id="the-guide-s-qwen3-32b-on-two-h100"),
        pytest.param("Llama-3.1-70B", 4, 461_376, id="the-guide-s-llama-70b-on-four-h100"),
    ],
)
def test_kv_capacity_is_within_one_percent_of_published(model, parallel, published):
    answer = CliRunner().invoke(
        fleet, ["plan", "size", "--model", model, "--gpu", "h100_sxm", "--tp", str(parallel), "--json"]
    )
    found = json.loads(answer.output)["kv_capacity_tokens"]
    assert abs(found / published - 1) < 0.01


def test_grouped_query_attention_is_counted_where_the_source_documents_take_multi_head():
    llama = Hardware(model="Llama-3.1-70B", gpu="h100_sxm", tensor_parallel=4)
    per_token = memory(llama).kv_bytes_per_token
    assert per_token == 320 * 1024  # not 2.56 MB
    assert round(transfer_s(10_000, llama, gbit_s=100), 2) == 0.26  # not 2.05 s
    assert round(256 * 8192 * per_token / 1e12, 2) == 0.69  # terabytes, not 5.4 GB


def test_an_fp8_cache_holds_twice_the_tokens_and_less_memory_holds_fewer():
    plain = memory(Hardware(model="Qwen3-32B", gpu="h100_sxm", tensor_parallel=2))
    half = memory(Hardware(model="Qwen3-32B", gpu="h100_sxm", tensor_parallel=2, kv_bytes_per_value=1))
    careful = memory(Hardware(model="Qwen3-32B", gpu="h100_sxm", tensor_parallel=2, gpu_memory_utilization=0.85))
    assert abs(half.kv_capacity_tokens - 2 * plain.kv_capacity_tokens) <= 2
    assert careful.kv_capacity_tokens < plain.kv_capacity_tokens
    assert careful.total_gib == pytest.approx(careful.weights_gib + careful.kv_gib + careful.other_gib)


@pytest.mark.parametrize(
    ("hardware", "longest", "words"),
    [
        pytest.param({"model": "Llama-3.1-70B", "gpu": "h100_sxm"}, 1, "tensor parallelism 4", id="weights"),
        pytest.param({"model": "Qwen3-32B", "gpu": "h100_sxm"}, 100_000, "does not fit the KV cache", id="one-request"),
        pytest.param({"model": "Llama-3-70B", "gpu": "h100_sxm"}, 1, "Did you mean", id="model"),
        pytest.param({"model": "Qwen3-32B", "gpu": "H100"}, 1, "Did you mean 'h100_sxm'", id="gpu"),
        pytest.param({"model": "Qwen3-32B", "gpu": "h100_sxm", "tensor_parallel": 3}, 1, "divisor", id="parallelism"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(hardware, longest, words):
    with pytest.raises(ConfigError, match=words) as refused:
        require_fit(Hardware(**hardware), longest)
    assert "\n" not in str(refused.value)


WORKLOADS = {
    # model, gpu, tp, requests/s, input, output, cached, sigma, TTFT, TPOT
    "chat-8b-h100": ("Llama-3.1-8B", "h100_sxm", 1, 60, 1155, 211, 0.0, 1.0, 0.5, 0.05),
    "long-answers-8b-h100": ("Llama-3.1-8B", "h100_sxm", 1, 20, 4000, 1000, 0.0, 0.0, 2.0, 0.05),
    "week-8b-a100": ("Llama-3.1-8B", "a100_sxm", 1, 30, 1618, 107, 0.0, 1.0, 1.0, 0.08),
    "chat-32b-h100": ("Qwen3-32B", "h100_sxm", 2, 40, 1155, 211, 0.0, 1.0, 1.0, 0.05),
    "cached-32b-h100": ("Qwen3-32B", "h100_sxm", 2, 10, 8000, 500, 0.6, 0.3, 2.0, 0.06),
    "documents-32b-h100": ("Qwen3-32B", "h100_sxm", 4, 6, 12000, 350, 0.3, 0.8, 3.0, 0.05),
    "chat-70b-h100": ("Llama-3.1-70B", "h100_sxm", 4, 12, 2000, 400, 0.0, 0.5, 2.0, 0.05),
    "small-l40s": ("Llama-3.1-8B", "l40s", 1, 10, 1000, 300, 0.0, 0.5, 1.0, 0.08),
    "uncalibrated-14b": ("Qwen3-14B", "h100_sxm", 1, 50, 600, 150, 0.2, 0.8, 0.5, 0.04),
    "short-8b-h100": ("Llama-3.1-8B", "h100_sxm", 1, 200, 250, 60, 0.0, 0.5, 0.3, 0.03),
    "memory-bound-32b-h200": ("Qwen3-32B", "h200_sxm", 1, 5, 3000, 1500, 0.0, 0.5, 2.0, 0.05),
}


def _case(name):
    model, gpu, parallel, rps, tokens_in, tokens_out, cached, sigma, ttft_s, tpot_s = WORKLOADS[name]
    demand = Demand(rps=rps, input_tokens=tokens_in, output_tokens=tokens_out, cached_ratio=cached, length_sigma=sigma)
    return Hardware(model=model, gpu=gpu, tensor_parallel=parallel), demand, Promise(ttft_s=ttft_s, tpot_s=tpot_s)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_closed_form_is_within_one_replica_of_the_simulator(name):
    hardware, demand, promise = _case(name)
    config = config_for(hardware)
    guess = replicas_for(config, demand, promise)
    tried = smallest(config, demand, promise, guess, seed=3)
    assert abs(guess - tried.replicas) <= 1


def test_the_answer_is_the_smallest_fleet_that_keeps_the_promise():
    hardware, demand, promise = _case("chat-32b-h100")
    found = size(hardware, demand, promise)
    config = config_for(hardware)
    assert trial(config, demand, promise, found.replicas).keeps(promise)
    assert not trial(config, demand, promise, found.replicas - 1).keeps(promise)
    assert found.cost.per_hour == pytest.approx(found.replicas * 2 * 3.99)
    assert found.cost.per_million_output_tokens == pytest.approx(found.cost.per_hour / (40 * 211 * 3600 / 1e6))


def test_same_seed_same_trial():
    hardware, demand, promise = _case("short-8b-h100")
    config = config_for(hardware)
    assert trial(config, demand, promise, 2, seed=5) == trial(config, demand, promise, 2, seed=5)


@settings(max_examples=40, deadline=None)
@given(rps=st.floats(0.5, 200), more=st.floats(1.0, 4.0), ttft=st.floats(0.5, 5))
def test_more_demand_never_needs_fewer_replicas_and_more_time_never_more(rps, more, ttft):
    hardware, _, _ = _case("chat-8b-h100")
    config = config_for(hardware)
    demand = Demand(rps=rps, input_tokens=1155, output_tokens=211, length_sigma=0.8)
    grown = Demand(rps=rps * more, input_tokens=1155, output_tokens=211, length_sigma=0.8)
    promise, patient = Promise(ttft_s=ttft, tpot_s=0.05), Promise(ttft_s=2 * ttft, tpot_s=0.1)
    base = replicas_for(config, demand, promise)
    assert base <= replicas_for(config, grown, promise)
    assert replicas_for(config, demand, patient) <= base


def test_no_number_of_replicas_helps_a_promise_that_an_idle_one_breaks():
    hardware = Hardware(model="Llama-3.1-8B", gpu="l4")
    with pytest.raises(ConfigError, match=r"an idle replica takes .* to the first token"):
        size(hardware, Demand(rps=1, input_tokens=4000, output_tokens=100), Promise(ttft_s=0.1))
    config = config_for(hardware)
    demand = Demand(rps=1, input_tokens=4000, output_tokens=100)
    assert sustainable_rps(config, demand, Promise(ttft_s=0.1)) == 0.0


def test_a_workload_is_sized_for_its_busiest_minute():
    calm = [TimedRequest(arrival_s=float(i), input_tokens=100, output_tokens=10) for i in range(300)]
    busy = [TimedRequest(arrival_s=300 + i / 10, input_tokens=100, output_tokens=10) for i in range(600)]
    found = demand_of([*calm, *busy, TimedRequest(arrival_s=420, input_tokens=100, output_tokens=10)])
    assert found.rps == pytest.approx(10.0)
    assert demand_of(calm, scale=3).rps == pytest.approx(3.0, rel=0.02)


def test_shared_prefixes_are_found_in_a_workload():
    shared = [TimedRequest(arrival_s=i, input_tokens=1024, output_tokens=1, hash_ids=(7, 100 + i)) for i in range(4)]
    assert demand_of(shared).shared_ratio == pytest.approx(3 * 512 / 4096)
    with pytest.raises(ConfigError, match="no requests"):
        demand_of([])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--rps", "5"], "--input is missing", id="half-a-demand"),
        pytest.param(["--rps", "-5", "--input", "1", "--output", "1"], "requests per second", id="negative"),
        pytest.param(["--rps", "1", "--input", "1", "--output", "1", "--ttft", "0"], "TTFT target", id="no-time"),
        pytest.param(["--workload", "no_such_file.csv"], "no_such_file", id="no-file"),
    ],
)
def test_bad_numbers_get_one_line(arguments, words):
    answer = CliRunner().invoke(fleet, ["plan", "size", "--model", "Llama-3.1-8B", "--gpu", "h100_sxm", *arguments])
    assert isinstance(answer.exception, ConfigError)
    assert words in str(answer.exception)
    assert "\n" not in str(answer.exception)
