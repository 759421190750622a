"""The official ``openai`` client, unchanged, against a simulated engine."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from simulator import tokens

openai = pytest.importorskip("openai", reason="the openai client is not installed (pip install openai)")
pytestmark = pytest.mark.integration
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
QUESTION = [{"role": "user", "content": "What is a prefix cache?"}]


def _words(count: int) -> str:
    return tokens.output(count).decode()


@pytest.fixture(scope="module")
def url(launch_engine: Callable[..., Any]) -> str:
    options = ("--speed", "50", "--output-law", "fixed:30", "--max-loras", "1", "--lora-module", "sql=adapters/sql")
    return str(launch_engine(*options).ready().url)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=20) as made:
        yield made


def test_models_are_listed(client: Any) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, "sql"]


def test_a_chat_is_answered(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert answer.choices[0].message.content == _words(29)
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (30, answer.usage.prompt_tokens + 30)


def test_a_chat_streams_with_usage(client: Any) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, max_completion_tokens=8,
                                            stream_options={"include_usage": True})  # fmt: skip
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == _words(8)
    assert chunks[-1].usage.completion_tokens == 8


def test_the_clients_stream_helper_puts_an_answer_together(client: Any) -> None:
    with client.chat.completions.stream(model=MODEL, messages=QUESTION) as stream:
        stream.until_done()
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == _words(29)
    assert answer.choices[0].finish_reason == "stop"


def test_completions_take_several_prompts_answers_and_stops(client: Any) -> None:
    answer = client.completions.create(model=MODEL, prompt=["one", "two"], n=2, max_tokens=20, stop=[" dog"])
    assert [choice.text for choice in answer.choices] == [_words(5)] * 4
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


def test_a_completion_streams(client: Any) -> None:
    stream = client.completions.create(model=MODEL, prompt="x", max_tokens=5, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == _words(5)


def test_fields_that_only_vllm_knows_go_through(client: Any) -> None:
    answer = client.completions.create(model="sql", prompt="x", max_tokens=60, extra_body={"ignore_eos": True})
    assert (answer.model, answer.usage.completion_tokens) == ("sql", 60)


def test_log_probabilities_are_read(client: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=2, logprobs=True)
    assert [entry.token for entry in answer.choices[0].logprobs.content] == [" The", " old"]


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        pytest.param({"model": "other"}, "NotFoundError", "does not exist", id="unknown-model"),
        pytest.param({"temperature": 9}, "BadRequestError", "temperature must be in [0, 2]", id="bad-temperature"),
        pytest.param({"max_tokens": 10**6}, "BadRequestError", "cannot be greater than max_model_len", id="too-long"),
    ],
)
def test_refusals_are_the_clients_own_errors(client: Any, fields: dict[str, Any], kind: str, said: str) -> None:
    with pytest.raises(getattr(openai, kind)) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, **fields})
    assert said in str(caught.value)


def test_embeddings_are_refused_as_by_a_generative_model(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="404"):
        client.embeddings.create(model=MODEL, input="x")


def test_the_client_retries_what_is_injected(client: Any, url: str) -> None:
    fault = {"kind": "error", "types": ["rate_limit"], "seconds": 1.5}
    assert httpx.post(url + "/sim/fault", json=fault).status_code == 200
    with pytest.raises(openai.RateLimitError):
        client.completions.create(model=MODEL, prompt="x", max_tokens=1)
    patient = client.with_options(max_retries=6)
    assert patient.completions.create(model=MODEL, prompt="x", max_tokens=1).usage.completion_tokens == 1
