"""Priorities, and LoRA adapters with their slots."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import tokens
from simulator.cluster import Arrival, Cluster, Outcome, round_robin
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.lora import AdapterSlots, LoraConfig
from simulator.sequence import EngineRequest
from simulator.steptime import timer_for

TIMER = timer_for("Llama-3.1-8B", "h100_sxm", 1)


def engine(*, blocks: int = 64, seqs: int = 4, by_priority: bool = False, lora: LoraConfig | None = None) -> Engine:
    config = EngineConfig(timer=TIMER, blocks=blocks, max_num_seqs=seqs, max_num_batched_tokens=64,
                          max_model_len=blocks * 16, priority_scheduling=by_priority,
                          lora=lora or LoraConfig())  # fmt: skip
    return Engine(config, ingress_s=0.001)


def request(name: str, prompt: int, output: int, *, priority: int = 0, adapter: str = "") -> EngineRequest:
    parent = tokens.salted(adapter) if adapter else 0
    return EngineRequest(request_id=name, prompt_tokens=prompt, output_tokens=output, priority=priority,
                         adapter=adapter, parent=parent,
                         block_hashes=tokens.chain(b"same" * prompt, parent=parent))  # fmt: skip


def run(one: Engine, *requests: EngineRequest) -> list[Outcome]:
    return Cluster([one], round_robin()).run(Arrival(at_s=0.0, request=each) for each in requests)


def started(outcomes: list[Outcome]) -> list[str]:
    return [outcome.request_id for outcome in sorted(outcomes, key=lambda outcome: outcome.ttft_s)]


# ---- priority


def test_the_urgent_ones_start_first() -> None:
    requests = [request(name, 60, 5, priority=priority) for name, priority in (("a", 2), ("b", 1), ("c", 0), ("d", 1))]
    assert started(run(engine(by_priority=True), *requests)) == ["c", "b", "d", "a"]
    assert started(run(engine(), *requests)) == ["a", "b", "c", "d"]


def test_the_least_urgent_of_the_running_is_preempted() -> None:
    def preempted(*, by_priority: bool) -> list[str]:
        requests = [EngineRequest(request_id=name, prompt_tokens=40, output_tokens=60, priority=priority)
                    for name, priority in (("low", 9), ("high", 1))]  # fmt: skip
        outcomes = run(engine(blocks=8, by_priority=by_priority), *requests)
        return [outcome.request_id for outcome in outcomes if outcome.preemptions]

    assert preempted(by_priority=True) == ["low"]
    assert preempted(by_priority=False) == ["high"]


# ---- adapters


def test_an_adapter_is_loaded_before_its_first_step_and_stays() -> None:
    one = engine(lora=LoraConfig(max_loras=1, load_s=3.0))
    fleet = Cluster([one], round_robin())
    outcomes = fleet.run(Arrival(at_s=at_s, request=request(str(at_s), 60, 5, adapter="a")) for at_s in (0.0, 10.0))
    assert outcomes[0].ttft_s > 3.0 > outcomes[1].ttft_s
    assert one.adapters.resident == {"a"}


def test_more_adapters_than_slots_take_turns_and_others_pass() -> None:
    one = engine(lora=LoraConfig(max_loras=1))
    outcomes = run(one, request("first", 30, 40, adapter="a"), request("other", 30, 5, adapter="b"),
                   request("same", 30, 5, adapter="a"), request("plain", 30, 5))  # fmt: skip
    assert started(outcomes)[-1] == "other"
    times = {outcome.request_id: outcome for outcome in outcomes}
    assert times["same"].ttft_s < times["plain"].ttft_s < times["first"].e2e_s < times["other"].ttft_s
    assert one.adapters.running == frozenset()


def test_adapters_share_no_prefixes() -> None:
    one = engine(lora=LoraConfig(max_loras=2))
    fleet, names = Cluster([one], round_robin()), ["", "a", "b", "a"]
    outcomes = fleet.run(Arrival(at_s=float(index), request=request(str(index), 60, 1, adapter=name))
                         for index, name in enumerate(names))  # fmt: skip
    assert [outcome.cached_tokens for outcome in outcomes] == [0, 0, 0, 48]


def test_an_adapter_where_none_is_served_is_refused() -> None:
    with pytest.raises(ValueError, match="max_loras 0"):
        engine().submit(request("x", 5, 5, adapter="a"), 0.0)


def test_an_abort_frees_the_slot() -> None:
    one = engine(lora=LoraConfig(max_loras=1))
    one.submit(request("x", 5, 50, adapter="a"), 0.0)
    one.step(0.001)
    assert one.adapters.running == {"a"}
    one.abort("x")
    assert one.adapters.running == frozenset()


def test_an_evicted_adapter_comes_back_from_host_memory_faster_than_from_disk() -> None:
    slots = AdapterSlots(LoraConfig(max_loras=1, max_cpu_loras=2, load_s=3.0, swap_s=0.5))
    times = []
    for name in ("a", "b", "a", "c", "b"):
        times.append(slots.enter(name))
        slots.leave(name)
    assert times == [3.0, 3.0, 0.5, 3.0, 3.0]


def test_a_preloaded_adapter_needs_only_the_swap_and_a_dropped_one_the_disk() -> None:
    slots = AdapterSlots(LoraConfig(max_loras=1, load_s=3.0, swap_s=0.5))
    slots.preload("a")
    assert slots.enter("a") == 0.5
    slots.leave("a")
    slots.drop("a")
    assert slots.enter("a") == 3.0


@given(st.integers(1, 3), st.integers(0, 5), st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=40))
def test_slots_are_never_overdrawn(slots: int, host: int, events: list[tuple[str, bool]]) -> None:
    adapters, users = AdapterSlots(LoraConfig(max_loras=slots, max_cpu_loras=host)), []
    for name, enters in events:
        if enters and adapters.may_run(name):
            adapters.enter(name)
            users.append(name)
        elif users and not enters:
            adapters.leave(users.pop(0))
        assert adapters.running == set(users) <= adapters.resident
        assert len(adapters.resident) <= slots
