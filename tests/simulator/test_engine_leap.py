"""Leaping over steps that only decode gives what stepping token by token gives, to the bit."""

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.batch import Batch
from simulator.cluster import (
    Arrival,
    Cluster,
    Failure,
    FailureKind,
    Outcome,
    Placement,
    SplitPick,
    round_robin,
)  # fmt: skip
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.link import LinkSpec
from simulator.lora import LoraConfig
from simulator.pace import Pace
from simulator.sequence import EngineRequest, Sequence
from simulator.steptime import timer_for
from simulator.tiers import TIERS, Offload, Tier

TIMER = timer_for("Llama-3.1-8B", "h100_sxm", 1)
SHARING = replace(TIMER, coefficients=replace(TIMER.coefficients, reuse=0.5))


class SteppingEngine(Engine):
    """An engine that never leaps."""

    def _begin(self, now_s: float, *, leap: bool) -> object:  # type: ignore[override]
        return super()._begin(now_s, leap=False)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Features that a run has or not."""

    by_priority: bool
    adapters: bool
    tiers: bool
    split: bool
    reuse: bool = False
    looks_s: float
    """Somebody looks at all engines this often."""
    seed: int


def engine(kind: type[Engine], limits: tuple[int, int, int], options: Options, disk: Tier) -> Engine:
    blocks, seqs, budget = limits
    config = EngineConfig(timer=SHARING if options.reuse else TIMER, blocks=blocks, max_num_seqs=seqs,
                          max_num_batched_tokens=max(seqs, budget),
                          max_model_len=blocks * 16, priority_scheduling=options.by_priority,
                          lora=LoraConfig(max_loras=1, load_s=0.1))  # fmt: skip
    offload = Offload([Tier(TIERS["cpu_dram"], 256), disk], bytes_per_token=131_072.0) if options.tiers else None
    return kind(config, offload=offload)


def arrivals(requests: Iterable[tuple[float, int, int, int]], options: Options) -> list[Arrival]:
    """(pause, prompt, output, prefix) each; prompts with one prefix number begin alike."""
    at_s, rng, out = 0.0, random.Random(options.seed), []
    for index, (pause_s, prompt, output, prefix) in enumerate(requests):
        at_s += pause_s
        shared, own = prompt // 24, index * 1000 + 10**6
        hashes = [(prefix * 1000 if block < shared else own) + block for block in range(prompt // 16)]
        out.append(Arrival(at_s=at_s, request=EngineRequest(
            request_id=str(index), prompt_tokens=prompt, output_tokens=output, block_hashes=hashes, tail=b"",
            priority=rng.randint(0, 2), adapter=rng.choice("abc") if options.adapters else "")))  # fmt: skip
    return out


LIMITS = st.tuples(st.integers(12, 80), st.integers(1, 6), st.integers(8, 80))
REQUESTS = st.lists(
    st.tuples(st.floats(0.0, 0.5), st.integers(1, 500), st.integers(1, 70), st.integers(0, 3)), min_size=1, max_size=25
)
FAILURES = st.lists(
    st.builds(Failure, at_s=st.floats(0.0, 2.0), engine=st.integers(0, 1), kind=st.sampled_from(FailureKind),
              duration_s=st.floats(0.1, 2.0)),
    max_size=3,
)  # fmt: skip


OPTIONS = st.builds(
    Options, by_priority=st.booleans(), adapters=st.booleans(), tiers=st.booleans(), split=st.booleans(),
    reuse=st.booleans(),
    looks_s=st.floats(0.01, 1.0), seed=st.integers(0, 99),
)  # fmt: skip


def pick(*, split: bool) -> SplitPick:
    """Engines in turn, or every other request split over both."""
    turn = itertools.count()

    def choose(_request: EngineRequest, engines: object, _now_s: float) -> int | Placement:
        count, now = len(engines), next(turn)  # type: ignore[arg-type]
        return Placement(prefill=0, decode=1) if split and count == 2 and now % 2 else now % count

    return choose


def run(kind: type[Engine], limits: tuple[int, int, int], requests: list[Arrival], failures: list[Failure],
        options: Options) -> tuple[list[Outcome], list[object]]:  # fmt: skip
    """A run, and what somebody saw who looked at times."""
    disk = Tier(TIERS["s3"], 2048)
    fleet = Cluster([engine(kind, limits, options, disk) for _ in range(2)], pick(split=options.split), timeout_s=1.5,
                    link=LinkSpec(bytes_per_s=1e9), kv_bytes_per_token=131_072.0)  # fmt: skip
    seen: list[object] = []

    def look(now_s: float) -> None:
        for member in fleet.members:
            one = member.engine
            seen.append((one.running, one.waiting(now_s), one.kv.usage, one.kv.evictions, one.counters.steps,
                         one.counters.generation_tokens, one.unfinished))  # fmt: skip

    fleet.every(options.looks_s, look)
    for failure in failures:
        fleet.fail(failure)
    outcomes = fleet.run(requests)
    return outcomes, [*seen, *((m.engine.counters, m.engine.kv.evictions, m.engine.kv.cached) for m in fleet.members)]


@settings(max_examples=150, deadline=None)
@given(LIMITS, REQUESTS, FAILURES, OPTIONS)
def test_a_leap_is_what_its_steps_are(
    limits: tuple[int, int, int], requests: list, failures: list[Failure], options: Options
) -> None:
    sent = [one for one in arrivals(requests, options)
            if one.request.prompt_tokens + one.request.output_tokens <= limits[0] * 16]  # fmt: skip
    leapt, stepped = (run(kind, limits, sent, failures, options) for kind in (Engine, SteppingEngine))
    assert leapt == stepped
    assert sorted(int(outcome.request_id) for outcome in leapt[0]) == [int(one.request.request_id) for one in sent]


PLAIN = Options(by_priority=False, adapters=False, tiers=False, split=False, looks_s=1.0, seed=1)


def plain(blocks: int) -> Engine:
    return engine(Engine, (blocks, 16, 256), PLAIN, Tier(TIERS["s3"], 2048))


def test_looking_changes_nothing() -> None:
    def outcomes(*, look: bool) -> list[Outcome]:
        fleet = Cluster([plain(400)], round_robin())
        if look:
            fleet.every(0.003, lambda _now_s: fleet.engines[0].running + fleet.engines[0].kv.usage)
        return fleet.run(arrivals([(0.05, 100, 60, 0)] * 100, PLAIN))

    assert outcomes(look=True) == outcomes(look=False)


def test_leaps_are_few() -> None:
    one, turns = plain(1000), 0
    one.submit(EngineRequest(request_id="a", prompt_tokens=100, output_tokens=5000), 0.0)
    while (due_s := one.due_s) is not None:
        one.turn(due_s)
        turns += 1
    assert one.counters.steps == 5000
    assert turns == 3  # begin the prompt's step, begin the leap, end it


def test_a_leap_reports_its_steps_and_tokens() -> None:
    one = plain(1000)
    one.submit(EngineRequest(request_id="a", prompt_tokens=100, output_tokens=50), 0.0)
    result = None
    for _ in range(3):
        result = one.turn(one.due_s or 0.0)
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
