"""What the router needs from a request's JSON body; the body itself is forwarded as it came. Pure.

The prompt is kept as the raw JSON text: two prompts that begin alike have bytes that begin alike, so nothing has to be
decoded to hash it, however long it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from router.dataplane.replies import Refusal
from router.prefix import BYTES_PER_TOKEN

_EMPTY = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    """The fields that matter; all others are skipped. Their types are the engine's to check, except ``model``."""

    model: str | None = None
    prompt: msgspec.Raw = _EMPTY
    messages: msgspec.Raw = _EMPTY
    input: msgspec.Raw = _EMPTY
    stream: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    cache_salt: Any = None


_decode = msgspec.json.Decoder(_Body).decode


@dataclass(slots=True)
class ParsedBody:
    """Model, prompt and lengths of one request."""

    model: str
    prompt: bytes
    """The prompt, messages or input as raw JSON."""
    input_tokens: int
    """Exact where the client sent token ids, else four bytes a token."""
    max_tokens: int | None
    stream: bool
    cache_salt: str = ""
    """Keeps its cached blocks apart from those of requests with another."""


def parse(body: bytes) -> ParsedBody | Refusal:
    """The fields of ``body``, or why it cannot be routed."""
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return Refusal(400, f"the body is no JSON object that can be routed: {error}", code="invalid_body")
    if not fields.model:
        return Refusal(400, "the body names no model", code="model_missing")
    prompt = bytes(fields.messages) or bytes(fields.prompt) or bytes(fields.input)
    limit = fields.max_completion_tokens if fields.max_completion_tokens is not None else fields.max_tokens
    return ParsedBody(fields.model, prompt, _count(prompt), _whole(limit), bool(fields.stream),
                      fields.cache_salt if isinstance(fields.cache_salt, str) else "")  # fmt: skip


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _count(prompt: bytes) -> int:
    """Tokens of a raw JSON prompt: ids are counted, text is estimated."""
    head = prompt[:16].translate(None, b" \t\r\n[")
    if prompt[:1] == b"[" and head[:1].isdigit():
        return prompt.count(b",") + 1
    return max(1, len(prompt) // BYTES_PER_TOKEN) if prompt else 0
