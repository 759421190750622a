"""Flow control and tenants over real sockets."""

from __future__ import annotations

import asyncio
import time

import pytest

from fleet.discovery import static_fleet
from fleet.types import EngineSample, Variant, VariantSpec
from router.dataplane.replies import REASON_HEADER
from router.tenants import hashed, parse_tenants
from tests.router.dataplane_stubs import Engine, completion, events, get, on_loop, plain, routed, until

KEY = "sk-fleet-secret"


def held(gate):
    """A script that answers when ``gate`` is set."""

    async def script(engine, request, writer):
        await gate.wait()
        await plain(engine, request, writer)

    return script


async def fill(router, count):
    """Requests of as many clients, come in in this order."""
    clients = [await router.connect() for _ in range(count)]
    for number, client in enumerate(clients, 1):
        client.send(completion())
        await come(router, number)
    return clients


async def come(router, count):
    """Wait until the router has taken in so many requests, wherever they went."""
    models = router.gateway.director.metrics.models
    await until(lambda: sum(one.running + one.requests for one in models().values()) >= count)


@on_loop
async def test_beyond_what_engines_take_requests_wait_and_go_on_as_others_end():
    gate = asyncio.Event()
    async with Engine(held(gate)) as engine, routed(engine, flow_in_flight=2) as router:
        clients = await fill(router, 5)
        await until(lambda: router.gateway.director.gate.lengths == {"m": 3})
        assert len(engine.requests) == 2
        gate.set()
        assert [(await client.answer()).status for client in clients] == [200] * 5
        assert router.gateway.director.gate.lengths == {}
        assert router.gateway.director.metrics.flow.outcomes == {"dispatched": 3}


@on_loop
async def test_a_scraped_queue_holds_requests_until_the_next_scrape_says_it_is_short():
    async with Engine() as engine, routed(engine, flow_queue_depth=4) as router:
        director = router.gateway.director
        (endpoint,) = director.endpoints.ready

        def scrape(waiting):
            endpoint.sample = EngineSample(at_s=time.time(), waiting=waiting, running=8.0)
            endpoint.sampled_s = time.monotonic()
            director.sampled(endpoint)

        scrape(4.0)
        client = await router.connect()
        client.send(completion())
        await until(lambda: director.gate.lengths == {"m": 1})
        scrape(1.0)
        assert (await client.answer()).status == 200
        assert (await client.ask(completion())).status == 200


@on_loop
async def test_a_stale_scrape_holds_nothing_back():
    async with Engine() as engine, routed(engine, flow_queue_depth=4, flow_stale_s=0.05) as router:
        (endpoint,) = router.gateway.director.endpoints.ready
        endpoint.sample = EngineSample(at_s=0.0, waiting=100.0, running=8.0)
        endpoint.sampled_s = time.monotonic() - 1.0
        router.gateway.director.gate.sampled(endpoint)
        assert (await (await router.connect()).ask(completion())).status == 200


@on_loop
async def test_a_full_queue_and_a_wait_too_long_are_refused_with_reason_and_time():
    gate = asyncio.Event()
    settings = {"flow_in_flight": 1, "flow_requests": 1, "flow_wait_s": 1.0}
    async with Engine(held(gate)) as engine, routed(engine, **settings) as router:
        first, second, third = await fill(router, 3)
        refused = await third.answer()
        assert (refused.status, refused.headers[REASON_HEADER]) == (429, "rejected-saturated")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        late = await second.answer()
        assert (late.status, late.headers[REASON_HEADER]) == (429, "rejected-ttl-expired")
        gate.set()
        assert (await first.answer()).status == 200
        shed = router.gateway.director.metrics.models()["m"].shed
        assert shed == {"rejected-saturated": 1, "rejected-ttl-expired": 1}


@on_loop
async def test_a_client_that_leaves_leaves_the_queue():
    gate = asyncio.Event()
    async with Engine(held(gate)) as engine, routed(engine, flow_in_flight=1) as router:
        first, second, third = await fill(router, 3)
        second.close()
        await until(lambda: router.gateway.director.gate.lengths == {"m": 1})
        gate.set()
        assert (await first.answer()).status == (await third.answer()).status == 200
        assert len(engine.requests) == 2
        await until(lambda: "aborted" in router.outcomes)


def no_replicas():
    return Variant(spec=VariantSpec(name="m", model="m", accelerator="h100_sxm"), requested=0)


@on_loop
async def test_a_model_without_an_engine_is_waited_for():
    async with Engine() as engine, routed() as router:
        director = router.gateway.director
        director.endpoints.update([no_replicas()])
        client = await router.connect()
        client.send(completion())
        await until(lambda: director.gate.lengths == {"m": 1})
        director.endpoints.update(static_fleet([engine.url], model="m"))
        assert (await client.answer()).status == 200


@on_loop
async def test_a_model_whose_engine_never_comes_is_503():
    async with routed(flow_no_engine_s=0.1) as router:
        router.gateway.director.endpoints.update([no_replicas()])
        answer = await (await router.connect()).ask(completion())
        assert (answer.status, answer.headers[REASON_HEADER]) == (503, "rejected-no-endpoints")


