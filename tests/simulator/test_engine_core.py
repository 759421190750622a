"""The engine in virtual time: scheduling rules one by one, then properties over whole runs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import ConfigError
from simulator import tokens
from simulator.config import EngineConfig, engine_config
from simulator.engine import Engine
from simulator.kvcache import Run
from simulator.sequence import EngineRequest, Sequence, StepResult
from simulator.steptime import FINISH_S, INGRESS_S, OUTPUT_TOKEN_S, timer_for

TIMER = timer_for("Llama-3.1-8B", "h100_sxm", 1)


def small(*, blocks: int = 64, seqs: int = 4, budget: int = 64) -> Engine:
    """An engine small enough to reason about, without ingress delay."""
    config = EngineConfig(timer=TIMER, blocks=blocks, max_num_seqs=seqs, max_num_batched_tokens=budget,
                          max_model_len=blocks * tokens.BLOCK_TOKENS)  # fmt: skip
    return Engine(config, ingress_s=0.0)


def request(name: str, prompt: int, output: int, *, text: str = "") -> EngineRequest:
    """A request with content of its own, or with the content ``text``."""
    packed = tokens.encode((text or f"{name}:" * 4 * prompt)[: 4 * prompt])
    return EngineRequest(request_id=name, prompt_tokens=prompt, output_tokens=output,
                         block_hashes=tokens.chain(packed), tail=tokens.tail(packed))  # fmt: skip


def run(engine: Engine, now_s: float = 0.0) -> list[StepResult]:
    """Steps until nothing is left."""
    results: list[StepResult] = []
    while (start_s := engine.next_start_s(now_s)) is not None:
        result = engine.step(start_s)
        assert result is not None
        now_s = result.end_s
        results.append(result)
    return results


def names(sequences: list) -> list[str]:
    return [sequence.request.request_id for sequence in sequences]


def test_prompts_are_computed_in_chunks_of_the_budget() -> None:
    engine = small(budget=64)
    engine.submit(request("a", 150, 3), 0.0)
    steps = run(engine)
    assert [step.prefill_tokens for step in steps] == [64, 64, 22, 0, 0]
    assert [names(step.first) for step in steps] == [[], [], ["a"], [], []]
    assert names(steps[-1].finished) == ["a"]


def test_running_sequences_take_their_token_before_waiting_prompts() -> None:
    engine = small(budget=64)
    engine.submit(request("a", 10, 50), 0.0)
    engine.step(0.0)
    engine.submit(request("b", 200, 1), 0.1)
    assert [engine.step(0.1 + i).prefill_tokens for i in range(4)] == [63, 63, 63, 11]  # type: ignore[union-attr]


def test_a_second_prompt_uses_what_the_first_leaves_of_the_budget() -> None:
    engine = small(budget=64)
    engine.submit(request("a", 40, 2), 0.0)
    engine.submit(request("b", 40, 2), 0.0)
    steps = run(engine)
    assert [step.prefill_tokens for step in steps] == [64, 16, 0]
    assert [names(step.first) for step in steps] == [["a"], ["b"], []]


def test_no_more_than_max_num_seqs_run_and_the_rest_wait_in_order() -> None:
    engine = small(seqs=2, budget=64)
    for name in "abc":
        engine.submit(request(name, 8, 4), 0.0)
    engine.step(0.0)
    assert (engine.running, engine.waiting(0.0), engine.unfinished) == (2, 1, 3)
    order = [name for step in run(engine) for name in names(step.first)]
    assert order == ["c"]


def test_requests_reach_the_scheduler_after_the_ingress() -> None:
    engine = Engine(engine_config("Llama-3.1-8B", "h100_sxm"))
    engine.submit(request("a", 16, 1), 5.0)
    assert engine.next_start_s(5.0) == pytest.approx(5.0 + INGRESS_S)
    assert (engine.waiting(5.0), engine.waiting(5.1)) == (0, 1)
    assert engine.step(5.0) is None


def test_times_of_a_request_follow_the_steps() -> None:
    engine = small()
    sequence = engine.submit(request("a", 32, 3), 1.0)
    steps = run(engine, 1.0)
    assert sequence.scheduled_s == 1.0
    assert sequence.first_token_s == steps[0].end_s
    assert sequence.last_token_s == steps[-1].end_s
    assert sequence.delivered_s == pytest.approx(steps[-1].end_s + FINISH_S + 3 * OUTPUT_TOKEN_S)


def test_step_durations_come_from_the_model_with_full_contexts() -> None:
    engine = small(budget=64)
    engine.submit(request("a", 20, 9), 0.0)
    engine.submit(request("b", 30, 9), 0.0)
    first, second, third = (engine.step(float(i)) for i in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.duration_s == TIMER.step_s(decoding=0, context=0, prefill=50, attention=20 * 10 + 30 * 15)
    assert second.duration_s == pytest.approx(TIMER.step_s(decoding=2, context=21 + 31))
    assert third.duration_s == pytest.approx(TIMER.step_s(decoding=2, context=22 + 32))


def test_a_slow_gpu_stretches_steps() -> None:
    normal, slow = small(), small()
    slow.slow_factor = 2.0
    for engine in (normal, slow):
        engine.submit(request("a", 16, 2), 0.0)
    assert slow.step(0.0).duration_s == 2 * normal.step(0.0).duration_s  # type: ignore[union-attr]


def test_the_same_prompt_is_found_in_the_cache_but_its_last_token_is_computed() -> None:
    engine = small()
    engine.submit(request("a", 48, 1, text="x" * 192), 0.0)
    run(engine)
    sequence = engine.submit(request("b", 48, 1, text="x" * 192), 1.0)
    (step,) = run(engine, 1.0)
    assert sequence.cached_tokens == 32
    assert step.prefill_tokens == 16
    assert (engine.counters.prefix_queries, engine.counters.prefix_hits) == (96, 32)


def test_a_shared_prefix_counts_once_while_both_run() -> None:
    engine = small()
    engine.submit(request("a", 48, 20, text="x" * 192), 0.0)
    engine.step(0.0)
    engine.submit(request("b", 48, 20, text="x" * 128 + "y" * 64), 0.1)
    engine.step(0.1)
    assert engine.kv.pinned + engine.kv.private == 3 + 1 + 1  # a's prompt, a's next block, b's own third block


def test_a_follow_up_finds_the_answer_of_the_turn_before() -> None:
    engine = small()
    engine.submit(request("a", 24, 25, text="q" * 96), 0.0)
    run(engine)
    follow = "q" * 96 + tokens.output(25).decode() + "more"
    sequence = engine.submit(request("b", 50, 1, text=follow), 1.0)
    run(engine, 1.0)
    assert sequence.cached_tokens == 48


def test_a_request_is_admitted_only_when_its_whole_prompt_fits() -> None:
    engine = small(blocks=10, budget=64)
    engine.submit(request("a", 96, 4), 0.0)
    engine.submit(request("b", 96, 4), 0.0)
    started = [name for step in run(engine) for name in names(step.first)]
    assert started == ["a", "b"]
    assert engine.counters.preemptions == 0


def test_without_free_blocks_the_last_admitted_is_preempted_and_computed_again() -> None:
    engine = small(blocks=8, budget=64)
    sequences = {name: engine.submit(request(name, 40, 60), 0.0) for name in "ab"}
    steps = run(engine)
    preempted = [name for step in steps for name in names(step.preempted)]
    assert preempted == ["b"]
    assert sequences["b"].preemptions == 1
    assert [name for step in steps for name in names(step.finished)] == ["a", "b"]
    given_tokens = Counter(name for step in steps for name in names(step.decoded) + names(step.first))
    assert given_tokens == {"a": 60, "b": 60}
    assert [len(step.gaps_s) for step in steps if step.gaps_s] == [1]


def test_an_abort_frees_blocks_wherever_the_request_is() -> None:
    engine = small(seqs=2, budget=64)
    for name, prompt in (("running", 10), ("partial", 150), ("waiting", 10)):
        engine.submit(request(name, prompt, 30), 0.0)
    engine.step(0.0)
    engine.submit(request("arriving", 10, 30), 99.0)
    for name in ("running", "partial", "waiting", "arriving"):
        assert engine.abort(name) is not None
        assert engine.abort(name) is None
    assert (engine.running, engine.unfinished, engine.kv.usage) == (0, 0, 0.0)
    assert engine.next_start_s(100.0) is None
    assert engine.counters.aborted == 4


@pytest.mark.parametrize(
    ("prompt", "output"),
    [
        pytest.param(0, 5, id="an-empty-prompt"),
        pytest.param(5, 0, id="no-output"),
        pytest.param(1000, 25, id="longer-than-the-model-allows"),
    ],
)
def test_impossible_requests_are_refused(prompt: int, output: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        small().submit(EngineRequest(request_id="a", prompt_tokens=prompt, output_tokens=output), 0.0)


def test_an_id_in_use_is_refused() -> None:
    engine = small()
    engine.submit(request("a", 5, 5), 0.0)
    with pytest.raises(ValueError, match="in use"):
        engine.submit(request("a", 5, 5), 0.0)


# ---- configuration


@pytest.mark.parametrize(
    ("arguments", "limits", "said"),
    [
        pytest.param(("Llama-3.1-8", "h100_sxm", 1), {}, "Did you mean Llama-3.1-8B", id="unknown-model"),
        pytest.param(("Llama-3.1-8B", "h100", 1), {}, "unknown accelerator", id="unknown-gpu"),
        pytest.param(("Llama-3.1-8B", "h100_sxm", 3), {}, "cannot be split over 3 GPUs", id="heads-that-do-not-divide"),
        pytest.param(("Qwen3-32B", "h100_sxm", 1), {"kv_tokens": 10**6}, "16..28", id="more-cache-than-memory"),
        pytest.param(("Llama-3.1-8B", "h100_sxm", 1), {"kv_tokens": 5}, "kv_tokens is 5", id="less-than-a-block"),
        pytest.param(("Llama-3.1-8B", "h100_sxm", 1), {"max_num_batched_tokens": 8}, ">= max_num_seqs",
                     id="budget-below-batch"),
        pytest.param(("Llama-3.1-8B", "h100_sxm", 1), {"kv_tokens": 320, "max_model_len": 400}, "320 tokens",
                     id="requests-larger-than-the-cache"),
    ],
)  # fmt: skip
def test_bad_engines_are_refused_on_one_line(arguments: tuple[str, str, int], limits: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        engine_config(*arguments, **limits)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gpu", "seqs", "budget"),
    [pytest.param("h100_sxm", 1024, 8192, id="large-gpu"), pytest.param("a100_sxm", 256, 2048, id="other-gpu")],
)
def test_limits_default_to_those_of_vllm(gpu: str, seqs: int, budget: int) -> None:
    config = engine_config("Llama-3.1-8B", gpu)
    assert (config.max_num_seqs, config.max_num_batched_tokens) == (seqs, budget)
    assert config.blocks * tokens.BLOCK_TOKENS == pytest.approx(434_937, abs=32)


# ---- properties over whole runs

REQUESTS = st.lists(
    st.tuples(
        st.floats(0.0, 0.2),  # pause before it
        st.integers(1, 120),  # prompt
        st.integers(1, 60),  # output
        st.integers(0, 3),  # which of a few prefixes it shares
        st.booleans(),  # aborted at some time
    ),
    min_size=1,
    max_size=25,
)
LIMITS = st.tuples(st.integers(12, 40), st.integers(1, 6), st.integers(8, 80))


def check_books(engine: Engine) -> None:
    """What is book-kept in sums equals what the sequences hold."""
    step, members = engine._batch.step, list(engine._batch.members.values())
    grown = sum(_blocks(s.target + step - s.decode_from) - s.blocks for s in members)
    batch = [*members, *([engine._partial] if engine._partial else [])]
    assert engine.kv.private == sum(s.private for s in batch) + grown
    runs = {run for s in batch for run in held_runs(s)}
    assert engine.kv.pinned == sum(run.end - run.start for run in runs)
    assert engine._batch.context == sum(s.target + 1 + step - s.decode_from for s in members)
    assert 0 <= engine.kv.free <= engine.kv.capacity
    assert engine.kv.empty >= 0
    assert engine.running <= engine.config.max_num_seqs


def held_runs(sequence: Sequence) -> Iterator[Run]:
    run = sequence.run
    while run is not None:
        yield run
        run = run.parent


def _blocks(count: int) -> int:
    return -(-count // tokens.BLOCK_TOKENS)


def drive(limits: tuple[int, int, int], requests: list) -> tuple[list, Engine, set[str]]:
    """One whole run; returns every event, the engine, and who was aborted."""
    blocks, seqs, budget = limits
    engine = small(blocks=blocks, seqs=seqs, budget=max(seqs, budget))
    now_s, events, aborted = 0.0, [], set()
    for index, (pause_s, prompt, output, prefix, abort) in enumerate(requests):
        until_s = now_s + pause_s
        while (start_s := engine.next_start_s(now_s)) is not None and start_s <= until_s:
            now_s = step(engine, start_s, events)
        now_s = max(now_s, until_s)
        engine.submit(request(str(index), prompt, output, text=str(prefix) * 600), now_s)
        if abort and engine.abort(str(index // 2)) is not None:
            aborted.add(str(index // 2))
            check_books(engine)
    while (start_s := engine.next_start_s(now_s)) is not None:
        now_s = step(engine, start_s, events)
    return events, engine, aborted


def step(engine: Engine, start_s: float, events: list) -> float:
    result = engine.step(start_s)
    assert result is not None
    check_books(engine)
    assert result.prefill_tokens + len(result.decoded) <= engine.config.max_num_batched_tokens
    assert result.duration_s > 0
    events.append((result.end_s, names(result.decoded), names(result.first), names(result.finished)))
    return result.end_s


@settings(max_examples=60, deadline=None)
@given(LIMITS, REQUESTS)
def test_tokens_are_conserved_and_no_request_is_lost(limits: tuple[int, int, int], requests: list) -> None:
    events, engine, aborted = drive(limits, requests)
    emitted = Counter(name for _, decoded, first, _ in events for name in decoded + first)
    finished = Counter(name for *_, done in events for name in done)
    for index, (_, _, output, _, _) in enumerate(requests):
        name = str(index)
        assert finished[name] == (name not in aborted)
        assert emitted[name] <= output if name in aborted else emitted[name] == output
    assert engine.counters.generation_tokens == sum(emitted.values())
    assert engine.counters.finished + engine.counters.aborted == len(requests)
    assert (engine.unfinished, engine.running, engine.waiting(1e9)) == (0, 0, 0)
    assert (engine.kv.private, engine.kv.pinned, engine._batch.context, sum(engine._batch._phase)) == (0, 0, 0, 0)
    assert not engine._batch._due


@settings(max_examples=15, deadline=None)
@given(LIMITS, REQUESTS)
def test_the_same_requests_give_the_same_run(limits: tuple[int, int, int], requests: list) -> None:
    assert drive(limits, requests)[0] == drive(limits, requests)[0]


# ---- a shared context


def sharing(reuse: float) -> Engine:
    timer = replace(TIMER, coefficients=replace(TIMER.coefficients, reuse=reuse))
    config = EngineConfig(timer=timer, blocks=64, max_num_seqs=4, max_num_batched_tokens=640, max_model_len=1024)
    return Engine(config, ingress_s=0.0)


def last_step(reuse: float, *, alike: bool) -> StepResult:
    """The last step of two sequences of 160 tokens that decode together, with the same prompt or each its own."""
    engine = sharing(reuse)
    for name in "ab":
        engine.submit(request(name, 160, 4, text="same " * 200 if alike else f"{name}" * 800), 0.0)
    return run(engine)[-1]


def test_a_context_that_is_shared_is_read_in_part_only_where_the_engine_reuses_it() -> None:
    alone, together, reused = last_step(0.5, alike=False), last_step(0.0, alike=True), last_step(0.5, alike=True)
    assert alone.decoding == together.decoding == reused.decoding == 2
    assert alone.duration_s == together.duration_s
    saved_s = 0.5 * 160 * TIMER.coefficients.d_kv / 1000
    assert together.duration_s - reused.duration_s == pytest.approx(saved_s, rel=1e-6)


def test_what_is_shared_is_never_more_than_what_is_read() -> None:
    timer = replace(TIMER, coefficients=replace(TIMER.coefficients, reuse=1.0))
    least_s = timer.step_s(decoding=1, context=0)
    assert timer.step_s(decoding=1, context=100, repeated=1000) == pytest.approx(least_s)
