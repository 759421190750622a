"""One engine as a process, over real sockets: the OpenAI API, errors, disconnects, faults, its end."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from fleet.sources.exposition import engine_sample
from simulator import tokens
from simulator.openai_api import DEFAULT_CHAT_TOKENS

pytestmark = pytest.mark.integration
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


def _port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _start(*options: str) -> tuple[subprocess.Popen[str], str]:
    port = _port()
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator.engine_main", "--port", str(port), "--model", MODEL, *options],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, f"http://127.0.0.1:{port}"


def _until(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def _status(url: str) -> int:
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return 0


@pytest.fixture(scope="module")
def engine() -> Iterator[httpx.Client]:
    """An engine that lives fifty times as fast."""
    process, url = _start("--speed", "50", "--ttft-buckets", "0.1,0.2,0.5")
    try:
        _until(lambda: _status(url + "/health") == 200, "healthy")
        with httpx.Client(base_url=url, timeout=20) as client:
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=10)


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
    assert {event["choices"][0]["text"] for event in events} == {tokens.OUTPUT_WORD}
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
    assert [event["choices"][0]["delta"] for event in events] == [{"content": tokens.OUTPUT_WORD}] * 4
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


def test_a_single_token_is_a_whole_stream(engine: httpx.Client) -> None:
    (event,) = _events(_complete(engine, stream=True, max_tokens=1))
    assert event["choices"][0]["finish_reason"] == "length"


def test_without_streaming_the_answer_comes_whole(engine: httpx.Client) -> None:
    body = _chat(engine, max_tokens=6).json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == tokens.OUTPUT_WORD * 6
    assert body["usage"]["completion_tokens"] == 6
    assert _complete(engine).json()["choices"][0]["text"] == tokens.OUTPUT_WORD * 5


def test_a_chat_without_a_limit_ends_by_itself(engine: httpx.Client) -> None:
    body = _chat(engine).json()
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == DEFAULT_CHAT_TOKENS


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
        pytest.param({"prompt": "x" * 400_000, "max_tokens": 40_000}, 400, "maximum context length is 131072",
                     id="too-long"),
        pytest.param({"max_tokens": 0}, 400, "at least 1", id="no-tokens"),
        pytest.param({"min_tokens": 9}, 400, "min_tokens", id="contradictory-lengths"),
        pytest.param({"n": 2}, 400, "n must be 1", id="several-answers"),
        pytest.param({"prompt": ["a", "b"]}, 400, "one prompt", id="several-prompts"),
        pytest.param({"prompt": [1, -2]}, 400, "token ids are integers", id="bad-token-id"),
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
        pytest.param("/sim/fault", b'{"kind": "explode"}', id="unknown-fault"),
        pytest.param("/sim/fault", b'{"kind": "slow", "factor": 0}', id="impossible-factor"),
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
    body = {"model": MODEL, "prompt": "x", "max_tokens": 100_000, "stream": True}
    with engine.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        assert _sample(engine).running == 1
    _until(lambda: _sample(engine).running == 0, "aborted")
    assert _sample(engine).kv_utilisation == 0
    assert engine.get("/load").json() == {"server_load": 0}
    assert 'finished_reason="abort",model_name="meta-llama/Llama-3.1-8B-Instruct"} 1.0' in engine.get("/metrics").text


def _fault(engine: httpx.Client, **fault: Any) -> Any:
    return engine.post("/sim/fault", json=fault).json()


def test_an_erring_engine_answers_500_until_it_is_healed(engine: httpx.Client) -> None:
    _fault(engine, kind="error")
    assert _complete(engine).status_code == 500
    assert engine.get("/health").status_code == 200
    _fault(engine, kind="none")
    assert _complete(engine).status_code == 200


def test_a_hung_engine_keeps_requests_waiting_until_it_is_healed(engine: httpx.Client) -> None:
    _fault(engine, kind="hang")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_complete, engine)
        _until(lambda: _sample(engine).waiting == 1, "waiting")
        assert not answer.done()
        _fault(engine, kind="none")
        assert answer.result(20).status_code == 200


def test_a_slow_engine_says_its_factor(engine: httpx.Client) -> None:
    assert _fault(engine, kind="slow", factor=3.0) == {"kind": "slow", "factor": 3.0}
    assert _fault(engine, kind="none") == {"kind": "none", "factor": 1.0}


def test_many_requests_at_once_all_finish(engine: httpx.Client) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda index: _complete(engine, stream=True, max_tokens=1 + index % 40), range(80)))
    assert [len(_events(answer)) for answer in answers] == [1 + index % 40 for index in range(80)]


def test_a_starting_engine_is_not_healthy_and_serves_nothing_yet() -> None:
    process, url = _start("--startup-s", "1.0")
    try:
        _until(lambda: _status(url + "/version") == 200, "listening")
        assert _status(url + "/health") == 503
        assert _status(url + "/metrics") == 503
        assert httpx.post(url + "/v1/completions", json={"prompt": "x"}).status_code == 503
        _until(lambda: _status(url + "/health") == 200, "healthy")
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_sigterm_ends_an_engine_cleanly_even_with_a_stream_open() -> None:
    process, url = _start()
    _until(lambda: _status(url + "/health") == 200, "healthy")
    body = {"prompt": "x", "max_tokens": 100_000, "stream": True}
    with httpx.stream("POST", url + "/v1/completions", json=body, timeout=20) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    process.communicate()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--accelerator", "h100"], "unknown accelerator", id="unknown-gpu"),
        pytest.param(["--ttft-buckets", "0.2,0.1"], "--ttft-buckets", id="bad-buckets"),
        pytest.param(["--speed", "0"], "speed", id="standing-still"),
    ],
)
def test_bad_options_give_one_line_and_exit_2(options: list[str], said: str) -> None:
    process, _ = _start(*options)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert said in errors
    assert "Traceback" not in errors


def test_a_taken_port_gives_one_line_and_exit_2() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        process, _ = _start("--port", str(sock.getsockname()[1]))
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "cannot be used" in errors
    assert len(errors.strip().splitlines()) == 1


def test_an_engine_ends_when_its_parent_is_already_gone() -> None:
    process, _ = _start("--die-with-parent", "--parent-pid", "1")
    process.communicate(timeout=20)
    assert process.returncode == 1
