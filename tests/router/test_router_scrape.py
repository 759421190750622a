"""What the router learns of engines: from the platform, from their pages, from failures."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from fleet.discovery import static_fleet, variant_to_json
from fleet.errors import SourceError
from fleet.types import Replica, ReplicaState, Variant, VariantSpec
from router.discovery.follow import Follower, HttpPlatform
from router.endpoints import EndpointSet
from router.scrape import Scraper
from tests.router.dataplane_stubs import Engine, on_loop, raw, until

URL = "http://127.0.0.1:9"
PAGE = (
    b'vllm:num_requests_waiting{model_name="m"} 3\nvllm:num_requests_running{model_name="m"} 2\n'
    b'vllm:kv_cache_usage_perc{model_name="m"} 0.5\n'
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1\n'
)


class Clock:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def fleet(
    *states: ReplicaState, names: str = "r", urls: str = "http://127.0.0.1:", since_s: float = 0.0
) -> tuple[Variant, ...]:
    replicas = tuple(
        Replica(
            name=f"{names}{number}",
            url=urls if urls[-1] != ":" else f"{urls}{number}",
            variant="v",
            state=state,
            since_s=since_s,
        )
        for number, state in enumerate(states, start=1)
    )
    spec = VariantSpec(name="v", model="org/m", accelerator="h100_sxm")
    return (Variant(spec=spec, requested=len(states), replicas=replicas),)


def page(body: bytes, *, status: int = 200):
    """A script that answers ``body``."""
    return raw(b"HTTP/1.1 %d X\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))


def pages(**by_path):
    """A script that answers by path."""

    async def script(engine, request, writer):
        name = request.line.split(" ")[1].rsplit("/", 1)[1]
        await by_path[name](engine, request, writer)

    return script


def models(*names: str):
    body = json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()
    return raw(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


@pytest.mark.parametrize(
    ("state", "candidate"),
    [
        (ReplicaState.READY, True),
        (ReplicaState.STARTING, False),
        (ReplicaState.STOPPING, False),
        (ReplicaState.FAILED, False),
    ],
)
def test_only_ready_replicas_get_requests(state, candidate):
    endpoints = EndpointSet(clock=Clock())
    endpoints.update(fleet(state))
    assert bool(endpoints.candidates()) is candidate


def test_a_replica_that_starts_to_stop_gets_no_more_and_is_forgotten_when_gone():
    gone = []
    endpoints = EndpointSet(clock=Clock(), on_gone=gone.append)
    endpoints.update(fleet(ReplicaState.READY, ReplicaState.READY))
    first, second = endpoints.candidates()
    endpoints.update(fleet(ReplicaState.READY, ReplicaState.STOPPING))
    assert list(endpoints.candidates()) == [first]
    assert second.scraped
    endpoints.update(fleet(ReplicaState.READY))
    assert gone == [second.url]
    assert endpoints.get(second.url) is None


def test_another_replica_at_an_old_address_is_a_stranger():
    gone = []
    endpoints = EndpointSet(clock=Clock(), on_gone=gone.append)
    endpoints.update(fleet(ReplicaState.READY))
    before = endpoints.candidates()[0]
    endpoints.update(fleet(ReplicaState.READY, names="new"))
    assert endpoints.candidates()[0] is not before
    assert gone == [before.url]


def test_a_replica_that_becomes_ready_again_has_lost_its_cache():
    endpoints, restarted = EndpointSet(clock=Clock()), []
    endpoints.on_restart = restarted.append
    endpoints.update(fleet(ReplicaState.READY, since_s=1.0))
    endpoints.update(fleet(ReplicaState.READY, since_s=1.0))
    assert restarted == []
    endpoints.update(fleet(ReplicaState.STARTING, since_s=2.0))
    endpoints.update(fleet(ReplicaState.READY, since_s=3.0))
    assert restarted == ["http://127.0.0.1:1"]


@on_loop
async def test_an_engine_whose_totals_fell_has_lost_its_cache():
    totals = [page(PAGE + b"vllm:prompt_tokens_total %d\n" % total) for total in (500, 600, 20)]
    async with Engine(*totals) as engine, aiohttp.ClientSession() as session:
        endpoints, restarted = EndpointSet(clock=Clock()), []
        endpoints.on_restart = restarted.append
        endpoints.update(static_fleet([engine.url]))
        scraper = Scraper(endpoints, every_s=1, models_s=30, clock=Clock())
        for expected in ([], [], [engine.url]):
            await scraper.metrics(endpoints.ready[0], session)
            assert restarted == expected


@pytest.mark.parametrize("url", ["http://h:99999", "http://h:x", "http://:80", "ftp://h", "h:80"])
def test_an_address_that_cannot_be_one_changes_nothing(url):
    endpoints = EndpointSet(clock=Clock())
    endpoints.update(fleet(ReplicaState.READY))
    with pytest.raises(SourceError, match="no engine URL"):
        endpoints.update(fleet(ReplicaState.READY, ReplicaState.READY, urls=url))
    assert len(endpoints.ready) == 1


def test_what_the_platform_says_of_models_holds_until_the_engine_says():
    endpoints = EndpointSet(clock=Clock())
    endpoints.update(fleet(ReplicaState.READY))
    assert endpoints.known_models() == {"org/m"}


def test_an_unreachable_engine_comes_back_after_its_time_and_a_later_scrape():
    clock = Clock()
    endpoints = EndpointSet(clock=clock)
    endpoints.update(fleet(ReplicaState.READY, ReplicaState.READY))
    bad, good = endpoints.candidates()
    endpoints.unreachable(bad.url, "refused", for_s=2.0)
    assert list(endpoints.candidates()) == [good]
    bad.reached(started_s=clock.now_s - 0.5)  # that scrape began before the failure
    clock.now_s += 1.0
    bad.reached(started_s=clock.now_s)  # and that one inside the time out
    assert list(endpoints.candidates()) == [good]
    clock.now_s += 1.5
    assert list(endpoints.candidates()) == [good], "no scrape has succeeded since"
    bad.reached(started_s=clock.now_s)
    assert list(endpoints.candidates()) == [bad, good]


def test_an_engine_without_metrics_is_tried_again_all_the_same():
    clock = Clock()
    endpoints = EndpointSet(clock=clock)
    endpoints.update(fleet(ReplicaState.READY, ReplicaState.READY))
    bad, good = endpoints.candidates()
    endpoints.unreachable(bad.url, "refused", for_s=2.0)
    clock.now_s += 33.0
    assert list(endpoints.candidates()) == [bad, good]


def test_when_all_are_left_out_all_are_tried():
    endpoints = EndpointSet(clock=Clock())
    endpoints.update(fleet(ReplicaState.READY, ReplicaState.READY))
    for endpoint in endpoints.ready:
        endpoints.unreachable(endpoint.url, "refused", for_s=2.0)
    assert len(endpoints.candidates()) == 2
    assert len(endpoints.candidates({endpoints.ready[0].url})) == 1


@on_loop
async def test_a_scrape_fills_the_sample_and_the_models():
    async with Engine(pages(metrics=page(PAGE), models=models("m", "lora-a"))) as engine:
        endpoints, seen = EndpointSet(clock=Clock()), []
        endpoints.update(static_fleet([engine.url]))
        scraper = Scraper(endpoints, every_s=0.02, models_s=30, clock=Clock(), on_sample=seen.append)
        async with aiohttp.ClientSession() as session:
            scraper.start(session)
            (endpoint,) = endpoints.ready
            await until(lambda: endpoint.sample and endpoint.models)
            scraper.stop()
        assert (endpoint.sample.waiting, endpoint.sample.running) == (3, 2)
        assert endpoint.sample.kv_capacity_tokens == 1600
        assert endpoint.models == {"m", "lora-a"}
        assert [entry["id"] for entry in endpoint.model_entries] == ["m", "lora-a"]
        assert seen[0] is endpoint
        assert sum(request.line.startswith("GET /v1/models") for request in engine.requests) == 1


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(page(b"not found", status=404), id="no such page"),
        pytest.param(page(b"some text 1\n"), id="a page of something else"),
        pytest.param(raw(b"garbage\r\n\r\n", close=True), id="no HTTP"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nshort", close=True), id="a page cut short"),
    ],
)
@on_loop
async def test_an_engine_that_says_nothing_useful_stays_unknown_not_idle(script):
    async with Engine(script) as engine:
        endpoints = EndpointSet(clock=Clock())
        endpoints.update(static_fleet([engine.url], model="m"))
        scraper = Scraper(endpoints, every_s=0.02, models_s=30, clock=Clock())
        (endpoint,) = endpoints.ready
        async with aiohttp.ClientSession() as session:
            await scraper.metrics(endpoint, session)
            assert await scraper.models(endpoint, session) is False
        assert endpoint.sample is None
        assert endpoint.models == {"m"}
        assert endpoint.last_error


@on_loop
async def test_new_engines_are_scraped_and_gone_ones_are_not():
    async with Engine(pages(metrics=page(PAGE), models=models("m"))) as one, Engine(page(PAGE)) as two:
        endpoints = EndpointSet(clock=Clock())
        endpoints.update(static_fleet([one.url]))
        scraper = Scraper(endpoints, every_s=0.01, models_s=30, clock=Clock())
        async with aiohttp.ClientSession() as session:
            scraper.start(session)
            await until(lambda: one.requests)
            endpoints.update(static_fleet([two.url], variant="other"))
            await until(lambda: two.requests)
            await asyncio.sleep(0.05)
            count = len(one.requests)
            await asyncio.sleep(0.1)
            assert len(one.requests) == count
            scraper.stop()


@on_loop
async def test_the_platform_is_followed_and_its_silence_changes_nothing(caplog):
    documents = [json.dumps({"variants": [variant_to_json(variant) for variant in fleet(ReplicaState.READY)]}).encode()]

    async def script(_engine, _request, writer):
        body = documents[-1]
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )

    endpoints = EndpointSet(clock=Clock())
    async with Engine(script) as platform:
        watcher = Follower(HttpPlatform(platform.url), endpoints, every_s=0.01)
        await watcher.look()
        assert len(endpoints.ready) == 1
        documents.append(b'{"nonsense": 1}')
        await watcher.look()
        assert len(endpoints.ready) == 1
        assert "no fleet document" in watcher.error
        documents.append(b'{"variants": []}')
        await watcher.look()
        assert len(endpoints.ready) == 0
        assert watcher.error == ""
        documents.append(documents[0])
        await watcher.look()
    for _ in range(3):
        await watcher.look()
    await watcher.source.close()
    assert len(endpoints.ready) == 1
    said = [record for record in caplog.records if "does not say" in record.message]
    assert len(said) == 2, "each silence is said once"
