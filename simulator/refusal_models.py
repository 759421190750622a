"""Bodies as vLLM declares them, for the words of refusals: vLLM validates with pydantic and passes that on. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

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


def findings(path: str, parsed: object) -> list[dict[str, Any]]:
    """What pydantic has against the body of a request to ``path``."""
    try:
        TypeAdapter(_TARGETS[path]).validate_python(parsed, from_attributes=True)
    except ValidationError as error:
        return [dict(entry) for entry in error.errors(include_url=False)]
    return []
