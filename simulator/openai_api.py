"""The OpenAI API as vLLM speaks it: requests parsed, answers and errors built. Pure.

Three things differ from a real engine. Tokens are four bytes of UTF-8. There is no end-of-sequence: with or without
``ignore_eos`` an answer is as long as ``max_tokens`` says, and a chat request that names no limit gets
:data:`DEFAULT_CHAT_TOKENS` and the finish reason ``stop``. Every token reads the same word, so ``stop`` strings are
accepted and never met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from simulator import tokens

DEFAULT_COMPLETION_TOKENS = 16
"""vLLM's own default of ``max_tokens`` for ``/v1/completions``."""
DEFAULT_CHAT_TOKENS = 256
"""Stands for the point at which a chat model would end by itself."""


class ApiError(Exception):
    """An answer other than 200, in vLLM's shape."""

    def __init__(self, status: int, message: str, *, kind: str = "BadRequestError", param: str | None = None) -> None:
        self.status = status
        self.body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})
        super().__init__(message)


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool | None = None


class Body(msgspec.Struct, kw_only=True):
    """The fields that matter of both APIs; others are tolerated, as vLLM does."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class CompletionBody(Body, kw_only=True):
    """``POST /v1/completions``."""

    prompt: str | list[Any]


class Message(msgspec.Struct, kw_only=True):
    """One message of a chat."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class ChatBody(Body, kw_only=True):
    """``POST /v1/chat/completions``."""

    messages: list[Message]
    max_completion_tokens: int | None = None


class TokenizeBody(msgspec.Struct, kw_only=True):
    """``POST /tokenize``."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A request that may be submitted."""

    chat: bool
    packed: bytes
    """The prompt's packed tokens."""
    max_tokens: int
    finish_reason: str
    stream: bool
    include_usage: bool

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return tokens.count(self.packed)


_COMPLETION = msgspec.json.Decoder(CompletionBody)
_CHAT = msgspec.json.Decoder(ChatBody)
_TOKENIZE = msgspec.json.Decoder(TokenizeBody)


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"Invalid request: {error}", kind="Bad Request") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"JSON decode error: {error}", kind="Bad Request") from None


def parse_completion(body: bytes, *, model: str, max_model_len: int) -> Generation:
    """A completion request.

    Raises: ApiError 400 or 404 with vLLM's reasons.
    """
    parsed: CompletionBody = _decode(_COMPLETION, body)
    _check_model(parsed.model, model)
    packed = _pack_prompt(parsed.prompt)
    limit = DEFAULT_COMPLETION_TOKENS if parsed.max_tokens is None else parsed.max_tokens
    return _generation(parsed, packed, limit, chat=False, finish_reason="length", max_model_len=max_model_len)


def parse_chat(body: bytes, *, model: str, max_model_len: int) -> Generation:
    """A chat request.

    Raises: ApiError 400 or 404 with vLLM's reasons.
    """
    parsed: ChatBody = _decode(_CHAT, body)
    _check_model(parsed.model, model)
    packed = tokens.encode(render_chat(parsed.messages))
    named = parsed.max_tokens if parsed.max_completion_tokens is None else parsed.max_completion_tokens
    if named is not None:
        return _generation(parsed, packed, named, chat=True, finish_reason="length", max_model_len=max_model_len)
    room = max(1, max_model_len - tokens.count(packed))
    limit = min(DEFAULT_CHAT_TOKENS, room)
    return _generation(parsed, packed, limit, chat=True, finish_reason="stop", max_model_len=max_model_len)


def render_chat(messages: list[Message]) -> str:
    """Messages as one prompt text, each in a frame of its own.

    Raises: ApiError 400 when there is none.
    """
    if not messages:
        raise ApiError(400, "messages must hold at least one message", param="messages")
    frames = [f"<|{message.role}|>\n{_content(message.content)}<|end|>\n" for message in messages]
    return "".join([*frames, "<|assistant|>\n"])


def _content(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return content or ""


def _check_model(asked: str | None, served: str) -> None:
    if asked is not None and asked != served:
        raise ApiError(404, f"The model `{asked}` does not exist.", kind="NotFoundError", param="model")


def _pack_prompt(prompt: str | list[Any]) -> bytes:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, list) and any(isinstance(entry, (str, list)) for entry in prompt):
        raise ApiError(400, "one prompt a request: a text or a list of token ids", param="prompt")
    try:
        packed = tokens.encode(prompt) if isinstance(prompt, str) else tokens.pack(prompt)
    except ValueError as error:
        raise ApiError(400, f"prompt: {error}", param="prompt") from None
    if not packed:
        raise ApiError(400, "Either prompt or prompt_embeds must be provided and non-empty.", param="prompt")
    return packed


