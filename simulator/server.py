"""The HTTP face of one simulated engine: a raw ASGI application, for it sends one message a token."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from simulator import openai_api as api
from simulator import tokens
from simulator.openai_api import Answer, ApiError, Generation
from simulator.realtime import Fault, Runner, TokenStream
from simulator.sequence import EngineRequest

log = logging.getLogger(__name__)
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Message, bytes], Awaitable[tuple[int, bytes]]]

VLLM_VERSION = "0.32.0+sim"
MAX_BODY_BYTES = 32 * 1024 * 1024
_JSON = [(b"content-type", b"application/json")]
_SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]
_TEXT = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
_UNCOUNTED = frozenset({"/metrics", "/health", "/healthz", "/ping", "/load", "/version", "/sim/fault"})
"""vLLM leaves these out of http_requests_total."""
_OPEN_WHILE_STARTING = frozenset({"/version", "/sim/fault"})


class FaultBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``POST /sim/fault``."""

    kind: Fault
    factor: float = 2.0


class Disconnected(Exception):  # noqa: N818  # an event, not an error
    """The client closed its connection before it had sent its request."""


class EngineApp:
    """Serves one :class:`Runner`; not ready until ``startup_s`` after it was made."""

    def __init__(self, runner: Runner, *, model: str, startup_s: float) -> None:
        """The application; make it when the process starts.

        Args:
            runner: the engine.
            model: the served name.
            startup_s: real seconds during which health is 503 (loading of weights, compilation).
        """
        self._runner, self._model = runner, model
        self._created = int(time.time())
        self._ready_at = time.monotonic() + startup_s
        self._ids = itertools.count()
        self._limit = runner.engine.config.max_model_len
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/health"): self._health, ("GET", "/healthz"): self._health, ("GET", "/ping"): self._health,
            ("GET", "/v1/models"): self._models, ("GET", "/version"): self._version, ("GET", "/load"): self._load,
            ("POST", "/tokenize"): self._tokenize, ("POST", "/sim/fault"): self._fault,
            ("GET", "/metrics"): self._metrics,
        }  # fmt: skip
        self._parsers = {"/v1/completions": api.parse_completion, "/v1/chat/completions": api.parse_chat}
        self._paths = {path for _, path in self._routes} | set(self._parsers)

    @property
    def ready(self) -> bool:
        """Start-up is over."""
        return time.monotonic() >= self._ready_at

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, as ASGI."""
        if scope["type"] != "http":
            raise RuntimeError(f"an engine serves http only, not {scope['type']}")
        try:
            status = await self._answer(scope, receive, send)
        except ApiError as error:
            status = error.status
            await _send(send, status, error.body)
        except Disconnected:
            return
        if scope["path"] not in _UNCOUNTED:
            handler = scope["path"] if scope["path"] in self._paths else "none"
            self._runner.metrics.on_http(handler, scope["method"], status)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> int:
        path, method = scope["path"], scope["method"]
        if not self.ready and path not in _OPEN_WHILE_STARTING:
            raise ApiError(503, "The engine is starting.", kind="ServiceUnavailableError")
        if path in self._parsers and method == "POST":
            return await self._generate(scope, receive, send)
        handler = self._routes.get((method, path))
        if handler is None:
            status, detail = (405, "Method Not Allowed") if path in self._paths else (404, "Not Found")
            await _send(send, status, msgspec.json.encode({"detail": detail}))
            return status
        status, body = await handler(scope, await _read(receive) if method == "POST" else b"")
        await _send(send, status, body, _TEXT if path == "/metrics" else _JSON)
        return status

    # ---- generation

    async def _generate(self, scope: Message, receive: Receive, send: Send) -> int:
        body = await _read(receive)
        generation = self._parsers[scope["path"]](body, model=self._model, max_model_len=self._limit)
        if self._runner.fault is Fault.ERROR:
            raise ApiError(500, "Simulated fault.", kind="InternalServerError")
        stream = self._submit(generation)
        watch = asyncio.ensure_future(receive())  # comes back when the client hangs up
        watch.add_done_callback(lambda _: stream.hang_up())
        answer = Answer(generation, request_id=_response_id(scope, generation), model=self._model,
                        created=int(time.time()))  # fmt: skip
        try:
            await (_stream if generation.stream else _whole)(send, stream, answer)
        finally:
            watch.cancel()
            self._runner.drop(stream.sequence.request.request_id)
        return 200

    def _submit(self, generation: Generation) -> TokenStream:
        request = EngineRequest(
            request_id=str(next(self._ids)), prompt_tokens=generation.prompt_tokens,
            output_tokens=generation.max_tokens, block_hashes=tokens.chain(generation.packed),
            tail=tokens.tail(generation.packed),
        )  # fmt: skip
        return self._runner.submit(request, finish_reason=generation.finish_reason)

    # ---- the rest

    async def _health(self, _scope: Message, _body: bytes) -> tuple[int, bytes]:
        return 200, b""

    async def _models(self, _scope: Message, _body: bytes) -> tuple[int, bytes]:
        return 200, api.models(self._model, created=self._created, max_model_len=self._limit)

    async def _version(self, _scope: Message, _body: bytes) -> tuple[int, bytes]:
        return 200, msgspec.json.encode({"version": VLLM_VERSION})

    async def _load(self, _scope: Message, _body: bytes) -> tuple[int, bytes]:
        return 200, msgspec.json.encode({"server_load": self._runner.load})

    async def _metrics(self, _scope: Message, _body: bytes) -> tuple[int, bytes]:
        return 200, self._runner.page()

    async def _tokenize(self, _scope: Message, body: bytes) -> tuple[int, bytes]:
        return 200, api.tokenize(body, model=self._model, max_model_len=self._limit)

    async def _fault(self, _scope: Message, body: bytes) -> tuple[int, bytes]:
        try:
            fault = msgspec.json.decode(body, type=FaultBody)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(400, f"Invalid fault: {error}") from None
        if not 0 < fault.factor <= 1000:
            raise ApiError(400, f"factor is {fault.factor} (limit: above 0, at most 1000)", param="factor")
        log.warning("fault: %s, factor %s", fault.kind.value, fault.factor)
        self._runner.set_fault(fault.kind, fault.factor)
        return 200, msgspec.json.encode({"kind": fault.kind.value, "factor": self._runner.engine.slow_factor})


async def _stream(send: Send, stream: TokenStream, answer: Answer) -> None:
    """Server-sent events: tokens that are due together go in one message."""
    await send({"type": "http.response.start", "status": 200, "headers": _SSE})
    head = answer.head
    while not stream.gone:
        if count := await stream.take():
            await send({"type": "http.response.body", "body": head + answer.token * count, "more_body": True})
            head = b""
        if stream.done and not stream.pending:
            last = head + answer.last(stream.sequence.cached_tokens)
            return await send({"type": "http.response.body", "body": last, "more_body": False})
    return None


async def _whole(send: Send, stream: TokenStream, answer: Answer) -> None:
    while not (stream.done or stream.gone):
        await stream.take()
    if stream.done:
        await _send(send, 200, answer.whole(stream.sequence.cached_tokens))


def _response_id(scope: Message, generation: Generation) -> str:
    """As vLLM: from the client's X-Request-Id where there is one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return ("chatcmpl-" if generation.chat else "cmpl-") + (given.decode("latin-1") or secrets.token_hex(16))


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes", kind="RequestEntityTooLarge")
        more = message.get("more_body", False)
    return b"".join(parts)


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] = _JSON) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
