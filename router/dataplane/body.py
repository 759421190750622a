"""What the router needs from a request's JSON body; the body itself is forwarded as it came. Pure.

The prompt is kept as the raw JSON text: two prompts that begin alike have bytes that begin alike, so nothing has to be
decoded to hash it, however long it is.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from router.dataplane.fields import decode
from router.dataplane.replies import Refusal
from router.prefix import BYTES_PER_TOKEN

_HEAD: Final = 16
"""Bytes at the beginning of a prompt by which token ids are known from text."""


class ParsedBody:
    """Model, prompt and lengths of one request."""

    __slots__ = ("cache_salt", "input_tokens", "max_tokens", "model", "prompt", "stream")

    def __init__(  # noqa: PLR0917 - made once a request, by position
        self, model: str, prompt: bytes, input_tokens: int, max_tokens: int | None, stream: bool, cache_salt: str = ""
    ) -> None:
        self.model = model
        self.prompt = prompt
        """The prompt, messages or input as raw JSON."""
        self.input_tokens = input_tokens
        """Exact where the client sent token ids, else four bytes a token."""
        self.max_tokens, self.stream = max_tokens, stream
        self.cache_salt = cache_salt
        """Keeps its cached blocks apart from those of requests with another."""


def parse(body: bytes) -> ParsedBody | Refusal:
    """The fields of ``body``, or why it cannot be routed."""
    try:
        fields = decode(body)
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
    head = prompt[:_HEAD].translate(None, b" \t\r\n[")
    if prompt[:1] == b"[" and head[:1].isdigit():
        return prompt.count(b",") + 1
    return max(1, len(prompt) // BYTES_PER_TOKEN) if prompt else 0
