"""The proxy over real sockets when engines and clients misbehave."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.router.dataplane_stubs import Engine, completion, die, events, hang, on_loop, plain, raw, routed, until

EVENT = b'data: {"choices":[{"text":"x"}]}\n\n'


def refused_url() -> str:
    """An address where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


@on_loop
async def test_an_idle_connection_that_the_engine_closed_is_not_used_again():
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        assert (await client.ask(completion())).status == 200
        engine.writers[0].close()
        await until(lambda: not router.gateway.pool(engine.url).idle)
        assert (await client.ask(completion())).status == 200
        assert engine.connections == 2


@on_loop
async def test_losing_the_race_with_an_engine_that_closes_costs_nothing():
    async with Engine(plain, die, plain) as engine, routed(engine, retries=0) as router:
        client = await router.connect()
        assert (await client.ask(completion())).status == 200
        assert (await client.ask(completion())).status == 200  # its connection died under it: asked again on a new one
        assert engine.connections == 2
        assert router.outcomes == ["ok", "ok"]


@on_loop
async def test_idle_connections_grow_old():
    async with Engine() as engine, routed(engine, pool_idle_s=0.05) as router:
        client = await router.connect()
        await client.ask(completion())
        await until(lambda: not router.gateway.pool(engine.url).open)
        assert (await client.ask(completion())).status == 200
        assert engine.connections == 2


@on_loop
async def test_no_connection_is_kept_when_the_pool_is_switched_off():
    async with Engine() as engine, routed(engine, pool_idle=0) as router:
        client = await router.connect()
        for _ in range(3):
            assert (await client.ask(completion())).status == 200
        assert engine.connections == 3


@on_loop
async def test_an_engine_that_refuses_connections_is_left_out_and_another_answers():
    dead = refused_url()
    async with Engine() as engine, routed(dead, engine) as router:
        client = await router.connect()
        assert [(await client.ask(completion(prompt=f"{n}"))).status for n in range(12)] == [200] * 12
        endpoint = router.gateway.director.endpoints.get(dead)
        assert endpoint.ejections == 1
        assert endpoint.ejected(router.gateway.now_s)
        assert router.outcomes == ["ok"] * 12
        assert all(ticket.pick.endpoint.url == engine.url for ticket, _ in router.records)


@on_loop
async def test_an_engine_that_dies_before_it_answers_is_replaced_by_another():
    async with Engine(die) as bad, Engine() as good, routed(bad, good) as router:
        client = await router.connect()
        answers = [await client.ask(completion(prompt=f"{n}")) for n in range(12)]
        assert {answer.status for answer in answers} == {200}
        assert bad.requests, "the bad one was never picked: the test shows nothing"
        assert router.gateway.director.ledger.of(bad.url).requests_in_flight == 0


@on_loop
async def test_requests_in_flight_at_an_engine_that_is_killed_before_headers_finish_elsewhere():
    async with Engine(hang) as bad, Engine() as good, routed(bad, good) as router:
        clients = [await router.connect() for _ in range(20)]
        for number, client in enumerate(clients):
            client.send(completion(prompt=f"{number}"))
        await until(lambda: len(bad.requests) + len(good.requests) >= 20)
        for writer in bad.writers:
            writer.transport.abort()
        bad.scripts = [die]
        assert [(await client.answer()).status for client in clients] == [200] * 20
        assert bad.requests


@pytest.mark.parametrize("count", [1, 2])
@on_loop
async def test_when_every_engine_fails_the_client_is_told_so(count):
    urls = [refused_url() for _ in range(count)]
    async with routed(*urls) as router:
        client = await router.connect()
        answer = await client.ask(completion())
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
        assert answer.error["code"] == "engines_failed"
        assert router.outcomes == ["error"]


@on_loop
async def test_retries_stay_inside_their_budget():
    async with (
        Engine(die) as one,
        Engine(die) as two,
        Engine(die) as three,
        routed(one, two, three, retry_burst=3, retry_ratio=0.0) as router,
    ):
        for number in range(10):
            client = await router.connect()
            assert (await client.ask(completion(prompt=f"{number}"))).status in (502, 503)
        sent = sum(len(engine.requests) for engine in (one, two, three))
        assert sent == 10 + 3


@on_loop
async def test_an_engine_that_dies_mid_stream_is_seen_as_a_truncated_answer():
    async def script(_engine, _request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    async with Engine(script) as bad, Engine(script) as other, routed(bad, other) as router:
        client = await router.connect()
        answer = await client.ask(completion(stream=True))
        assert answer.status == 200
        assert not answer.complete
        assert await client.ended()
        assert router.outcomes == ["error"]
        ticket, seen = router.records[0]
        assert (ticket.status, seen.output_tokens) == (502, 1)
        assert len(bad.requests) + len(other.requests) == 1, "a request that had begun to answer was sent again"


@on_loop
async def test_a_body_shorter_than_promised_is_seen_as_truncated():
    short = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", close=True)
    async with Engine(short) as engine, routed(engine) as router:
        client = await router.connect()
        assert not (await client.ask(completion())).complete
        assert router.outcomes == ["error"]


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"hello there\r\n\r\n", id="no HTTP at all"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", id="two framings"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", id="a protocol switch"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000, id="a head without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nzz", id="an unknown coding"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300, id="too many headers"),
    ],
)
@on_loop
async def test_an_engine_that_answers_garbage_gives_502(garbage):
    async with Engine(raw(garbage)) as engine, routed(engine) as router:
        client = await router.connect()
        answer = await client.ask(completion())
        assert (answer.status, answer.error["code"]) == (502, "engine_failed")
        assert (await client.ask(completion())).status == 502


