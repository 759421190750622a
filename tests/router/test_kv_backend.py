"""The KV index's shared store: what a router that starts learns from it, and that a lost store falsifies nothing."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import ConfigError
from router.kvevents.feed import Feed, Verdict
from router.kvevents.places import Source
from router.kvevents.window import Version, write_row
from router.kvevents.wire import decode
from router.kvindex.index import KVIndex
from router.kvindex.rows import Row, restore, rows
from router.kvindex.speculative import Speculation
from tests.ports import free_ports
from tests.router.kv_model import Publisher, apply_all, matches
from tests.router.kv_redis import Server, running
from tests.router.picker_world import World, body, said
from tests.router.test_kv_precise import END, Wire, heard
from tests.waiting import until

pytest.importorskip("zmq")
pytest.importorskip("redis")

from router.kvevents.backend import Backend
from router.kvevents.subscriber import Subscriber

POD = "10.0.0.9:8000"

# ---- what counts of what is read


class Newcomer:
    """It goes on from what another knew, as a subscriber does."""

    def __init__(self, told: list[Row], *, block_tokens: int) -> None:
        self.feed, self.index, self.confirmed = Feed(), KVIndex(), False
        self._told, self._block_tokens = told, block_tokens

    def follow(self, verdict: Verdict) -> None:
        if verdict.clear:
            self.index.clear(POD)
        if verdict.confirmed:
            self.confirmed = True
            restore(self.index, POD, self._told, block_tokens=self._block_tokens)
        apply_all(self.index, POD, verdict.apply)

    def ask(self, engine: Publisher, first: int, keeps: int) -> None:
        for seq in range(max(first, len(engine.batches) - keeps), len(engine.batches)):
            verdict = self.feed.take(seq, decode(engine.batches[seq]), replayed=True)
            self.follow(verdict)
            if verdict.step == "restarted":
                break


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(0, 30), st.booleans(), st.integers(1, 40))
def test_what_another_knew_counts_only_if_the_engine_says_the_same(
    seed: int, known: int, more: int, restarted: bool, keeps: int
):
    """Whatever happened since: after a replay nothing is claimed that the engine does not hold."""
    engine, other = Publisher(seed), KVIndex()
    for _ in range(known):
        apply_all(other, POD, [engine.step()])
    version = Version(decode(engine.batches[-1]).at_s, known - 1)
    told = list(rows(other, POD))
    if restarted:
        engine.restart()
    for _ in range(more):
        engine.step()
    mine = Newcomer(told, block_tokens=other.block_tokens(POD))
    mine.feed.resume(version.seq, version.at_s)
    mine.ask(engine, version.seq, keeps)
    confirmed = mine.confirmed
    if not confirmed:
        mine.feed.unconfirmed()
        mine.ask(engine, 0, keeps)
    assert confirmed == (not restarted and keeps > more)
    truth = engine.truth(POD)
    for _ in range(20):
        lora, tokens = engine.prompt()
        found, held = matches(mine.index, tokens, lora).get(POD, (0, 0.0)), truth.match(tokens, lora).get(POD, (0, 0.0))
        assert found[0] <= held[0]
        assert found == held or not (confirmed or len(engine.batches) <= keeps)


# ---- a real store


@pytest.fixture(params=["redis", "valkey"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(tmp_path, request.param) as made:
        yield made


@pytest.fixture
def either(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path, "valkey", "redis") as made:
        yield made


class Forgetful(Wire):
    """It plays back its last batches only, and can restart."""

    keeps = 10_000

    def answer_replay(self) -> bool:
        if not self.router.poll(0):
            return False
        who, _, first = self.router.recv_multipart()
        batches = self.engine.batches
        for seq in range(max(int.from_bytes(first, "big"), len(batches) - self.keeps), len(batches)):
            self.router.send_multipart([who, b"", self.topic, seq.to_bytes(8, "big"), batches[seq]])
        self.router.send_multipart([who, b"", b"", END, b""])
        return True


class Router:
    """Index, ears and the way to the store."""

    def __init__(self, url: str) -> None:
        self.index, self.speculation = KVIndex(), Speculation(60.0)
        self.shared = Backend(url, self.index, self.speculation, every_s=0.02)
        self.ears = Subscriber(self.index, shared=self.shared)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.shared.run()), loop.create_task(self.shared.share())]

    def hear(self, wire: Wire) -> None:
        self.ears.follow(POD, {0: Source(live=wire.live, replay=wire.replay)})

    @property
    def rows(self) -> list[Row]:
        return sorted(rows(self.index, POD))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ears.close()
        await self.shared.close()


def stored(server: Server, pod: str = POD) -> tuple[Any, dict[bytes, bytes]]:
    client = server.client()
    return client.get(f"fleet:kv:{{{pod}}}:at"), client.hgetall(f"fleet:kv:{{{pod}}}:blocks")


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


def holds(server: Server, router: Router) -> bool:
    return stored(server)[1] == dict(map(write_row, router.rows))


@pytest.mark.integration
def test_a_router_that_starts_knows_what_the_engine_no_longer_plays_back(server: Server):
    async def work() -> None:
        wire = Forgetful(5, topic="kv@whatever@m")
        one = Router(server.url)
        one.hear(wire)
        for _ in range(30):
            wire.say()
            await asyncio.sleep(0.002)
        await heard(lambda: one.ears.heard.batches == 30, wire)
        await heard(lambda: holds(server, one), wire)
        wire.keeps = 3
        wire.say()  # after the store's version, perhaps: the replay brings it
        two = Router(server.url)
        two.hear(wire)
        await heard(lambda: two.rows == one.rows and one.ears.heard.batches == 31, wire)
        assert two.shared.told.loaded > 10
        assert (two.ears.heard.lost, two.shared.told.refused) == (0, 0)
        for _ in range(10):
            wire.say()
        await heard(lambda: two.ears.index.sizes() == {POD: len(wire.engine.held)} and two.rows == one.rows, wire)
        await heard(lambda: holds(server, one), wire)
        wire.close()
        await one.close()
        await two.close()

    run(work)


@pytest.mark.integration
def test_an_engine_that_restarted_while_nobody_heard_it_is_not_believed_to_hold_what_it_held(server: Server):
    async def work() -> None:
        wire = Forgetful(6, topic="kv@whatever@m")
        one = Router(server.url)
        one.hear(wire)
        for _ in range(10):
            wire.say()
            await asyncio.sleep(0.002)
        await heard(lambda: one.ears.heard.batches == 10, wire)
        await heard(lambda: holds(server, one), wire)
        await one.close()
        wire.engine.restart()
        for _ in range(14):
            wire.say(aloud=False)
        two = Router(server.url)
        two.hear(wire)
        await heard(lambda: two.ears.heard.batches == 14, wire)
        assert two.ears.index.sizes() == {POD: len(wire.engine.held)}
        assert two.shared.told.loaded == 0
        assert two.shared.told.refused > 0
        lora, tokens = wire.engine.prompt()
        assert matches(two.index, tokens, lora) == wire.engine.truth(POD).match(tokens, lora)
        wire.close()
        await two.close()

    run(work)


@pytest.mark.integration
def test_routers_that_write_side_by_side_leave_what_they_know(server: Server):
    async def work() -> None:
        wire, rng = Forgetful(7, topic="kv@whatever@m"), random.Random(1)
        routers = [Router(server.url) for _ in range(3)]
        for router in routers:
            router.hear(wire)
        await heard(lambda: wire.has(3), wire)
        for _ in range(300):
            wire.say()
            if rng.random() < 0.2:
                await asyncio.sleep(0.01)
        await heard(lambda: all(one.ears.heard.batches == 300 for one in routers), wire)
        await heard(lambda: holds(server, routers[0]), wire)
        assert routers[0].rows == routers[1].rows == routers[2].rows
        assert sum(one.shared.told.errors for one in routers) == 0
        wire.close()
        for router in routers:
            await router.close()

    run(work)


@pytest.mark.integration
def test_a_store_that_is_lost_and_comes_back_empty(server: Server):
    async def work() -> None:
        wire = Forgetful(8, topic="kv@whatever@m")
        one = Router(server.url)
        one.hear(wire)
        await heard(lambda: wire.has(1), wire)
        wire.say()
        await heard(lambda: one.ears.heard.batches == 1 and one.shared.told.up, wire)
        server.stop()
        await heard(lambda: not one.shared.told.up, wire)
        for _ in range(20):
            wire.say()
        await heard(
            lambda: one.ears.index.sizes() == {POD: len(wire.engine.held)} and one.ears.heard.batches == 21, wire
        )
        two = Router(server.url)  # it starts without the store, from what the engine plays back
        two.hear(wire)
        await heard(lambda: two.rows == one.rows, wire)
        server.start()
        await heard(lambda: holds(server, one), wire)
        await heard(lambda: one.shared.told.up and two.shared.told.up, wire)
        assert holds(server, one)
        assert one.rows == two.rows
        wire.close()
        await one.close()
        await two.close()

    run(work)


@pytest.mark.integration
def test_what_one_router_just_sent_the_others_know(server: Server):
    async def work() -> None:
        one, two = Router(server.url), Router(server.url)
        two.ears.index.store(POD, [1], parent=None, token_ids=[1] * 4, block_tokens=4)
        await heard(lambda: server.client().pubsub_numsub("fleet:kv:sent")[0][1] == 2)
        one.shared.told.up = True
        one.shared.sent(POD, [11, 12, 13])
        await heard(lambda: two.speculation.match([11, 12, 99], now_s=time.monotonic()) == {POD: 2})
        assert len(one.speculation) == 0
        server.client().publish("fleet:kv:sent", b"nonsense")
        one.shared.sent(POD, [21] * 70_000)  # more than is told at once
        one.shared.sent(POD, [22])
        await heard(lambda: two.speculation.match([22], now_s=time.monotonic()))
        assert two.shared.told.heard == 2
        await one.close()
        await two.close()

    run(work)


def test_a_router_that_starts_does_not_wait_for_a_store_that_is_not_there():
    async def work() -> None:
        backend = Backend(f"redis://127.0.0.1:{free_ports()}/0", KVIndex(), Speculation())
        assert await asyncio.wait_for(backend.load(POD), 60) is None
        assert (backend.told.up, backend.told.errors) == (False, 1)
        await backend.close()

    run(work)


@pytest.mark.parametrize("url", ["localhost:6379", "http://x", "redis://h:port"])
def test_an_address_that_is_none(url: str):
    with pytest.raises(ConfigError):
        Backend(url, KVIndex(), Speculation())


def test_a_password_that_was_not_escaped_is_not_told():
    with pytest.raises(ConfigError, match="%23 and %40") as caught:
        Backend("redis://:S3cret#more@h:6379/0", KVIndex(), Speculation())
    assert "S3cret" not in str(caught.value)


# ---- the whole router


@pytest.mark.integration
def test_a_router_serves_with_the_store_and_without(either: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROUTER_KV_BACKEND", either.url)
    made = World(tmp_path)
    try:
        made.start_engines("--kv-events", f"tcp://*:{free_ports()}", "--kv-events-replay", "tcp://127.0.0.1:*", count=1)
        made.start_router("--kv-events", "auto")
        with made.client() as client:
            assert client.post("/v1/completions", json=body("shared by all " * 60)).status_code == 200
            pod = f"127.0.0.1:{made.engines[0].port}"
            until(lambda: len(stored(either, pod)[1]) > 10, "nothing was written")
            assert said(made.admin, "fleet_router_kv_backend_up") == 1
            assert said(made.admin, 'fleet_router_kv_backend_blocks_total{direction="written"}') > 10
            either.stop()
            until(lambda: said(made.admin, "fleet_router_kv_backend_up") == 0, "it does not say that it is alone")
            assert client.post("/v1/completions", json=body("shared by all " * 60)).status_code == 200
        assert httpx.get(f"{made.admin}/debug/decisions").json()[0]["matched_tokens"] > 100
        assert said(made.admin, "fleet_router_kv_backend_errors_total") >= 1
    finally:
        made.close()
