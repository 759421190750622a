"""The proxy over real sockets when everybody behaves."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.router.dataplane_stubs import Engine, completion, events, get, on_loop, plain, raw, routed, until

CHUNKS = [b'data: {"choices":[{"text":"%d"}]}\n\n' % number for number in range(5)]
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"


@on_loop
async def test_a_completion_passes_unchanged_both_ways():
    body = b'{ "model":"m",\t"prompt" : "h\\u00e9llo", "x": [1,2] }'
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        answer = await client.ask(completion(body=body))
        assert answer.status == 200
        assert json.loads(answer.body)["usage"]["completion_tokens"] == 3
        assert engine.requests[0].body == body
        assert engine.requests[0].line == "POST /v1/completions HTTP/1.1"
        assert router.outcomes == ["ok"]
        assert router.records[0][1].output_tokens == 3


@on_loop
async def test_a_stream_passes_byte_for_byte_and_each_piece_at_once():
    gate = asyncio.Event()

    async def script(_engine, _request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(CHUNKS[0]), CHUNKS[0]))
        await gate.wait()  # nothing more comes until the client has the first piece
        rest = b"".join(CHUNKS[1:]) + USAGE + DONE
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))

    async with Engine(script) as engine, routed(engine) as router:
        client = await router.connect()
        client.send(completion(stream=True))
        await client.reader.readuntil(b"\r\n\r\n")
        first = await client.reader.readuntil(CHUNKS[0] + b"\r\n")
        assert first == b"%x\r\n%b\r\n" % (len(CHUNKS[0]), CHUNKS[0])
        assert router.gateway.director.ledger.of(engine.url).prefill_tokens_in_flight == 0
        assert router.gateway.director.ledger.of(engine.url).requests_in_flight == 1
        gate.set()
        assert await client._body({"transfer-encoding": "chunked"}) == b"".join(CHUNKS[1:]) + USAGE + DONE
        await router.settled()
        ticket, seen = router.records[0]
        assert (seen.output_tokens, seen.usage.prompt_tokens) == (5, 11)
        assert seen.ttft_s is not None and seen.ttft_s <= seen.e2e_s
        assert ticket.outcome == "ok"


@on_loop
async def test_without_usage_output_tokens_are_events_without_done():
    async with Engine(events(*CHUNKS, DONE)) as engine, routed(engine) as router:
        answer = await (await router.connect()).ask(completion(stream=True))
        assert answer.body == b"".join(CHUNKS) + DONE
        assert router.records[0][1].output_tokens == 5


@on_loop
async def test_a_chunked_request_arrives_whole_with_a_length():
    body = b'{"model":"m","prompt":"abc"}'
    wire = b"".join(b"%x;ext=1\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await client.ask(head + wire + b"0\r\nX-Trailer: dropped\r\n\r\n")
        assert answer.status == 200
        assert engine.requests[0].body == body
        assert "transfer-encoding" not in engine.requests[0].headers
        assert b"trailer" not in engine.requests[0].raw_head.lower()


@on_loop
async def test_a_request_in_pieces_of_one_byte_is_read():
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        for byte in completion(prompt="x" * 40):
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).status == 200


@on_loop
async def test_pipelined_requests_are_answered_in_order_one_at_a_time():
    async def slow_first(engine, request, writer):
        assert len(engine.requests) - answered[0] == 1, "two requests of one client at once"
        await asyncio.sleep(0.03 if b"p0" in request.body else 0)
        text = json.dumps({"echo": json.loads(request.body)["prompt"]}).encode()
        answered[0] += 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))

    answered = [0]
    async with Engine(slow_first) as engine, routed(engine) as router:
        client = await router.connect()
        client.send(b"".join(completion(prompt=f"p{n}") for n in range(8)) + get(b"/health") + completion(prompt="p9"))
        echoes = [json.loads((await client.answer()).body)["echo"] for _ in range(8)]
        assert echoes == [f"p{n}" for n in range(8)]
        assert (await client.answer()).status == 200
        assert json.loads((await client.answer()).body)["echo"] == "p9"
        assert engine.connections == 1


@on_loop
async def test_requests_sent_while_one_is_served_wait_and_do_not_grow_without_bound():
    gate = asyncio.Event()

    async def script(engine, request, writer):
        await gate.wait()
        await plain(engine, request, writer)

    async with Engine(script) as engine, routed(engine, body_bytes=4 << 20) as router:
        client = await router.connect()
        client.send(completion())
        await until(lambda: engine.requests)
        client.send(completion(prompt="y" * (3 << 20)))
        await asyncio.sleep(0.1)
        (connection,) = router.gateway.clients
        assert len(connection._held) < 1 << 20
        gate.set()
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 200
        assert len(engine.requests[1].body) > 3 << 20


@on_loop
async def test_connections_to_an_engine_are_used_again():
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        for _ in range(10):
            assert (await client.ask(completion())).status == 200
        other = await router.connect()
        assert (await other.ask(completion())).status == 200
        assert engine.connections == 1


@on_loop
async def test_an_engine_that_says_close_is_believed():
    body = b"{}"
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n" + body
    async with Engine(raw(answer)) as engine, routed(engine) as router:
        client = await router.connect()
        assert [(await client.ask(completion())).status for _ in range(3)] == [200] * 3
        assert engine.connections == 3


@on_loop
async def test_a_body_that_ends_with_the_connection_becomes_chunked():
    reply = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + b"".join(CHUNKS)
    async with Engine(raw(reply, close=True)) as engine, routed(engine) as router:
        client = await router.connect()
        answer = await client.ask(completion(stream=True))
        assert answer.complete
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.body == b"".join(CHUNKS)
        assert router.outcomes == ["ok"]


@on_loop
async def test_interim_responses_are_skipped_and_trailers_dropped():
    reply = (
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n"
    )
    async with Engine(raw(reply)) as engine, routed(engine) as router:
        client = await router.connect()
        for _ in range(2):
            answer = await client.ask(completion())
            assert (answer.status, answer.body) == (200, b"ok")
            assert "link" not in answer.headers
        assert engine.connections == 1


@pytest.mark.parametrize("status", [204, 304])
@on_loop
async def test_a_response_without_a_body_has_no_framing(status):
    async with Engine(raw(b"HTTP/1.1 %d X\r\netag: a\r\n\r\n" % status)) as engine, routed(engine) as router:
        client = await router.connect()
        answer = await client.ask(completion())
        assert answer.status == status
        assert not {"content-length", "transfer-encoding"} & set(answer.headers)
        assert (await client.ask(completion())).status == status


@pytest.mark.parametrize(("status", "outcome"), [(400, "error"), (429, "error"), (500, "error"), (200, "ok")])
@on_loop
async def test_an_engines_own_status_reaches_the_client(status, outcome):
    reply = b"HTTP/1.1 %d Whatever\r\nretry-after: 3\r\ncontent-length: 2\r\n\r\n{}" % status
    async with Engine(raw(reply)) as engine, routed(engine) as router:
        answer = await (await router.connect()).ask(completion())
        assert (answer.status, answer.headers["retry-after"]) == (status, "3")
        assert router.outcomes == [outcome]


@on_loop
async def test_expect_100_continue_is_answered_before_the_body():
    body = b'{"model":"m","prompt":"x"}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        assert (await client.ask(head)).status == 100
        answer = await client.ask(body)
        assert answer.status == 200
        assert "expect" not in engine.requests[0].headers


@on_loop
async def test_head_has_the_headers_of_get_and_no_body():
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        for path in (b"/health", b"/v1/models"):
            full = await client.ask(get(path))
            head = await client.ask(get(path, method=b"HEAD"), head=True)
            assert head.headers["content-length"] == full.headers["content-length"] == str(len(full.body))
        assert (await client.ask(completion())).status == 200


@on_loop
async def test_http_1_0_gets_a_body_that_ends_with_the_connection():
    body = b'{"model":"m","prompt":"x","stream":true}'
    request = b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with Engine(events(*CHUNKS)) as engine, routed(engine) as router:
        client = await router.connect()
        answer = await client.ask(request)
        assert "transfer-encoding" not in answer.headers
        assert answer.body == b"".join(CHUNKS)


@on_loop
async def test_headers_that_choose_an_endpoint_or_belong_to_a_hop_are_stripped():
    bad = [
        b"X-Gateway-Destination-Endpoint: 10.0.0.1:80", b"x-gateway-destination-endpoint-subset: a",
        b"X_Gateway_Destination_Endpoint: a", b"x-prefiller-host-port: a:1", b"X-Data-Parallel-Host-Port: a:1",
        b"x-kv-cache-source-host-port: a", b"x-encoder-hosts-ports: a", b"X-Fleet-Decision: 1", b"Keep-Alive: 5",
        b"Proxy-Authorization: secret", b"TE: trailers", b"Connection: keep-alive, X-Hop", b"X-Hop: 1",
        b"Accept-Encoding: gzip", b"Trailer: x",
    ]  # fmt: skip
    good = [b"Authorization: Bearer t", b"X-Session-Id: s", b"User-Agent: test", b"Content-Type: application/json"]
    async with Engine() as engine, routed(engine) as router:
        await (await router.connect()).ask(completion(*bad, *good))
        headers = engine.requests[0].headers
        assert set(headers) == {"x-gateway-model-name",
            "host", "x-request-id", "content-length", "authorization", "x-session-id", "user-agent", "content-type",
        }  # fmt: skip
        assert headers["host"] == engine.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        pytest.param(b"X-Request-Id: abc-1", "abc-1", id="the client's is kept"),
        pytest.param(b"X-Request-Id: " + b"a" * 500, None, id="an absurdly long one is replaced"),
        pytest.param(b"X-Other: 1", None, id="none is made up"),
    ],
)
@on_loop
async def test_request_ids(sent, kept):
    async with Engine() as engine, routed(engine) as router:
        answer = await (await router.connect()).ask(completion(sent))
        given = answer.headers["x-request-id"]
        assert given == engine.requests[0].headers["x-request-id"] == router.records[0][0].request_id
        assert given == kept if kept else 8 < len(given) <= 128


@on_loop
async def test_one_request_id_twice_at_once_is_two_requests():
    gate = asyncio.Event()

    async def script(engine, request, writer):
        await gate.wait()
        await plain(engine, request, writer)

    async with Engine(script) as engine, routed(engine) as router:
        clients = [await router.connect() for _ in range(2)]
        for client in clients:
            client.send(completion(b"X-Request-Id: same"))
        await until(lambda: len(engine.requests) >= 2)
        assert router.gateway.director.ledger.of(engine.url).requests_in_flight == 2
        gate.set()
        assert [(await client.answer()).status for client in clients] == [200, 200]


@pytest.mark.parametrize("path", [b"/v1/embeddings", b"/v1/chat/completions?a=b", b"/v1/audio/transcriptions"])
@on_loop
async def test_other_posts_under_v1_pass_with_their_query(path):
    async with Engine() as engine, routed(engine) as router:
        answer = await (await router.connect()).ask(completion(path=path))
        assert answer.status == 200
        assert engine.requests[0].line == f"POST {path.decode()} HTTP/1.1"


@on_loop
async def test_an_absolute_target_is_served_here_whatever_its_host():
    async with Engine() as engine, routed(engine) as router:
        client = await router.connect()
        assert (await client.ask(completion(path=b"http://10.9.9.9/v1/completions"))).status == 200
        assert engine.requests[0].line == "POST /v1/completions HTTP/1.1"


@on_loop
async def test_back_pressure_a_slow_reader_holds_the_engine_not_our_memory():
    piece = b"data: " + b"z" * (256 << 10) + b"\n\n"
    sent = [0]

    async def script(_engine, _request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(120):  # 30 MB: far more than all socket buffers together
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            sent[0] += 1
        writer.write(b"0\r\n\r\n")

    async with Engine(script) as engine, routed(engine) as router:
        client = await router.connect()
        client.send(completion(stream=True))
        before = -1
        while sent[0] != before:
            before = sent[0]
            await asyncio.sleep(0.2)
        assert sent[0] < 120, "the engine was never held back"
        (connection,) = router.gateway.clients
        assert connection._transport.get_write_buffer_size() < 2 << 20
        answer = await client.answer()
        assert answer.body == piece * 120
        assert router.outcomes == ["ok"]
