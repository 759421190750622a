"""Precise prefixes end to end: engines publish over ZeroMQ, the router hears them and picks by what they hold."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest

from fleet.errors import ConfigError
from router.kvevents.places import Plan, Source, plan, sources
from router.kvevents.subscriber import END, Subscriber
from router.kvevents.tokens import Tokens, from_request
from router.kvindex.index import KVIndex
from router.kvindex.keys import pack, prompt_keys
from router.kvindex.prompt import Origin
from router.kvindex.speculative import Speculation
from tests.ports import free_ports
from tests.router.kv_model import BLOCK, Publisher, matches
from tests.router.picker_world import World, body, said
from tests.waiting import until

zmq = pytest.importorskip("zmq")

# ---- where events are


def test_sources_are_what_the_engine_says_or_what_the_setting_says():
    told = {"0": {"endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5558"}, "1": {"endpoint": "tcp://1.2.3.4:9"}}
    assert sources("http://10.0.0.1:8000", Plan(), told) == {
        0: Source(live="tcp://10.0.0.1:5557", replay="tcp://10.0.0.1:5558"), 1: Source()}  # fmt: skip
    assert sources("http://10.0.0.1:8000", plan("connect:5557"), None) == {0: Source(live="tcp://10.0.0.1:5557")}
    assert sources("http://10.0.0.1:8000", Plan(), None) == {}


@pytest.mark.parametrize("text", ["", "5557", "connect:", "http://x"])
def test_a_setting_that_says_no_source_is_refused(text: str):
    with pytest.raises(ConfigError):
        plan(text)


# ---- what was just sent


def test_what_was_just_sent_counts_until_it_is_old():
    spoken, keys = Speculation(2.0), prompt_keys(pack(range(40)), block_tokens=4)
    other = prompt_keys(pack([*range(20), *range(90, 110)]), block_tokens=4)
    spoken.sent("a", keys, now_s=10.0)
    spoken.sent("b", other, now_s=11.0)
    assert spoken.match(keys, now_s=11.5) == {"a": 10, "b": 5}
    assert spoken.match(keys, now_s=12.5) == {"b": 5}
    assert spoken.match(keys[:3], now_s=11.5) == {"a": 3, "b": 3}
    spoken.forget("b")
    assert spoken.match(keys, now_s=11.5) == {}
    spoken.sent("c", keys, now_s=100.0)
    assert len(spoken) == 1


def test_what_is_remembered_of_prompts_just_sent_is_bounded():
    spoken = Speculation(100.0, limit=10)
    for number in range(50):
        spoken.sent("a", [number + 1], now_s=float(number))
    assert len(spoken) == 10


# ---- tokens


def test_token_ids_in_the_request_are_taken_as_they_are():
    assert from_request(b"[1, 2, 3]") == pack([1, 2, 3])
    assert [from_request(text) for text in (b'"text"', b'["a"]', b'[{"role": "user"}]', b"[1, -2]", b"[]")] == [
        None
    ] * 5


class OneByOne:
    def encode(self, sequence: str) -> Any:
        return type("Encoding", (), {"ids": [ord(letter) for letter in sequence]})


def test_a_local_tokenizer_serves_plain_prompts_and_is_asked_once():
    tokens = Tokens(OneByOne())
    assert tokens.at_once("m", b'"ab"') == (pack([97, 98]), Origin.LOCAL)
    tokens._local = None
    assert tokens.at_once("m", b'"ab"') == (pack([97, 98]), Origin.LOCAL)
    assert tokens.at_once("other", b'"ab"') is None


# ---- the subscriber


class Wire:
    """A publisher with sockets: PUB that connects or binds, ROUTER that plays back."""

    def __init__(self, seed: int, *, topic: str, connect: str = "", with_topic: bool = True) -> None:
        self.engine = Publisher(seed)
        self.engine.now_s = time.time()
        self.context, self.topic, self.with_topic = zmq.Context(), topic.encode(), with_topic
        self.pub, self.router = self.context.socket(zmq.XPUB), self.context.socket(zmq.ROUTER)
        self.pub.setsockopt(zmq.XPUB_VERBOSE, 1)  # it hears of every subscriber, though another wants the same
        self.subscribers = 0
        self.live = ""
        if connect:
            self.pub.connect(connect)
        else:
            self.pub.bind("tcp://127.0.0.1:*")
            self.live = self.pub.getsockopt_string(zmq.LAST_ENDPOINT)
        self.router.bind("tcp://127.0.0.1:*")
        self.replay = self.router.getsockopt_string(zmq.LAST_ENDPOINT)

    def say(self, *, aloud: bool = True) -> None:
        payload = self.engine.step()
        if aloud:
            self.pub.send_multipart([self.topic, (len(self.engine.batches) - 1).to_bytes(8, "big"), payload])

    def has(self, subscribers: int) -> bool:
        """Whether so many hear what is said: what was said before they joined is lost to them."""
        while self.pub.poll(0):
            self.subscribers += 1 if self.pub.recv()[:1] == b"\x01" else -1
        return self.subscribers >= subscribers

    def answer_replay(self) -> bool:
        if not self.router.poll(0):
            return False
        who, _, first = self.router.recv_multipart()
        for seq in range(int.from_bytes(first, "big"), len(self.engine.batches)):
            parts = [self.topic] if self.with_topic else []
            self.router.send_multipart([who, b"", *parts, seq.to_bytes(8, "big"), self.engine.batches[seq]])
        self.router.send_multipart([who, b"", *([b""] if self.with_topic else []), END, b""])
        return True

    def close(self) -> None:
        self.context.destroy(linger=0)


async def heard(true: Callable[[], object], *wires: Wire) -> None:
    """Wait for what a subscriber makes of what it hears, while ``wires`` play back what it asks for."""
    async with asyncio.timeout(120):
        while not true():
            for wire in wires:
                wire.answer_replay()
            await asyncio.sleep(0.01)


def test_one_bound_socket_hears_several_engines():
    async def run() -> None:
        ears = Subscriber(KVIndex())
        ears.bind("tcp://127.0.0.1:*")
        wires = [Wire(n, topic=f"kv@10.0.0.{n}:8000@m", connect=ears.bound) for n in range(3)]
        await heard(lambda: all(wire.has(1) for wire in wires))
        for _ in range(20):
            for wire in wires:
                wire.say()
        await heard(lambda: ears.heard.batches == 60)
        assert ears.index.sizes() == {f"10.0.0.{n}:8000": len(wires[n].engine.held) for n in range(3)}
        ears.forget("10.0.0.1:8000")
        assert "10.0.0.1:8000" not in ears.index.sizes()
        for wire in wires:
            wire.close()
        await ears.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "with_topic", [pytest.param(True, id="replay-with-topic"), pytest.param(False, id="before-0.26")]
)
def test_what_was_said_before_and_what_was_lost_is_played_back(with_topic: bool):
    async def run() -> None:
        ears, wire = Subscriber(KVIndex()), Wire(5, topic="kv@whatever@m", with_topic=with_topic)
        for _ in range(10):
            wire.say(aloud=False)
        ears.follow("10.0.0.9:8000", {0: Source(live=wire.live, replay=wire.replay)})
        await heard(lambda: ears.heard.batches == 10 and wire.has(1), wire)
        for number in range(12):
            wire.say(aloud=number not in (3, 4))
            await asyncio.sleep(0.005)
        await heard(lambda: ears.heard.batches == 22, wire)
        assert (ears.heard.gaps, ears.heard.lost) == (1, 0)
        assert ears.index.sizes() == {"10.0.0.9:8000": len(wire.engine.held)}
        lora, tokens = wire.engine.prompt()
        assert matches(ears.index, tokens, lora) == wire.engine.truth("10.0.0.9:8000").match(tokens, lora)
        wire.close()
        await ears.close()

    asyncio.run(run())


def test_without_a_replay_what_was_lost_empties_the_pod_and_is_counted():
    async def run() -> None:
        ears, wire = Subscriber(KVIndex()), Wire(5, topic="")
        ears.follow("10.0.0.9:8000", {0: Source(live=wire.live)})
        await heard(lambda: wire.has(1))
        wire.say()
        await heard(lambda: ears.heard.batches == 1)
        wire.say(aloud=False)
        wire.say()
        await heard(lambda: ears.heard.lost == 1)
        assert ears.index.counts.cleared == 1
        ears.message([b"kv@x@m", b"123", b""])
        ears.message([b"kv@x@m", bytes(8), b"nonsense"])
        assert ears.heard.bad == 2
        wire.close()
        await ears.close()

    asyncio.run(run())


def test_ranks_of_one_engine_are_kept_apart():
    index = KVIndex()

    async def run() -> None:
        ears = Subscriber(index)
        event = {"type": "BlockStored", "block_hashes": [7], "parent_block_hash": None, "token_ids": [1] * BLOCK,
                 "block_size": BLOCK, "medium": "GPU"}  # fmt: skip
        for rank in (0, 1):
            ears.message([b"kv@a:1@m", bytes(8), msgspec.msgpack.encode([1.0, [event], rank])])
        assert set(index.sizes()) == {"a:1", "a:1#1"}
        ears.restarted("a:1")
        assert set(index.sizes().values()) == {0}
        ears.forget("a:1")
        assert not index.pods
        await ears.close()

    asyncio.run(run())


# ---- the whole router


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("precise"))
    try:
        made.start_engines(each=lambda: ("--kv-events", f"tcp://*:{free_ports()}",
                                         "--kv-events-replay", "tcp://127.0.0.1:*"))  # fmt: skip
        made.start_router("--kv-events", "auto")
        yield made
    finally:
        made.close()


@pytest.mark.integration
def test_a_router_knows_what_engines_had_cached_before_it_asked(world: World):
    """A prompt that went to an engine past the router is found there."""
    warm, prompt = world.engines[1], "a prompt that nobody told the router about. " * 40
    assert httpx.post(f"{warm.url}/v1/completions", json=body(prompt)).status_code == 200
    until(lambda: said(world.admin, "fleet_router_kv_index_blocks") > 20, "no block is known")
    with world.client() as client:
        for number in range(3):
            assert client.post("/v1/completions", json=body(prompt + str(number))).status_code == 200
    found = httpx.get(f"{world.admin}/debug/decisions").json()[:3]
    assert {one["endpoint"] for one in found} == {warm.url}
    assert min(one["matched_tokens"] for one in found) > 100
    assert said(world.admin, 'fleet_router_prompt_tokens_origin_total{origin="engine"}') >= 3
    assert said(world.admin, "fleet_router_kv_event_lag_seconds") < 10


@pytest.mark.integration
def test_an_engine_that_forgets_is_known_to_have_forgotten(world: World):
    prompt = "soon forgotten, for the cache is emptied. " * 40
    with world.client() as client:
        assert client.post("/v1/completions", json=body(prompt)).status_code == 200
        for engine in world.engines:
            assert httpx.post(f"{engine.url}/reset_prefix_cache").status_code == 200
        for engine in world.engines:  # the news comes with the next step
            assert httpx.post(f"{engine.url}/v1/completions", json=body("tick")).status_code == 200
        until(lambda: said(world.admin, "fleet_router_kv_index_blocks") < 5, "blocks are still known")
        time.sleep(2.1)  # what was just sent counts for two seconds
        assert client.post("/v1/completions", json=body(prompt + "!")).status_code == 200
    assert httpx.get(f"{world.admin}/debug/decisions").json()[0]["matched_tokens"] == 0


@pytest.mark.integration
def test_the_indexer_answers_by_token_ids_and_by_keys(world: World):
    port = free_ports()
    urls = ",".join(one.url for one in world.engines)
    command = [sys.executable, "-m", "fleet.cli", "router", "indexer", "--engines", urls, "--port", str(port)]
    prompt = list(range(1000, 1200))
    warm = world.engines[0]
    assert httpx.post(f"{warm.url}/v1/completions", json=body(prompt)).status_code == 200
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: alive(url) and httpx.get(f"{url}/pods").json(), "the indexer never heard anything")
            pod = f"127.0.0.1:{warm.port}"
            until(lambda: asked(url, token_ids=prompt)["matched_tokens"].get(pod, 0) >= 192, "it is not known")
            found = asked(url, prompt_hash=prompt_keys(pack(prompt), block_tokens=16), pods=[pod, "10.0.0.9:1"])
            assert (found["blocks"][pod] >= 12, found["blocks"]["10.0.0.9:1"]) == (True, 0)
            assert httpx.post(f"{url}/query", json={}).status_code == 400
            assert said(url, "llm_d_epp_kv_cache_index_lookup_hits_total") >= 2
        finally:
            process.terminate()


def alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def asked(url: str, **query: Any) -> dict[str, Any]:
    return httpx.post(f"{url}/query", json=query).json()
