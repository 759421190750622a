"""Why a body could not be read, in vLLM's words. Pure, and slow: it runs only after a fast decoder has refused.

vLLM validates with pydantic and passes its findings on; so do these models, of the fields that an engine reads.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from simulator.api_types import ApiError

_MAX_ERRORS = 10
_MAX_INPUT = 200
_INTERNAL = frozenset({"str", "int", "float", "bool", "list", "dict", "function-wrap", "none", "union", "nullable"})
TokenId = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")


class _StreamOptions(_Model):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Body(_Model):
    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int = 1
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    priority: int = 0
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    kv_transfer_params: dict[str, Any] | None = None
    request_id: str = ""


class Completion(_Body):
    """``POST /v1/completions``."""

    prompt: list[TokenId] | list[list[TokenId]] | str | list[str] | None = None
    echo: bool | None = False
    logprobs: int | None = None
    suffix: str | None = None


class _Message(_Model):
    role: str
    content: str | list[dict[str, Any]] | None = None


class Chat(_Body):
    """``POST /v1/chat/completions``."""

    messages: list[_Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tools: list[Any] | None = None


class _TokenizeText(_Model):
    model: str | None = None
    prompt: str
    return_token_strs: bool | None = False


class _TokenizeChat(_Model):
    model: str | None = None
    messages: list[_Message]
    return_token_strs: bool | None = False


class Detokenize(_Model):
    """``POST /detokenize``."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, le=2**63 - 1)]]


class LoadAdapter(_Model):
    """``POST /v1/load_lora_adapter``."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadAdapter(_Model):
    """``POST /v1/unload_lora_adapter``."""

    lora_name: str


_TARGETS: dict[str, Any] = {
    "/v1/completions": Completion,
    "/v1/chat/completions": Chat,
    "/tokenize": _TokenizeText | _TokenizeChat,
    "/detokenize": Detokenize,
    "/v1/load_lora_adapter": LoadAdapter,
    "/v1/unload_lora_adapter": UnloadAdapter,
}


def unreadable(path: str, parsed: object) -> ApiError | None:
    """The refusal of a body that is JSON; ``None`` when vLLM would take it."""
    try:
        TypeAdapter(_TARGETS[path]).validate_python(parsed, from_attributes=True)
    except ValidationError as error:
        return _refusal([_entry(dict(entry)) for entry in error.errors(include_url=False)])
    return None


def no_json(body: bytes, position: int, said: str) -> ApiError:
    """The refusal of a body that is no JSON; ``position`` is where it ends to be."""
    if not body:
        return _refusal([{"type": "missing", "loc": "body", "msg": "Field required", "input": "None"}])
    return _refusal([{"type": "json_invalid", "loc": f"body.{position}", "msg": "JSON decode error",
                      "input": "<dict of 0 items>", "ctx": {"error": said}}])  # fmt: skip


def no_text(position: int) -> ApiError:
    """The refusal of a message without content, where its role needs some."""
    return _refusal([{"type": "string_type", "loc": f"body.messages.{position}.content",
                      "msg": "Input should be a valid string", "input": "None"}])  # fmt: skip


def bad_query(name: str, kind: str, said: str, value: str, context: dict[str, Any]) -> ApiError:
    """The refusal of a query parameter."""
    return _refusal([{"type": kind, "loc": f"query.{name}", "msg": said, "input": value, "ctx": context}])


WRONG_MEDIA_TYPE = ApiError(
    400,
    "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
    kind="Bad Request",
)


def _refusal(entries: list[dict[str, Any]]) -> ApiError:
    count = len(entries)
    label = "error" if count == 1 else "errors"
    lines = [f"{count} validation {label}:", *(f"  {entry}" for entry in entries[:_MAX_ERRORS])]
    if count > _MAX_ERRORS:
        lines.append(f"  ...and {count - _MAX_ERRORS} more {label}")
    return ApiError(400, "\n".join(lines), kind="Bad Request", param=entries[0]["loc"])


def _entry(error: dict[str, Any]) -> dict[str, Any]:
    """One of pydantic's findings as vLLM shows it."""
    where = [part for part in map(str, error["loc"]) if not _internal(part)]
    shown = {"type": error["type"], "loc": ".".join(["body", *where]), "msg": error["msg"],
             "input": _shown(error["input"])}  # fmt: skip
    return {**shown, "ctx": error["ctx"]} if "ctx" in error else shown


def _internal(part: str) -> bool:
    return part in _INTERNAL or part.startswith("_") or any(mark in part for mark in "[](){}")


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _MAX_INPUT else f"{text[:_MAX_INPUT]}...[truncated]"
