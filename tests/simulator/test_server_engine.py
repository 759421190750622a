"""One engine as a process, over real sockets: the OpenAI API, errors, disconnects, its end."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from fleet.sources.exposition import engine_sample
from simulator import tokens
from tests.waiting import ENDS_WITHIN_S, until

pytestmark = pytest.mark.integration
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
NATURAL = 40
"""Tokens of an answer that ends by itself."""


def _words(count: int) -> str:
    return tokens.output(count).decode()


@pytest.fixture(scope="module")
def engine(launch_engine: Callable[..., Any]) -> Iterator[httpx.Client]:
    """An engine that lives fifty times as fast."""
    started = launch_engine("--speed", "50", "--ttft-buckets", "0.1,0.2,0.5", "--output-law", f"fixed:{NATURAL}")
    with httpx.Client(base_url=started.ready().url, timeout=60) as client:
        yield client


def _events(response: httpx.Response) -> list[Any]:
    """Data of server-sent events; the last one must be [DONE]."""
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def _complete(engine: httpx.Client, **fields: Any) -> httpx.Response:
    return engine.post("/v1/completions", json={"model": MODEL, "prompt": "Hello there", "max_tokens": 5, **fields})


def _chat(engine: httpx.Client, **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello there"}]
    return engine.post("/v1/chat/completions", json={"model": MODEL, "messages": messages, **fields})


def _sample(engine: httpx.Client) -> Any:
    return engine_sample(engine.get("/metrics").text, at_s=0.0)


def test_a_completion_streams_one_event_a_token(engine: httpx.Client) -> None:
    response = _complete(engine, stream=True, ignore_eos=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = _events(response)
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * 4 + ["length"]
    assert [event["choices"][0]["text"] for event in events] == list(tokens.OUTPUT_TOKENS[:5])
    assert {(event["object"], event["model"]) for event in events} == {("text_completion", MODEL)}
    assert len({event["id"] for event in events}) == 1
    assert events[0]["id"].startswith("cmpl-")


def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(engine: httpx.Client) -> None:
    *events, last = _events(_complete(engine, stream=True, stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8,
                             "prompt_tokens_details": {"cached_tokens": 0}}  # fmt: skip
    assert all("usage" not in event for event in events)


def test_a_chat_stream_opens_with_the_role(engine: httpx.Client) -> None:
    first, *events = _events(_chat(engine, stream=True, max_completion_tokens=4))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["delta"] for event in events] == [
        {"content": text} for text in tokens.OUTPUT_TOKENS[:4]
    ]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


def test_a_single_token_is_a_whole_stream(engine: httpx.Client) -> None:
    (event,) = _events(_complete(engine, stream=True, max_tokens=1))
    assert event["choices"][0]["finish_reason"] == "length"


def test_without_streaming_the_answer_comes_whole(engine: httpx.Client) -> None:
    body = _chat(engine, max_tokens=6).json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == _words(6)
    assert body["usage"]["completion_tokens"] == 6
    assert _complete(engine).json()["choices"][0]["text"] == _words(5)


def test_a_chat_without_a_limit_ends_by_itself_and_its_last_token_has_no_text(engine: httpx.Client) -> None:
    body = _chat(engine).json()
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"]["content"] == _words(NATURAL - 1)
    assert body["usage"]["completion_tokens"] == NATURAL


@pytest.mark.parametrize(
    ("fields", "output", "finish"),
    [
        pytest.param({"max_tokens": NATURAL + 20}, NATURAL, "stop", id="by-itself"),
        pytest.param({"max_tokens": NATURAL}, NATURAL, "stop", id="by-itself-with-the-last-token"),
        pytest.param({"max_tokens": NATURAL - 1}, NATURAL - 1, "length", id="cut-before"),
        pytest.param({"max_tokens": 90, "ignore_eos": True}, 90, "length", id="told-to-go-on"),
        pytest.param({"max_tokens": 90, "min_tokens": 60}, 60, "stop", id="not-before-the-minimum"),
    ],
)
def test_an_answer_ends_where_it_should(engine: httpx.Client, fields: dict, output: int, finish: str) -> None:
    body = _complete(engine, **fields).json()
    assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (output, finish)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("fields", "text", "output", "reason"),
    [
        pytest.param({"stop": "dog"}, " The old man and his ", 6, "dog", id="a-word"),
        pytest.param({"stop": ["nowhere", "\n\n"]}, _words(34) + ".", 35, "\n\n", id="one-of-several"),
        pytest.param({"stop": ["dog"], "include_stop_str_in_output": True}, " The old man and his dog", 6, "dog",
                     id="kept-in-the-text"),
        pytest.param({"stop": " and", "min_tokens": 5}, _words(14), 15, " and", id="not-before-the-minimum"),
        pytest.param({"stop_token_ids": tokens.unpack(b" dog")}, " The old man and his", 6,
                     tokens.unpack(b" dog")[0], id="a-token"),
    ],
)  # fmt: skip
def test_stop_strings_and_tokens_end_an_answer(
    engine: httpx.Client, fields: dict, text: str, output: int, reason: str | int, *, stream: bool
) -> None:
    wanted = {"max_tokens": 100, "ignore_eos": True, **fields}
    if stream:
        events = _events(_complete(engine, stream=True, stream_options={"include_usage": True}, **wanted))
        usage = events.pop()["usage"]
        choices = [event["choices"][0] for event in events]
        said, last = "".join(choice["text"] for choice in choices), choices[-1]
        assert len(choices) == output
    else:
        body = _complete(engine, **wanted).json()
        usage, last = body["usage"], body["choices"][0]
        said = last["text"]
    assert (said, usage["completion_tokens"]) == (text, output)
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", reason)


def test_several_answers_to_several_prompts_come_in_order(engine: httpx.Client) -> None:
    prompts = ["first prompt", "the second"]
    body = _complete(engine, prompt=prompts, n=3, echo=True, max_tokens=4, ignore_eos=True).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert [choice["text"] for choice in body["choices"]] == [prompt + _words(4) for prompt in prompts for _ in "abc"]
    assert body["usage"]["completion_tokens"] == 24
    events = _events(_complete(engine, prompt=prompts, n=2, stream=True, max_tokens=4, ignore_eos=True))
    texts = dict.fromkeys(range(4), "")
    for event in events:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert set(texts.values()) == {_words(4)}


def test_every_word_is_certain(engine: httpx.Client) -> None:
    completion = _complete(engine, logprobs=0, max_tokens=2).json()["choices"][0]["logprobs"]
    assert completion["tokens"] == list(tokens.OUTPUT_TOKENS[:2])
    assert completion["token_logprobs"] == [0.0, 0.0]
    chat = _chat(engine, logprobs=True, max_tokens=2).json()["choices"][0]["logprobs"]["content"]
    assert [(entry["token"], entry["logprob"]) for entry in chat] == [(" The", 0.0), (" old", 0.0)]


def test_tokens_go_there_and_back(engine: httpx.Client) -> None:
    text = "Grüße an alle, and more"
    ids = engine.post("/tokenize", json={"prompt": text}).json()["tokens"]
    assert engine.post("/detokenize", json={"tokens": ids}).json() == {"prompt": text}
    body = _complete(engine, prompt=ids, echo=True, max_tokens=1, return_token_ids=True).json()
    assert body["choices"][0]["prompt_token_ids"] == ids


def test_max_tokens_is_cut_to_what_the_context_leaves(engine: httpx.Client) -> None:
    prompt = "x" * 4 * (131_072 - 10)
    body = _complete(engine, prompt=prompt, max_tokens=200, ignore_eos=True).json()
    assert body["usage"]["total_tokens"] == 131_072


def test_a_prompt_seen_before_is_cached_as_text_and_as_token_ids(engine: httpx.Client) -> None:
    text = "a prompt that is long enough for several blocks of the cache " * 8
    ids = engine.post("/tokenize", json={"model": MODEL, "prompt": text}).json()["tokens"]
    cached = [
        _complete(engine, prompt=prompt, max_tokens=1).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        for prompt in (text, text, ids, [text])
    ]
    full = (len(ids) - 1) // 16 * 16
    assert cached == [0, full, full, full]


def test_the_clients_request_id_is_in_the_answer(engine: httpx.Client) -> None:
    body = {"model": MODEL, "prompt": "x", "max_tokens": 1}
    response = engine.post("/v1/completions", json=body, headers={"X-Request-Id": "abc"})
    assert response.json()["id"] == "cmpl-abc"


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        pytest.param({"model": "other"}, 404, "The model `other` does not exist.", id="unknown-model"),
        pytest.param({"prompt": "x" * 600_000}, 400, "maximum context length is 131072", id="too-long"),
        pytest.param({"max_tokens": 0}, 400, "at least 1", id="no-tokens"),
        pytest.param({"min_tokens": 9}, 400, "min_tokens", id="contradictory-lengths"),
        pytest.param({"n": 2, "temperature": 0}, 400, "n must be 1 when using greedy", id="several-greedy-answers"),
        pytest.param({"prompt": [1, -2]}, 400, "greater than or equal to 0", id="bad-token-id"),
        pytest.param({"prompt": [2**40]}, 400, f"Token id {2**40} is out of vocabulary", id="no-such-token"),
        pytest.param({"logprobs": 3}, 400, "greater than max allowed: 0", id="other-tokens-logprobs"),
        pytest.param({"prompt": ""}, 400, "prompt", id="empty-prompt"),
        pytest.param({"max_tokens": "many"}, 400, "max_tokens", id="wrong-type"),
    ],
)  # fmt: skip
def test_bad_requests_get_vllms_error_shape(engine: httpx.Client, fields: dict, status: int, said: str) -> None:
    response = _complete(engine, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, status)
    assert set(error) == {"message", "type", "param", "code"}
    assert said in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/v1/completions", b"{oops", id="no-json"),
        pytest.param("/v1/completions", b"\xff\xfe", id="no-text"),
        pytest.param("/v1/completions", b"{}", id="no-prompt"),
        pytest.param("/v1/chat/completions", b'{"messages": []}', id="no-message"),
        pytest.param("/tokenize", b"{}", id="nothing-to-tokenize"),
    ],
)
def test_unreadable_bodies_get_400(engine: httpx.Client, path: str, body: bytes) -> None:
    response = engine.post(path, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_the_small_endpoints_answer(engine: httpx.Client) -> None:
    card = engine.get("/v1/models").json()["data"][0]
    assert (card["id"], card["object"], card["max_model_len"]) == (MODEL, "model", 131_072)
    assert engine.get("/version").json()["version"].startswith("0.32")
    assert engine.get("/load").json() == {"server_load": 0}
    assert [engine.get(path).status_code for path in ("/health", "/healthz", "/ping")] == [200] * 3
    assert engine.get("/nothing").status_code == 404
    assert engine.get("/v1/completions").status_code == 405


def test_metrics_count_requests_tokens_and_http_statuses(engine: httpx.Client) -> None:
    before = _sample(engine)
    _complete(engine, prompt="x" * 40, max_tokens=7)
    _complete(engine, model="other")
    after = _sample(engine)
    assert after.requests_total - before.requests_total == 1
    assert after.generation_tokens_total - before.generation_tokens_total == 7
    assert after.prompt_tokens_total - before.prompt_tokens_total == 10
    text = engine.get("/metrics").text
    assert 'http_requests_total{handler="/v1/completions",method="POST",status="4xx"}' in text
    assert 'vllm:time_to_first_token_seconds_bucket{engine="0",le="0.2"' in text
    assert 'handler="/metrics"' not in text


def test_a_client_that_hangs_up_frees_its_place(engine: httpx.Client) -> None:
    body = {"model": MODEL, "prompt": "x", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    with engine.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        assert _sample(engine).running == 1
    until(lambda: _sample(engine).running == 0, "aborted")
    assert _sample(engine).kv_utilisation == 0
    assert engine.get("/load").json() == {"server_load": 0}
    assert 'finished_reason="abort",model_name="meta-llama/Llama-3.1-8B-Instruct"} 1.0' in engine.get("/metrics").text


def test_many_requests_at_once_all_finish(engine: httpx.Client) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda index: _complete(engine, stream=True, max_tokens=1 + index % 40), range(80)))
    assert [len(_events(answer)) for answer in answers] == [1 + index % 40 for index in range(80)]


def test_a_starting_engine_is_not_healthy_and_serves_nothing_yet(launch_engine: Callable[..., Any]) -> None:
    engine = launch_engine("--startup-s", "3.0")
    until(lambda: engine.status("/version") == 200, "listening")
    assert engine.status("/health") == 503
    assert engine.status("/metrics") == 503
    assert httpx.post(engine.url + "/v1/completions", json={"prompt": "x"}).status_code == 503
    until(lambda: engine.status() == 200, "healthy")


def test_sigterm_ends_an_engine_cleanly_even_with_a_stream_open(launch_engine: Callable[..., Any]) -> None:
    engine = launch_engine().ready()
    body = {"prompt": "x", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", engine.url + "/v1/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        engine.process.send_signal(signal.SIGTERM)
        assert engine.process.wait(ENDS_WITHIN_S) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--accelerator", "h100"], "unknown accelerator", id="unknown-gpu"),
        pytest.param(["--ttft-buckets", "0.2,0.1"], "--ttft-buckets", id="bad-buckets"),
        pytest.param(["--speed", "0"], "speed", id="standing-still"),
        pytest.param(["--output-law", "normal:3"], "is no law of answer lengths", id="unknown-law"),
        pytest.param(["--fault", "explode"], "is no fault", id="unknown-fault"),
        pytest.param(["--max-loras", "1", "--lora-module", "x"], "is no LoRA module", id="module-without-path"),
        pytest.param(["--host", "0.0.0.0", "--role", "prefill"], "--advertise-host", id="unreachable-address"),
        pytest.param(["--kv-events", "tcp://nowhere"], "cannot publish KV events", id="bad-endpoint"),
    ],
)
def test_bad_options_give_one_line_and_exit_2(launch_engine: Callable[..., Any], options: list, said: str) -> None:
    engine = launch_engine(*options)
    errors = engine.process.communicate(timeout=60)[1]
    assert engine.process.returncode == 2
    assert said in errors
    assert "Traceback" not in errors


def test_a_taken_port_gives_one_line_and_exit_2(launch_engine: Callable[..., Any]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        engine = launch_engine("--port", str(sock.getsockname()[1]))
        errors = engine.process.communicate(timeout=60)[1]
    assert engine.process.returncode == 2
    assert "cannot be used" in errors
    assert len(errors.strip().splitlines()) == 1


def test_an_engine_ends_when_its_parent_is_already_gone(launch_engine: Callable[..., Any]) -> None:
    engine = launch_engine("--die-with-parent", "--parent-pid", "1")
    engine.process.communicate(timeout=60)
    assert engine.process.returncode == 1


def test_many_engines_share_a_process_and_not_their_state(launch_engine: Callable[..., Any]) -> None:
    first = launch_engine("--replicas", "4", "--speed", "50").ready()
    urls = [f"http://127.0.0.1:{first.port + index}" for index in range(4)]
    for count, url in enumerate(urls):
        for _ in range(count):
            httpx.post(url + "/v1/completions", json={"prompt": "x", "max_tokens": 1})
    pages = [httpx.get(url + "/metrics").text for url in urls]
    assert [engine_sample(page, at_s=0.0).requests_total for page in pages] == [0.0, 1.0, 2.0, 3.0]
    first.process.terminate()
    assert first.process.wait(ENDS_WITHIN_S) == 0
