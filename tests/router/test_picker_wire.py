"""The picker's wire: messages against the generated classes, calls by the real gRPC client, HTTP/2 odds and ends."""

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from router.picker_server import messages
from router.picker_server.header_blocks import Decoder
from router.picker_server.http2 import PREFACE
from router.picker_server.messages import CHUNK_BYTES, Phase
from router.picker_server.objects import parse as parse_objects
from router.picker_server.objects_source import Watch, source
from router.picker_server.protobuf import BadMessageError, field, fields, read_varint, varint
from router.picker_server.rewrite import Names, Rewriter, Rule, Target
from router.picker_server.service import PickerService
from router.picker_server.settings import PickerSettings
from router.profile import PROFILES
from router.settings import RouterSettings
from router.tenants import Tenants

grpc = pytest.importorskip("grpc")
pb = pytest.importorskip("envoy.service.ext_proc.v3.external_processor_pb2")
hpack = pytest.importorskip("hpack")
MODEL = "m"
BODY = b'{"model": "m", "prompt": "hello"}'

# ---- messages


def asked(**parts: Any) -> bytes:
    return pb.ProcessingRequest(**parts).SerializeToString()


def read(data: bytes) -> Any:
    return pb.ProcessingResponse.FromString(data)


def headers_of(pairs: dict[str, str], *, end: bool = False, raw: bool = True) -> dict[str, Any]:
    entries = [{"key": name, "raw_value": value.encode()} if raw else {"key": name, "value": value}
               for name, value in pairs.items()]  # fmt: skip
    return {"headers": {"headers": entries}, "end_of_stream": end}


@pytest.mark.parametrize("raw", [True, False])
def test_headers_are_read(raw: bool):
    pairs = {":method": "POST", ":path": "/v1/completions", "x-long": "v" * 300, "x-empty": "", "k" * 200: "v"}
    found = messages.parse(asked(request_headers=headers_of(pairs, end=True, raw=raw),
                                 protocol_config={"request_body_mode": 4, "response_body_mode": 2}))  # fmt: skip
    assert (found.phase, found.headers, found.end) == (Phase.REQUEST_HEADERS, pairs, True)
    assert (found.request_mode, found.response_mode) == (4, 2)


@given(st.dictionaries(st.text("abc-", min_size=1), st.text("xyz\xe9 ", max_size=200), max_size=8))
def test_any_headers_are_read(pairs: dict[str, str]):
    entries = [{"key": name, "raw_value": value.encode("latin-1")} for name, value in pairs.items()]
    found = messages.parse(asked(response_headers={"headers": {"headers": entries}}))
    assert found.headers == pairs


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_never_crash(data: bytes):
    try:
        found = messages.parse(data)
    except BadMessageError as error:
        assert str(error)
    else:
        assert found.phase is None or isinstance(found.phase, Phase)


def test_bodies_and_metadata_are_read():
    found = messages.parse(asked(request_body={"body": b"x" * 70_000, "end_of_stream": True}))
    assert (found.phase, len(found.body), found.end) == (Phase.REQUEST_BODY, 70_000, True)
    whole = pb.ProcessingRequest(request_body={})
    spaces = whole.metadata_context.filter_metadata
    spaces["envoy.lb.subset_hint"].update({messages.SUBSET: ["10.0.0.1:80", "10.0.0.2:80"]})
    spaces["envoy.lb"].update({"n": 1.5, "s": "x", "b": True, "o": {"k": None}})
    whole.attributes["f"].update({"response.code_details": "via_upstream"})
    found = messages.parse(whole.SerializeToString())
    value = messages.metadata_value
    assert value(found.metadata, "envoy.lb.subset_hint", messages.SUBSET) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert [value(found.metadata, "envoy.lb", key) for key in ("n", "s", "b", "o", "?")] == [
        1.5, "x", True, {"k": None}, None]  # fmt: skip
    assert messages.attribute(found.attributes, "response.code_details") == "via_upstream"


