"""What a request's span says, by OpenTelemetry's GenAI conventions. Never a prompt, an answer, a key. No I/O.

Names: https://github.com/open-telemetry/semantic-conventions-genai (``docs/gen-ai/gen-ai-spans.md``, status
Development); a test holds them against the package ``opentelemetry-semantic-conventions``. What is ours alone begins
with ``fleet.``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from fleet.history import RequestOutcome
from router.recorder import Facts
from router.ticket import Ticket

Value = str | int | float | bool | list[str]

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
ADDRESS: Final = "server.address"
PORT: Final = "server.port"
STATUS: Final = "http.response.status_code"
ERROR: Final = "error.type"

OPENAI: Final = "openai"
"""The format that is spoken, whoever made the engine."""
_OPERATIONS: Final = {
    "chat/completions": "chat", "completions": "text_completion", "embeddings": "embeddings", "responses": "chat",
}  # fmt: skip
_PLAIN_PATH: Final = re.compile(r"[a-z_/]{1,64}")
_OTHER_OPERATION: Final = "other"
_NOT_SENT: Final = 499
"""Stands for a status where the client left before there was one."""
_EDGE: Final = 8 << 10
"""Bytes at an answer's beginning, and at its end, that are looked through."""
_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]{1,256})"')
_ID: Final = re.compile(rb'^(?:data: ?)?\{"id"\s*:\s*"([^"\\]{1,128})"', re.MULTILINE)
_FINISH: Final = re.compile(rb'"finish_reason"\s*:\s*"([a-z_]{1,32})"')


@lru_cache(maxsize=256)
def operation(path: bytes) -> str:
    """The operation's name by the request's path: the conventions' where there is one, else the path under ``/v1/``.

    >>> operation(b"/v1/chat/completions?beta=1"), operation(b"/v1/rerank")
    ('chat', 'rerank')
    """
    plain = path.partition(b"?")[0].decode("latin-1").strip("/").removeprefix("v1/")
    return _OPERATIONS.get(plain) or (plain if _PLAIN_PATH.fullmatch(plain) else _OTHER_OPERATION)


@lru_cache(maxsize=4096)
def address(url: str) -> tuple[str, int]:
    """Host and port of an engine."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def asked(ticket: Ticket, name: str) -> dict[str, Value]:
    """What is known when a request comes, for samplers too."""
    found: dict[str, Value] = {
        OPERATION: name, PROVIDER: OPENAI, REQUEST_MODEL: ticket.model, "fleet.request_id": ticket.request_id,
        "fleet.input_tokens.estimated": ticket.input_tokens, "fleet.priority": ticket.priority,
    }  # fmt: skip
    if ticket.streaming:
        found[REQUEST_STREAM] = True
    if ticket.max_tokens is not None:
        found[REQUEST_MAX_TOKENS] = ticket.max_tokens
    if ticket.tenant:
        found["fleet.tenant"] = ticket.tenant
    return found


def told(kept: bytes) -> dict[str, Value]:
    """What an answer says of itself: its model, id and finish reasons, where they are among the bytes kept of it.

    Quotes inside a JSON string are escaped, so no generated text can pass for one of these fields.
    """
    found: dict[str, Value] = {}
    start, end = kept[:_EDGE], kept[-_EDGE:]
    for name, pattern in ((RESPONSE_MODEL, _MODEL), (RESPONSE_ID, _ID)):
        if (hit := pattern.search(start) or pattern.search(end)) is not None:
            found[name] = hit[1].decode("utf-8", "replace")
    if reasons := [one.decode() for one in _FINISH.findall(end)]:
        found[FINISH_REASONS] = reasons
    return found


def answered(ticket: Ticket, seen: Facts) -> dict[str, Value]:
    """What is known when a request is over."""
    found: dict[str, Value] = {"fleet.outcome": str(ticket.outcome), "fleet.retries": len(ticket.tried)}
    if ticket.status and ticket.status != _NOT_SENT:
        found[STATUS] = ticket.status
    if ticket.url:
        found[ADDRESS], found[PORT] = address(ticket.url)
        found["fleet.endpoint"] = ticket.url
    if ticket.prefill:
        found["fleet.endpoint.prefill"] = ticket.prefill
    found.update(_picked(ticket))
    if ticket.url and ticket.outcome is not RequestOutcome.REJECTED:
        found.update(told(ticket.observer.kept()))
        found.update(_counted(ticket, seen))
    return found


def _picked(ticket: Ticket) -> Mapping[str, Value]:
    """Why it went there."""
    found: dict[str, Value] = {}
    pick = ticket.pick
    if pick is None:
        return found
    if pick.endpoint is not None:
        found["fleet.variant"] = pick.endpoint.variant
    else:
        found["fleet.pick.reason"] = pick.reason
    if ticket.seen is not None:
        found["fleet.matched_tokens"] = ticket.seen.matched_tokens
    if pick.prediction is not None:
        found["fleet.predicted_ttft_s"] = pick.prediction.ttft_s
    return found


def _counted(ticket: Ticket, seen: Facts) -> Mapping[str, Value]:
    """Tokens, as the engine counted them; those of the answer else by its events."""
    found: dict[str, Value] = {}
    usage = seen.usage
    if usage.prompt_tokens is not None:
        found[INPUT_TOKENS] = usage.prompt_tokens
    if usage.cached_tokens is not None:
        found[CACHED_TOKENS] = usage.cached_tokens
    if usage.completion_tokens is not None or ticket.streaming:
        found[OUTPUT_TOKENS] = seen.output_tokens
    if seen.ttft_s is not None:
        found[FIRST_CHUNK] = seen.ttft_s
    return found