@on_loop
async def test_a_stop_lets_those_that_wait_go_with_a_reason():
    gate = asyncio.Event()
    async with Engine(held(gate)) as engine, routed(engine, flow_in_flight=1) as router:
        first, second = await fill(router, 2)
        await until(lambda: router.gateway.director.gate.lengths == {"m": 1})
        router.gateway.drain()
        answer = await second.answer()
        assert (answer.status, answer.headers[REASON_HEADER]) == (503, "rejected-shutting-down")
        gate.set()
        assert (await first.answer()).status == 200


@on_loop
async def test_a_tenant_that_sends_much_does_not_starve_another():
    gate, order = asyncio.Event(), []

    async def script(engine, request, writer):
        await gate.wait()
        order.append(request.headers["x-who"])
        await plain(engine, request, writer)

    async with Engine(script) as engine, routed(engine, flow_in_flight=1) as router:
        clients = []
        for who in ("a", *"aaaaaa", "b", "b"):
            client = await router.connect()
            client.send(completion(b"x-who: " + who.encode(), b"x-llm-d-inference-fairness-id: " + who.encode()))
            clients.append(client)
            await come(router, len(clients))
        gate.set()
        for client in clients:
            assert (await client.answer()).status == 200
        assert max(order.index("b"), len(order) - 1 - order[::-1].index("b")) <= 5


# Tenants.


def tenants(**limits):
    extra = "".join(f"\n    {name}: {value}" for name, value in limits.items())
    return f'tenants:\n  - name: search\n    keys: ["{hashed(KEY.encode())}"]{extra}\n'


def with_tenants(router, tmp_path, text):
    router.gateway.director.tenants = parse_tenants(text)


def auth(key=KEY):
    return b"Authorization: Bearer " + key.encode()


@pytest.fixture
def on_file(tmp_path):
    path = tmp_path / "tenants.yaml"
    path.write_text(tenants())
    return path


@on_loop
async def test_without_a_key_nothing_but_health_is_answered(on_file):
    async with Engine() as engine, routed(engine, tenants=on_file) as router:
        with_tenants(router, on_file, tenants())
        client = await router.connect()
        for request in (completion(), completion(auth("sk-other")), get(b"/v1/models"), get(b"/nothing")):
            answer = await client.ask(request)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await client.ask(get(b"/health"))).status == 200
        assert (await client.ask(completion(auth()))).status == 200
        assert [ticket.tenant for ticket, _ in router.records] == ["search"]


@on_loop
async def test_a_key_goes_no_further_than_the_router(on_file):
    async with Engine() as engine, routed(engine, tenants=on_file, engine_api_key="for-engines") as router:
        with_tenants(router, on_file, tenants())
        client = await router.connect()
        for _ in range(2):  # parsed, and remembered
            await client.ask(completion(auth()))
        assert all(KEY.encode() not in request.raw_head for request in engine.requests)
        assert [request.headers["authorization"] for request in engine.requests] == ["Bearer for-engines"] * 2


@on_loop
async def test_two_credentials_are_refused(on_file):
    async with Engine() as engine, routed(engine, tenants=on_file) as router:
        with_tenants(router, on_file, tenants())
        assert (await (await router.connect()).ask(completion(auth(), auth("sk-other")))).status == 400
        assert not engine.requests


@pytest.mark.parametrize(
    ("limits", "granted"),
    [
        pytest.param({"requestsPerMinute": 2}, 2, id="requests"),
        pytest.param({"tokensPerMinute": 7}, 2, id="tokens-of-prompt-and-answer"),
        pytest.param({"models": "[other]"}, 0, id="another-model"),
    ],
)
def test_limits_of_a_tenant(limits, granted, on_file):
    @on_loop
    async def check():
        async with Engine() as engine, routed(engine, tenants=on_file) as router:
            with_tenants(router, on_file, tenants(**limits))
            client = await router.connect()
            answers = [await client.ask(completion(auth())) for _ in range(4)]
            good = [answer for answer in answers if answer.status == 200]
            assert len(good) == granted == len(engine.requests)
            for answer in answers[granted:]:
                if "models" in limits:
                    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
                else:
                    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
                    assert int(answer.headers["retry-after"]) >= 1
            (tenant,) = router.gateway.director.tenants.all
            assert tenant.in_flight == 0

    check()


@on_loop
async def test_requests_in_flight_of_a_tenant_are_limited_and_released(on_file):
    async with Engine(events(b"data: {}\n\n", end=False), plain) as engine, routed(engine, tenants=on_file) as router:
        with_tenants(router, on_file, tenants(maxInFlight=1))
        one, two = await router.connect(), await router.connect()
        one.send(completion(auth(), stream=True))
        await until(lambda: engine.requests)
        assert (await two.ask(completion(auth()))).status == 429
        one.close()
        await router.settled()
        assert (await two.ask(completion(auth()))).status == 200
