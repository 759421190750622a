"""The picker over its port: calls by the real gRPC client, TLS, drain, and peers that speak something else."""

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.picker_server import messages
from router.picker_server.http2 import PREFACE
from router.picker_server.protobuf import field
from router.picker_server.service import PickerService
from router.picker_server.settings import PickerSettings
from router.profile import PROFILES
from router.settings import RouterSettings
from tests.router.otlp_collector import Collector, attributes
from tests.router.test_picker_wire import BODY, MANIFESTS, MODEL, headers_of

grpc = pytest.importorskip("grpc")
pb = pytest.importorskip("envoy.service.ext_proc.v3.external_processor_pb2")


class Running:
    """A picker on a loop in a thread."""

    def __init__(self, folder: Path, *, traces: str = "", **picker: Any) -> None:
        self.loop = asyncio.new_event_loop()
        settings = RouterSettings(port=0, admin_port=0, engines="http://127.0.0.1:9/", drain_s=1.0,
                                  traces_endpoint=traces)  # fmt: skip
        self.service = PickerService(settings, PROFILES["default"], picker=PickerSettings(**picker), home=folder)
        for endpoint in self.service.endpoints.all:
            endpoint.models = frozenset({MODEL})
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.call(self.service.start())

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    def close(self) -> None:
        self.call(self.service.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def process(self, channel: Any, requests: list[Any]) -> list[Any]:
        method = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process",
                                       request_serializer=pb.ProcessingRequest.SerializeToString,
                                       response_deserializer=pb.ProcessingResponse.FromString)  # fmt: skip
        return list(method(iter(requests), timeout=60))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(**picker: Any) -> Running:
        made.append(Running(tmp_path, **picker))
        return made[-1]

    yield start
    for one in made:
        one.close()


def request(*chunks: bytes, mode: int = 4, headers: dict[str, str] | None = None, **more: Any) -> list[Any]:
    first = pb.ProcessingRequest(request_headers=headers_of({":path": "/v1/completions", **(headers or {})}),
                                 protocol_config={"request_body_mode": mode}, **more)  # fmt: skip
    rest = [
        pb.ProcessingRequest(request_body={"body": chunk, "end_of_stream": chunk is chunks[-1]}) for chunk in chunks
    ]
    return [first, *rest]


def destination(answer: Any) -> str:
    common = getattr(answer, answer.WhichOneof("response")).response
    named = {one.header.key: one.header.raw_value.decode() for one in common.header_mutation.set_headers}
    assert answer.dynamic_metadata["envoy.lb"][messages.DESTINATION] == named[messages.DESTINATION]
    assert common.clear_route_cache
    return named[messages.DESTINATION]


def test_calls_of_the_real_grpc_client(run: Callable[..., Running]):
    picker = run(emit_scores=True)
    with grpc.insecure_channel(f"127.0.0.1:{picker.service.port}") as channel:
        answers = picker.process(channel, request(BODY[:10], BODY[10:], b""))
        assert destination(answers[0]) == "127.0.0.1:9"
        assert "127.0.0.1:9" in answers[0].dynamic_metadata["envoy.lb"][messages.SCORES]
        assert answers[1].request_body.response.body_mutation.streamed_response.body == BODY
        assert len(answers) == 2  # the empty body after the end is answered by nothing
        buffered = picker.process(channel, request(BODY, mode=2))
        assert [one.WhichOneof("response") for one in buffered] == ["request_headers", "request_body"]
        assert destination(buffered[1]) == "127.0.0.1:9"
        hinted = request(BODY)
        hint = {messages.SUBSET: ["10.9.9.9:1"]}
        hinted[0].metadata_context.filter_metadata["envoy.lb.subset_hint"].update(hint)
        refused = picker.process(channel, hinted)
        assert refused[0].immediate_response.status.code == 503
        huge = picker.process(channel, request(b"x" * 3_000_000, mode=4))
        assert huge[0].immediate_response.status.code == 400
        trailers = pb.ProcessingRequest(request_trailers={})
        by_trailers = picker.process(channel, [*request(BODY + b" ", b"")[:2], trailers])
        assert [one.WhichOneof("response") for one in by_trailers] == [
            "request_headers",
            "request_body",
            "request_trailers",
        ]
        many = [picker.process(channel, request(BODY)) for _ in range(50)]
        assert {destination(one[0]) for one in many} == {"127.0.0.1:9"}
        running = picker.service.metrics.model(MODEL).running
    assert running == 0


