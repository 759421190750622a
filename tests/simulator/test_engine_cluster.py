"""Several engines in virtual time, the step-time model, tokens and the clock."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import tokens
from simulator.clock import ScaledClock
from simulator.cluster import Arrival, Cluster, Outcome, round_robin
from simulator.config import engine_config
from simulator.engine import Engine
from simulator.sequence import EngineRequest
from simulator.steptime import INGRESS_S, timer_for


def poisson(count: int, rps: float, *, seed: int = 1) -> list[Arrival]:
    """The same requests at any rate; only the pauses scale."""
    rng, at_s, arrivals = random.Random(seed), 0.0, []
    for index in range(count):
        at_s += rng.expovariate(1.0) / rps
        lengths = {"prompt_tokens": rng.randint(10, 2000), "output_tokens": rng.randint(1, 300)}
        arrivals.append(Arrival(at_s=at_s, request=EngineRequest(request_id=str(index), **lengths)))
    return arrivals


def simulate(rps: float, *, engines: int = 1, count: int = 300) -> list[Outcome]:
    fleet = [Engine(engine_config("Llama-3.1-8B", "a100_sxm", kv_tokens=60_000)) for _ in range(engines)]
    return Cluster(fleet, round_robin()).run(poisson(count, rps))


def mean_ttft_s(outcomes: list[Outcome]) -> float:
    return sum(outcome.ttft_s for outcome in outcomes) / len(outcomes)


def test_every_request_comes_out_once_with_sensible_times() -> None:
    outcomes = simulate(5.0, engines=2)
    assert sorted(int(outcome.request_id) for outcome in outcomes) == list(range(300))
    assert {outcome.engine for outcome in outcomes} == {0, 1}
    assert all(INGRESS_S < outcome.ttft_s < outcome.e2e_s for outcome in outcomes)


def test_more_load_never_lowers_the_mean_time_to_first_token() -> None:
    means = [mean_ttft_s(simulate(rps)) for rps in (0.5, 2.0, 4.0, 8.0, 16.0)]
    assert means == sorted(means)


def mean_queue_s(rps: float, seed: int) -> float:
    waited: list[float] = []
    fleet = Cluster(
        [Engine(engine_config("Llama-3.1-8B", "a100_sxm", kv_tokens=60_000))], round_robin(),
        on_first_token=lambda _engine, sequence, _now_s: waited.append(sequence.scheduled_s - sequence.queued_s),
    )  # fmt: skip
    fleet.run(poisson(100, rps, seed=seed))
    return sum(waited) / len(waited)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 12.0), st.floats(1.2, 3.0), st.integers(0, 10**6))
def test_the_same_requests_in_less_time_never_wait_less(rps: float, factor: float, seed: int) -> None:
    """Where arrivals fall within a step, and who shares a step with whom, may make up a little of one run's wait."""
    half_a_step_s = 0.006
    assert mean_queue_s(rps * factor, seed) >= 0.9 * mean_queue_s(rps, seed) - half_a_step_s


def test_a_second_engine_helps_under_load() -> None:
    assert mean_ttft_s(simulate(16.0, engines=2)) < mean_ttft_s(simulate(16.0)) / 2


def test_the_same_arrivals_give_the_same_outcomes() -> None:
    assert simulate(6.0, engines=2) == simulate(6.0, engines=2)


def test_a_lone_request_takes_ingress_one_prefill_and_its_decode_steps() -> None:
    timer = timer_for("Llama-3.1-8B", "a100_sxm", 1)
    request = EngineRequest(request_id="a", prompt_tokens=100, output_tokens=3)
    engine = Engine(engine_config("Llama-3.1-8B", "a100_sxm"))
    (outcome,) = Cluster([engine], round_robin()).run([Arrival(at_s=10.0, request=request)])
    prefill_s = timer.step_s(decoding=0, context=0, prefill=100, attention=100 * 50)
    assert outcome.ttft_s == pytest.approx(INGRESS_S + prefill_s)
    decode_s = timer.step_s(decoding=1, context=101) + timer.step_s(decoding=1, context=102)
    assert outcome.e2e_s == pytest.approx(outcome.ttft_s + decode_s + 0.0007773 + 3 * 0.0000459075)


