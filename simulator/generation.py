"""One generation request from body to answer: read, checked, submitted to the engine, streamed or sent whole."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from simulator import tokens
from simulator.answer_plan import Plan
from simulator.answers import CACHE_THRESHOLD, DONE, Answer, Choice
from simulator.api_types import ApiError
from simulator.asgi import Message, Receive, Send, begin_stream, break_connection, header, read, reply, send_part
from simulator.connector import Connector
from simulator.faults import UNHARMED, Fate, Faults
from simulator.kvevents import Content, Journal
from simulator.metrics_page import Asked
from simulator.openai_api import PARSERS, Generation, Prompt, Served
from simulator.realtime import Mailbox, Runner, TokenStream
from simulator.refusals import WRONG_MEDIA_TYPE
from simulator.sequence import EngineRequest
from simulator.tokens import BLOCK_BYTES, BLOCK_TOKENS
from simulator.transfer import Leg, check_rank, check_role

_FAILED = ApiError(500, "Internal server error", kind="InternalServerError")
"""What vLLM says when KV could not be loaded and its policy is to fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a generation needs of its engine."""

    runner: Runner
    served: Callable[[], Served]
    faults: Faults
    fingerprint: str
    connector: Connector | None
    journal: Journal | None


@dataclass(slots=True, kw_only=True)
class _Job:
    """A request that was submitted: each choice with the stream of its tokens."""

    scope: Message
    send: Send
    generation: Generation
    answer: Answer
    mailbox: Mailbox
    fate: Fate
    open: list[tuple[Choice, TokenStream]]
    streams: list[TokenStream]
    contents: list[tuple[int, Content]]
    sent: int = 0
    """Tokens of all choices."""


class Generator:
    """Answers the two generation APIs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ids = itertools.count()
        self.load = 0
        """Requests under way (vLLM's ``/load``)."""

    async def answer(self, scope: Message, receive: Receive, send: Send) -> int:
        """Serve one request; the HTTP status.

        Raises: ApiError, Disconnected.
        """
        body = await read(receive)
        if not header(scope, b"content-type").lower().startswith("application/json"):
            raise WRONG_MEDIA_TYPE
        generation = PARSERS[scope["path"]](body, self._parts.served())
        _check_rank(scope)
        fate = self._parts.faults.fate()
        if fate.error is not None:
            raise fate.error
        if generation.cache_hit_threshold and not self._cached_enough(generation):
            await self._decline(generation, scope, send)
            return 200
        job = self._submit(generation, scope, send, fate)
        watch = asyncio.ensure_future(receive())  # comes back when the client hangs up
        watch.add_done_callback(lambda _: job.mailbox.hang_up())
        self.load += 1
        try:
            await (self._stream if generation.stream else self._whole)(job)
        finally:
            self.load -= 1
            watch.cancel()
            self._forget(job)
        return 200

    # ---- a threshold of cached tokens

    def _cached_enough(self, generation: Generation) -> bool:
        """Whether every prompt meets the request's threshold, by what the cache holds when it comes."""
        kv = self._parts.runner.engine.kv
        for prompt in generation.prompts:
            hashes = tokens.chain(prompt.packed, parent=generation.root)
            if kv.match(hashes, len(hashes)) * BLOCK_TOKENS < generation.cache_hit_threshold * prompt.tokens:
                return False
        return True

    async def _decline(self, generation: Generation, scope: Message, send: Send) -> None:
        """Say that it was not answered, and why."""
        answer = self._answer_to(generation, scope)
        if not generation.stream:
            await reply(send, 200, answer.whole(None, unfinished=CACHE_THRESHOLD))
            return
        await begin_stream(send)
        for choice in answer.choices:
            await send_part(send, answer.opening(choice) + answer.unmet(choice))
        await send_part(send, answer.usage(), last=True)

    def _answer_to(self, generation: Generation, scope: Message) -> Answer:
        name = header(scope, b"x-request-id") or generation.request_id or secrets.token_hex(8)
        return Answer(generation, request_id=("chatcmpl-" if generation.chat else "cmpl-") + name,
                      created=int(time.time()), fingerprint=self._parts.fingerprint)  # fmt: skip

    # ---- into the engine

    def _submit(self, generation: Generation, scope: Message, send: Send, fate: Fate) -> _Job:
        connector = self._parts.connector
        if connector is not None:
            check_role(generation.transfer, connector.role)
            check_rank(generation.transfer, connector.kind, header(scope, b"x-data-parallel-rank"))
        answer = self._answer_to(generation, scope)
        job = _Job(scope=scope, send=send, generation=generation, answer=answer, mailbox=Mailbox(), fate=fate,
                   open=[], streams=[], contents=[])  # fmt: skip
        for choice in answer.choices:
            stream = self._submit_choice(job, choice)
            job.open.append((choice, stream))
            job.streams.append(stream)
        return job

    def _submit_choice(self, job: _Job, choice: Choice) -> TokenStream:
        generation, prompt, plan = job.generation, choice.prompt, choice.plan
        request_id = f"{next(self._ids)}"
        first = choice.index % generation.n == 0
        asked = Asked(n=generation.n, max_tokens=generation.max_tokens,
                      longest=max(plan.tokens for plan in prompt.plans)) if first else None  # fmt: skip
        self._enter(job, prompt, plan)
        transfer = generation.transfer
        request = EngineRequest(
            request_id=request_id, prompt_tokens=prompt.tokens, output_tokens=plan.tokens,
            block_hashes=tokens.chain(prompt.packed, parent=generation.root),
            tail=tokens.tail(prompt.packed), priority=generation.priority, adapter=generation.adapter or "",
            parent=generation.root, remote=transfer is not None and transfer.leg is Leg.DECODE,
            hold=transfer is not None and transfer.leg is Leg.PREFILL,
        )  # fmt: skip
        stream = self._parts.runner.submit(request, job.mailbox, reason=plan.finish_reason,
                                           adapter=generation.adapter, asked=asked)  # fmt: skip
        if self._parts.connector is not None and transfer is not None:
            self._parts.connector.watch(stream, transfer)
        return stream

    def _enter(self, job: _Job, prompt: Prompt, plan: Plan) -> None:
        """Tell the journal of events what the blocks will hold."""
        if self._parts.journal is None:
            return
        generation = job.generation
        packed = prompt.packed + tokens.output(plan.tokens)
        if len(packed) >= BLOCK_BYTES:
            content = Content(packed, generation.root, generation.adapter, generation.salt)
            first = tokens.chain(packed[:BLOCK_BYTES], parent=generation.root)[0]
            self._parts.journal.enter(first, content)
            job.contents.append((first, content))

    def _forget(self, job: _Job) -> None:
        for stream in job.streams:
            self._parts.runner.drop(stream.sequence.request.request_id)
            if self._parts.connector is not None:
                self._parts.connector.forget(stream)
        if self._parts.journal is not None:
            for first, content in job.contents:
                self._parts.journal.leave(first, content)

    # ---- out to the client

    async def _stream(self, job: _Job) -> None:
        """Server-sent events: tokens that are due together go in one message."""
        await begin_stream(job.send)
        if len(job.open) == 1 and job.fate is UNHARMED:
            await self._stream_plain(job, *job.open[0])
        while job.open and not job.mailbox.gone:
            await job.mailbox.wait()
            if parts := self._ready(job):
                await send_part(job.send, parts)
        if not job.open:
            await send_part(job.send, self._end(job), last=True)

    async def _stream_plain(self, job: _Job, choice: Choice, stream: TokenStream) -> None:
        """The tokens of the only answer up to the last one: most of what an engine sends takes this short way."""
        mailbox, send = job.mailbox, job.send
        while not (stream.done or stream.aborted or mailbox.gone):
            await mailbox.wait()
            if count := stream.take():
                parts = job.answer.more(choice, count) if choice.sent else self._first(job, choice, stream, count)
                await send({"type": "http.response.body", "body": parts, "more_body": True})
        mailbox.ring()  # the rest goes the long way

    def _first(self, job: _Job, choice: Choice, stream: TokenStream, count: int) -> bytes:
        choice.cached_tokens = stream.sequence.cached_tokens
        return job.answer.opening(choice) + job.answer.more(choice, count)

    def _ready(self, job: _Job) -> bytes:
        """The events of tokens that came; choices that ended leave ``open``."""
        answer, parts = job.answer, b""
        for choice, stream in list(job.open):
            count = stream.take()
            if not (count or stream.done or stream.aborted):
                continue
            if not choice.sent:
                parts += self._first(job, choice, stream, count)
            elif count:
                parts += answer.more(choice, count)
            if stream.done or stream.aborted:
                job.open.remove((choice, stream))
                parts += answer.last(choice) if stream.done else self._cut(job, choice, stream)
            job.sent += count
        if job.fate.reset_after is not None and job.sent >= job.fate.reset_after:
            break_connection(job.scope)
        return parts

    def _cut(self, job: _Job, choice: Choice, stream: TokenStream) -> bytes:
        return _event_of(_FAILED) if stream.failed else job.answer.cut(choice)

    def _end(self, job: _Job) -> bytes:
        return DONE if any(stream.failed for stream in job.streams) else job.answer.usage()

    async def _whole(self, job: _Job) -> None:
        while job.open and not job.mailbox.gone:
            await job.mailbox.wait()
            for choice, stream in list(job.open):
                choice.sent += stream.take()
                if stream.done or stream.aborted:
                    choice.sent += stream.done
                    choice.cached_tokens = stream.sequence.cached_tokens
                    job.open.remove((choice, stream))
            if job.fate.reset_after is not None and sum(one.sent for one in job.answer.choices) >= job.fate.reset_after:
                break_connection(job.scope)
        if job.open:
            return
        if any(stream.failed for stream in job.streams):
            raise _FAILED
        connector = self._parts.connector
        params = connector.params(job.streams[0]) if connector is not None else None
        await reply(job.send, 200, job.answer.whole(params))


def _event_of(error: ApiError) -> bytes:
    """An error in a stream that has begun."""
    return b"data: " + error.body + b"\n\n"


def _check_rank(scope: Message) -> None:
    rank = header(scope, b"x-data-parallel-rank")
    if rank.removeprefix("-").isdigit() and int(rank) != 0:
        raise ApiError(400, f"data_parallel_rank {int(rank)} is out of range [0, 1).")
