"""Leaping over steps that only decode gives what stepping token by token gives, to the bit."""

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.batch import Batch
from simulator.cluster import Arrival, Cluster, Failure, FailureKind, Outcome, round_robin
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.pace import Pace
from simulator.sequence import EngineRequest, Sequence
from simulator.steptime import timer_for

TIMER = timer_for("Llama-3.1-8B", "h100_sxm", 1)


class SteppingEngine(Engine):
    """An engine that never leaps."""

    def _begin(self, now_s: float, *, leap: bool) -> object:  # type: ignore[override]
        return super()._begin(now_s, leap=False)


def config(blocks: int, seqs: int, budget: int, *, by_priority: bool = False) -> EngineConfig:
    return EngineConfig(timer=TIMER, blocks=blocks, max_num_seqs=seqs, max_num_batched_tokens=max(seqs, budget),
                        max_model_len=blocks * 16, priority_scheduling=by_priority)  # fmt: skip


def arrivals(requests: Iterable[tuple[float, int, int, int]], *, seed: int) -> list[Arrival]:
    """(pause, prompt, output, prefix) each; prompts with one prefix number begin alike."""
    at_s, rng, out = 0.0, random.Random(seed), []
    for index, (pause_s, prompt, output, prefix) in enumerate(requests):
        at_s += pause_s
        shared = prompt // 32
        hashes = [
            prefix * 1000 + block if block < shared else index * 1000 + 10**6 + block for block in range(prompt // 16)
        ]
        out.append(Arrival(at_s=at_s, request=EngineRequest(
            request_id=str(index), prompt_tokens=prompt, output_tokens=output, block_hashes=hashes, tail=b"",
            priority=rng.randint(0, 2))))  # fmt: skip
    return out


LIMITS = st.tuples(st.integers(12, 60), st.integers(1, 6), st.integers(8, 80))
REQUESTS = st.lists(
    st.tuples(st.floats(0.0, 0.5), st.integers(1, 120), st.integers(1, 70), st.integers(0, 3)), min_size=1, max_size=25
)
FAILURES = st.lists(
    st.builds(Failure, at_s=st.floats(0.0, 2.0), engine=st.integers(0, 1), kind=st.sampled_from(FailureKind),
              duration_s=st.floats(0.1, 2.0)),
    max_size=3,
)  # fmt: skip


def run(kind: type[Engine], limits: tuple[int, int, int], requests: list[Arrival], failures: list[Failure], *,
        by_priority: bool, looks_s: float) -> tuple[list[Outcome], list[object]]:  # fmt: skip
    """A run, and what somebody saw who looked each ``looks_s``."""
    fleet = Cluster([kind(config(*limits, by_priority=by_priority)) for _ in range(2)], round_robin(), timeout_s=1.5)
    seen: list[object] = []

    def look(now_s: float) -> None:
        for member in fleet.members:
            engine = member.engine
            seen.append((engine.running, engine.waiting(now_s), engine.kv.usage, engine.kv.evictions,
                         engine.counters.steps, engine.counters.generation_tokens, engine.unfinished))  # fmt: skip

    fleet.every(looks_s, look)
    for failure in failures:
        fleet.fail(failure)
    outcomes = fleet.run(requests)
    return outcomes, [*seen, *((m.engine.counters, m.engine.kv.evictions, m.engine.kv.cached) for m in fleet.members)]


@settings(max_examples=150, deadline=None)
@given(LIMITS, REQUESTS, FAILURES, st.tuples(st.booleans(), st.floats(0.01, 1.0), st.integers(0, 99)))
def test_a_leap_is_what_its_steps_are(
    limits: tuple[int, int, int], requests: list, failures: list[Failure], options: tuple[bool, float, int]
) -> None:
    by_priority, looks_s, seed = options
    sent = [one for one in arrivals(requests, seed=seed)
            if one.request.prompt_tokens + one.request.output_tokens <= limits[0] * 16]  # fmt: skip
    leapt = run(Engine, limits, sent, failures, by_priority=by_priority, looks_s=looks_s)
    stepped = run(SteppingEngine, limits, sent, failures, by_priority=by_priority, looks_s=looks_s)
    assert leapt == stepped


def test_looking_changes_nothing() -> None:
    def outcomes(*, look: bool) -> list[Outcome]:
        fleet = Cluster([Engine(config(400, 16, 256))], round_robin())
        if look:
            fleet.every(0.003, lambda _now_s: fleet.engines[0].running + fleet.engines[0].kv.usage)
        return fleet.run(arrivals([(0.05, 100, 60, 0)] * 100, seed=1))

    assert outcomes(look=True) == outcomes(look=False)


def test_leaps_are_few() -> None:
    engine = Engine(config(1000, 16, 256))
    engine.attach(lambda: 0.0)
    engine.submit(EngineRequest(request_id="a", prompt_tokens=100, output_tokens=5000), 0.0)
    turns = 0
    while (due_s := engine.due_s) is not None:
        engine.turn(due_s)
        turns += 1
    assert engine.counters.steps == 5000
    assert turns == 3  # begin the prompt's step, begin the leap, end it


def test_a_leap_reports_its_steps_and_tokens() -> None:
    engine = Engine(config(1000, 16, 256), ingress_s=0.0)
    engine.submit(EngineRequest(request_id="a", prompt_tokens=100, output_tokens=50), 0.0)
    engine.turn(0.0)
    engine.turn(engine.due_s or 0.0)
    result = engine.turn(engine.due_s or 0.0)
    assert result is not None
    assert (result.steps, result.decoding, result.emitted, len(result.finished)) == (49, 1, 49, 1)


# ---- the closed form


@given(st.floats(0.0, 1e6), st.floats(1e-4, 0.1), st.floats(0.0, 1e-5), st.integers(1, 5000))
def test_ends_are_the_sums_of_the_durations(origin_s: float, first_s: float, growth_s: float, steps: int) -> None:
    pace = Pace(origin_s, first_s, growth_s)
    summed = origin_s + sum(first_s + growth_s * index for index in range(steps))
    assert pace.ends_s(steps) == pytest.approx(summed, rel=1e-9)


@given(st.floats(0.0, 1e4), st.floats(1e-3, 0.1), st.floats(0.0, 1e-5), st.integers(0, 5000), st.floats(0.0, 0.999))
def test_the_steps_ended_by_a_time_are_found(
    origin_s: float, first_s: float, growth_s: float, steps: int, into: float
) -> None:
    pace = Pace(origin_s, first_s, growth_s)
    at_s = pace.ends_s(steps) + into * (pace.ends_s(steps + 1) - pace.ends_s(steps))
    ended = pace.ended(at_s)
    assert pace.ends_s(ended) <= at_s < pace.ends_s(ended + 1)
    assert pace.ended_before(pace.ends_s(steps + 1)) == steps


def joined(targets: list[int], start: int) -> Batch:
    batch = Batch()
    batch.step = start
    for index, target in enumerate(targets):
        request = EngineRequest(request_id=str(index), prompt_tokens=target, output_tokens=10**6)
        batch.join(Sequence(request=request, arrival_s=0.0, queued_s=0.0, target=target))
    return batch


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(0, 99), st.integers(0, 120))
def test_the_need_of_many_steps_is_the_sum_of_the_needs_of_each(targets: list[int], start: int, steps: int) -> None:
    once, singly = joined(targets, start), joined(targets, start)
    need = once.need(steps)
    assert need == sum(singly.advance(1) for _ in range(steps)) == once.advance(steps)
    assert (once.step, once.context) == (singly.step, singly.context)
    assert need == sum(-(-(target + steps) // 16) + target // -16 for target in targets)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(0, 300), st.integers(0, 120))
def test_steps_until_blocks_run_short(targets: list[int], blocks: int, limit: int) -> None:
    batch = joined(targets, 0)
    most = next((steps for steps in itertools.count() if batch.need(steps + 1) > blocks), limit)
    assert batch.until_short(blocks, limit) == min(most, limit)
