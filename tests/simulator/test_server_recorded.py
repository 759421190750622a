"""Every answer of the API held against one recorded from vLLM 0.32 (CPU build, a two-layer model).

The same requests are sent in the same order. A refusal must say the same words, numbers of tokens apart, for the
tokenizers differ; another answer must have the same fields in the same order, of the same types.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.integration
SHORTER_WORDS = {
    "chat: user only role missing": "vLLM lists a finding for each kind of message that it knows",
    "chat: null content": "as above",
}
"""Refusals with the same status and type whose words are fewer."""


def _recorded() -> list[dict[str, Any]]:
    path = Path(__file__).parent.parent / "data" / "vllm_0.32_api.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _ask(client: httpx.Client, case: dict[str, Any]) -> dict[str, Any]:
    headers = dict(case.get("headers", {}))
    content = case["raw"] if "raw" in case else json.dumps(case["body"]) if "body" in case else None
    if content is not None:
        headers.setdefault("content-type", "application/json")
    response = client.request(case["method"], case["path"], content=content, headers=headers)
    try:
        answer = response.json()
    except ValueError:
        answer = response.text
    return {"status": response.status_code, "content_type": response.headers.get("content-type"), "answer": answer}


@pytest.fixture(scope="module")
def answers(launch_engine: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Ours, by the name of the case."""
    engine = launch_engine("--max-model-len", "2048", "--speed", "50", "--max-loras", "2", model="tiny").ready()
    with httpx.Client(base_url=engine.url, timeout=60) as client:
        return {case["name"]: _ask(client, case) for case in _recorded()}


def _without_numbers(answer: object) -> str:
    return re.sub(r"\d+", "N", json.dumps(answer))


def _shape(value: object) -> object:
    """Names of fields in order and types of values; of lists the first entry, of log-probabilities none."""
    if isinstance(value, dict):
        return {key: _shape(entry) for key, entry in value.items() if key != "top_logprobs"}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return type(value).__name__


def _events(text: str) -> list[object]:
    """Kinds of server-sent events, each once, in order of appearance."""
    parts = [part.removeprefix("data: ") for part in text.strip().split("\n\n")]
    shapes = [part if part == "[DONE]" else json.dumps(_shape(json.loads(part))) for part in parts]
    return list(dict.fromkeys(shapes))


@pytest.mark.parametrize("case", _recorded(), ids=lambda case: case["name"])
def test_answers_are_those_of_vllm(answers: dict[str, dict[str, Any]], case: dict[str, Any]) -> None:
    ours, theirs = answers[case["name"]], case["answer"]
    assert (ours["status"], ours["content_type"]) == (case["status"], case["content_type"])
    if case["name"] in SHORTER_WORDS:
        assert ours["answer"]["error"]["type"] == theirs["error"]["type"]
    elif case["status"] != 200:
        assert _without_numbers(ours["answer"]) == _without_numbers(theirs)
    elif isinstance(theirs, str) and theirs.startswith("data: "):
        assert _events(ours["answer"]) == _events(theirs)
    elif isinstance(theirs, str):
        assert ours["answer"] == theirs
    else:
        assert json.dumps(_shape(ours["answer"])) == json.dumps(_shape(theirs))