def test_the_answer_is_watched_and_passes(run: Callable[..., Running]):
    picker = run()
    rest = [
        pb.ProcessingRequest(response_headers=headers_of({":status": "200", "content-type": "text/event-stream"})),
        pb.ProcessingRequest(response_body={"body": b'data: {"x":1}\n\n'}),
        pb.ProcessingRequest(response_body={"body": b'data: {"usage":{"prompt_tokens":3,"completion_tokens":7}}\n\n',
                                            "end_of_stream": True}),
    ]  # fmt: skip
    with grpc.insecure_channel(f"127.0.0.1:{picker.service.port}") as channel:
        answers = picker.process(channel, [*request(BODY), *rest])
    assert [one.response_body.response.body_mutation.streamed_response.end_of_stream for one in answers[3:]] == [
        False,
        True,
    ]
    meters = picker.service.metrics.model(MODEL)
    assert (meters.requests, meters.running) == (1, 0)


def test_a_rewritten_model_goes_out_and_comes_back(run: Callable[..., Running], tmp_path: Path):
    path = tmp_path / "objects.yaml"
    path.write_text(MANIFESTS)
    picker = run(objects=str(path))
    rest = [pb.ProcessingRequest(response_headers=headers_of({":status": "200", "content-type": "application/json"})),
            pb.ProcessingRequest(response_body={"body": b'{"model":"m"}', "end_of_stream": True})]  # fmt: skip
    with grpc.insecure_channel(f"127.0.0.1:{picker.service.port}") as channel:
        answers = picker.process(channel, [*request(BODY.replace(b'"m"', b'"chat"')), *rest])
    assert b'"model":"m"' in answers[1].request_body.response.body_mutation.streamed_response.body
    assert answers[3].response_body.response.body_mutation.streamed_response.body == b'{"model":"chat"}'


def test_health_by_service_and_a_drain(run: Callable[..., Running]):
    picker = run()
    with grpc.insecure_channel(f"127.0.0.1:{picker.service.port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        names = [
            b"",
            b"\x0a\x08liveness",
            b"\x0a\x09readiness",
            field(1, b"envoy.service.ext_proc.v3.ExternalProcessor"),
        ]
        assert [check(name, timeout=60) for name in names] == [b"\x08\x01"] * 4
        with pytest.raises(grpc.RpcError) as error:
            check(field(1, b"else"), timeout=60)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as unknown:
            channel.unary_unary("/some.Service/Method")(b"", timeout=60)
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
        assert next(watch) == b"\x08\x01"
        picker.loop.call_soon_threadsafe(picker.service.server.drain)
        assert next(watch) == b"\x08\x02"
        watch.cancel()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
                   check=True, capture_output=True)  # fmt: skip
    return cert, key


def test_the_port_speaks_tls(run: Callable[..., Running], certificate: tuple[Path, Path]):
    cert, key = certificate
    picker = run(tls_cert=cert, tls_key=key)
    trusted = grpc.ssl_channel_credentials(root_certificates=cert.read_bytes())
    with grpc.secure_channel(f"localhost:{picker.service.port}", trusted) as channel:
        assert destination(picker.process(channel, request(BODY))[0]) == "127.0.0.1:9"


