"""A cluster whose engines come, go and fail, and callbacks in virtual time."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cluster import Arrival, Cluster, Failure, FailureKind, Loss, Outcome, State, round_robin
from simulator.coldstart import COLD_STARTS
from simulator.config import engine_config
from simulator.engine import Engine
from simulator.metrics_page import EngineMetrics
from simulator.sequence import EngineRequest

CONFIG = engine_config("Llama-3.1-8B", "a100_sxm", kv_tokens=60_000)


def arrival(name: str, at_s: float, *, prompt: int = 100, output: int = 100) -> Arrival:
    return Arrival(at_s=at_s, request=EngineRequest(request_id=name, prompt_tokens=prompt, output_tokens=output))


def cluster(engines: int = 2, **options: object) -> Cluster:
    return Cluster([Engine(CONFIG) for _ in range(engines)], round_robin(), **options)  # type: ignore[arg-type]


def steady(count: int, gap_s: float = 0.5, **lengths: int) -> list[Arrival]:
    return [arrival(str(index), index * gap_s, **lengths) for index in range(count)]


def by_id(outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {outcome.request_id: outcome for outcome in outcomes}


# ---- callbacks


def test_a_periodic_callback_comes_each_period_while_the_run_lasts() -> None:
    fleet, times = cluster(), []
    fleet.every(15.0, times.append)
    fleet.run([arrival("a", 1.0)], until_s=50.0)
    assert times == [15.0, 30.0, 45.0]
    assert fleet.now_s == 50.0


def test_periodic_callbacks_go_on_in_the_next_run() -> None:
    fleet, times = cluster(), []
    fleet.every(10.0, times.append, start_s=0.0)
    fleet.run(until_s=10.0)
    fleet.run(until_s=25.0)
    assert times == [0.0, 10.0, 20.0]


def test_a_callback_sees_the_engines_as_they_are_then() -> None:
    fleet, seen = cluster(1), []
    fleet.at(1.0, lambda now_s: seen.append((now_s, fleet.engines[0].running)))
    fleet.run([arrival("a", 0.9, output=1000)])
    assert seen == [(1.0, 1)]


@pytest.mark.parametrize("period_s", [pytest.param(0.0, id="zero"), pytest.param(-1.0, id="negative")])
def test_a_period_must_be_above_zero(period_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        cluster().every(period_s, lambda _now_s: None)


def test_nothing_is_planned_for_the_past_and_arrivals_come_in_order() -> None:
    fleet = cluster()
    fleet.run(until_s=10.0)
    with pytest.raises(ValueError, match="in the past"):
        fleet.at(9.0, lambda _now_s: None)
    with pytest.raises(ValueError, match="comes after"):
        fleet.run([arrival("a", 9.0)])


def test_hooks_hear_of_first_tokens_and_ends() -> None:
    heard: list[tuple[str, float]] = []
    fleet = cluster(
        1,
        on_first_token=lambda engine, sequence, now_s: heard.append((f"first {engine}", now_s)),
        on_outcome=lambda outcome: heard.append(("end", outcome.end_s)),
    )
    (outcome,) = fleet.run([arrival("a", 2.0)])
    assert [what for what, _ in heard] == ["first 0", "end"]
    assert heard[0][1] == 2.0 + outcome.ttft_s
    assert heard[1][1] == outcome.end_s == 2.0 + outcome.e2e_s


def test_a_hook_may_send_the_next_turn_of_a_conversation() -> None:
    def next_turn(outcome: Outcome) -> None:
        if outcome.request_id != "3":
            fleet.submit(arrival(str(int(outcome.request_id) + 1), outcome.end_s + 1.0))

    fleet = cluster(2, on_outcome=next_turn)
    outcomes = fleet.run([arrival("0", 0.0)])
    assert [outcome.request_id for outcome in outcomes] == ["0", "1", "2", "3"]
    gaps = [later.arrival_s - former.end_s for former, later in itertools.pairwise(outcomes)]
    assert gaps == pytest.approx([1.0] * 3)


# ---- engines come and go


def test_an_engine_added_while_running_serves_after_its_start() -> None:
    fleet = cluster(1)
    fleet.at(2.0, lambda _now_s: fleet.add_engine(Engine(CONFIG), start_s=5.0))
    outcomes = fleet.run(steady(30))
    first = min(outcome.arrival_s for outcome in outcomes if outcome.engine == 1)
    assert 7.0 <= first <= 8.0
    assert (fleet.members[1].added_s, fleet.members[1].ready_s) == (2.0, 7.0)


def test_a_drained_engine_finishes_what_it_has_and_leaves() -> None:
    fleet = cluster(2)
    fleet.at(5.2, lambda _now_s: fleet.drain(0))
    outcomes = fleet.run(steady(30))
    assert all(outcome.ok for outcome in outcomes)
    assert max(outcome.arrival_s for outcome in outcomes if outcome.engine == 0) <= 5.2
    assert fleet.members[0].state is State.GONE
    assert 5.2 < fleet.members[0].left_s < 10.0


def test_a_drain_ends_after_its_grace() -> None:
    fleet = cluster(2)
    fleet.at(1.0, lambda _now_s: fleet.drain(0, grace_s=2.0))
    outcomes = by_id(fleet.run([arrival("long", 0.5, output=1000), arrival("other", 0.6)]))
    lost = outcomes["long"]
    assert (lost.loss, lost.end_s, fleet.members[0].left_s) == (Loss.REMOVED, 3.0, 3.0)
    assert 50 < lost.output_tokens < 1000


def test_a_starting_engine_that_is_drained_never_serves() -> None:
    fleet = cluster(1)
    number = fleet.add_engine(Engine(CONFIG), start_s=5.0)
    fleet.at(1.0, lambda _now_s: fleet.drain(number))
    fleet.run(until_s=20.0)
    assert (fleet.members[number].state, len(fleet.engines)) == (State.GONE, 1)


def test_requests_wait_while_there_is_no_engine() -> None:
    fleet = cluster(0)
    fleet.at(3.0, lambda _now_s: fleet.add_engine(Engine(CONFIG), start_s=4.0))
    (outcome,) = fleet.run([arrival("a", 1.0)])
    assert outcome.ok
    assert outcome.arrival_s == 1.0
    assert 6.0 < outcome.ttft_s < 6.2


def test_clients_give_up_in_the_end() -> None:
    fleet = cluster(0, timeout_s=30.0)
    (outcome,) = fleet.run([arrival("a", 1.0)])
    assert (outcome.loss, outcome.ttft_s, outcome.e2e_s, outcome.engine) == (Loss.TIMEOUT, math.inf, 30.0, -1)


def test_a_client_that_gave_up_frees_the_engine() -> None:
    fleet = cluster(1, timeout_s=2.0)
    outcomes = by_id(fleet.run([arrival("a", 0.0, output=50_000), arrival("b", 1.0)]))
    assert (outcomes["a"].loss, outcomes["b"].loss) == (Loss.TIMEOUT, None)
    assert fleet.engines[0].unfinished == 0


def test_engines_are_paid_from_their_addition_to_their_end() -> None:
    fleet = cluster(1)
    fleet.at(10.0, lambda _now_s: fleet.add_engine(Engine(CONFIG), start_s=50.0))
    fleet.at(100.0, lambda _now_s: fleet.drain(1))
    fleet.run(until_s=200.0)
    assert fleet.replica_s() == 200.0 + 90.0
    assert fleet.replica_s(20.0) == 20.0 + 10.0


# ---- failures


def failing(kind: FailureKind, **options: float) -> Failure:
    return Failure(at_s=5.2, engine=0, kind=kind, **options)  # type: ignore[arg-type]


def test_a_crash_loses_what_runs_and_the_others_go_on() -> None:
    fleet = cluster(2)
    fleet.fail(failing(FailureKind.CRASH))
    outcomes = fleet.run(steady(30, output=200))
    lost = [outcome for outcome in outcomes if not outcome.ok]
    assert lost
    assert all((one.loss, one.engine, one.end_s) == (Loss.CRASH, 0, 5.2) for one in lost)
    assert all(one.output_tokens < 200 for one in lost)
    assert all(outcome.engine == 1 for outcome in outcomes if outcome.arrival_s > 5.2)


def test_a_crashed_engine_comes_back_with_an_empty_cache() -> None:
    fleet = cluster(1)
    shared = EngineRequest(request_id="x", prompt_tokens=64, output_tokens=1, block_hashes=(1, 2, 3, 4))
    fleet.fail(Failure(at_s=5.0, engine=0, kind=FailureKind.CRASH, duration_s=10.0))
    arrivals = [Arrival(at_s=at_s, request=EngineRequest(request_id=str(at_s), prompt_tokens=64, output_tokens=1,
                block_hashes=shared.block_hashes)) for at_s in (0.0, 1.0, 6.0, 20.0)]  # fmt: skip
    outcomes = by_id(fleet.run(arrivals))
    assert [outcomes[str(at_s)].cached_tokens for at_s in (0.0, 1.0, 6.0, 20.0)] == [0, 48, 0, 48]
    assert outcomes["6.0"].ttft_s > 9.0


def test_until_a_crash_is_seen_requests_are_sent_to_the_dead() -> None:
    fleet = cluster(2)
    fleet.fail(failing(FailureKind.CRASH, seen_after_s=3.0))
    outcomes = fleet.run(steady(30, output=5))
    refused = [outcome.arrival_s for outcome in outcomes if outcome.loss is Loss.CRASH]
    assert refused == [6.0, 7.0, 8.0]


def test_a_hung_engine_keeps_its_requests_until_it_wakes() -> None:
    fleet = cluster(1)
    fleet.fail(failing(FailureKind.HANG, duration_s=60.0))
    outcomes = fleet.run(steady(12, output=20))
    assert all(outcome.ok for outcome in outcomes)
    assert all(outcome.end_s > 65.2 for outcome in outcomes if outcome.arrival_s > 5.2)


def test_a_slow_engine_is_slow_while_it_lasts() -> None:
    def e2e(*failures: Failure) -> dict[str, Outcome]:
        fleet = cluster(1)
        for failure in failures:
            fleet.fail(failure)
        return by_id(fleet.run(steady(20, gap_s=4.0, output=100)))

    normal, slow = e2e(), e2e(Failure(at_s=10.0, engine=0, kind=FailureKind.SLOW, duration_s=20.0, factor=3.0))
    ratios = [slow[name].e2e_s / normal[name].e2e_s for name in sorted(normal, key=int)]
    assert ratios[:3] == pytest.approx([1.0] * 3)
    assert all(2.9 < ratio < 3.0 for ratio in ratios[3:7])
    assert ratios[8:] == pytest.approx([1.0] * 12)


def test_a_lost_network_breaks_connections_while_the_engine_works_on() -> None:
    fleet = cluster(2)
    fleet.fail(failing(FailureKind.NETWORK, duration_s=30.0))
    outcomes = fleet.run(steady(100, output=300))
    lost = [outcome for outcome in outcomes if not outcome.ok]
    assert {(outcome.loss, outcome.engine, outcome.end_s) for outcome in lost} == {(Loss.NETWORK, 0, 5.2)}
    assert fleet.members[0].engine.counters.finished > sum(outcome.engine == 0 and outcome.ok for outcome in outcomes)
    assert any(outcome.engine == 0 for outcome in outcomes if outcome.arrival_s > 36.0)


PLANS = st.lists(
    st.tuples(
        st.floats(0.0, 20.0),
        st.integers(0, 2),
        st.sampled_from(["drain", "remove", "add", *FailureKind]),
        st.floats(0.5, 10.0),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(PLANS, st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(1, 900), st.integers(1, 200)), max_size=30))
def test_whatever_happens_every_request_ends_once(plans: list, requests: list) -> None:
    def run() -> list[Outcome]:
        fleet, at_s, arrivals = cluster(3, timeout_s=60.0), 0.0, []
        for plan in plans:
            act(fleet, *plan)
        for index, (pause_s, prompt, output) in enumerate(requests):
            at_s += pause_s
            arrivals.append(arrival(str(index), at_s, prompt=prompt, output=output))
        outcomes = fleet.run(arrivals)
        assert all(member.in_flight == 0 for member in fleet.members)
        return outcomes

    outcomes = run()
    assert sorted(int(outcome.request_id) for outcome in outcomes) == list(range(len(requests)))
    for outcome in outcomes:
        full = requests[int(outcome.request_id)][2]
        assert outcome.output_tokens == full if outcome.ok else outcome.output_tokens <= full
        assert (outcome.ttft_s < math.inf) or outcome.output_tokens == 0
        assert outcome.e2e_s >= 0.0
    assert outcomes == run()


def act(fleet: Cluster, at_s: float, engine: int, what: str, lasts_s: float) -> None:
    if what == "add":
        fleet.at(at_s, lambda _now_s: fleet.add_engine(Engine(CONFIG), start_s=lasts_s))
    elif what == "drain":
        fleet.at(at_s, lambda _now_s: fleet.drain(engine, grace_s=lasts_s))
    elif what == "remove":
        fleet.at(at_s, lambda _now_s: fleet.remove(engine))
    else:
        fleet.fail(Failure(at_s=at_s, engine=engine, kind=FailureKind(what), duration_s=lasts_s))


def test_steps_can_be_followed_into_a_metrics_page() -> None:
    pages = [EngineMetrics("m", CONFIG, created_s=0.0, kv_bytes_per_token=1) for _ in range(2)]
    fleet = cluster(2, on_step=lambda engine, result: pages[engine].on_step(result))
    fleet.run(steady(20))
    for member, page in zip(fleet.members, pages, strict=True):
        text = page.render(member.engine, fleet.now_s).decode()
        assert f'vllm:inter_token_latency_seconds_count{{engine="0",model_name="m"}} {10 * 99}' in text
        assert 'vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 10' in text


def test_an_engine_suffers_from_one_thing_at_a_time() -> None:
    fleet = cluster(1)
    fleet.fail(failing(FailureKind.HANG, duration_s=60.0))
    fleet.fail(Failure(at_s=10.0, engine=0, kind=FailureKind.SLOW, duration_s=1.0))
    outcomes = fleet.run(steady(12, output=20))
    assert all(outcome.end_s > 65.2 for outcome in outcomes if outcome.arrival_s > 5.2)


@pytest.mark.parametrize("name", COLD_STARTS)
def test_published_starts_are_drawn_around_their_mean(name: str) -> None:
    cold = COLD_STARTS[name]
    assert cold.drawn_s(0.5) == cold.start_s
    assert 0.0 < cold.drawn_s(0.0) <= cold.drawn_s(1.0)