# ---- step times: figures published beside the coefficients


@pytest.mark.parametrize(
    ("shape", "gpu", "count", "tokens_per_s"),
    [
        pytest.param("Qwen3-32B", "h100_sxm", 2, 15_960, id="qwen-32b-on-two-h100"),
        pytest.param("Llama-3.1-70B", "h100_sxm", 4, 15_200 / 1.13, id="llama-70b-on-four-h100"),
    ],
)
def test_prefill_rate_of_a_full_chunk(shape: str, gpu: str, count: int, tokens_per_s: float) -> None:
    step_s = timer_for(shape, gpu, count).step_s(decoding=0, context=0, prefill=8192, attention=8192 * 4096)
    assert 8192 / step_s == pytest.approx(tokens_per_s, rel=0.03)


@pytest.mark.parametrize(
    ("gpu", "decode_ms"), [pytest.param("h100_sxm", 12.2, id="h100"), pytest.param("a100_sxm", 22.3, id="a100")]
)
def test_decode_step_of_64_sequences_at_2k_context(gpu: str, decode_ms: float) -> None:
    step_s = timer_for("Llama-3.1-8B", gpu, 1).step_s(decoding=64, context=64 * 2048)
    assert 1000 * step_s - (0.13 + 0.032 * 32) == pytest.approx(decode_ms, rel=0.06)


@given(st.integers(0, 200), st.integers(0, 100_000), st.integers(0, 4000), st.integers(1, 500))
def test_more_work_never_takes_less_time(decoding: int, context: int, prefill: int, more: int) -> None:
    timer = timer_for("Llama-3.1-8B", "h100_sxm", 1)
    base = timer.step_s(decoding=decoding, context=context, prefill=prefill)
    assert timer.step_s(decoding=decoding + more, context=context, prefill=prefill) >= base
    assert timer.step_s(decoding=decoding, context=context + more, prefill=prefill) > base
    assert timer.step_s(decoding=decoding, context=context, prefill=prefill + more) >= base


# ---- tokens and clock


@given(st.text(max_size=300))
def test_text_and_its_token_ids_are_the_same_prompt(text: str) -> None:
    packed = tokens.encode(text)
    assert tokens.pack(tokens.unpack(packed)) == packed
    assert tokens.count(packed) == -(-len(text.encode("utf-8", "surrogatepass")) // 4)


@given(st.binary(max_size=400), st.integers(0, 80))
def test_hashing_on_from_a_block_equals_hashing_the_whole(data: bytes, output: int) -> None:
    packed = data[: len(data) // 4 * 4]
    prompt = tokens.chain(packed)
    rest = tokens.chain_output(tokens.tail(packed), output, parent=prompt[-1] if prompt else 0)
    assert prompt + rest == tokens.chain(packed + tokens.output(output))


def test_a_block_hash_stands_for_its_whole_prefix() -> None:
    first, second = tokens.chain(b"a" * 128), tokens.chain(b"b" * 64 + b"a" * 64)
    assert first[1] != second[1]


def test_hashes_are_the_same_on_any_machine() -> None:
    assert tokens.chain(b"a" * 64) == [17067348053093196514]


@pytest.mark.parametrize(
    "ids", [pytest.param([-1], id="negative"), pytest.param([2**32], id="too-large"), pytest.param(["x"], id="text")]
)
def test_bad_token_ids_are_refused(ids: list) -> None:
    with pytest.raises(ValueError, match="integers from 0"):
        tokens.pack(ids)


def test_a_scaled_clock_lives_faster_than_the_real_one() -> None:
    real = iter([100.0, 101.0, 102.0])
    clock = ScaledClock(lambda: next(real), speed=10.0)
    assert clock.now_s() == 10.0
    assert clock.real_delay_s(30.0) == 1.0


def test_a_clock_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        ScaledClock(lambda: 0.0, speed=0.0)
