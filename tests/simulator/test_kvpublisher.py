"""KV events: their shape against recorded ones, their truth against the cache, and the wire."""

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator import tokens
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.kvcache import KVCache, Run
from simulator.kvevents import AllBlocksCleared, BlockRemoved, BlockStored, Content, Encoding, Event, Journal, to_wire
from simulator.kvpublisher import END_SEQ, offset_port
from simulator.sequence import EngineRequest
from simulator.steptime import timer_for
from simulator.tokens import BLOCK_TOKENS
from tests.ports import free_ports

zmq = pytest.importorskip("zmq")
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
WAIT_MS = 60_000
LONG = "a text of several blocks, so that something is stored " * 8

# ---- the truth of what is said


def small(blocks: int) -> Engine:
    config = EngineConfig(timer=timer_for("Llama-3.1-8B", "h100_sxm", 1), blocks=blocks, max_num_seqs=4,
                          max_num_batched_tokens=128, max_model_len=blocks * BLOCK_TOKENS)  # fmt: skip
    return Engine(config, ingress_s=0.0)


def findable(cache: KVCache) -> set[int]:
    """Hashes of all blocks that a cache can find."""
    found: set[int] = set()
    runs: list[Run] = [cache.root]
    while runs:
        run = runs.pop()
        found.update(run.source[run.start : run.end])
        runs.extend(run.children.values())
    return found


class Mirror:
    """What a listener knows of a cache, from its events alone."""

    def __init__(self) -> None:
        self.blocks: dict[int, tuple[int | None, tuple[int, ...]]] = {}

    def apply(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, AllBlocksCleared):
                self.blocks.clear()
            elif isinstance(event, BlockRemoved):
                for value in event.block_hashes:
                    del self.blocks[value]
            else:
                self._store(event)

    def _store(self, event: BlockStored) -> None:
        assert len(event.token_ids) == len(event.block_hashes) * event.block_size
        parent = event.parent_block_hash
        assert parent is None or parent in self.blocks
        for index, value in enumerate(event.block_hashes):
            ids = event.token_ids[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
            assert tokens.chain(tokens.pack(ids), parent=parent or 0) == [value]
            self.blocks[value] = (parent, tuple(ids))
            parent = value


class Driver:
    """An engine with a journal and a mirror that must agree after every step."""

    def __init__(self, blocks: int) -> None:
        self.engine, self.journal, self.mirror = small(blocks), Journal({}), Mirror()
        self.engine.kv.listener = self.journal
        self.contents: dict[str, tuple[int, Content]] = {}
        self.now_s = 0.0

    def submit(self, name: str, text: str, output: int) -> None:
        packed = tokens.encode(text)
        whole = packed + tokens.output(output)
        if len(whole) >= tokens.BLOCK_BYTES:
            first = tokens.chain(whole[: tokens.BLOCK_BYTES])[0]
            self.contents[name] = first, Content(whole, 0)
            self.journal.enter(*self.contents[name])
        request = EngineRequest(request_id=name, prompt_tokens=tokens.count(packed), output_tokens=output,
                                block_hashes=tokens.chain(packed), tail=tokens.tail(packed))  # fmt: skip
        self.engine.submit(request, self.now_s)

    def step(self) -> bool:
        start_s = self.engine.next_start_s(self.now_s)
        result = None if start_s is None else self.engine.step(start_s)
        self.check()
        if result is None:
            return False
        self.now_s = result.end_s
        for sequence in result.finished:
            self._leave(sequence.request.request_id)
        return True

    def abort(self, name: str) -> None:
        if self.engine.abort(name) is not None:
            self.check()
            self._leave(name)

    def _leave(self, name: str) -> None:
        if name in self.contents:
            self.journal.leave(*self.contents.pop(name))

    def check(self) -> None:
        self.mirror.apply(self.journal.take())
        assert set(self.mirror.blocks) == findable(self.engine.kv)


PROMPTS = st.tuples(st.sampled_from(["", "a" * 200, "a" * 200 + "b" * 300, "c" * 128]), st.text("xyz", max_size=300))


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.integers(12, 40),
    requests=st.lists(st.tuples(PROMPTS, st.integers(1, 40), st.integers(0, 6), st.booleans()), max_size=12),
)
def test_a_mirror_fed_with_events_always_equals_the_cache(blocks: int, requests: list) -> None:
    driver = Driver(blocks)
    for index, ((prefix, rest), output, steps, abort) in enumerate(requests):
        text = (prefix + rest) or "?"
        if tokens.count(tokens.encode(text)) + output <= blocks * BLOCK_TOKENS:
            driver.submit(str(index), text, output)
        for _ in range(steps):
            driver.step()
        if abort:
            driver.abort(str(index))
    while driver.step():
        pass
    assert driver.engine.unfinished == 0