def test_a_proxy_without_a_certificate_is_refused_where_one_is_asked_for(
    run: Callable[..., Running], certificate: tuple[Path, Path]
):
    cert, key = certificate
    picker = run(tls_cert=cert, tls_key=key, tls_client_ca=cert)
    with_one = grpc.ssl_channel_credentials(cert.read_bytes(), key.read_bytes(), cert.read_bytes())
    with grpc.secure_channel(f"localhost:{picker.service.port}", with_one) as channel:
        assert len(picker.process(channel, request(BODY))) == 2
    without = grpc.ssl_channel_credentials(cert.read_bytes())
    with grpc.secure_channel(f"localhost:{picker.service.port}", without) as channel, pytest.raises(grpc.RpcError):
        picker.process(channel, request(BODY))


def test_conformance_header_is_obeyed_only_when_told_to(run: Callable[..., Running]):
    asks = request(BODY, headers={"test-epp-endpoint-selection": "10.1.1.1"})
    for conformance, wanted in ((False, 0), (True, 503)):
        picker = run(conformance=conformance)
        with grpc.insecure_channel(f"127.0.0.1:{picker.service.port}") as channel:
            answer = picker.process(channel, asks)[0]
        assert answer.immediate_response.status.code == wanted


def test_body_based_routing_sets_the_models_name(run: Callable[..., Running]):
    picker = run()
    method = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
    with grpc.insecure_channel(f"127.0.0.1:{picker.service.port}") as channel:
        call = channel.stream_stream(method, pb.ProcessingRequest.SerializeToString, pb.ProcessingResponse.FromString)
        answers = list(call(iter(request(BODY)), timeout=60, metadata=[("x-fleet-filter", "body-router")]))
    named = answers[0].request_headers.response.header_mutation.set_headers
    assert [(one.header.key, one.header.raw_value) for one in named] == [("X-Gateway-Model-Name", b"m")]
    assert answers[1].request_body.response.body_mutation.streamed_response.body == BODY


@pytest.mark.parametrize("data", [
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http1"),
    pytest.param(PREFACE + b"\xff" * 40, id="a-huge-frame"),
    pytest.param(PREFACE + b"\x00\x00\x05\x01\x04\x00\x00\x00\x01" + b"\xff" * 5, id="bad-headers"),
])  # fmt: skip
def test_a_peer_that_speaks_something_else_is_cut_off(run: Callable[..., Running], data: bytes):
    picker = run()

    async def speak() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", picker.service.port)
        writer.write(data)
        said = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return said

    assert b"\x07" in picker.call(speak())  # GOAWAY


def test_spans_through_the_picker_and_the_engine_hears_of_them(
    run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answered = [
        pb.ProcessingRequest(response_headers=headers_of({":status": "200", "content-type": "application/json"})),
        pb.ProcessingRequest(response_body={"body": b'{"model":"m-1"}', "end_of_stream": True}),
    ]
    with Collector() as collector:
        picker = run(traces=collector.url)
        with grpc.insecure_channel(f"127.0.0.1:{picker.service.port}") as channel:
            first, *_ = picker.process(channel, [*request(BODY, headers={"traceparent": parent}), *answered])
            refused = picker.process(channel, request(BODY.replace(b'"m"', b'"nobody"')))
        picker.call(picker.service.records.tracing.close())
    assert refused[0].immediate_response.status.code == 404
    good, bad = collector.spans
    set_headers = first.request_headers.response.header_mutation.set_headers
    told = {one.header.key: one.header.raw_value.decode() for one in set_headers}["traceparent"]
    assert told == f"00-{parent[3:35]}-{good.span_id.hex()}-01"
    assert (good.trace_id.hex(), good.name) == (parent[3:35], f"text_completion {MODEL}")
    assert attributes(good.attributes)["gen_ai.response.model"] == "m-1"
    assert attributes(good.attributes)["server.port"] == 9
    assert attributes(bad.attributes)["error.type"] == "model_not_found"