@pytest.mark.parametrize("phase", [Phase.REQUEST_HEADERS, Phase.REQUEST_BODY, Phase.RESPONSE_HEADERS])
def test_answers_are_what_the_generated_classes_read(phase: Phase):
    data = messages.answer(phase, headers=[("a", "1"), ("b", "é")], remove=["c"], clear_route=True,
                           dynamic={"envoy.lb": {"k": "v", "s": {"x": 2.0}}})  # fmt: skip
    found = read(data)
    assert found.WhichOneof("response") == phase.name.lower()
    common = getattr(found, phase.name.lower()).response
    assert common.clear_route_cache
    headers = common.header_mutation.set_headers
    assert [(one.header.key, one.header.raw_value) for one in headers] == [("a", b"1"), ("b", b"\xe9")]
    assert [one.append_action for one in headers] == [2, 2]
    assert list(common.header_mutation.remove_headers) == ["c"]
    assert found.dynamic_metadata["envoy.lb"]["k"] == "v"
    assert found.dynamic_metadata["envoy.lb"]["s"]["x"] == 2.0
    assert read(messages.answer(phase)).WhichOneof("response") == phase.name.lower()


@pytest.mark.parametrize("size", [0, 10, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_body_goes_in_chunks_that_add_up(size: int):
    whole = bytes(range(256)) * (size // 256 + 1)
    parts = [read(data).request_body.response.body_mutation.streamed_response
             for data in messages.streamed(Phase.REQUEST_BODY, whole[:size], end=True)]  # fmt: skip
    assert b"".join(one.body for one in parts) == whole[:size]
    assert [one.end_of_stream for one in parts] == [False] * (len(parts) - 1) + [True]
    assert max(len(one.body) for one in parts) <= CHUNK_BYTES


def test_a_refusal_is_an_immediate_response():
    found = read(messages.immediate(429, b"{}", [("x-why", "shed")], details="saturated")).immediate_response
    assert (found.status.code, found.body, found.details) == (429, b"{}", "saturated")
    assert found.headers.set_headers[0].header.raw_value == b"shed"
    assert read(messages.trailers(Phase.REQUEST_TRAILERS)).WhichOneof("response") == "request_trailers"


@given(st.integers(0, 2**63))
def test_numbers_come_back(value: int):
    assert read_varint(varint(value), 0) == (value, len(varint(value)))


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05abc", b"\xff" * 12, b"\x0b", field(1, b"x")[:-1]])
def test_what_is_cut_off_is_refused(data: bytes):
    with pytest.raises(BadMessageError):
        list(fields(data))


# ---- names


def test_rewrites_share_by_weight_and_a_header_wins():
    names = Names(rules=[Rule(matches=frozenset({"chat"}), targets=(Target(model="a", weight=3), Target(model="b"))),
                         Rule(targets=(Target(model="rest"),))])  # fmt: skip
    chosen = [names.target("chat", None) for _ in range(400)]
    assert (chosen.count("a"), chosen.count("b")) == (300, 100)
    assert max(len(run) for run in "".join(chosen).split("b")) <= 4
    assert (names.target("other", None), names.target("chat", "asked")) == ("rest", "asked")
    assert Names().target("x", None) == "x"
    assert Names.renamed(b'{"a": [1, 2], "model":"chat"}', "chat", "b") == b'{"a":[1, 2],"model":"b"}'


@given(st.integers(1, 12))
def test_the_clients_name_is_put_back_wherever_chunks_end(size: int):
    text = b'data: {"id":1,"model":"engine"}\n\ndata: {"model": "engine","x":"model"}\n\n'
    rewriter = Rewriter("engine", "client-name")
    out = b"".join(rewriter.feed(text[at : at + size], end=at + size >= len(text)) for at in range(0, len(text), size))
    assert out == text.replace(b"engine", b"client-name")


MANIFESTS = """
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1, poolRef: {name: qwen}}
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: names}
spec:
  poolRef: {name: qwen}
  rules:
    - matches: [{model: {type: Exact, value: chat}}]
      targets: [{weight: 1, modelRewrite: m}]
---
kind: Service
"""


def test_objects_come_from_files_and_change_with_them(tmp_path: Path):
    path = tmp_path / "objects.yaml"
    path.write_text(MANIFESTS)
    names, tenants = Names(), Tenants((), {"kept": 3})
    watch = Watch(source(str(path)), names, tenants.also)
    watch.look()
    assert (names.target("chat", None), tenants.objectives) == ("m", {"kept": 3, "batch": -1})
    path.write_text("kind: [")
    watch.look()
    assert "cannot be read" in watch.error
    assert names.target("chat", None) == "m"
    path.write_text("---")
    watch.look()
    assert (names.target("chat", None), tenants.objectives, watch.error) == ("chat", {"kept": 3}, "")


@pytest.mark.parametrize("spec", [
    pytest.param({"rules": [{}]}, id="no-targets"),
    pytest.param({"rules": [{"targets": [{"weight": -1, "modelRewrite": "x"}]}]}, id="bad-weight"),
    pytest.param({"rules": [{"matches": [{}], "targets": [{"modelRewrite": "x"}]}]}, id="bad-match"),
])  # fmt: skip
def test_a_rewrite_that_cannot_be_read_is_refused(spec: dict[str, Any]):
    named = {"apiVersion": "llm-d.ai/v1alpha2", "kind": "InferenceModelRewrite", "metadata": {"name": "n"}}
    with pytest.raises(ConfigError, match="n:"):
        parse_objects([{**named, "spec": spec}])
    assert parse_objects([{**named, "spec": {**spec, "poolRef": {"name": "other"}}}], pool="mine").rules == ()


# ---- HTTP/2


def test_blocks_are_remembered_only_while_they_mean_the_same():
    encoder, decoder = hpack.Encoder(), Decoder(limit=65536)
    first = encoder.encode([(b":path", b"/a"), (b"x", b"1")], huffman=False)
    second = encoder.encode([(b":path", b"/a"), (b"x", b"1")], huffman=False)
    assert first != second  # the second refers to the table
    assert decoder.decode(first) == decoder.decode(second) == {b":path": b"/a", b"x": b"1"}
    encoder.header_table_size = 0
    blocks = {encoder.encode([(b":path", b"/b"), (b"x", b"2")]) for _ in range(3)}
    assert [decoder.decode(block) for block in sorted(blocks, key=len, reverse=True)][-1][b":path"] == b"/b"
    assert len(decoder._known) == 1


class Running:
    """A picker on a loop in a thread."""

    def __init__(self, folder: Path, **picker: Any) -> None:
        self.loop = asyncio.new_event_loop()
        settings = RouterSettings(port=0, admin_port=0, engines="http://127.0.0.1:9/", drain_s=1.0)
        self.service = PickerService(settings, PROFILES["default"], picker=PickerSettings(**picker), home=folder)
        for endpoint in self.service.endpoints.all:
            endpoint.models = frozenset({MODEL})
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.call(self.service.start())

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def close(self) -> None:
        self.call(self.service.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def process(self, channel: Any, requests: list[Any]) -> list[Any]:
        method = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process",
                                       request_serializer=pb.ProcessingRequest.SerializeToString,
                                       response_deserializer=pb.ProcessingResponse.FromString)  # fmt: skip
        return list(method(iter(requests), timeout=10))


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
        assert [check(name, timeout=5) for name in names] == [b"\x08\x01"] * 4
        with pytest.raises(grpc.RpcError) as error:
            check(field(1, b"else"), timeout=5)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as unknown:
            channel.unary_unary("/some.Service/Method")(b"", timeout=5)
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=10)
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
        answers = list(call(iter(request(BODY)), timeout=5, metadata=[("x-fleet-filter", "body-router")]))
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
        said = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return said

    assert b"\x07" in picker.call(speak())  # GOAWAY
