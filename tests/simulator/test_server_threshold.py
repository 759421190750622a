"""``cache_hit_threshold``: an engine answers only if enough of the prompt is cached."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.integration
PROMPT = "a prompt of some blocks, of which nothing is cached yet. " * 20


@pytest.fixture(scope="module")
def client(launch_engine: Callable[..., Any]) -> Iterator[httpx.Client]:
    engine = launch_engine("--speed", "20", "--output-law", "none").ready()
    with httpx.Client(base_url=engine.url, timeout=60) as made:
        yield made


def ask(client: httpx.Client, prompt: str, threshold: Any, **more: Any) -> httpx.Response:
    body = {"prompt": prompt, "max_tokens": 3, "cache_hit_threshold": threshold, **more}
    return client.post("/v1/completions", json=body)


def test_a_prompt_below_the_threshold_is_not_answered_and_one_above_is(client: httpx.Client) -> None:
    prompt = "first " + PROMPT
    said = ask(client, prompt, 0.5).json()
    assert (said["choices"][0]["finish_reason"], said["choices"][0]["text"]) == ("cache_threshold", "")
    assert (said["usage"]["completion_tokens"], said["usage"]["prompt_tokens"] > 250) == (0, True)
    assert ask(client, prompt, 0.0).json()["choices"][0]["finish_reason"] == "length"
    assert ask(client, prompt, 0.9).json()["choices"][0]["finish_reason"] == "length"
    assert ask(client, prompt + "more and more of it. " * 40, 0.9).json()["usage"]["completion_tokens"] == 0
    assert ask(client, prompt, None).status_code == 200


def test_a_stream_says_so_in_one_event(client: httpx.Client) -> None:
    lines = ask(client, "second " + PROMPT, 0.5, stream=True).text.split("\n\n")
    assert lines[1:] == ["data: [DONE]", ""]
    (choice,) = json.loads(lines[0].removeprefix("data: "))["choices"]
    assert (choice["finish_reason"], choice["text"]) == ("cache_threshold", "")


def test_a_chats_stream_begins_with_its_role(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "third " + PROMPT}], "stream": True, "cache_hit_threshold": 1.0}
    text = client.post("/v1/chat/completions", json=body).text
    assert (text.count("data: "), text.count('"finish_reason":"cache_threshold"')) == (3, 1)


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_that_is_no_share_is_refused(client: httpx.Client, threshold: float) -> None:
    reply = ask(client, PROMPT, threshold)
    assert (reply.status_code, "cache_hit_threshold" in reply.text) == (400, True)
