"""What the proxy refuses, and how: over real sockets."""

from __future__ import annotations

import asyncio
import json

import pytest

from fleet.discovery import static_fleet
from fleet.types import Variant, VariantSpec
from tests.router.dataplane_stubs import Engine, completion, get, hang, on_loop, routed, until

POST = b"POST /v1/completions HTTP/1.1\r\nHost: r\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: r\r\n\r\n"

CORPUS = {
    "length and chunked": (400, POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n"),
    "the same length twice": (400, POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n"),
    "a list of lengths": (400, POST + b"Content-Length: 0, 0\r\n\r\n"),
    "a length with a sign": (400, POST + b"Content-Length: +5\r\n\r\nhello"),
    "a negative length": (400, POST + b"Content-Length: -1\r\n\r\n"),
    "a hexadecimal length": (400, POST + b"Content-Length: 0x5\r\n\r\nhello"),
    "an empty length": (400, POST + b"Content-Length:\r\n\r\n"),
    "a length beyond 64 bits": (400, POST + b"Content-Length: 99999999999999999999\r\n\r\n"),
    "a folded header": (400, POST + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    "a folded transfer coding": (400, POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    "space before the first header": (400, b"POST / HTTP/1.1\r\n Host: r\r\n\r\n"),
    "space before a colon": (400, POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    "a vertical tab in a coding": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "an unknown coding": (501, POST + b"Transfer-Encoding: gzip\r\n\r\n"),
    "a coding before chunked": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "a coding after chunked": (400, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "almost chunked": (501, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "identity": (501, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "chunked in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a chunk size that is no number": (400, POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a chunk size with 0x": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n"),
    "a negative chunk size": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n"),
    "a chunk size beyond 64 bits": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\na\r\n"),
    "a chunk longer than it says": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n"),
    "a bare line feed after a chunk size": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n"),
    "a line feed in a chunk extension": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n"),
    "bare line feeds": (400, b"POST /v1/completions HTTP/1.1\nHost: r\nContent-Length: 0\n\n"),
    "a bare carriage return": (400, POST + b"X: a\rY: b\r\nContent-Length: 0\r\n\r\n"),
    "a NUL in a value": (400, POST + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n"),
    "an empty header name": (400, POST + b": a\r\nContent-Length: 0\r\n\r\n"),
    "no Host": (400, b"POST /v1/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
    "two Hosts": (400, POST + b"Host: other\r\nContent-Length: 0\r\n\r\n"),
    "CONNECT": (501, b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "an upgrade": (501, POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"),
    "an upgrade that Connection does not name": (501, POST + b"Upgrade: websocket\r\nContent-Length: 0\r\n\r\n"),
    "another expectation": (417, POST + b"Expect: 200-ok\r\nContent-Length: 0\r\n\r\n"),
    "HTTP/2.0 in the request line": (505, b"POST / HTTP/2.0\r\nHost: r\r\n\r\n"),
    "the HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "a space in the target": (400, b"GET /a b HTTP/1.1\r\nHost: r\r\n\r\n"),
    "a method in lower case": (400, b"get / HTTP/1.1\r\nHost: r\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
}


@pytest.mark.parametrize(("status", "wire"), CORPUS.values(), ids=CORPUS)
@on_loop
async def test_ambiguous_requests_are_refused_and_nothing_behind_them_is_read(status, wire):
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        answer = await client.ask(wire + SMUGGLED)
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert answer.error["message"]
        assert await client.ended()
        assert engine.requests == []


@on_loop
async def test_what_came_before_a_bad_request_is_still_answered():
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        client.send(completion() + POST + b"Content-Length: x\r\n\r\n")
        assert [(await client.answer()).status for _ in range(2)] == [200, 400]


@pytest.mark.parametrize(
    ("status", "wire"),
    [
        pytest.param(431, POST + b"X: " + b"a" * 5000 + b"\r\n\r\n", id="one long header"),
        pytest.param(431, POST + b"X: " + b"a" * 500_000, id="a header without end"),
        pytest.param(431, POST + b"a: b\r\n" * 60 + b"\r\n", id="many headers"),
        pytest.param(431, b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: r\r\n\r\n", id="a long target"),
        pytest.param(413, POST + b"Content-Length: 5000\r\n\r\n", id="a large body, before it is sent"),
        pytest.param(413, POST + b"Transfer-Encoding: chunked\r\n\r\n2000\r\n" + b"a" * 5000, id="a large chunk"),
        pytest.param(
            413, POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"e" * 200_000, id="an extension without end"
        ),
        pytest.param(
            431, POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"t: v\r\n" * 200 + b"\r\n", id="many trailers"
        ),
    ],
)
@on_loop
async def test_sizes_are_limited(status, wire):
    async with Engine() as engine, routed(engine, header_bytes=4096, header_count=50, body_bytes=4096) as router:
        client = await router.connect()
        answer = await client.ask(wire)
        assert answer.status == status
        assert await client.ended()
        assert engine.requests == []


@on_loop
async def test_all_bodies_together_are_limited():
    async with Engine() as engine, routed(engine, buffered_bytes=1 << 20) as router:
        clients = [await router.connect() for _ in range(4)]
        for client in clients:
            client.send(POST + b"Content-Length: 900000\r\n\r\n" + b"a" * 600_000)
        answer = await asyncio.wait_for(_first(clients), 60)
        assert answer.status == 503
        assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
        for client in clients:
            client.close()


async def _first(clients):
    done, rest = await asyncio.wait(
        [asyncio.ensure_future(client.answer()) for client in clients], return_when=asyncio.FIRST_COMPLETED
    )
    for task in rest:
        task.cancel()
    return done.pop().result()


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"POST /v1/comple", id="inside the request line"),
        pytest.param(POST + b"X: a", id="inside the headers"),
        pytest.param(POST + b"Content-Length: 10\r\n\r\nabc", id="inside the body"),
        pytest.param(POST + b"Content-Length: 10\r\n\r\n", id="before the body"),
    ],
)
@on_loop
async def test_a_request_that_stops_arriving_is_given_up(wire):
    async with Engine() as engine, routed(engine, header_s=0.1, body_s=0.1) as router:
        answer = await (await router.connect()).ask(wire)
        assert answer.status == 408


@on_loop
async def test_drops_of_a_header_do_not_buy_time():
    async with Engine() as engine, routed(engine, header_s=0.2) as router:
        client = await router.connect()
        client.send(POST)
        answer = asyncio.ensure_future(client.answer())
        while not answer.done():
            client.send(b"a: b\r\n")
            await asyncio.sleep(0.02)
        assert answer.result().status == 408


@on_loop
async def test_an_idle_connection_is_closed_quietly():
    async with Engine() as engine, routed(engine, idle_s=0.4) as router:
        for before in (b"", get(b"/health")):
            client = await router.connect()
            if before:
                assert (await client.ask(before)).status == 200
            assert await client.ended()


@on_loop
async def test_no_more_connections_than_allowed():
    async with Engine() as engine, routed(engine, connections=2) as router:
        clients = [await router.connect() for _ in range(2)]
        for client in clients:
            assert (await client.ask(get(b"/health"))).status == 200
        assert await (await router.connect()).ended()
        assert (await clients[0].ask(completion())).status == 200


@on_loop
async def test_no_more_requests_ahead_than_allowed():
    async with Engine() as engine, routed(engine, pipelined=4) as router:
        client = await router.connect()
        client.send(completion() * 10)
        statuses = [(await client.answer()).status for _ in range(5)]
        assert statuses == [200] * 4 + [429]
        assert len(engine.requests) == 4


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_body"),
        (b"{", "invalid_body"),
        (b"[1,2]", "invalid_body"),
        (b'{"model": 7}', "invalid_body"),
        (b'{"prompt": "x"}', "model_missing"),
        (b'{"model": ""}', "model_missing"),
        (b'{"model":"m","prompt":"\xff\xfe"}trailing', "invalid_body"),
        (b'{"model":"m","x":' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_body"),
    ],
)
@on_loop
async def test_a_body_that_cannot_be_routed_gives_400_and_keeps_the_connection(body, code):
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        answer = await client.ask(completion(body=body))
        assert (answer.status, answer.error["code"]) == (400, code)
        assert answer.headers["content-type"] == "application/json"
        assert (await client.ask(completion())).status == 200
        assert len(engine.requests) == 1


@on_loop
async def test_an_unknown_model_gives_404():
    async with Engine() as engine, routed(engine) as router:
        answer = await (await router.connect()).ask(completion(model="nobody/serves-this"))
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert "nobody/serves-this" in answer.error["message"]
        assert router.outcomes == ["rejected"]
        assert "nobody/serves-this" not in router.gateway.director.metrics.models()


@on_loop
async def test_a_model_whose_engines_are_not_ready_gives_503_not_404():
    async with Engine() as engine, routed(engine, flow_no_engine_s=0) as router:
        router.gateway.director.endpoints.update((*static_fleet([engine.url], model="m"), _no_replicas("other")))
        answer = await (await router.connect()).ask(completion(model="other"))
        assert (answer.status, answer.error["code"]) == (503, "no_ready")
        assert router.gateway.director.metrics.models()["other"].shed == {"no_ready": 1}


def _no_replicas(model: str) -> Variant:
    return Variant(spec=VariantSpec(name=model, model=model, accelerator="h100_sxm"), requested=0)


@on_loop
async def test_without_engines_the_client_is_told_why_and_when_to_try_again():
    async with routed() as router:
        client = await router.connect()
        answer = await client.ask(completion())
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
        assert (answer.error["type"], answer.error["code"]) == ("server_error", "no_endpoints")
        assert (await client.ask(completion())).status == 503, "the connection stays"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        (b"GET", b"/", 404),
        (b"GET", b"/metrics", 404),
        (b"POST", b"/metrics", 404),
        (b"GET", b"/v1/completions", 405),
        (b"POST", b"/v1/models", 405),
        (b"DELETE", b"/health", 405),
        (b"POST", b"/v1/../metrics", 404),
        (b"POST", b"/v1/%2e%2e/metrics", 404),
        (b"POST", b"/v1//completions", 404),
        (b"POST", b"/v1/completions/../../sleep", 404),
        (b"POST", b"/v1/load_lora_adapter", 404),
        (b"POST", b"/v1/unload_lora_adapter", 404),
        (b"OPTIONS", b"*", 400),
        (b"GET", b"ftp://host/v1/models", 400),
        (b"GET", b"http://host/health", 200),
        (b"GET", b"/healthz", 200),
    ],
)
@on_loop
async def test_paths(method, path, status):
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        body = b'{"model":"m"}'
        request = b"%b %b HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (method, path, len(body), body)
        answer = await client.ask(request)
        assert answer.status == status
        if status >= 400:
            assert answer.error["message"]
        assert engine.requests == []


@on_loop
async def test_models_of_all_engines_are_listed_once():
    async with Engine() as one, Engine() as two, routed(one, two) as router:
        first, second = router.gateway.director.endpoints.ready
        first.model_entries = [{"id": "a", "max_model_len": 10}, {"id": "b"}]
        second.model_entries = [{"id": "a", "max_model_len": 99}, {"id": "c"}]
        first.models = second.models = frozenset()
        answer = await (await router.connect()).ask(get(b"/v1/models"))
        data = json.loads(answer.body)["data"]
        assert [entry["id"] for entry in data] == ["a", "b", "c"]
        assert data[0]["max_model_len"] == 10


@on_loop
async def test_a_stop_lets_requests_in_flight_finish_and_takes_no_more():
    gate = asyncio.Event()

    async def script(engine, request, writer):
        await gate.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with Engine(script) as engine, routed(engine) as router:
        busy, idle = await router.connect(), await router.connect()
        assert (await idle.ask(get(b"/health"))).status == 200
        busy.send(completion() + completion())
        await until(lambda: engine.requests)
        router.gateway.drain()
        assert await idle.ended()
        gate.set()
        answer = await busy.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await busy.ended()
        assert len(engine.requests) == 1


@on_loop
async def test_an_abort_closes_everything_and_books_it():
    async with Engine(hang) as engine, routed(engine) as router:
        client = await router.connect()
        client.send(completion())
        await until(lambda: engine.requests)
        router.gateway.abort()
        assert await client.ended()
        assert router.outcomes == ["aborted"]
