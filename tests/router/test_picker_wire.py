"""The picker's wire: messages against the generated classes, calls by the real gRPC client, HTTP/2 odds and ends."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from router.picker_server import messages
from router.picker_server.header_blocks import Decoder
from router.picker_server.messages import CHUNK_BYTES, Phase
from router.picker_server.objects import parse as parse_objects
from router.picker_server.objects_source import Watch, source
from router.picker_server.protobuf import BadMessageError, field, fields, read_varint, varint
from router.picker_server.rewrite import Names, Rewriter, Rule, Target
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