def _generation(
    body: Body, packed: bytes, max_tokens: int, *, chat: bool, finish_reason: str, max_model_len: int
) -> Generation:
    if body.n not in {None, 1}:
        raise ApiError(400, f"n must be 1 on a simulated engine, got {body.n}.", param="n")
    if max_tokens < 1:
        raise ApiError(400, f"max_tokens must be at least 1, got {max_tokens}.", param="max_tokens")
    if (body.min_tokens or 0) > max_tokens:
        raise ApiError(400, f"min_tokens must be less than or equal to max_tokens={max_tokens}, got "
                       f"{body.min_tokens}.", param="min_tokens")  # fmt: skip
    prompt = tokens.count(packed)
    if prompt + max_tokens > max_model_len:
        raise ApiError(
            400,
            f"This model's maximum context length is {max_model_len} tokens. However, you requested {max_tokens} "
            f"output tokens and your prompt contains {prompt} input tokens, for a total of {prompt + max_tokens} "
            "tokens. Please reduce the length of the input prompt or the number of requested output tokens.",
            param="input_tokens",
        )
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return Generation(chat=chat, packed=packed, max_tokens=max_tokens, finish_reason=finish_reason,
                      stream=bool(body.stream), include_usage=usage)  # fmt: skip


def tokenize(body: bytes, *, model: str, max_model_len: int) -> bytes:
    """The answer of ``POST /tokenize``.

    Raises: ApiError 400 or 404.
    """
    parsed: TokenizeBody = _decode(_TOKENIZE, body)
    _check_model(parsed.model, model)
    if parsed.prompt is None and parsed.messages is None:
        raise ApiError(400, "Either prompt or messages must be given.", param="prompt")
    text = parsed.prompt if parsed.prompt is not None else render_chat(parsed.messages or [])
    ids = tokens.unpack(tokens.encode(text))
    return msgspec.json.encode({"count": len(ids), "max_model_len": max_model_len, "tokens": ids, "token_strs": None})


def models(model: str, *, created: int, max_model_len: int) -> bytes:
    """The answer of ``GET /v1/models``."""
    permission = {
        "id": f"modelperm-{created:032x}", "object": "model_permission", "created": created,
        "allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True, "allow_search_indices": False,
        "allow_view": True, "allow_fine_tuning": False, "organization": "*", "group": None, "is_blocking": False,
    }  # fmt: skip
    card = {"id": model, "object": "model", "created": created, "owned_by": "vllm", "root": model, "parent": None,
            "max_model_len": max_model_len, "permission": [permission]}  # fmt: skip
    return msgspec.json.encode({"object": "list", "data": [card]})


class Answer:
    """The bytes of one request's answer; a stream's parts are made once and repeated."""

    __slots__ = ("_created", "_generation", "_id", "_model", "head", "token")

    def __init__(self, generation: Generation, *, request_id: str, model: str, created: int) -> None:
        """Templates for ``request_id``; ``created`` is a Unix time."""
        self._generation, self._id, self._model, self._created = generation, request_id, model, created
        self.head = self._chunk({"role": "assistant", "content": ""}, None) if generation.chat else b""
        """What goes before the first token."""
        self.token = self._piece(None)
        """One token."""

    def last(self, cached_tokens: int) -> bytes:
        """The last token with the finish reason, usage if asked for, and ``[DONE]``."""
        parts = [self._piece(self._generation.finish_reason)]
        if self._generation.include_usage:
            parts.append(self._event([], usage=self._usage(cached_tokens)))
        return b"".join([*parts, b"data: [DONE]\n\n"])

    def whole(self, cached_tokens: int) -> bytes:
        """The answer of a request that does not stream."""
        text = tokens.OUTPUT_WORD * self._generation.max_tokens
        common = {"index": 0, "logprobs": None, "finish_reason": self._generation.finish_reason, "stop_reason": None}
        if self._generation.chat:
            message: dict[str, Any] = {
                "role": "assistant", "content": text, "refusal": None, "annotations": None, "audio": None,
                "function_call": None, "tool_calls": [], "reasoning": None,
            }  # fmt: skip
            choice = {**common, "message": message, "token_ids": None}
        else:
            choice = {**common, "text": text, "token_ids": None, "prompt_logprobs": None, "prompt_token_ids": None}
        return msgspec.json.encode(
            {**self._header(whole=True), "choices": [choice], "service_tier": None, "system_fingerprint": None,
             "usage": self._usage(cached_tokens), "kv_transfer_params": None}
        )  # fmt: skip

    def _piece(self, finish_reason: str | None) -> bytes:
        if self._generation.chat:
            return self._chunk({"content": tokens.OUTPUT_WORD}, finish_reason)
        return self._event([{
            "index": 0, "text": tokens.OUTPUT_WORD, "logprobs": None, "finish_reason": finish_reason,
            "stop_reason": None, "prompt_token_ids": None, "token_ids": None,
        }])  # fmt: skip

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "token_ids": None}
        return self._event([choice if finish_reason is None else {**choice, "stop_reason": None}])

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + msgspec.json.encode({**self._header(), "choices": choices, **more}) + b"\n\n"

    def _header(self, *, whole: bool = False) -> dict[str, Any]:
        chat = "chat.completion" if whole else "chat.completion.chunk"
        kind = chat if self._generation.chat else "text_completion"
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _usage(self, cached_tokens: int) -> dict[str, Any]:
        prompt, output = self._generation.prompt_tokens, self._generation.max_tokens
        return {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output,
                "prompt_tokens_details": {"cached_tokens": cached_tokens}}  # fmt: skip
