"""Prefill here, decode there; and ranks that step together."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulator.cluster import Arrival, Cluster, Failure, FailureKind, Loss, Outcome, Placement, State, round_robin
from simulator.config import engine_config
from simulator.engine import Engine
from simulator.link import LinkSpec
from simulator.ranks import Lockstep, least_loaded_rank
from simulator.sequence import EngineRequest

CONFIG = engine_config("Llama-3.1-8B", "h100_sxm", kv_tokens=60_000)
BYTES = 131_072.0


def split(*_args: object) -> Placement:
    return Placement(prefill=0, decode=1)


def cluster(link: LinkSpec | None = None, **options: object) -> Cluster:
    return Cluster([Engine(CONFIG), Engine(CONFIG)], split, link=link, kv_bytes_per_token=BYTES,
                   **options)  # type: ignore[arg-type]  # fmt: skip


def arrival(name: str, at_s: float, *, prompt: int = 4000, output: int = 50, shared: bool = False) -> Arrival:
    own = 0 if shared else (int(name) + 1) * 10**6
    return Arrival(at_s=at_s, request=EngineRequest(
        request_id=name, prompt_tokens=prompt, output_tokens=output,
        block_hashes=[own + block for block in range(prompt // 16)]))  # fmt: skip


def settled(fleet: Cluster) -> bool:
    return all(member.in_flight == 0 and member.engine.kv.private == 0 == member.engine.kv.pinned
               for member in fleet.members)  # fmt: skip


def test_the_prompt_is_computed_in_one_engine_and_the_answer_in_the_other() -> None:
    fleet = cluster(LinkSpec(bytes_per_s=1e9))
    (outcome,) = fleet.run([arrival("0", 1.0)])
    prefill, decode = (member.engine.counters for member in fleet.members)
    assert (outcome.ok, outcome.engine, outcome.output_tokens) == (True, 1, 50)
    assert (prefill.computed_tokens, decode.computed_tokens, decode.external_hits) == (4000, 1, 3999)
    assert (prefill.generation_tokens, decode.generation_tokens) == (1, 50)
    assert settled(fleet)


def test_the_transfer_is_part_of_the_time_to_first_token() -> None:
    def ttft_s(link: LinkSpec | None) -> float:
        return cluster(link).run([arrival("0", 1.0)])[0].ttft_s

    transfer_s = 3999 * BYTES / 1e9
    assert ttft_s(LinkSpec(bytes_per_s=1e9)) - ttft_s(None) == pytest.approx(transfer_s, rel=1e-6)
    assert ttft_s(LinkSpec(bytes_per_s=1e9, latency_s=0.25)) - ttft_s(None) == pytest.approx(
        transfer_s + 0.25, rel=1e-6
    )


def test_transfers_at_once_slow_each_other_down() -> None:
    def mean_ttft_s(gap_s: float) -> float:
        outcomes = cluster(LinkSpec(bytes_per_s=2e8)).run([arrival(str(index), index * gap_s) for index in range(4)])
        return sum(outcome.ttft_s for outcome in outcomes) / 4

    assert mean_ttft_s(0.2) > mean_ttft_s(10.0) * 1.5


def test_blocks_that_the_decode_engine_has_are_not_fetched_again() -> None:
    fleet = cluster(LinkSpec(bytes_per_s=1e9))
    fleet.run([arrival("0", 0.0, shared=True), arrival("1", 10.0, shared=True)])
    assert fleet.members[1].engine.counters.external_hits == 3999 + (3999 - 3984)


def test_cached_tokens_are_those_of_the_prefill_engine() -> None:
    outcomes = cluster().run([arrival("0", 0.0, shared=True), arrival("1", 10.0, shared=True)])
    assert [outcome.cached_tokens for outcome in outcomes] == [0, 3984]


def test_the_first_token_that_is_heard_of_is_the_decode_engines() -> None:
    heard: list[tuple[int, float]] = []
    fleet = cluster(on_first_token=lambda engine, _sequence, now_s: heard.append((engine, now_s)))
    (outcome,) = fleet.run([arrival("0", 1.0)])
    assert heard == [(1, 1.0 + outcome.ttft_s)]


@pytest.mark.parametrize(
    "engine", [pytest.param(0, id="of-the-prefill-engine"), pytest.param(1, id="of-the-decode-engine")]
)
def test_a_crash_during_the_transfer_loses_the_request(engine: int) -> None:
    fleet = cluster(LinkSpec(bytes_per_s=1e8))
    fleet.fail(Failure(at_s=2.0, engine=engine, kind=FailureKind.CRASH, duration_s=1.0))
    (outcome,) = fleet.run([arrival("0", 0.5)])
    assert (outcome.loss, outcome.ttft_s, outcome.output_tokens) == (Loss.CRASH, math.inf, 0)
    assert settled(fleet)


def test_a_drained_prefill_engine_stays_until_its_blocks_are_fetched() -> None:
    fleet = cluster(LinkSpec(bytes_per_s=1e8))
    fleet.at(2.0, lambda _now_s: fleet.drain(0))
    (outcome,) = fleet.run([arrival("0", 0.5)])
    assert outcome.ok
    assert fleet.members[0].state is State.GONE
    assert fleet.members[0].left_s > 0.5 + 3999 * BYTES / 1e8


def test_a_decode_engine_that_died_before_its_turn_loses_the_request() -> None:
    fleet = cluster()
    fleet.fail(Failure(at_s=0.55, engine=1, kind=FailureKind.CRASH))
    (outcome,) = fleet.run([arrival("0", 0.5)])
    assert (outcome.loss, outcome.engine) == (Loss.CRASH, 1)
    assert (outcome.output_tokens, outcome.ttft_s) == (0, math.inf), (
        "what the prefill engine gave is not for the client"
    )
    assert settled(fleet)


REQUESTS = st.lists(
    st.tuples(st.floats(0.0, 0.4), st.integers(1, 3000), st.integers(1, 80), st.integers(0, 2)), min_size=1, max_size=20
)
TROUBLE = st.lists(
    st.builds(Failure, at_s=st.floats(0.0, 4.0), engine=st.integers(0, 2), kind=st.sampled_from(FailureKind),
              duration_s=st.floats(0.1, 3.0)), max_size=3)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(REQUESTS, TROUBLE, st.integers(0, 99))
@example(
    requests=[(0.0, 1, 1, 0)] * 3,
    trouble=[Failure(at_s=0.0, engine=0, kind=FailureKind.HANG, duration_s=1.0),
             Failure(at_s=1.0, engine=1, kind=FailureKind.CRASH, duration_s=1.0)],
    seed=0,
)  # fmt: skip
@example(
    requests=[(0.0, 652, 1, 0)],
    trouble=[Failure(at_s=0.03125, engine=0, kind=FailureKind.NETWORK, duration_s=1.0)],
    seed=0,
)
def test_split_or_not_every_request_ends_once(requests: list, trouble: list[Failure], seed: int) -> None:
    def pick(request: EngineRequest, engines: object, _now_s: float) -> int | Placement:
        count = len(engines)  # type: ignore[arg-type]
        first, second = (seed + int(request.request_id)) % count, (seed * 7 + request.prompt_tokens) % count
        return first if first == second else Placement(prefill=first, decode=second)

    def run() -> list[Outcome]:
        fleet = Cluster([Engine(CONFIG) for _ in range(3)], pick, link=LinkSpec(bytes_per_s=1e9, congestion=0.1),
                        kv_bytes_per_token=BYTES, timeout_s=20.0)  # fmt: skip
        for failure in trouble:
            fleet.fail(failure)
        at_s, arrivals = 0.0, []
        for index, (pause_s, prompt, output, prefix) in enumerate(requests):
            at_s += pause_s
            hashes = [prefix * 10**6 + block for block in range(prompt // 16)]
            arrivals.append(Arrival(at_s=at_s, request=EngineRequest(
                request_id=str(index), prompt_tokens=prompt, output_tokens=output, block_hashes=hashes)))  # fmt: skip
        outcomes = fleet.run(arrivals)
        fleet.run(until_s=fleet.now_s + 100.0)
        assert settled(fleet)
        return outcomes

    outcomes = run()
    assert sorted(int(outcome.request_id) for outcome in outcomes) == list(range(len(requests)))
    for outcome in outcomes:
        full = requests[int(outcome.request_id)][2]
        assert outcome.output_tokens == full if outcome.ok else outcome.output_tokens <= full
    assert outcomes == run()


# ---- ranks


def ranks(*, lockstep: bool) -> Cluster:
    engines = [Engine(CONFIG), Engine(CONFIG)]
    if lockstep:
        Lockstep(engines)
    return Cluster(engines, round_robin())


def test_a_rank_waits_for_the_slowest() -> None:
    arrivals = [arrival("0", 0.0, prompt=100, output=200), arrival("1", 0.5, prompt=8000, output=1)]
    free, bound = (ranks(lockstep=lockstep).run(arrivals) for lockstep in (False, True))
    alone = {outcome.request_id: outcome for outcome in free}
    together = {outcome.request_id: outcome for outcome in bound}
    assert together["0"].e2e_s > alone["0"].e2e_s + 0.1
    assert together["1"].ttft_s == pytest.approx(alone["1"].ttft_s, abs=0.02)


def test_idle_ranks_do_not_slow_the_others() -> None:
    arrivals = [arrival("0", 0.0), arrival("1", 50.0)]
    free, bound = (ranks(lockstep=lockstep).run(arrivals) for lockstep in (False, True))
    assert [outcome.e2e_s for outcome in bound] == pytest.approx([outcome.e2e_s for outcome in free])


def test_a_hung_rank_stops_all_and_all_go_on_when_it_wakes() -> None:
    fleet = ranks(lockstep=True)
    fleet.fail(Failure(at_s=0.2, engine=1, kind=FailureKind.HANG, duration_s=30.0))
    (outcome,) = fleet.run([arrival("0", 0.0, output=200)])
    assert outcome.ok
    assert 30.0 < outcome.e2e_s < 35.0


def test_a_rank_is_in_one_group() -> None:
    engines = [Engine(CONFIG), Engine(CONFIG)]
    Lockstep(engines)
    with pytest.raises(ValueError, match="another lockstep group"):
        Lockstep(engines[:1])


def test_the_front_end_prefers_the_rank_with_the_shortest_queue() -> None:
    engines = [Engine(CONFIG, ingress_s=0.0) for _ in range(3)]
    engines[0].submit(arrival("0", 0.0).request, 0.0)
    for name in "123":
        engines[1].submit(arrival(name, 0.0, prompt=10).request, 0.0)
    engines[1].step(0.0)
    engines[2].submit(arrival("4", 0.0).request, 0.0)
    assert [engine.waiting(0.0) for engine in engines] == [1, 0, 1]
    assert least_loaded_rank(arrival("5", 0.0).request, engines, 0.0) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 0.3), st.integers(1, 3000), st.integers(1, 60)), min_size=1, max_size=20))
def test_ranks_in_lockstep_lose_nothing(requests: list) -> None:
    fleet, at_s, arrivals = ranks(lockstep=True), 0.0, []
    for index, (pause_s, prompt, output) in enumerate(requests):
        at_s += pause_s
        arrivals.append(arrival(str(index), at_s, prompt=prompt, output=output))
    outcomes = fleet.run(arrivals)
    assert sorted(int(outcome.request_id) for outcome in outcomes) == list(range(len(requests)))
    assert sum(outcome.output_tokens for outcome in outcomes) == sum(output for *_, output in requests)
    assert settled(fleet)
