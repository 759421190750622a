"""The index: right against a brute-force model, on recorded events and on made-up ones."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.kvevents.wire import BadBatchError, apply, decode
from router.kvindex.index import KVIndex, Match
from router.kvindex.keys import Tier, pack, prompt_keys, root_key
from router.kvindex.podsets import PodSets, pods_of
from router.kvindex.table import Table
from tests.router.kv_model import BLOCK, Model, Publisher, apply_all, matches

RECORDED = Path(__file__).parents[1] / "data" / "vllm_0.32_kv_events.jsonl.gz"


def recorded() -> list[dict[str, Any]]:
    with gzip.open(RECORDED, "rt") as lines:
        return [json.loads(line) for line in lines]


def rows_of(event: dict[str, Any]) -> list[Any]:
    if event["type"] == "BlockStored":
        names = ("type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
                 "lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind")  # fmt: skip
        return [event.get(name) for name in names]
    if event["type"] == "BlockRemoved":
        return ["BlockRemoved", event["block_hashes"], event.get("medium"), event.get("group_idx")]
    return [event["type"]]


# ---- the table


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_table_is_a_dictionary(seed: int):
    rng, table, truth = random.Random(seed), Table("I"), {}
    keys = [rng.getrandbits(64) | 1 for _ in range(300)]
    crowded = [(7 << 40) + i for i in range(1, 30)]  # one bucket, so that some overflow
    for _ in range(1500):
        key = rng.choice(keys + crowded)
        if rng.random() < 0.6:
            truth[key] = rng.randrange(1, 1000)
            table.put(key, truth[key])
        else:
            truth.pop(key, None)
            table.discard(key)
    assert len(table) == len(truth)
    assert all(table.get(key) == truth.get(key, 0) for key in keys + crowded)
    there = list(truth)
    rng.shuffle(there)
    assert table.many([*there, 12345]).tolist() == [*truth_of(there, truth), 0]
    found = table.items()
    assert dict(zip(found[0].tolist(), found[1].tolist(), strict=True)) == truth


def truth_of(keys: list[int], truth: dict[int, int]) -> list[int]:
    return [truth[key] for key in keys]


def test_a_look_up_of_many_stops_at_the_first_that_is_missing():
    table = Table("I")
    table.put(1 << 40, 5)
    assert table.many([1 << 40, 2 << 40, 3 << 40]).tolist() == [5, 0, 0]


def test_sets_that_nobody_uses_are_swept():
    sets = PodSets()
    numbers = [sets.with_bit(0, bit) for bit in range(10)]
    new = sets.sweep([numbers[3]])
    assert len(sets) == 2
    assert sets.bits[new[numbers[3]]] == 1 << 3
    assert sets.with_bit(0, 3) == new[numbers[3]]


def test_pods_of_a_mask():
    assert list(pods_of(1 << 396 | 1 << 4)) == [1, 99]


# ---- recorded events


@pytest.mark.parametrize("as_rows", [pytest.param(False, id="maps"), pytest.param(True, id="arrays")])
def test_recorded_events_answer_every_look_up_as_brute_force_does(as_rows: bool):
    index, model, prompts, names = KVIndex(), Model(), [], {}
    for line in recorded():
        pod, (at_s, events, rank) = line["topic"].split("@")[1], line["payload"]
        told = [rows_of(event) for event in events] if as_rows else events
        apply(index, pod, decode(msgspec.msgpack.encode([at_s, told, rank])))
        for event in events:
            prompts += note(model, names, pod, event)
        if len(prompts) % 7 == 0:
            check_recorded(index, model, prompts[-5:])
    check_recorded(index, model, prompts)
    assert index.counts.unresolved == 0
    assert index.sizes() == {pod: len(held) for pod, held in model.pods.items()} | {
        pod: 0 for pod in index.pods if pod not in model.pods
    }


def note(model: Model, names: dict[tuple[str, int], tuple[int, ...]], pod: str, event: dict[str, Any]) -> list[Any]:
    if event["type"] == "AllBlocksCleared":
        model.pods[pod] = {}
        return []
    if event["type"] == "BlockRemoved":
        for name in event["block_hashes"]:
            model.remove(pod, name, Tier.GPU)
        return []
    size, before = event["block_size"], names.get((pod, event["parent_block_hash"]), ())
    for place, name in enumerate(event["block_hashes"]):
        before = (*before, *event["token_ids"][place * size : (place + 1) * size])
        names[pod, name] = before
        model.store(pod, name, before, event["lora_name"], Tier.GPU)
    return [before]


def check_recorded(index: KVIndex, model: Model, prompts: list[tuple[int, ...]]) -> None:
    for tokens in prompts:
        for cut in (len(tokens), len(tokens) - 32, len(tokens) // 2):
            wanted = {}
            for pod, held in model.pods.items():
                have = {prefix for prefix, _, _ in held.values()}
                blocks = 0
                while (blocks + 1) * 32 <= cut and tokens[: (blocks + 1) * 32] in have:
                    blocks += 1
                if blocks:
                    wanted[pod] = blocks
            keys = prompt_keys(pack(tokens[:cut]), block_tokens=32)
            assert {pod: found.blocks for pod, found in index.match(keys).items()} == wanted


# ---- made-up events


@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=30, deadline=None)
def test_whatever_several_engines_do_the_index_knows(seed: int, maps: bool):
    index = KVIndex()
    engines = {f"10.0.0.{n}:8000": Publisher(seed + n, maps=maps) for n in range(3)}
    rng = random.Random(seed)
    for _ in range(60):
        pod = rng.choice(list(engines))
        apply_all(index, pod, [engines[pod].step()])
    for _ in range(20):
        lora, tokens = engines[pod].prompt()
        truth = {name: engine.truth(name).match(tokens, lora).get(name) for name, engine in engines.items()}
        assert matches(index, tokens, lora) == {name: found for name, found in truth.items() if found}
    assert index.pairs == sum(len(engine.held) for engine in engines.values())
    for name in engines:
        index.forget(name)
    assert (len(index), index.pairs, matches(index, tokens)) == (0, 0, {})


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_tiers_and_weights_agree_with_brute_force(seed: int):
    rng, index, model = random.Random(seed), KVIndex(), Model()
    prompt = [rng.randrange(9) for _ in range(6 * BLOCK)]
    names = [rng.getrandbits(63) for _ in range(6)]
    for _ in range(40):
        pod, tier, place = f"p{rng.randrange(3)}", rng.choice(list(Tier)), rng.randrange(6)
        if rng.random() < 0.6:
            first = rng.randrange(place + 1)
            parent_known = first == 0 or names[first - 1] in model.pods.get(pod, {})
            tokens = prompt[first * BLOCK : (place + 1) * BLOCK]
            index.store(pod, names[first : place + 1], parent=names[first - 1] if first else None,
                        token_ids=tokens, block_tokens=BLOCK, tier=tier)  # fmt: skip
            for one in range(first, place + 1) if parent_known else ():
                model.store(pod, names[one], tuple(prompt[: (one + 1) * BLOCK]), None, tier)
        else:
            index.remove(pod, [names[place]], tier=tier)
            model.remove(pod, names[place], tier)
        assert matches(index, prompt) == model.match(prompt, None)


def stored(index: KVIndex, pod: str, tokens: list[int], **more: Any) -> list[int]:
    names = [hash((pod, tuple(tokens[: end + BLOCK]))) & (2**63 - 1) for end in range(0, len(tokens), BLOCK)]
    index.store(pod, names, parent=None, token_ids=tokens, block_tokens=BLOCK, **more)
    return names


def test_an_offloaded_block_is_restorable_and_worth_less():
    index = KVIndex()
    names = stored(index, "a", list(range(12)))
    index.store("a", names[1:], parent=names[0], token_ids=(), block_tokens=0, tier=Tier.CPU)  # no tokens: by handle
    index.remove("a", names[1:])
    assert matches(index, list(range(12))) == {"a": (3, 2.6)}
    index.remove("a", names[2:], tier=Tier.CPU)
    assert matches(index, list(range(12))) == {"a": (2, 1.8)}
    index.clear("a", tier=Tier.GPU)
    assert matches(index, list(range(12))) == {}


def test_adapter_and_salt_keep_prompts_apart():
    index, tokens = KVIndex(), list(range(8))
    stored(index, "plain", tokens)
    stored(index, "ada", tokens, lora="ada", extra_keys=[["ada"], ["ada"]])
    stored(index, "salted", tokens, extra_keys=[["s1"], None])
    packed = pack(tokens)
    assert set(index.match(prompt_keys(packed, block_tokens=BLOCK))) == {"plain"}
    assert set(index.match(prompt_keys(packed, block_tokens=BLOCK, lora="ada"))) == {"ada"}
    assert index.match(prompt_keys(packed, block_tokens=BLOCK, salt="s1")) == {"salted": Match(2, 2.0)}
    assert index.match(prompt_keys(packed, block_tokens=BLOCK, salt="s2")) == {}


def test_a_block_with_an_unknown_parent_is_counted_not_guessed():
    index = KVIndex()
    index.store("a", [5], parent=99, token_ids=[1] * BLOCK, block_tokens=BLOCK)
    assert (len(index), index.counts.unresolved) == (0, 1)


def test_memory_is_bounded_and_the_refusal_counted():
    index = KVIndex(capacity=10)
    for pod in range(4):
        stored(index, f"p{pod}", list(range(pod * 100, pod * 100 + 4 * BLOCK)))
    assert (index.pairs, index.counts.refused) == (10, 6)
    index.forget("p0")
    stored(index, "p9", list(range(900, 900 + 4 * BLOCK)))
    assert index.pairs == 10


def test_a_pods_number_is_used_again_without_its_past():
    index = KVIndex()
    stored(index, "a", list(range(8)))
    index.forget("a")
    stored(index, "b", list(range(50, 58)))
    assert matches(index, list(range(8))) == {}
    assert matches(index, list(range(50, 58))) == {"b": (2, 2.0)}


def test_many_distinct_sets_are_tidied_and_nothing_is_lost():
    index, rng = KVIndex(), random.Random(4)
    index._sets._swept = 50
    prompts = [[rng.randrange(1000) for _ in range(2 * BLOCK)] for _ in range(60)]
    truth: dict[int, set[str]] = {}
    for _ in range(600):
        number, pod = rng.randrange(60), f"p{rng.randrange(20)}"
        names = [number * 2 + 1, number * 2 + 2]
        if pod in truth.setdefault(number, set()) and rng.random() < 0.5:
            index.remove(pod, names)
            truth[number].discard(pod)
        else:
            index.store(pod, names, parent=None, token_ids=prompts[number], block_tokens=BLOCK)
            truth[number].add(pod)
    for number, pods in truth.items():
        assert set(matches(index, prompts[number])) == pods


# ---- the wire


@pytest.mark.parametrize(("payload", "events", "rank"), [
    pytest.param("93cb3ff00000000000009189a474797065ab426c6f636b53746f726564ac626c6f636b5f6861736865739101b170617265"
                 "6e745f626c6f636b5f68617368c0a9746f6b656e5f696473dc0010000102030405060708090a0b0c0d0e0faa626c6f636b"
                 "5f73697a6510a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c0a967726f75705f6964780000",
                 1, 0, id="vllm-map"),
    pytest.param("93cb3ff00000000000009198ab426c6f636b53746f7265649101c0dc0010000102030405060708090a0b0c0d0e0f10c0a3"
                 "475055c000", 1, 0, id="vllm-array"),
])  # fmt: skip
def test_published_bytes_are_read(payload: str, events: int, rank: int):
    batch = decode(bytes.fromhex(payload))
    assert (batch.at_s, batch.rank, len(batch.events), batch.unknown) == (1.0, rank, events, 0)
    index = KVIndex()
    apply(index, "a", batch)
    assert index.match(prompt_keys(pack(range(16)), block_tokens=16)) == {"a": Match(1, 1.0)}


def test_sglang_rows_with_signed_hashes_and_no_rank_are_read():
    events = [["BlockStored", [-5, -6], None, list(range(8)), BLOCK, None], ["BlockRemoved", [-6]]]
    index = KVIndex()
    apply(index, "a", decode(msgspec.msgpack.encode([1.0, events])))
    assert matches(index, list(range(8))) == {"a": (1, 1.0)}


def test_hashes_as_bytes_are_their_last_eight():
    name = b"\x01" * 24 + (77).to_bytes(8, "big")
    events = [{"type": "BlockStored", "block_hashes": [name], "parent_block_hash": None, "token_ids": list(range(4)),
               "block_size": BLOCK, "medium": None}, ["BlockRemoved", [77]]]  # fmt: skip
    index = KVIndex()
    batch = decode(msgspec.msgpack.encode([1.0, events, 3]))
    apply(index, "a", batch)
    assert (batch.rank, len(index), index.counts.removed) == (3, 0, 1)


def test_strange_events_are_passed_over_and_the_others_count():
    events = [{"type": "BlockMoved", "x": 1}, 7, {"type": "AllBlocksCleared", "why": "reset"}]
    batch = decode(msgspec.msgpack.encode([1.0, events, None]))
    assert (len(batch.events), batch.unknown, len(batch.reasons)) == (1, 2, 2)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x01", b"{}", msgspec.msgpack.encode({"a": 1})])
def test_what_is_no_batch_is_refused(payload: bytes):
    with pytest.raises(BadBatchError):
        decode(payload)


def test_blocks_of_a_sliding_window_say_nothing_of_a_prompts_beginning():
    index = KVIndex()
    event = {"type": "BlockStored", "block_hashes": [1], "parent_block_hash": None, "token_ids": [1] * 4,
             "block_size": 4, "kv_cache_spec_kind": "sliding_window"}  # fmt: skip
    apply(index, "a", decode(msgspec.msgpack.encode([1.0, [event], 0])))
    assert len(index) == 0


def test_root_keys_differ_by_adapter():
    assert len({root_key(None), root_key("a"), root_key("b")}) == 3