@pytest.mark.parametrize(
    "surplus", [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother", b"junk"], ids=["a second answer", "junk"]
)
@on_loop
async def test_surplus_bytes_never_become_the_next_clients_answer(surplus):
    script = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" + surplus)
    async with Engine(script) as engine, routed(engine, retries=0) as router:
        for _ in range(3):
            client = await router.connect()
            answer = await client.ask(completion())
            assert b"other" not in answer.body
            assert answer.status == 502
        assert router.gateway.pool(engine.url).idle == 0


@on_loop
async def test_bytes_on_an_idle_connection_close_it():
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        await client.ask(completion())
        engine.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        await until(lambda: not router.gateway.pool(engine.url).open)
        assert (await client.ask(completion())).status == 200


@on_loop
async def test_a_silent_engine_times_out():
    async with Engine(hang) as engine, routed(engine, response_s=0.1) as router:
        client = await router.connect()
        answer = await client.ask(completion())
        assert (answer.status, answer.error["code"]) == (504, "engine_timeout")
        assert router.outcomes == ["timeout"]
        await until(lambda: engine.closed)


@on_loop
async def test_an_engine_that_falls_silent_mid_stream_times_out_visibly():
    async with Engine(events(EVENT, end=False)) as engine, routed(engine, response_s=0.1) as router:
        client = await router.connect()
        assert not (await client.ask(completion(stream=True))).complete
        assert router.outcomes == ["timeout"]


@pytest.mark.parametrize(
    "script", [hang, events(EVENT, end=False)], ids=["before headers (non-streaming too)", "mid-stream"]
)
@on_loop
async def test_a_client_that_leaves_cancels_the_engines_work(script):
    async with Engine(script) as engine, routed(engine) as router:
        client = await router.connect()
        client.send(completion())
        await until(lambda: engine.requests)
        assert router.gateway.director.ledger.of(engine.url).requests_in_flight == 1
        client.close()
        await until(lambda: engine.closed)
        await router.settled()
        assert router.outcomes == ["aborted"]


@on_loop
async def test_a_client_that_half_closes_counts_as_gone():
    async with Engine(hang) as engine, routed(engine) as router:
        client = await router.connect()
        client.send(completion())
        await until(lambda: engine.requests)
        client.writer.write_eof()
        await until(lambda: engine.closed)
        assert router.outcomes == ["aborted"]


@on_loop
async def test_a_client_that_leaves_while_a_connection_is_opened_leaves_nothing_behind():
    async with Engine() as engine, routed(engine) as router:
        for _ in range(20):
            client = await router.connect()
            client.send(completion())
            await asyncio.sleep(0)
            client.close()
        await asyncio.sleep(0.1)
        await router.settled()
        assert len(router.gateway.clients) == 0


@on_loop
async def test_a_thousand_cancellations_leave_nothing_in_flight():
    scripts = [events(EVENT, EVENT, end=False)]
    async with Engine(*scripts) as one, Engine(*scripts) as two, routed(one, two) as router:
        for turn in range(20):
            clients = [await router.connect() for _ in range(50)]
            for number, client in enumerate(clients):
                client.send(completion(prompt="p" * number, stream=True))
            if turn % 2:  # every other time the engines have the requests already
                await until(lambda: len(router.gateway.director.ledger) == 50)
            for client in clients:
                client.close()
            await until(lambda: not router.gateway.clients)
        await router.settled()
        assert len(router.outcomes) == 1000
        loads = [router.gateway.director.ledger.of(engine.url) for engine in (one, two)]
        assert all(tuple(load) == (0, 0, 0) for load in loads)
        assert set(router.outcomes) <= {"aborted"}
        await until(lambda: one.closed + two.closed >= one.connections + two.connections)


@on_loop
async def test_a_client_that_reads_nothing_is_dropped():
    piece = b"data: " + b"z" * (1 << 20) + b"\n\n"
    async with Engine(events(*[piece] * 40)) as engine, routed(engine, stall_s=0.3) as router:
        client = await router.connect()
        client.send(completion(stream=True))
        await until(lambda: router.records)
        assert router.outcomes == ["aborted"]


@on_loop
async def test_a_slow_client_is_no_silent_engine():
    piece = b"data: " + b"z" * (1 << 20) + b"\n\n"
    async with Engine(events(*[piece] * 40)) as engine, routed(engine, response_s=2.0) as router:
        client = await router.connect()
        client.send(completion(stream=True))
        await asyncio.sleep(4.0)
        answer = await client.answer()
        assert answer.complete
        assert len(answer.body) == 40 * len(piece)


@on_loop
async def test_an_engine_that_went_away_is_forgotten_while_its_last_answer_goes_on():
    gate = asyncio.Event()

    async def script(_engine, _request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        await gate.wait()
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT))

    async with Engine(script) as engine, routed(engine) as router:
        client = await router.connect()
        client.send(completion(stream=True))
        await client.reader.readuntil(b"\r\n\r\n")
        router.gateway.director.endpoints.update(())
        router.gateway.gone(engine.url)
        gate.set()
        assert (await client._body({"transfer-encoding": "chunked"})) == EVENT * 2
        await router.settled()
        assert router.outcomes == ["ok"]
        assert (await client.ask(completion())).status == 503
