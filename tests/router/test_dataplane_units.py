"""The data plane's parts without sockets."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.dataplane import headers
from router.dataplane.body import ParsedBody, parse
from router.dataplane.budget import RetryBudget
from router.dataplane.heads import MAX_HEADS, Heads, split
from router.dataplane.observe import Observer, find_usage
from router.dataplane.reader import RequestReader
from router.dataplane.replies import Refusal
from router.dataplane.response import BadResponse, ResponseReader
from router.settings import RouterSettings

SETTINGS = RouterSettings(header_bytes=2048, header_count=20, body_bytes=2048)


def _read(wire: bytes, cuts: list[int]) -> RequestReader:
    reader = RequestReader(SETTINGS)
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        if reader.refusal is None:
            reader.feed(wire[start:end])
    return reader


BODY = b'{"model":"m","prompt":"0123456789"}'
WIRES = [
    b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nX-A: 1\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
    b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\n%b\r\n%x;e=1\r\n%b\r\n0\r\nT: 1\r\n\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:]),
    b"GET /health HTTP/1.1\r\nHost: r\r\n\r\n",
]


@given(which=st.lists(st.sampled_from(WIRES), min_size=1, max_size=4), cuts=st.lists(st.integers(0, 2000), max_size=30))
def test_however_requests_are_cut_they_read_the_same(which, cuts):
    reader = _read(b"".join(which), cuts)
    assert reader.refusal is None
    assert [request.method for request in reader.requests] == [wire.split(b" ")[0] for wire in which]
    assert [request.body for request in reader.requests] == [b"" if wire[:3] == b"GET" else BODY for wire in which]
    assert reader.idle


@given(noise=st.binary(max_size=600), cuts=st.lists(st.integers(0, 600), max_size=10))
def test_noise_is_refused_or_waited_for_never_raised(noise, cuts):
    reader = _read(noise, cuts)
    assert reader.refusal is None or 400 <= reader.refusal.status < 600
    assert reader.held_bytes <= SETTINGS.body_bytes


@given(data=st.data())
@settings(max_examples=200)
def test_a_mutated_request_never_gives_a_body_beyond_its_limit(data):
    wire = bytearray(data.draw(st.sampled_from(WIRES)) * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    reader = _read(bytes(wire), data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    for request in reader.requests:
        assert len(request.body) <= SETTINGS.body_bytes
        assert all(b":" in line and b"\x00" not in line for line in request.head.split(b"\r\n")[:-1])
        assert b"\r" not in request.target


PARTS = [
    b"POST /v1/completions HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"PRI * HTTP/2.0\r\n", b"CONNECT a:1 HTTP/1.1\r\n",
    b"Host: r\r\n", b"Content-Length: 5\r\n", b"Content-Length: 99999\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n", b"Expect: 100-continue\r\n", b"Expect: 200\r\n", b"Connection: close, x-a\r\n",
    b"Upgrade: h2c\r\n", b"X-A: %b\r\n" % (b"a" * 300), b"x-request-id: \xff\r\n", b" folded\r\n", b"\r\n", b"\n",
    b"hello", b"5\r\nhello\r\n", b"5;%b\r\nhello\r\n" % (b"e" * 900), b"fffffffffffffffff\r\n", b"0\r\n",
    b"T: 1\r\n", b"\0",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(PARTS) | st.binary(max_size=40), max_size=40), st.lists(st.integers(0, 6000), max_size=20)
)
@settings(max_examples=400)
def test_whatever_is_put_together_is_read_waited_for_or_refused_within_the_limits(parts, cuts):
    reader = _read(b"".join(parts), cuts)
    if reader.refusal is not None:
        assert reader.refusal.status in {400, 413, 417, 429, 431, 501, 505}
    assert reader.held_bytes <= SETTINGS.body_bytes
    assert len(reader.requests) <= SETTINGS.pipelined
    for request in reader.requests:
        assert len(request.body) <= SETTINGS.body_bytes
        assert len(request.head) + len(request.target) <= SETTINGS.header_bytes
        assert request.head.count(b"\r\n") <= SETTINGS.header_count


@given(noise=st.binary(max_size=400), good=st.booleans())
def test_an_engines_noise_is_a_bad_response_or_waited_for(noise, good):
    reader = ResponseReader()
    try:
        reader.feed((b"HTTP/1.1 200 OK\r\n" if good else b"") + noise)
    except BadResponse as error:
        assert str(error)


@pytest.mark.parametrize(
    ("body", "tokens", "maximum", "stream"),
    [
        pytest.param({"prompt": "a" * 40}, 10, None, False, id="text counts four bytes a token"),
        pytest.param({"prompt": [1, 2, 3]}, 3, None, False, id="token ids are counted"),
        pytest.param({"prompt": [[1, 2], [3]], "stream": True}, 3, None, True, id="a batch of token ids"),
        pytest.param({"prompt": ["aaaa", "bbbb"]}, 4, None, False, id="a batch of texts"),
        pytest.param({"prompt": "", "max_tokens": 5}, 1, 5, False, id="an empty prompt"),
        pytest.param({"messages": [], "max_completion_tokens": 9, "max_tokens": 5}, 1, 9, False, id="the newer limit"),
        pytest.param({"input": "x" * 80}, 20, None, False, id="embeddings"),
        pytest.param({"max_tokens": "many", "stream": None}, 0, None, False, id="nonsense is the engine's to refuse"),
    ],
)
def test_bodies(body, tokens, maximum, stream):
    parsed = parse(json.dumps({"model": "m", **body}).encode())
    assert isinstance(parsed, ParsedBody)
    assert abs(parsed.input_tokens - tokens) <= 1
    assert (parsed.model, parsed.max_tokens, parsed.stream) == ("m", maximum, stream)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=20))
def test_any_json_is_parsed_or_refused(value):
    result = parse(json.dumps({"model": "m", "prompt": value, "messages": value}).encode())
    assert isinstance(result, ParsedBody | Refusal)


def test_prompts_that_begin_alike_have_raw_bytes_that_begin_alike():
    system = {"role": "system", "content": "You are helpful. " * 50}
    one = parse(json.dumps({"model": "m", "messages": [system, {"role": "user", "content": "a"}]}).encode())
    two = parse(
        json.dumps({"temperature": 1, "messages": [system, {"role": "user", "content": "b"}], "model": "m"}).encode()
    )
    assert isinstance(one, ParsedBody)
    assert isinstance(two, ParsedBody)
    assert one.prompt[:800] == two.prompt[:800]


STREAM = b"".join(b'data: {"choices":[{"text":"data: %d \\ndata: "}]}\n\n' % n for n in range(7)) + b"data: [DONE]\n\n"


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_events_are_counted_however_the_stream_is_cut(cuts):
    observer = Observer()
    edges = sorted({0, len(STREAM), *cuts})
    for start, end in itertools.pairwise(edges):
        observer.stream(STREAM[start:end], float(start + 1))
    assert observer.events == 8
    assert observer.first_s >= 1.0


@pytest.mark.parametrize(
    ("tail", "completion", "cached"),
    [
        (b'{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":9}}', 9, None),
        (b'x,"usage": {"completion_tokens" : 9, "prompt_tokens_details":{"cached_tokens":3}}', 9, 3),
        (b'{"usage":null}', None, None),
        (b'{"text":"say \\"usage\\": {\\"completion_tokens\\": 5}"}', None, None),
        (b'"usage":{"completion_tokens":1}\n\ndata: {"usage":{"completion_tokens":2}}', 2, None),
        (b"", None, None),
    ],
)
def test_usage_is_found_at_the_end(tail, completion, cached):
    usage = find_usage(tail)
    assert (usage.completion_tokens, usage.cached_tokens) == (completion, cached)


@given(steps=st.lists(st.booleans(), max_size=200), ratio=st.floats(0, 1), burst=st.integers(0, 20))
def test_retries_never_exceed_burst_plus_share(steps, ratio, burst):
    budget = RetryBudget(ratio=ratio, burst=burst)
    taken = earned = 0
    for earn in steps:
        if earn:
            budget.earn()
            earned += 1
        else:
            taken += budget.take()
    assert taken <= burst + earned * ratio + 1e-9


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        (b"authorization", True),
        (b"x-fleet-decision", False),
        (b"x_fleet_decision", False),
        (b"x-gateway-destination-endpoint-subset", False),
        (b"x-prefiller-host-port", False),
        (b"transfer-encoding", False),
        (b"content-length", False),
        (b"x-llm-d-slo-ttft-ms", True),
    ],
)
def test_headers_to_engines(name, passes):
    assert headers.to_engine(name) is passes


def test_refusals_have_openais_shape():
    refusal = Refusal(429, 'say "no"', dropped="rejected-saturated")
    wire = refusal.reply(request_id="r1", close=True)
    head, _, body = wire.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"x-llm-d-request-dropped-reason: rejected-saturated" in head
    assert b"connection: close" in head
    error = json.loads(body)["error"]
    assert error == {"message": 'say "no"', "type": "invalid_request_error", "param": None, "code": "429"}


@pytest.mark.parametrize(
    ("message", "known"),
    [
        pytest.param(b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi", True, id="whole-and-alone"),
        pytest.param(b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nh", False, id="body-not-whole"),
        pytest.param(b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi!", False, id="more-than-one"),
        pytest.param(b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: +2\r\n\r\nhi", False, id="signed-length"),
        pytest.param(b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2 \r\n\r\nhi", False, id="space-after"),
        pytest.param(b"POST /v1/x HTTP/1.1\r\nHost: h\r\nX: a\r\n\r\nhi", False, id="no-length"),
        pytest.param(b"POST /v1/x HTTP/1.1\r\nX: Content-Length: 2\r\n\r\nhi", False, id="length-inside-a-value"),
    ],
)
def test_only_whole_messages_of_one_plain_length_are_looked_up(message, known):
    assert (split(message) is not None) is known


@settings(deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=60), st.integers(0, 12))
def test_a_remembered_head_reads_like_a_parsed_one(body, junk, length):
    """Whatever comes on a connection, a reader that remembers heads and one that knows none read the same."""
    heads = Heads()
    good = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nA: b\r\nContent-Length: %d\r\n\r\n%b"
    pieces = [good % (len(body), body), good % (length, junk), good % (len(junk), junk), junk]
    for first in (pieces, pieces[::-1]):
        for start in range(len(first)):
            plain, quick = RequestReader(RouterSettings(), Heads(0)), RequestReader(RouterSettings(), heads)
            for piece in first[start:]:
                plain.feed(piece)
                quick.feed(piece)
                one, two = ([(r.method, r.target, r.head, r.body, r.keep_alive, r.request_id) for r in reader.requests]
                            for reader in (plain, quick))  # fmt: skip
                assert one == two
                assert (plain.refusal and plain.refusal.status) == (quick.refusal and quick.refusal.status)
                if plain.refusal:
                    break
                plain.requests.clear()
                quick.requests.clear()


_EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%btransfer-encoding: chunked\r\n\r\n"
_chunk_pieces = st.one_of(
    st.builds(lambda form, data: form % (len(data), data),
              st.sampled_from([b"%x\r\n%b\r\n", b"%X\r\n%b\r\n", b"00%x\r\n%b\r\n", b"%x;e=1\r\n%b\r\n"]),
              st.binary(min_size=1, max_size=40)),
    st.sampled_from([b"5\r\nabcde", b"3\r\nabcde\r\n", b"12345678\r\nx", b"g\r\n", b"\r\n", b"-1\r\n", b"x"]),
)  # fmt: skip
_chunk_ends = st.sampled_from(
    [b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nT: 1\r\n\r\n", b"0\r\n\r\nmore", b"0\r\n", b"0;e\r\n\r\n", b""]
)


def _answer(heads: Heads, wire: bytes, cuts: list[int]) -> tuple:
    """What a reader makes of a wire in pieces, that it is done, and whether it refused it."""
    reader, body = ResponseReader(heads), []
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    try:
        for start, end in itertools.pairwise(edges):
            reader.feed(wire[start:end])
            body.append(reader.take())
    except BadResponse:
        return "refused"
    return (b"".join(body), reader.done, reader.keep_alive, reader.status, reader.head, reader.events, reader.chunked,
            reader.length, reader.until_close)  # fmt: skip


@given(st.lists(_chunk_pieces, max_size=6), _chunk_ends, st.lists(st.integers(0, 1000), max_size=12))
def test_chunks_behind_a_remembered_head_read_like_parsed_ones(pieces, end, cuts):
    """However a chunked answer is written and cut, right or wrong, knowing its head makes no difference."""
    heads, head = Heads(), _EVENTS % b""
    assert _answer(heads, head + b"1\r\nx\r\n0\r\n\r\n", [])[:2] == (b"x", True)
    assert heads.wholes
    wire = head + b"".join(pieces) + end
    for where in (cuts, [len(head) + cut for cut in cuts]):  # most cuts behind the head, whole as engines send it
        assert _answer(heads, wire, where) == _answer(Heads(0), wire, where)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(_EVENTS % b"connection: close\r\n", id="not kept alive"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + _EVENTS % b"", id="behind an interim answer"),
        pytest.param((_EVENTS % b"").replace(b"200 OK", b"500 No"), id="an error"),
        pytest.param((_EVENTS % b"")[:-2], id="cut"),
    ],
)
def test_unusual_heads_of_chunked_answers_are_not_remembered(wire):
    heads = Heads()
    ResponseReader(heads).feed(wire)
    assert not heads.wholes


_ends = st.sampled_from([b"", b"A: b\r\n", b"A: c\r\n", b"content-length: 3\r\n", b"\r\n"])
_messages = st.builds(
    lambda low, digits, end, body: b"POST / HTTP/1.1\r\n%b: %b\r\n%b\r\n%b"
    % (b"content-length" if low else b"Content-Length", digits, end, body),
    st.booleans(), st.sampled_from([b"0", b"2", b"02", b"12", b"+2", b""]), _ends,
    st.sampled_from([b"", b"hi", b"\r\nhihihihihi"]),
)  # fmt: skip


@given(st.lists(_messages, max_size=30))
def test_the_head_found_last_is_found_as_any_other(messages):
    heads, known = Heads(), {}
    for message in messages:
        found, meaning = split(message), heads.find(message)
        assert meaning == (None if found is None else known.get(found[0]))
        if found is not None:
            assert heads.begin == found[1]
            if meaning is None:
                assert heads.head == found[0]
                known[found[0]] = len(known) + 1
                heads.put(found[0], known[found[0]])
        elif meaning is None:
            assert heads.head == b""


def test_heads_remembered_are_bounded():
    heads = Heads()
    for number in range(3 * MAX_HEADS):
        heads.put(b"%d" % number, number)
        heads.put_whole(b"%d\r\n\r\n" % number, number)
    assert len(heads.known) <= MAX_HEADS
    assert len(heads.wholes) <= MAX_HEADS


_FIELD = re.compile(rb'"(prompt_tokens|completion_tokens|cached_tokens)"\s*:\s*(\d{1,12})')
_scraps = st.lists(st.sampled_from([
    b'"usage"', b'"prompt_tokens"', b'"completion_tokens"', b'"cached_tokens"', b":", b" ", b"\n", b"\x0b", b"{", b",",
    b"null", b"0", b"7", b"1234567890123", b'"prompt_tokens_details"', b'"prompt_tokens":12', b'"cached_tokens" : 3',
]), max_size=20)  # fmt: skip


@given(_scraps)
def test_usage_is_read_as_a_regular_expression_reads_it(scraps):
    tail = b"".join(scraps)
    at, found = tail.rfind(b'"usage"'), {}
    if at >= 0:
        for name, digits in _FIELD.findall(tail, at):
            found.setdefault(name, int(digits))
    usage = find_usage(tail)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (
        found.get(b"prompt_tokens"), found.get(b"completion_tokens"), found.get(b"cached_tokens"),
    )  # fmt: skip
