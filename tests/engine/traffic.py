"""Requests for the proof: prompts as token ids, so that their length is exact; answers, and their likeness."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import httpx

from tests.engine.servers import MODEL

WORDS: Final = range(300, 4000)
"""Token ids that are no special ones and no single bytes."""
VOLATILE: Final = ("id", "created", "system_fingerprint")
"""What differs between two answers to the same request."""
TIMEOUT_S: Final = 60.0


def tokens(rng: random.Random, count: int) -> list[int]:
    """Token ids that nobody else has."""
    return rng.choices(WORDS, k=count)


def completion(prompt: Sequence[int] | str, **more: Any) -> dict[str, Any]:
    """A request's body: greedy unless told otherwise."""
    return {"model": MODEL, "prompt": prompt, "max_tokens": 16, "temperature": 0.0, "seed": 7, **more}


def chat(text: str, **more: Any) -> dict[str, Any]:
    """Likewise, a chat."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0.0,
            "seed": 7, **more}  # fmt: skip


def path_of(body: dict[str, Any]) -> str:
    """Where it is sent."""
    return "/v1/chat/completions" if "messages" in body else "/v1/completions"


def ask(url: str, body: dict[str, Any]) -> Any:
    """The answer, without what differs each time: one object, or of a stream the list of its events.

    Raises: ValueError when it is refused, or the stream is cut.
    """
    reply = httpx.post(url + path_of(body), json=body, timeout=TIMEOUT_S)
    if reply.status_code != 200:
        raise ValueError(f"{url} answers {reply.status_code}: {reply.text[:500]}")
    if not body.get("stream"):
        return without_names(reply.json())
    lines = [line for line in reply.text.splitlines() if line]
    if lines[-1] != "data: [DONE]":
        raise ValueError(f"the stream ends with {lines[-1]!r}")
    return merged(json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def without_names(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer's content."""
    return {key: value for key, value in answer.items() if key not in VOLATILE}


def merged(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """A stream's whole texts, their ends and its usage: a server may cut and mix the choices as it likes."""
    texts: dict[int, str] = {}
    ends: dict[int, str] = {}
    usage = None
    for event in events:
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            index = choice["index"]
            texts[index] = texts.get(index, "") + _text(choice)
            if choice.get("finish_reason"):
                ends[index] = choice["finish_reason"]
    return {"texts": texts, "finish_reasons": ends, "usage": usage}


def _text(choice: dict[str, Any]) -> str:
    return choice.get("text") or (choice.get("delta") or {}).get("content") or ""


def cached_tokens(answer: dict[str, Any]) -> int:
    """Of the prompt, in the prefix cache, as vLLM itself says."""
    return int((answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def page(url: str) -> dict[str, float]:
    """Sums of ``/metrics`` over all labels, by name."""
    found: dict[str, float] = {}
    for line in httpx.get(f"{url}/metrics", timeout=TIMEOUT_S).text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found