def test_an_answer_sent_back_is_found_where_the_events_say() -> None:
    driver = Driver(64)
    driver.submit("a", "p" * 96, 60)
    while driver.step():
        pass
    hashes = tokens.chain(tokens.encode("p" * 96) + tokens.output(60))
    assert set(hashes[:5]) <= set(driver.mirror.blocks)


# ---- the shape


@pytest.fixture(scope="module")
def recorded(data_dir: Path) -> list[Any]:
    with gzip.open(data_dir / "vllm_0.32_kv_events.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["payload"] for line in lines]


def events() -> list[Event]:
    """One of each."""
    journal = Journal({"sql": 7})
    packed = tokens.encode("x" * 200)
    hashes = tokens.chain(packed, parent=9)
    journal.enter(hashes[0], Content(packed, 9, "sql", "salt"))
    journal.stored(hashes, 0, 2)
    journal.stored(hashes, 2, 3)
    journal.removed(hashes, 1, 3)
    taken = journal.take()
    journal.cleared()
    return [*taken, *journal.take()]


def shapes(payloads: list[Any]) -> dict[str, set[tuple[tuple[str, str], ...]]]:
    """Kind of event -> its fields in order with their types; what may be null is compared by name alone."""
    found: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for _, batch, _ in payloads:
        for event in batch:
            fields = tuple((name, type(value).__name__ if name in {"type", "medium", "block_size", "token_ids"} else "")
                           for name, value in event.items())  # fmt: skip
            found.setdefault(event["type"], set()).add(fields)
    return found


def test_maps_have_the_fields_of_recorded_events(recorded: list[Any]) -> None:
    payload = msgspec.msgpack.decode(to_wire(events(), now_s=1.5, rank=0, encoding=Encoding.MAP))
    assert [type(part) for part in payload] == [type(part) for part in recorded[0]]
    assert shapes([payload]) == shapes(recorded)


def test_arrays_have_the_same_values_by_position() -> None:
    stamped = {encoding: msgspec.msgpack.decode(to_wire(events(), now_s=1.5, rank=3, encoding=encoding))
               for encoding in Encoding}  # fmt: skip
    names = ["type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name",
             "extra_keys", "group_idx", "kv_cache_spec_kind"]  # fmt: skip
    for as_map, as_array in zip(stamped[Encoding.MAP][1], stamped[Encoding.ARRAY][1], strict=True):
        used = names if as_map["type"] == "BlockStored" else [name for name in names if name in as_map]
        assert as_array[: len(used)] == [as_map.get(name) for name in used]
    assert stamped[Encoding.ARRAY][2] == 3


def test_adapters_and_salts_are_told() -> None:
    first, second, *_ = events()
    assert isinstance(first, BlockStored)
    assert isinstance(second, BlockStored)
    assert (first.lora_name, first.lora_id, first.extra_keys) == ("sql", 7, [["sql", "salt"], ["sql"]])
    assert (second.parent_block_hash, second.extra_keys) == (first.block_hashes[-1], [["sql"]])


def test_removals_come_one_by_one_the_deepest_first(recorded: list[Any]) -> None:
    removed = [event.block_hashes for event in events() if isinstance(event, BlockRemoved)]
    stored = [value for event in events() if isinstance(event, BlockStored) for value in event.block_hashes]
    assert removed == [[stored[2]], [stored[1]]]
    theirs = [event for _, batch, _ in recorded for event in batch if event["type"] == "BlockRemoved"]
    assert {len(event["block_hashes"]) for event in theirs} == {1}


@pytest.mark.parametrize(
    ("endpoint", "offset", "expected"),
    [
        ("tcp://*:5557", 3, "tcp://*:5560"), ("tcp://*:5557", 0, "tcp://*:5557"), ("tcp://*:0", 3, "tcp://*:0"),
        ("tcp://127.0.0.1:*", 3, "tcp://127.0.0.1:*"), ("ipc:///tmp/x", 1, "ipc:///tmp/x"),
    ],
)  # fmt: skip
def test_ports_move_with_the_rank(endpoint: str, offset: int, expected: str) -> None:
    assert offset_port(endpoint, offset) == expected


# ---- the wire


class Subscriber:
    """A SUB socket, and what came."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.sub = self.context.socket(zmq.SUB)
        self.sub.setsockopt(zmq.SUBSCRIBE, b"kv@")
        self.sub.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        self._greetings = self.sub.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def bind(self) -> int:
        """Its port."""
        return int(self.sub.bind_to_random_port("tcp://127.0.0.1"))

    def settle(self) -> None:
        """Wait until a publisher knows of the subscription: what it publishes before is lost."""
        assert self._greetings.poll(WAIT_MS), "no publisher has connected"
        assert self.sub.poll(200) == 0

    def next(self) -> tuple[str, int, list[Any]]:
        topic, number, payload = self.sub.recv_multipart()
        return topic.decode(), int.from_bytes(number, "big"), msgspec.msgpack.decode(payload)

    def close(self) -> None:
        self.sub.disable_monitor()
        self._greetings.close(0)
        self.sub.close(0)
        self.context.term()


@pytest.fixture
def subscriber() -> Iterator[Subscriber]:
    made = Subscriber()
    yield made
    made.close()


def _complete(url: str, prompt: str = LONG, **fields: Any) -> None:
    body = {"prompt": prompt, "max_tokens": 1, **fields}
    assert httpx.post(url + "/v1/completions", json=body, timeout=60).status_code == 200


def _replay(endpoint: str, first: int) -> list[tuple[bytes, int, bytes]]:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.RCVTIMEO, WAIT_MS)
    dealer.connect(endpoint)
    dealer.send_multipart([b"", first.to_bytes(8, "big")])
    batches: list[tuple[bytes, int, bytes]] = []
    while True:
        empty, topic, number, payload = dealer.recv_multipart()
        assert empty == b""
        if number == END_SEQ:
            dealer.close(0)
            context.term()
            return batches
        batches.append((topic, int.from_bytes(number, "big"), payload))


@pytest.mark.integration
@pytest.mark.parametrize("encoding", ["map", "array"])
def test_events_reach_a_bound_subscriber_and_can_be_played_back(
    launch_engine: Callable[..., Any], subscriber: Subscriber, encoding: str
) -> None:
    engine = launch_engine("--speed", "50", "--kv-events", f"tcp://127.0.0.1:{subscriber.bind()}", "--kv-events-replay",
                           "tcp://127.0.0.1:*", "--kv-events-encoding", encoding).ready()  # fmt: skip
    source = httpx.get(engine.url + "/kv_event_sources").json()["0"]
    assert source["topic"] == f"kv@127.0.0.1:{engine.port}@{MODEL}"
    subscriber.settle()
    _complete(engine.url)
    _complete(engine.url, prompt="another text, which shares nothing with the first one " * 4)
    live = [subscriber.next() for _ in range(2)]
    assert [(topic, number) for topic, number, _ in live] == [(source["topic"], 0), (source["topic"], 1)]
    assert live[0][2][2] == 0
    event = live[0][2][1][0]
    stored = event if isinstance(event, dict) else dict(zip(("type", "block_hashes"), event, strict=False))
    assert stored["type"] == "BlockStored"
    assert stored["block_hashes"] == tokens.chain(tokens.encode(LONG))
    replayed = _replay(source["replay_endpoint"], 1)
    assert [(topic.decode(), number, msgspec.msgpack.decode(payload)) for topic, number, payload in replayed] == [
        live[1]
    ]
    assert [number for _, number, _ in _replay(source["replay_endpoint"], 0)] == [0, 1]


@pytest.mark.integration
def test_engines_of_one_process_bind_ports_of_their_own(launch_engine: Callable[..., Any]) -> None:
    port = free_ports(2)
    engine = launch_engine("--replicas", "2", "--speed", "50", "--kv-events", f"tcp://*:{port}").ready()
    for index in range(2):
        subscriber = Subscriber()
        subscriber.sub.connect(f"tcp://127.0.0.1:{port + index}")
        subscriber.settle()
        _complete(f"http://127.0.0.1:{engine.port + index}")
        assert subscriber.next()[0].startswith(f"kv@127.0.0.1:{engine.port + index}@")
        subscriber.close()


@pytest.mark.integration
def test_adapters_evictions_and_resets_are_told(launch_engine: Callable[..., Any], subscriber: Subscriber) -> None:
    engine = launch_engine("--speed", "50", "--kv-tokens", "1024", "--max-loras", "1", "--lora-module", "sql=x",
                           "--kv-events", f"tcp://127.0.0.1:{subscriber.bind()}").ready()  # fmt: skip
    subscriber.settle()
    _complete(engine.url, model="sql")
    plain, adapted = tokens.chain(tokens.encode(LONG)), subscriber.next()[2][1][0]
    assert (adapted["lora_name"], adapted["lora_id"]) == ("sql", 1)
    assert not set(adapted["block_hashes"]) & set(plain)
    _complete(engine.url, prompt="z" * 4 * 1000)
    kinds = [event["type"] for event in subscriber.next()[2][1]]
    assert "BlockRemoved" in kinds
    assert "BlockStored" in kinds
    assert httpx.post(engine.url + "/reset_prefix_cache").json() == {"success": True}
    assert subscriber.next()[2][1] == [{"type": "AllBlocksCleared"}]


@pytest.mark.integration
def test_without_pyzmq_only_publishing_is_refused(tmp_path: Path, launch_engine: Callable[..., Any],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "zmq.py").write_text("raise ImportError('not here')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    engine = launch_engine("--kv-events", "tcp://*:5557")
    errors = engine.process.communicate(timeout=60)[1]
    assert engine.process.returncode == 2
    assert "pyzmq is not installed" in errors
    assert "llm-fleet[sim]" in errors
    assert launch_engine().ready().status() == 200
    assert sys.modules["zmq"] is zmq
