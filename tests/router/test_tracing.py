"""Spans of requests, as a collector gets them over a socket."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes

from fleet.errors import ConfigError
from router.records import Records
from router.settings import RouterSettings
from router.tracing import hooks, spans
from router.tracing.otlp import OtlpTracing
from tests.router.dataplane_stubs import MODEL, Engine, completion, die, events, hang, on_loop, raw, routed, until
from tests.router.otlp_collector import Collector, attributes
from tests.router.test_router_app import ask, engine_script, started

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"Traceparent: 00-{TRACE}-{PARENT}-01".encode()
CHUNK = b'data: {"id":"cmpl-7","object":"text_completion","model":"m","choices":[{"text":"a","finish_reason":%b}]}\n\n'
USAGE = b'{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}'
STREAM = (CHUNK % b"null", CHUNK % b'"length"', b'data: {"choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % USAGE)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Batches leave soon; nothing of the machine's own settings."""
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES",
                 "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


def tracing_to(url: str, **more) -> OtlpTracing:
    return OtlpTracing(OTLPSpanExporter(endpoint=url), **more)


async def sent_through(collector: Collector, *engines: Engine, requests: list[bytes], **settings):
    """Ask one after the other; the spans and the answers."""
    tracing = tracing_to(collector.url)
    answers = []
    async with routed(*engines, tracing=tracing, **settings) as router:
        for request in requests:
            client = await router.connect()
            answers.append(await client.ask(request))
            client.close()
    await tracing.close()
    return collector.spans, answers


def said(span) -> dict:
    return attributes(span.attributes)


def host_and_port(engine: Engine) -> tuple[str, int]:
    return "127.0.0.1", int(engine.url.rsplit(":", 1)[1])


@on_loop
async def test_a_stream_continues_the_clients_trace_and_the_engine_continues_ours():
    request = completion(GIVEN, b"tracestate: vendor=1", b"X-Request-Id: req-1", prompt="a secret", stream=True)
    with Collector() as collector:
        async with Engine(events(*STREAM)) as engine:
            (span,), (answer,) = await sent_through(collector, engine, requests=[request])
    assert answer.status == 200
    assert (span.name, span.kind) == (f"text_completion {MODEL}", 3), "kind: client"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    (received,) = engine.requests
    assert received.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert received.raw_head.lower().count(b"traceparent") == 1
    assert received.headers["tracestate"] == "vendor=1"
    found = said(span)
    host, port = host_and_port(engine)
    assert found | {
        "gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "openai", "gen_ai.request.model": MODEL,
        "gen_ai.request.stream": True, "gen_ai.response.model": "m", "gen_ai.response.id": "cmpl-7",
        "gen_ai.response.finish_reasons": ["length"], "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 4, "server.address": host, "server.port": port,
        "http.response.status_code": 200, "fleet.outcome": "ok", "fleet.retries": 0, "fleet.request_id": "req-1",
        "fleet.endpoint": engine.url,
    } == found  # fmt: skip
    first_s = found["gen_ai.response.time_to_first_chunk"]
    assert 0 < first_s * 1e9 <= span.end_time_unix_nano - span.start_time_unix_nano + 1e6
    assert [event.name for event in span.events] == ["fleet.first_chunk"]
    assert span.status.code == 0
    assert collector.resources[0]["service.name"] == "llm-fleet-router"
    assert "secret" not in str(span)


@on_loop
async def test_plain_answers_and_engines_errors_and_no_key_or_text():
    body = json.dumps({"error": {"message": "no"}}).encode()
    bad = raw(b"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    body = (b'{"id":"chat-1","object":"x","model":"m-lora","choices":[{"text":"\\"model\\":\\"no\\"",'
            b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}')  # fmt: skip
    plain = raw(_with_length(body))
    secret = completion(b"Authorization: Bearer sk-secret", prompt="a secret", path=b"/v1/chat/completions?key=secret")
    with Collector() as collector:
        async with Engine(plain, bad) as engine:
            (good, refused), _ = await sent_through(collector, engine, requests=[secret, completion()])
    found = said(good)
    assert good.name == f"chat {MODEL}"
    assert (found["gen_ai.response.model"], found["gen_ai.response.id"]) == ("m-lora", "chat-1")
    assert (found["gen_ai.response.finish_reasons"], found["gen_ai.usage.output_tokens"]) == (["stop"], 5)
    assert "gen_ai.request.stream" not in found
    assert "gen_ai.response.time_to_first_chunk" not in found
    assert good.parent_span_id == b""
    assert (said(refused)["error.type"], said(refused)["http.response.status_code"]) == ("400", 400)
    assert refused.status.code == 2
    assert "secret" not in str(good)


