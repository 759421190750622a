"""The stream meter counts and times the same events however the network cuts the bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import ConfigError
from simulator.replay_client import StreamMeter, base_url, body
from simulator.replay_stats import BROKEN_STREAM, OK, STREAM_ERROR
from simulator.workload import TimedRequest

TOKEN = b'data: {"id":"c","choices":[{"index":0,"text":" data: \\ndata: ","finish_reason":null}]}\n\n'
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":%d,"total_tokens":9}}\n\n'
DONE = b"data: [DONE]\n\n"
CHAT_ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
CHAT_TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":" sim"}}]}\n\n'


def measured(stream: bytes, cuts: list[int], *, chat: bool = False) -> StreamMeter:
    """A meter fed with ``stream`` cut at ``cuts``; the clock is the offset of the last byte."""
    meter, start = StreamMeter(chat=chat), 0
    for end in [*sorted(cut % len(stream) for cut in cuts), len(stream)]:
        if end > start:
            meter.feed(stream[start:end], float(end))
            start = end
    return meter


@given(st.integers(1, 30), st.lists(st.integers(0, 10**6), max_size=60))
def test_any_cutting_gives_the_same_counts(tokens: int, cuts: list[int]) -> None:
    meter = measured(TOKEN * tokens + USAGE % tokens + DONE, cuts)
    assert meter.events == tokens + 2
    assert meter.end() == (OK, tokens, "")


def test_byte_by_byte_the_first_and_last_event_are_timed() -> None:
    stream = TOKEN * 3 + USAGE % 3 + DONE
    meter = measured(stream, list(range(len(stream))))
    assert meter.first_s == len(b"data:")
    assert meter.last_s == len(stream) - len(DONE) + len(b"data:")


@pytest.mark.parametrize("field", ["content", "reasoning", "reasoning_content"])
def test_a_chat_streams_first_token_is_its_first_content_not_its_role(field: str) -> None:
    stream = CHAT_ROLE + CHAT_TOKEN.replace(b'"content"', f'"{field}"'.encode()) + USAGE % 1 + DONE
    meter = measured(stream, list(range(len(stream))), chat=True)
    assert meter.first_s is not None and meter.first_s > len(CHAT_ROLE)


@pytest.mark.parametrize(("stream", "kind", "tokens"), [
    pytest.param(TOKEN * 4 + DONE, OK, 4, id="no-usage-counts-events"),
    pytest.param(TOKEN * 4 + USAGE % 7 + DONE, OK, 7, id="usage-wins-where-an-event-holds-several-tokens"),
    pytest.param(TOKEN * 4, BROKEN_STREAM, 4, id="no-done"),
    pytest.param(TOKEN * 4 + TOKEN[:20], BROKEN_STREAM, 5, id="cut-inside-an-event"),
    pytest.param(b"", BROKEN_STREAM, 0, id="nothing-at-all"),
    pytest.param(b'{"id": "not a stream"}', BROKEN_STREAM, 0, id="no-event-stream"),
    pytest.param(TOKEN + b'data: {"error": {"message": "boom"}}\n\n' + DONE, STREAM_ERROR, 3, id="an-error-inside"),
    pytest.param((TOKEN * 4 + USAGE % 4 + DONE).replace(b"\n", b"\r\n"), OK, 4, id="carriage-returns"),
])  # fmt: skip
def test_ends_are_classified(stream: bytes, kind: str, tokens: int) -> None:
    meter = StreamMeter(chat=False)
    if stream:
        meter.feed(stream, 1.0)
    assert meter.end()[:2] == (kind, tokens)


@pytest.mark.parametrize(("target", "expected"), [
    pytest.param("http://127.0.0.1:8080", "http://127.0.0.1:8080", id="plain"),
    pytest.param("http://127.0.0.1:8080/", "http://127.0.0.1:8080", id="trailing-slash"),
    pytest.param("https://host/v1/", "https://host", id="as-openai-clients-write-it"),
    pytest.param("http://host/team/v1", "http://host/team", id="below-a-path"),
    pytest.param("http://[::1]:8080", "http://[::1]:8080", id="ipv6"),
])  # fmt: skip
def test_base_urls(target: str, expected: str) -> None:
    assert base_url(target) == expected


@pytest.mark.parametrize(
    "target", ["", "127.0.0.1:8080", "ftp://host", "http://", "http://host:99999", "http://host:x"]
)
def test_a_malformed_target_is_one_clear_line(target: str) -> None:
    with pytest.raises(ConfigError, match="--target") as caught:
        base_url(target)
    assert "\n" not in str(caught.value)


def test_a_completion_asks_for_exactly_the_recorded_lengths() -> None:
    request = TimedRequest(arrival_s=0.0, input_tokens=100, output_tokens=7, prefix_id=2, prefix_tokens=32)
    sent = json.loads(body(request, model="m", api="completions", label="1 run"))
    assert len(sent.pop("prompt")) == 400
    assert sent == {
        "model": "m", "max_tokens": 7, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        "temperature": 0.0,
    }  # fmt: skip


def test_a_chat_puts_the_shared_prefix_into_the_system_message() -> None:
    request = TimedRequest(arrival_s=0.0, input_tokens=100, output_tokens=7, prefix_id=2, prefix_tokens=32)
    system, user = json.loads(body(request, model="m", api="chat", label="1 run"))["messages"]
    assert (system["role"], len(system["content"])) == ("system", 128)
    assert (user["role"], len(user["content"])) == ("user", 272)
    alone = TimedRequest(arrival_s=0.0, input_tokens=100, output_tokens=7)
    assert [item["role"] for item in json.loads(body(alone, model="m", api="chat", label="1"))["messages"]] == ["user"]
