"""Answers of the generation APIs, byte for byte as vLLM 0.32 builds them. Pure.

A stream has one event a token. Its parts are made once: what differs from token to token is the text, which comes
ready for JSON from a table.
"""

from __future__ import annotations

from typing import Any

import msgspec

from simulator import tokens
from simulator.answer_plan import Plan
from simulator.openai_api import Generation, Prompt
from simulator.tokens import BYTES_PER_TOKEN, OUTPUT_TOKENS

_encode = msgspec.json.encode
_TEXTS = [_encode(text)[1:-1] for text in OUTPUT_TOKENS]
_PERIOD = len(_TEXTS)
_HOLE = "\x00text\x00"
"""Stands for a token's text while an event's frame is made."""
DONE = b"data: [DONE]\n\n"
CACHE_THRESHOLD = "cache_threshold"
"""``finish_reason`` of an answer that was not begun: too little of its prompt is cached."""


def event(body: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(body) + b"\n\n"


class Choice:
    """One answer on its way: how much of it has been sent."""

    __slots__ = ("_after", "_before", "_open", "cached_tokens", "index", "plan", "prompt", "sent")

    def __init__(self, index: int, prompt: Prompt, plan: Plan) -> None:
        self.index, self.prompt, self.plan = index, prompt, plan
        self.sent = 0
        """Tokens that have gone out, or were counted for the whole answer."""
        self.cached_tokens = 0
        self._before = self._after = b""
        self._open = False

    def frame(self, before: bytes, after: bytes) -> None:
        """What goes around each token's text."""
        self._before, self._after, self._open = before, after, True

    @property
    def framed(self) -> bool:
        """Events need nothing but text in a frame."""
        return self._open

    def events(self, count: int) -> bytes:
        """Events of the next ``count`` tokens."""
        first, self.sent = self.sent, self.sent + count
        if count == 1:
            return self._before + _TEXTS[first % _PERIOD] + self._after
        return b"".join([
            part for index in range(first, first + count)
            for part in (self._before, _TEXTS[index % _PERIOD], self._after)
        ])  # fmt: skip


class Answer:
    """The bytes of one request's answer, streamed or whole."""

    __slots__ = ("_created", "_fingerprint", "_generation", "_id", "choices")

    def __init__(self, generation: Generation, *, request_id: str, created: int, fingerprint: str) -> None:
        """An answer of which nothing was sent yet; ``created`` is a Unix time."""
        self._generation, self._id, self._created, self._fingerprint = generation, request_id, created, fingerprint
        plans = [(prompt, plan) for prompt in generation.prompts for plan in prompt.plans]
        self.choices = [Choice(index, prompt, plan) for index, (prompt, plan) in enumerate(plans)]

    # ---- streams

    def opening(self, choice: Choice) -> bytes:
        """What goes before the choice's first token."""
        generation = self._generation
        if not (generation.logprobs or generation.continuous_usage or generation.return_token_ids or generation.echo):
            self._frame(choice)
        if not generation.chat:
            return b""
        ids = tokens.unpack(choice.prompt.packed) if generation.return_token_ids else None
        start = {"index": choice.index, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                 "finish_reason": None}  # fmt: skip
        return event({**self._header(), "choices": [start], "prompt_token_ids": ids, "prompt_text": None})

    def _frame(self, choice: Choice) -> None:
        if choice.plan.plain:
            piece = self._piece(choice, _HOLE, (0, 0), None)
            before, after = event({**self._header(), "choices": [piece]}).split(_encode(_HOLE)[1:-1])
            choice.frame(before, after)

    def more(self, choice: Choice, count: int) -> bytes:
        """Events of the next ``count`` tokens, none of them the last."""
        if choice.framed:
            return choice.events(count)
        return b"".join([self._token(choice, None, None) for _ in range(count)])

    def last(self, choice: Choice) -> bytes:
        """The event of the last token."""
        return self._token(choice, choice.plan.finish_reason, choice.plan.stop_reason)

    def cut(self, choice: Choice) -> bytes:
        """The end of an answer that the engine gave up."""
        piece = self._piece(choice, "", (choice.sent, choice.sent), "abort")
        return event({**self._header(), "choices": [piece], **self._stamp()})

    def unmet(self, choice: Choice) -> bytes:
        """The only event of a choice that is not answered: too little of its prompt is cached."""
        piece = self._piece(choice, "", (0, 0), CACHE_THRESHOLD)
        return event({**self._header(), "choices": [piece], **self._stamp()})

    def _token(self, choice: Choice, finish: str | None, stop: str | int | None) -> bytes:
        generation, plan = self._generation, choice.plan
        first, choice.sent = choice.sent, choice.sent + 1
        text = plan.text()[plan.shown(first) : plan.shown(choice.sent)]
        if generation.echo and not first:
            text = prompt_text(choice.prompt) + ("" if generation.prompt_only else text)
        body = {**self._header(), "choices": [self._piece(choice, text, (first, choice.sent), finish, stop)]}
        if finish is not None:
            body |= self._stamp()
        if generation.continuous_usage:
            body["usage"] = _counts(choice.prompt.tokens, choice.sent)
        return event(body)

    def _piece(
        self, choice: Choice, text: str, span: tuple[int, int], finish: str | None, stop: str | int | None = None
    ) -> dict[str, Any]:
        """One choice in an event: the ``span`` of tokens that it brings, as numbers of the first and after the last."""
        first, after = span
        generation = self._generation
        ids = _token_ids(first, after) if generation.return_token_ids else None
        logprobs = _logprobs(first, after, chat=generation.chat) if generation.logprobs else None
        if generation.chat:
            end = {} if finish is None else {"stop_reason": stop}
            return {"index": choice.index, "delta": {"content": text}, "logprobs": logprobs,
                    "finish_reason": finish, **end, "token_ids": ids}  # fmt: skip
        with_prompt = (generation.return_token_ids or generation.echo) and not first and finish != "abort"
        shown = tokens.unpack(choice.prompt.packed) if with_prompt else None
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish,
                "stop_reason": stop, "prompt_token_ids": shown, "token_ids": ids}  # fmt: skip

    def usage(self) -> bytes:
        """The event with the usage, where it was asked for, and the stream's end."""
        if not self._generation.include_usage:
            return DONE
        counts = _counts(self._generation.prompt_tokens, sum(choice.sent for choice in self.choices))
        details: dict[str, int] = {"cached_tokens": self.choices[0].cached_tokens}
        if self._generation.chat:
            details["created_cache_tokens"] = 0
        return event({**self._header(), "choices": [], "usage": {**counts, "prompt_tokens_details": details},
                      "system_fingerprint": self._fingerprint}) + DONE  # fmt: skip

    # ---- whole answers

    def whole(self, transfer: dict[str, Any] | None, *, unfinished: str = "abort") -> bytes:
        """The answer of a request that does not stream.

        Args:
            transfer: its ``kv_transfer_params``.
            unfinished: why a choice without all its tokens ended.
        """
        generation = self._generation
        created = 0 if generation.chat else None
        usage = {
            **_counts(generation.prompt_tokens, sum(choice.sent for choice in self.choices)),
            "prompt_tokens_details": {"cached_tokens": self.choices[-1].cached_tokens,
                                      "created_cache_tokens": created, "multimodal_tokens": None},
            "completion_tokens_details": None,
        }  # fmt: skip
        ids = tokens.unpack(self.choices[0].prompt.packed) if generation.return_token_ids else None
        prompt = {"prompt_logprobs": None, "prompt_token_ids": ids, "prompt_text": None} if generation.chat else {}
        return _encode({
            **self._header(whole=True), "choices": [self._choice(choice, unfinished) for choice in self.choices],
            "service_tier": None, "system_fingerprint": self._fingerprint, "usage": usage, **prompt,
            "kv_transfer_params": transfer, "ec_transfer_params": None, "metrics": None,
        })  # fmt: skip

    def _choice(self, choice: Choice, unfinished: str) -> dict[str, Any]:
        generation, plan = self._generation, choice.plan
        complete = choice.sent == plan.tokens
        ids = _token_ids(0, choice.sent) if generation.return_token_ids else None
        common = {
            "logprobs": _logprobs(0, choice.sent, chat=generation.chat) if generation.logprobs else None,
            "finish_reason": plan.finish_reason if complete else unfinished,
            "stop_reason": plan.stop_reason if complete else None, "token_ids": ids,
        }  # fmt: skip
        text = plan.text()[: plan.shown(choice.sent)]
        if generation.chat:
            message = {"role": "assistant", "content": text, "refusal": None, "annotations": None, "audio": None,
                       "function_call": None, "reasoning": None}  # fmt: skip
            return {"index": choice.index, "message": message, **common, "routed_experts": None}
        if generation.echo:
            text = prompt_text(choice.prompt) + ("" if generation.prompt_only else text)
        shown = tokens.unpack(choice.prompt.packed) if generation.return_token_ids else None
        return {"index": choice.index, "text": text, **common, "prompt_logprobs": None, "prompt_token_ids": shown,
                "routed_experts": None}  # fmt: skip

    def _header(self, *, whole: bool = False) -> dict[str, Any]:
        chat = "chat.completion" if whole else "chat.completion.chunk"
        kind = chat if self._generation.chat else "text_completion"
        return {"id": self._id, "object": kind, "created": self._created, "model": self._generation.model}

    def _stamp(self) -> dict[str, str]:
        """The fingerprint goes into the last event: the usage, or the last token's."""
        return {} if self._generation.include_usage else {"system_fingerprint": self._fingerprint}


def prompt_text(prompt: Prompt) -> str:
    """A prompt's text."""
    return tokens.decode(prompt.packed) if prompt.text is None else prompt.text


def _counts(prompt: int, output: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}


def _token_ids(first: int, after: int) -> list[int]:
    return tokens.unpack(tokens.output(after)[first * BYTES_PER_TOKEN :])


def _logprobs(first: int, after: int, *, chat: bool) -> dict[str, Any]:
    """Of tokens that come with certainty."""
    texts = [OUTPUT_TOKENS[index % _PERIOD] for index in range(first, after)]
    if chat:
        return {"content": [
            {"token": text, "logprob": 0.0, "bytes": list(text.encode()), "top_logprobs": []} for text in texts
        ]}  # fmt: skip
    return {"text_offset": [index * BYTES_PER_TOKEN for index in range(first, after)],
            "token_logprobs": [0.0] * len(texts), "tokens": texts,
            "top_logprobs": [{text: 0.0} for text in texts]}  # fmt: skip
