"""The OpenAI API as vLLM speaks it: requests parsed and checked. Pure.

Three things differ from a real engine. Tokens are four bytes of UTF-8. What is generated is the fixed text of
:data:`simulator.tokens.OUTPUT_TOKENS`, with probability one: ``logprobs`` are 0.0, and those of other tokens are
refused, as by an engine with ``--max-logprobs 0``. An answer ends by itself where a law says
(:mod:`simulator.answer_plan`), unless the request sets ``ignore_eos``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from simulator import refusals, tokens
from simulator.answer_plan import LengthLaw, Plan, Stops, make_plan
from simulator.api_types import ApiError, Body, ChatBody, CompletionBody, Message, bad_value, decoder
from simulator.sampling import check_sampling
from simulator.transfer import ConnectorKind, Transfer, parse_transfer

DEFAULT_COMPLETION_TOKENS = 16
"""vLLM's own default of ``max_tokens`` for ``/v1/completions``."""
GREEDY_TEMPERATURE = 1e-5
_NEED_TEXT = frozenset({"user", "system", "developer"})
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What an engine serves, as far as requests depend on it."""

    model: str
    max_model_len: int
    law: LengthLaw
    adapters: Mapping[str, int]
    """Loaded LoRA adapters by name, and what their blocks' hashes begin with."""
    transfers: ConnectorKind | None = None
    """Its KV connector; ``None``: it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt."""

    packed: bytes
    """Its packed tokens."""
    text: str | None
    """As it was given; ``None`` when it was given as token ids."""
    plans: tuple[Plan, ...]
    """Its answers, ``n`` of them."""

    @property
    def tokens(self) -> int:
        """Its length."""
        return tokens.count(self.packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A request that may be submitted."""

    chat: bool
    model: str
    """The model or adapter that answers."""
    adapter: str | None
    root: int
    """What the hashes of its blocks begin with: adapters and salts share no block with others."""
    salt: str | None
    prompts: tuple[Prompt, ...]
    max_tokens: int
    """As the sampling parameters say, of the first prompt."""
    n: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    echo: bool
    prompt_only: bool
    """Echo of the prompt, and nothing after it."""
    logprobs: bool
    return_token_ids: bool
    priority: int
    transfer: Transfer | None
    cache_hit_threshold: float
    """Answer only if this share of the prompt is cached; 0: always."""
    request_id: str | None

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(prompt.tokens for prompt in self.prompts)


_COMPLETION = decoder(CompletionBody)
_CHAT = decoder(ChatBody)


def decode(wanted: msgspec.json.Decoder[T], path: str, body: bytes) -> T:
    """The body of a request to ``path``.

    Raises: ApiError 400 with vLLM's reasons.
    """
    try:
        return wanted.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        refused = error
    try:
        parsed = json.loads(body)
    except json.JSONDecodeError as error:
        raise refusals.no_json(body, error.pos, error.msg) from None
    except UnicodeDecodeError as error:
        raise refusals.no_json(body, error.start, "the body is not UTF-8") from None
    raise refusals.unreadable(path, parsed) or ApiError(400, f"Invalid request: {refused}", kind="Bad Request")


def parse_completion(body: bytes, served: Served) -> Generation:
    """A completion request.

    Raises: ApiError 400 or 404 with vLLM's reasons.
    """
    parsed = decode(_COMPLETION, "/v1/completions", body)
    _check_streaming(parsed, parsed.logprobs)
    prompts = _prompts(parsed.prompt)
    _check_model(parsed.model, served)
    if parsed.suffix is not None:
        raise ApiError(400, "suffix is only supported for models with FIM completion rendering", param="suffix")
    _check_top(parsed.logprobs)
    asked = parsed.max_tokens
    prompt_only = bool(parsed.echo) and asked == 0
    if asked is None and b'"max_tokens"' not in body:
        asked = DEFAULT_COMPLETION_TOKENS
    return _generation(
        parsed, prompts, 1 if prompt_only else asked, served, chat=False, echo=bool(parsed.echo),
        prompt_only=prompt_only, logprobs=parsed.logprobs is not None,
    )  # fmt: skip


def parse_chat(body: bytes, served: Served) -> Generation:
    """A chat request.

    Raises: ApiError 400 or 404 with vLLM's reasons.
    """
    parsed = decode(_CHAT, "/v1/chat/completions", body)
    _check_streaming(parsed, None)
    if parsed.top_logprobs and not parsed.logprobs:
        raise bad_value("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    if parsed.tools and parsed.tool_choice in {None, "auto"}:
        raise ApiError(400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    _check_model(parsed.model, served)
    _check_top(parsed.top_logprobs)
    text = render_chat(parsed.messages, served.model)
    asked = parsed.max_tokens if parsed.max_completion_tokens is None else parsed.max_completion_tokens
    return _generation(parsed, [(tokens.encode(text), text)], asked, served, chat=True,
                       logprobs=bool(parsed.logprobs))  # fmt: skip


def render_chat(messages: list[Message], model: str) -> str:
    """Messages as one prompt text, each in a frame of its own.

    Raises: ApiError 400 when there is none, or one is no text.
    """
    if not messages:
        raise ApiError(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    for position, message in enumerate(messages):
        if message.content is None and message.role in _NEED_TEXT:
            raise refusals.no_text(position)
    frames = [f"<|{message.role}|>\n{_content(message.content, model)}<|end|>\n" for message in messages]
    return "".join([*frames, "<|assistant|>\n"])


def _content(content: str | list[dict[str, Any]] | None, model: str) -> str:
    if not isinstance(content, list):
        return content or ""
    if any(part.get("type", "text") not in {"text", "input_text", "refusal"} for part in content):
        raise ApiError(400, f"{model} is not a multimodal model")
    return "\n".join(str(part.get("text", "")) for part in content)


def unknown_model(asked: str, served: str) -> ApiError:
    """The refusal of a model that is not served."""
    return ApiError(404, f"The model `{asked}` does not exist. Valid aliases: {served}.", kind="NotFoundError",
                    param="model")  # fmt: skip


def _check_model(asked: str | None, served: Served) -> None:
    if asked and asked != served.model and asked not in served.adapters:
        raise unknown_model(asked, served.model)


def _check_streaming(body: Body, logprobs: int | None) -> None:
    """What vLLM refuses before it looks at anything else."""
    if body.stream_options is not None and not body.stream:
        raise bad_value("Stream options can only be defined when `stream=True`.", "stream_options")
    if body.prompt_logprobs is not None and body.stream and body.prompt_logprobs:
        raise bad_value("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    if logprobs is not None and logprobs < -1:
        raise bad_value("`logprobs` must be a positive value or -1.", "logprobs", logprobs)
    if body.prompt_logprobs:
        asked = body.prompt_logprobs
        raise bad_value(f"Requested prompt logprobs of {asked}, which is greater than max allowed: 0",
                        "prompt_logprobs", asked)  # fmt: skip
    if body.cache_salt == "":
        raise bad_value("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")


def _check_top(asked: int | None) -> None:
    if asked:
        raise bad_value(f"Requested sample logprobs of {asked}, which is greater than max allowed: 0", "logprobs",
                        asked)  # fmt: skip


def _prompts(given: str | list[Any] | None) -> list[tuple[bytes, str | None]]:
    """The prompts of a completion request: packed tokens, and the text where it was text."""
    if given is None or given == "":
        raise bad_value("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if given == []:
        raise ApiError(400, "You must pass at least one prompt")
    if isinstance(given, str):
        return [(tokens.encode(given), given)]
    if all(isinstance(entry, str) for entry in given):
        return [(tokens.encode(entry), entry) for entry in given]
    lists = given if all(isinstance(entry, list) for entry in given) else [given]
    return [(_pack(ids, given), None) for ids in lists]


def _pack(ids: list[Any], given: list[Any]) -> bytes:
    try:
        return tokens.pack(ids)
    except ValueError:
        pass  # explained below, in vLLM's words
    refusal = refusals.unreadable("/v1/completions", {"prompt": given})
    high = next((number for number in ids if isinstance(number, int) and number >= 2**32), None)
    raise refusal or ApiError(400, f"Token id {high} is out of vocabulary")


def _room(packed: bytes, text: str | None, asked: int | None, served: Served) -> int:
    """Tokens that may be generated after a prompt.

    Raises: ApiError 400 when the prompt does not fit the context, or nothing may be generated.
    """
    limit, count = served.max_model_len, tokens.count(packed)
    if asked is not None and asked > limit:
        raise bad_value(f"max_tokens={asked} cannot be greater than max_model_len={limit}. Please request fewer output "
                        "tokens.", "max_tokens", asked)  # fmt: skip
    if count > limit:
        raise _too_long(count, text, limit)
    room = limit - count if asked is None else min(limit - count, asked)
    if room < 1:
        raise bad_value(f"max_tokens must be at least 1, got {room}.", "max_tokens", room)
    return room


def _too_long(count: int, text: str | None, limit: int) -> ApiError:
    most = limit * tokens.BYTES_PER_TOKEN
    begin = f"This model's maximum context length is {limit} tokens. However, your prompt contains"
    end = "Please reduce the length of the input prompt."
    if text is not None and len(text) > most:
        return bad_value(f"{begin} {len(text)} characters (more than {most} characters, which is the upper bound for "
                         f"{limit} input tokens). {end}", "input_text", len(text))  # fmt: skip
    shown, value = (count, count) if text is None else (f"at least {limit + 1}", limit + 1)
    return bad_value(f"{begin} {shown} input tokens, which exceeds this limit even without any output tokens. {end}",
                     "input_tokens", value)  # fmt: skip


def _generation(
    body: Body, given: list[tuple[bytes, str | None]], asked: int | None, served: Served, *, chat: bool,
    logprobs: bool, echo: bool = False, prompt_only: bool = False,
) -> Generation:  # fmt: skip
    rooms = [_room(packed, text, asked, served) for packed, text in given]
    n = 1 if body.n is None else body.n
    check_sampling(body, n, min(rooms))
    if n > 1 and body.temperature is not None and body.temperature < GREEDY_TEMPERATURE:
        raise ApiError(400, f"n must be 1 when using greedy sampling, got {n}.")
    threshold = body.cache_hit_threshold or 0.0
    if not 0.0 <= threshold <= 1.0:
        raise bad_value("cache_hit_threshold must be in [0.0, 1.0].", "cache_hit_threshold", threshold)
    adapter = body.model if body.model in served.adapters else None
    prompts = tuple(
        Prompt(packed=packed, text=text, plans=_plans(body, packed, room, n, served.law))
        for (packed, text), room in zip(given, rooms, strict=True)
    )
    options = body.stream_options
    return Generation(
        chat=chat, model=adapter or served.model, adapter=adapter, salt=body.cache_salt,
        root=_root(served.adapters[adapter] if adapter else 0, body.cache_salt), prompts=prompts, max_tokens=rooms[0],
        n=n, stream=bool(body.stream), include_usage=bool(options and options.include_usage),
        continuous_usage=bool(options and options.include_usage and options.continuous_usage_stats), echo=echo,
        prompt_only=prompt_only, logprobs=logprobs, return_token_ids=bool(body.return_token_ids),
        priority=body.priority, cache_hit_threshold=threshold, request_id=body.request_id,
        transfer=parse_transfer(body.kv_transfer_params, served.transfers) if served.transfers else None,
    )  # fmt: skip


def _root(adapter: int, salt: str | None) -> int:
    return adapter if salt is None else tokens.salted(salt, parent=adapter)


def _plans(body: Body, packed: bytes, room: int, n: int, law: LengthLaw) -> tuple[Plan, ...]:
    stops = Stops(strings=body.stop_strings, ids=frozenset(body.stop_token_ids or ()),
                  keep=body.include_stop_str_in_output, min_tokens=body.min_tokens)  # fmt: skip
    if body.ignore_eos:
        return (make_plan(room, None, stops),) * n
    return tuple(
        make_plan(room, law.tokens(packed, seed=body.seed, choice=choice), stops) for choice in range(n)
    )  # fmt: skip


PARSERS: Mapping[str, Callable[[bytes, Served], Generation]] = {
    "/v1/completions": parse_completion,
    "/v1/chat/completions": parse_chat,
}
"""By path."""
