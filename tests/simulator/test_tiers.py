"""Tiers below the GPU's cache: write-back, loads beside the queue, prefetch, sharing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster import Arrival, Cluster, Failure, FailureKind, Outcome, round_robin
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.sequence import EngineRequest
from simulator.steptime import timer_for
from simulator.tiers import CHUNK_BLOCKS, TIERS, Channel, Offload, Tier, TierSpec

TIMER = timer_for("Llama-3.1-8B", "h100_sxm", 1)
BYTES = 131_072.0
CHUNK_TOKENS = CHUNK_BLOCKS * 16
CHUNK_BYTES = BYTES * CHUNK_TOKENS
SLOW = TierSpec(name="slow", read_bytes_per_s=1e9, write_bytes_per_s=1e9, latency_s=0.01)


def engine(*tiers: Tier, blocks: int = 100) -> Engine:
    config = EngineConfig(timer=TIMER, blocks=blocks, max_num_seqs=8, max_num_batched_tokens=2048,
                          max_model_len=blocks * 16)  # fmt: skip
    return Engine(config, ingress_s=0.0, offload=Offload(tiers, bytes_per_token=BYTES) if tiers else None)


def hashes(prompt: int, blocks: int) -> list[int]:
    return [prompt * 1000 + block + 1 for block in range(blocks)]


def arrival(at_s: float, prompt: int, *, blocks: int = 64, output: int = 4) -> Arrival:
    """A request for ``prompt``, and one token more than its full blocks."""
    return Arrival(at_s=at_s, request=EngineRequest(
        request_id=f"{prompt}@{at_s}", prompt_tokens=16 * blocks + 1, output_tokens=output,
        block_hashes=hashes(prompt, blocks)))  # fmt: skip


def run(one: Engine, *prompts: int, gap_s: float = 5.0) -> list[Outcome]:
    return Cluster([one], round_robin()).run(arrival(gap_s * index, prompt) for index, prompt in enumerate(prompts))


def test_what_the_gpu_evicts_is_found_in_host_memory() -> None:
    cpu = Tier(TIERS["cpu_dram"], 10_000)
    outcomes = run(engine(cpu), 1, 2, 1)
    assert [outcome.cached_tokens for outcome in outcomes] == [0, 0, 64 * 16]
    assert outcomes[2].ttft_s < outcomes[0].ttft_s / 2
    assert [outcome.cached_tokens for outcome in run(engine(), 1, 2, 1)][2] < 64 * 16


def test_a_load_takes_the_tiers_time() -> None:
    missing = 64 * 16 - 36 * 16  # the second prompt took what was not in use
    chunks = -(-missing // CHUNK_TOKENS)
    slow = run(engine(Tier(SLOW, 10_000)), 1, 2, 1)[2]
    load_s = chunks * CHUNK_BYTES / 1e9 + 0.01
    decode_alone_s = TIMER.step_s(decoding=0, context=0, prefill=1)
    assert slow.ttft_s == pytest.approx(load_s + decode_alone_s, rel=0.05)


def test_others_are_computed_while_one_loads() -> None:
    one = engine(Tier(SLOW, 10_000), blocks=160)
    fleet = Cluster([one], round_robin())
    first = [arrival(0.0, 1), arrival(5.0, 2), arrival(10.0, 3)]
    fleet.run([*first, arrival(15.0, 1), arrival(15.0001, 4, blocks=4)])
    counters = one.counters
    assert counters.external_hits > 0
    fleet = Cluster([engine(Tier(SLOW, 10_000), blocks=160)], round_robin())
    outcomes = fleet.run([*first, arrival(15.0, 1), arrival(15.0001, 4, blocks=4)])
    assert [outcome.request_id for outcome in outcomes][3:] == ["4@15.0001", "1@15.0"]


def test_a_load_counts_as_waiting_and_can_be_aborted() -> None:
    one = engine(Tier(SLOW, 10_000))
    run(one, 1, 2)
    request = arrival(20.0, 1).request
    one.submit(request, 20.0)
    one.turn(20.0)
    assert (one.loading, one.waiting(20.0), one.running) == (1, 1, 0)
    assert one.kv.private > 0
    one.abort(request.request_id)
    assert (one.loading, one.kv.private, one.kv.pinned) == (0, 0, 0)
    assert one.turn(one.due_s or 99.0) is None
    assert one.due_s is None


def test_the_next_tier_catches_what_the_first_one_drops() -> None:
    cpu, disk = Tier(TIERS["cpu_dram"], 5 * CHUNK_TOKENS), Tier(TIERS["nvme_gen4"], 100_000)
    outcomes = run(engine(cpu, disk), 1, 2, 3, 4, 1)
    assert outcomes[4].cached_tokens == 64 * 16
    assert len(cpu) <= cpu.capacity
    assert disk.hits + cpu.hits == 4


class NoPrefetch(Offload):
    """Reads only when a request is admitted."""

    def prefetch(self, hashes: object, blocks: int, now_s: float) -> None:
        """Nothing."""


def test_far_chunks_are_brought_near_while_the_request_waits() -> None:
    def ttft_s(kind: type[Offload]) -> float:
        tiers = [Tier(TIERS["cpu_dram"], 5 * CHUNK_TOKENS), Tier(SLOW, 100_000)]
        one = Engine(engine().config, ingress_s=0.0, offload=kind(tiers, bytes_per_token=BYTES))
        busy = arrival(20.0, 5, blocks=90, output=100)  # fills the cache, so that the next one waits
        first = [arrival(5.0 * index, 1 + index) for index in range(4)]
        return Cluster([one], round_robin()).run([*first, busy, arrival(20.01, 1)])[-1].ttft_s

    assert ttft_s(Offload) < ttft_s(NoPrefetch) - 0.03


def test_a_shared_file_system_serves_other_engines() -> None:
    disk = Tier(TIERS["nvme_gen4"], 100_000)
    fleet = Cluster([engine(Tier(TIERS["cpu_dram"], CHUNK_TOKENS), disk) for _ in range(2)], round_robin())
    outcomes = fleet.run(arrival(5.0 * index, prompt) for index, prompt in enumerate((1, 9, 2, 9, 3, 1)))
    assert (outcomes[5].engine, outcomes[0].engine) == (1, 0)
    assert outcomes[5].cached_tokens >= 48 * 16


def test_a_crash_loses_host_memory_and_not_the_file_system() -> None:
    cpu, disk = Tier(TIERS["cpu_dram"], 5 * CHUNK_TOKENS), Tier(TIERS["nvme_gen4"], 100_000)
    fleet = Cluster([engine(cpu, disk)], round_robin())
    fleet.fail(Failure(at_s=30.0, engine=0, kind=FailureKind.CRASH, duration_s=1.0))
    outcomes = fleet.run(arrival(at_s, prompt) for at_s, prompt in ((0, 1), (5, 2), (10, 3), (15, 4), (40, 1)))
    assert outcomes[4].cached_tokens > 0
    assert outcomes[4].cached_tokens % CHUNK_TOKENS == 0


def test_a_tier_smaller_than_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="one chunk"):
        Tier(SLOW, CHUNK_TOKENS - 1)


def test_transfers_take_turns_on_a_channel() -> None:
    channel = Channel(100.0, 0.5)
    assert [channel.transfer(100.0, 0.0), channel.transfer(100.0, 0.2), channel.transfer(100.0, 9.0)] == [
        1.5,
        2.5,
        10.5,
    ]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 80)), min_size=1, max_size=25), st.integers(1, 8))
def test_every_request_ends_and_hits_never_exceed_the_prompt(prompts: list[tuple[int, int]], chunks: int) -> None:
    one = engine(Tier(SLOW, chunks * CHUNK_TOKENS), Tier(TIERS["s3"], 10 * CHUNK_TOKENS))
    fleet = Cluster([one], round_robin())
    outcomes = fleet.run(arrival(0.05 * index, prompt, blocks=blocks) for index, (prompt, blocks) in enumerate(prompts))
    assert len(outcomes) == len(prompts)
    for outcome in outcomes:
        at = round(float(outcome.request_id.split("@")[1]) / 0.05)
        assert 0 <= outcome.cached_tokens <= 16 * prompts[at][1]
    assert (one.kv.private, one.kv.pinned, one.loading, one.unfinished) == (0, 0, 0, 0)
