"""What an engine's API takes: bodies of requests, refusals in vLLM's shape. Pure.

Fields that do not matter to a simulation are tolerated, as vLLM tolerates unknown ones.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")
Salt = Annotated[str, msgspec.Meta(max_length=1024)]


class ApiError(Exception):
    """An answer other than 200, in vLLM's shape."""

    def __init__(self, status: int, message: str, *, kind: str = "BadRequestError", param: str | None = None) -> None:
        self.status = status
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})
        super().__init__(message)


def bad_value(message: str, param: str, value: object = None) -> ApiError:
    """A refusal of one parameter's value, as vLLM words it; without ``value`` it names the parameter alone."""
    shown = "" if value is None else f", value={value}"
    return ApiError(400, f"{message} (parameter={param}{shown})", param=param)


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Body(msgspec.Struct, kw_only=True):
    """Fields of both generation APIs."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int | None = 1
    stream: bool | None = None
    stream_options: StreamOptions | None = None
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
    cache_salt: Salt | None = None
    kv_transfer_params: dict[str, Any] | None = None
    cache_hit_threshold: float | None = None
    request_id: str | None = None

    @property
    def stop_strings(self) -> list[str]:
        """``stop`` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionBody(Body, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str | list[Any] | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None


class Message(msgspec.Struct, kw_only=True):
    """One message of a chat."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class ChatBody(Body, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None


class TokenizeBody(msgspec.Struct, kw_only=True):
    """``POST /tokenize``."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """``POST /detokenize``."""

    model: str | None = None
    tokens: list[Annotated[int, msgspec.Meta(ge=0)]]


class LoadAdapterBody(msgspec.Struct, kw_only=True):
    """``POST /v1/load_lora_adapter``."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadAdapterBody(msgspec.Struct, kw_only=True):
    """``POST /v1/unload_lora_adapter``."""

    lora_name: str


def decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """A decoder that takes numbers written as text, as vLLM's does."""
    return msgspec.json.Decoder(kind, strict=False)