def _with_length(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@on_loop
async def test_a_retry_is_an_event_of_the_one_span():
    with Collector() as collector:
        async with Engine(die) as bad, Engine() as good:
            answers, tracing = [], tracing_to(collector.url)
            async with routed(bad, good, tracing=tracing) as router:
                while not bad.requests:
                    answers.append(await ask(router.port, completion()))
            await tracing.close()
    assert {answer.status for answer in answers} == {200}
    (retried,) = (span for span in collector.spans if said(span)["fleet.retries"])
    (event,) = retried.events
    why = attributes(event.attributes)
    assert (event.name, why["server.port"]) == ("fleet.engine_failed", host_and_port(bad)[1])
    assert why["fleet.reason"].startswith("connection ")
    assert said(retried)["server.port"] == host_and_port(good)[1]
    assert "error.type" not in said(retried)
    assert len(collector.spans) == len(answers)


@on_loop
async def test_a_client_that_leaves_ends_the_span_without_an_error():
    with Collector() as collector:
        tracing = tracing_to(collector.url)
        async with Engine(hang) as engine, routed(engine, tracing=tracing) as router:
            client = await router.connect()
            client.send(completion())
            await until(lambda: engine.requests)
            client.close()
            await router.settled()
        await tracing.close()
    (span,) = collector.spans
    assert said(span)["fleet.outcome"] == "aborted"
    assert "http.response.status_code" not in said(span)
    assert span.status.code == 0


@on_loop
async def test_refusals_are_spans_with_their_code():
    with Collector() as collector:
        async with Engine() as engine:
            got, answers = await sent_through(
                collector, engine, requests=[completion(GIVEN, model="nobody"), completion(GIVEN, body=b"no JSON")]
            )
    assert [answer.status for answer in answers] == [404, 400]
    unknown, unread = got
    assert (said(unknown)["error.type"], said(unknown)["fleet.outcome"]) == ("model_not_found", "rejected")
    assert "server.address" not in said(unknown)
    assert (unread.name, said(unread)["error.type"]) == ("text_completion", "invalid_body")
    assert {span.trace_id.hex() for span in got} == {TRACE}
    assert {span.status.code for span in got} == {2}


@on_loop
async def test_the_wait_for_room_is_in_the_span():
    gate = asyncio.Event()

    async def slow(_engine, _request, writer):
        await gate.wait()
        writer.write(_with_length(b"{}"))

    with Collector() as collector:
        tracing = tracing_to(collector.url)
        async with Engine(slow) as engine, routed(engine, tracing=tracing, flow_in_flight=1) as router:
            first = asyncio.ensure_future(ask(router.port, completion()))
            await until(lambda: engine.requests)
            second = asyncio.ensure_future(ask(router.port, completion()))
            await until(lambda: router.gateway.director.gate.lengths.get(MODEL))
            held_from_s = router.gateway.now_s
            await until(lambda: router.gateway.now_s >= held_from_s + 0.05)
            gate.set()
            assert [(await one).status for one in (first, second)] == [200, 200]
        await tracing.close()
    waited = [said(span)["fleet.queue_wait_s"] for span in collector.spans if "fleet.queue_wait_s" in said(span)]
    assert len(waited) == 1
    assert waited[0] >= 0.05
    assert "fleet.left_queue" in [event.name for span in collector.spans for event in span.events]


@on_loop
async def test_who_decides_what_is_traced():
    """The client where it says; else the share asked for. What is not traced is passed on as not traced."""
    unsampled = f"traceparent: 00-{TRACE}-{PARENT}-00".encode()
    with Collector() as collector:
        tracing = tracing_to(collector.url, ratio=0.0)
        async with Engine() as engine, routed(engine, tracing=tracing) as router:
            for lines in ((), (GIVEN,), (unsampled,), (b"traceparent: garbage", b"tracestate: a=1"), (GIVEN, GIVEN)):
                assert (await ask(router.port, completion(*lines))).status == 200
        await tracing.close()
    none, asked, declined, wrong, twice = [one.headers["traceparent"] for one in engine.requests]
    assert [span.span_id.hex() for span in collector.spans] == [asked.split("-")[2]]
    assert asked.split("-")[1] == declined.split("-")[1] == TRACE
    assert {one[-2:] for one in (none, declined, wrong, twice)} == {"00"}
    assert len({one.split("-")[1] for one in (none, wrong, twice)} | {TRACE}) == 4
    assert "tracestate" not in engine.requests[3].headers, "the state of a trace that was not believed"


@on_loop
async def test_a_collector_that_is_gone_loses_spans_counts_them_and_hurts_nobody(monkeypatch):
    monkeypatch.setattr("router.tracing.otlp._FLUSH_S", 0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        tracing = tracing_to(f"http://127.0.0.1:{taken.getsockname()[1]}/v1/traces", most=4)
        async with Engine() as engine, routed(engine, tracing=tracing) as router:
            for _ in range(9):
                assert (await ask(router.port, completion())).status == 200
        await asyncio.wait_for(tracing.close(), 60)
    counts = tracing.counts()
    assert counts["sent"] == 0
    assert 1 <= counts["dropped"] <= 9 - 4
    assert 1 <= counts["lost"] + counts["dropped"] <= 9


@on_loop
async def test_a_collector_that_never_answers_delays_nothing_but_the_stop(monkeypatch):
    monkeypatch.setattr("router.tracing.otlp._FLUSH_S", 0.2)
    with Collector(deaf=True) as collector:
        tracing = tracing_to(collector.url)
        async with Engine() as engine, routed(engine, tracing=tracing) as router:
            for _ in range(3):
                assert (await ask(router.port, completion())).status == 200
            await until(lambda: collector.paths)
            assert (await ask(router.port, completion())).status == 200
        await asyncio.wait_for(tracing.close(), 60)
        assert tracing.counts()["sent"] == 0


@on_loop
async def test_the_service_counts_spans_and_sends_the_last_at_its_stop(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    with Collector() as collector:
        async with Engine(engine_script()) as engine:
            service = await started(engine.url, tmp_path, traces_endpoint=collector.url)
            assert (await ask(service.port, completion(stream=True))).status == 200
            await until(lambda: service.records.spans() == {"sent": 0, "lost": 0, "dropped": 0})
            assert not collector.spans
            await service.stop()
    assert service.records.spans() == {"sent": 1, "lost": 0, "dropped": 0}
    assert [span.name for span in collector.spans] == [f"text_completion {MODEL}"]
    assert collector.resources[0]["service.name"] == "mine"


@on_loop
async def test_the_environment_says_where_and_how_much(monkeypatch):
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.removesuffix("/v1/traces"))
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        silent = Records(RouterSettings(traces_endpoint="environment"), None)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
        heard = Records(RouterSettings(traces_endpoint="environment"), None)
        for records in (silent, heard):
            async with Engine() as engine, routed(engine, tracing=records.tracing) as router:
                await ask(router.port, completion())
            await records.close()
    assert (len(collector.spans), collector.paths) == (1, ["/v1/traces"])


def test_off_means_off_and_wrong_variables_are_refused_in_one_line(monkeypatch):
    assert Records(RouterSettings(), None).tracing is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert Records(RouterSettings(traces_endpoint="http://127.0.0.1:9/v1/traces"), None).tracing is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    with pytest.raises(ConfigError, match="traces cannot be set up"):
        Records(RouterSettings(traces_endpoint="http://127.0.0.1:9/v1/traces"), None)


@pytest.mark.parametrize(
    "address", ["nonsense", "collector:4318", "grpc://collector:4317", "http://", "http:///v1/traces"]
)
def test_an_address_that_is_none_is_refused_before_a_span_is_lost(address: str):
    with pytest.raises(ConfigError, match="is no address of a collector"):
        Records(RouterSettings(traces_endpoint=address), None)


def test_names_are_those_of_the_conventions():
    known = {value for module in (gen_ai_attributes, error_attributes, http_attributes, server_attributes)
             for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}  # fmt: skip
    ours = {value for name, value in vars(spans).items()
            if name.isupper() and isinstance(value, str) and "." in value}  # fmt: skip
    assert len(ours) == 16
    assert ours <= known
    operations = {one.value for one in gen_ai_attributes.GenAiOperationNameValues}
    paths = (b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses")
    assert {spans.operation(path) for path in paths} <= operations
    assert spans.OPENAI in {one.value for one in gen_ai_attributes.GenAiProviderNameValues}
    assert spans.operation(b"/v1/audio/transcriptions") == "audio/transcriptions"
    assert spans.operation(b"/v1/" + b"x" * 999) == spans.operation(b"/v1/\xff") == "other"


LINES = st.lists(
    st.tuples(st.sampled_from([b"traceparent", b"TraceParent", b"tracestate", b"x-other", b"xtraceparent"]),
              st.binary(max_size=30).map(lambda value: value.translate(None, b"\r\n"))), max_size=6)  # fmt: skip


@given(LINES, st.booleans())
def test_one_parent_goes_on_and_all_other_headers_stay(lines, keep):
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    found, state = hooks.parents(head)
    assert len(found) == sum(name.lower() == b"traceparent" for name, _ in lines)
    assert len(state.split(",")) >= sum(name == b"tracestate" for name, _ in lines)
    new = hooks.with_parent(head, "00-ab-cd-01", keep_state=keep)
    kept = [b"%b: %b" % line for line in lines
            if line[0] in (b"x-other", b"xtraceparent") or (keep and line[0] == b"tracestate")]  # fmt: skip
    assert new.split(b"\r\n") == [*kept, b"traceparent: 00-ab-cd-01", b""]
