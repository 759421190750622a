"""The HTTP face of one simulated engine: a raw ASGI application, for it sends one message a token."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import msgspec

from simulator import refusals, tokens
from simulator.adapters import Adapters
from simulator.answer_plan import LengthLaw
from simulator.api_types import (
    ApiError,
    DetokenizeBody,
    LoadAdapterBody,
    TokenizeBody,
    UnloadAdapterBody,
    decoder,
)
from simulator.asgi import JSON, METRICS, PLAIN, Disconnected, Headers, Message, Receive, Send, header, read, reply
from simulator.connector import Connector, DoneBody, MeetBody, PullBody
from simulator.fault_switch import FaultSwitch
from simulator.generation import Generator, Parts
from simulator.kvevents import Journal
from simulator.openai_api import PARSERS, Served, decode, render_chat, unknown_model
from simulator.realtime import Runner

VLLM_VERSION = "0.32.0+sim"
_STARTING = ApiError(503, "The engine is starting.", kind="ServiceUnavailableError")
_UNCOUNTED = frozenset({"/metrics", "/health", "/healthz", "/ping", "/load", "/version", "/server_info"})
"""vLLM leaves these out of http_requests_total."""
_SIM = "/sim/"
"""Ours alone: not counted, and open while the engine starts."""
_TOKENIZE, _DETOKENIZE = decoder(TokenizeBody), decoder(DetokenizeBody)
_LOAD, _UNLOAD = decoder(LoadAdapterBody), decoder(UnloadAdapterBody)
_PULL, _MEET, _DONE = decoder(PullBody), decoder(MeetBody), decoder(DoneBody)
_MODES = ("abort", "wait", "keep")
_TEXT: Headers = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class AppOptions:
    """What an engine says of itself."""

    model: str
    startup_s: float
    """Real seconds during which health is 503 (loading of weights, compilation)."""
    law: LengthLaw
    lora: bool = False
    """Adapters can be loaded and unloaded."""
    kv_event_sources: dict[str, Any] | None = None


_Reply = tuple[int, bytes, Headers]
_Handler = Callable[[Message, bytes], Awaitable[_Reply]]


class EngineApp:
    """Serves one :class:`Runner`; not ready until ``startup_s`` after it was made."""

    def __init__(
        self, runner: Runner, options: AppOptions, *, faults: FaultSwitch, adapters: Adapters,
        connector: Connector | None = None, journal: Journal | None = None,
    ) -> None:  # fmt: skip
        """The application; make it when the engine starts."""
        self._runner, self._options, self._adapters, self._connector = runner, options, adapters, connector
        self._faults = faults
        self._created = int(time.time())
        self._ready_at = time.monotonic() + options.startup_s
        self._sleep_level: int | None = None
        self._generator = Generator(Parts(
            runner=runner, served=self._served, faults=faults.faults, connector=connector, journal=journal,
            fingerprint=f"vllm-0.32.0-{tokens.salted(options.model) & 0xFFFFFFFF:08x}",
        ))  # fmt: skip
        self._routes = self._make_routes()
        self._paths = {path for _, path in self._routes} | set(PARSERS)

    def _make_routes(self) -> dict[tuple[str, str], _Handler]:
        routes: dict[tuple[str, str], _Handler] = {
            ("GET", "/health"): self._health, ("GET", "/healthz"): self._health, ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health, ("GET", "/v1/models"): self._models, ("GET", "/version"): self._version,
            ("GET", "/load"): self._load, ("GET", "/metrics"): self._metrics, ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize, ("POST", "/sleep"): self._sleep,
            ("POST", "/wake_up"): self._wake_up, ("GET", "/is_sleeping"): self._is_sleeping,
            ("POST", "/reset_prefix_cache"): self._reset_prefix_cache,
            ("GET", "/kv_event_sources"): self._kv_event_sources,
            ("POST", "/sim/fault"): self._set_fault, ("GET", "/sim/fault"): self._show_faults,
        }  # fmt: skip
        if self._options.lora:
            routes["POST", "/v1/load_lora_adapter"] = self._load_adapter
            routes["POST", "/v1/unload_lora_adapter"] = self._unload_adapter
        if self._connector is not None:
            routes["POST", "/sim/kv/pull"], routes["POST", "/sim/kv/done"] = self._kv_pull, self._kv_done
            routes["POST", "/sim/kv/meet"] = self._kv_meet
        return routes

    @property
    def ready(self) -> bool:
        """Start-up is over."""
        return time.monotonic() >= self._ready_at

    def _served(self) -> Served:
        return Served(
            model=self._options.model, max_model_len=self._runner.engine.config.max_model_len,
            law=self._options.law, adapters=self._adapters.roots,
            transfers=None if self._connector is None else self._connector.kind,
        )  # fmt: skip

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, as ASGI."""
        if scope["type"] != "http":
            raise RuntimeError(f"an engine serves http only, not {scope['type']}")
        try:
            status = await self._answer(scope, receive, send)
        except ApiError as error:
            status = error.status
            await reply(send, status, error.body)
        except Disconnected:
            return
        path = scope["path"]
        if path not in _UNCOUNTED and not path.startswith(_SIM):
            handler = path if path in self._paths else "none"
            self._runner.metrics.on_http(handler, scope["method"], status)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> int:
        path, method = scope["path"], scope["method"]
        if not self.ready and path != "/version" and not path.startswith(_SIM):
            raise _STARTING
        if path in PARSERS and method == "POST":
            return await self._generator.answer(scope, receive, send)
        handler = self._routes.get((method, path))
        if handler is None:
            status, detail = (405, "Method Not Allowed") if path in self._paths else (404, "Not Found")
            await reply(send, status, msgspec.json.encode({"detail": detail}))
            return status
        status, body, headers = await handler(scope, await read(receive) if method == "POST" else b"")
        await reply(send, status, body, headers)
        return status

    # ---- what vLLM tells of itself

    async def _health(self, _scope: Message, _body: bytes) -> _Reply:
        return 200, b"", _TEXT

    async def _models(self, _scope: Message, _body: bytes) -> _Reply:
        model = self._options.model
        cards = [self._card(model, root=model, parent=None, length=self._runner.engine.config.max_model_len)]
        cards += [self._card(name, root=path, parent=model, length=None) for name, path in self._adapters.paths.items()]
        return _json({"object": "list", "data": cards})

    def _card(self, name: str, *, root: str, parent: str | None, length: int | None) -> dict[str, Any]:
        permission = {
            "id": f"modelperm-{tokens.salted(name):016x}", "object": "model_permission", "created": self._created,
            "allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True,
            "allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False, "organization": "*",
            "group": None, "is_blocking": False,
        }  # fmt: skip
        return {"id": name, "object": "model", "created": self._created, "owned_by": "vllm", "root": root,
                "parent": parent, "max_model_len": length, "permission": [permission]}  # fmt: skip

    async def _version(self, _scope: Message, _body: bytes) -> _Reply:
        return _json({"version": VLLM_VERSION})

    async def _load(self, _scope: Message, _body: bytes) -> _Reply:
        return _json({"server_load": self._generator.load})

    async def _metrics(self, _scope: Message, _body: bytes) -> _Reply:
        return 200, self._runner.page(), METRICS

    async def _kv_event_sources(self, _scope: Message, _body: bytes) -> _Reply:
        return _json(self._options.kv_event_sources or {})

    # ---- tokens

    async def _tokenize(self, scope: Message, body: bytes) -> _Reply:
        _check_media(scope)
        parsed = decode(_TOKENIZE, "/tokenize", body)
        if parsed.prompt is None and parsed.messages is None:
            raise refusals.unreadable("/tokenize", json.loads(body)) or ApiError(400, "Invalid request")
        self._check_model(parsed.model)
        text = parsed.prompt if parsed.prompt is not None else render_chat(parsed.messages or [], self._options.model)
        packed = tokens.encode(text)
        ids = tokens.unpack(packed)
        strings = [tokens.decode(packed[at : at + tokens.BYTES_PER_TOKEN]) for at in range(0, len(packed), 4)]
        limit = self._runner.engine.config.max_model_len
        return _json({"count": len(ids), "max_model_len": limit, "tokens": ids,
                      "token_strs": strings if parsed.return_token_strs else None})  # fmt: skip

    async def _detokenize(self, scope: Message, body: bytes) -> _Reply:
        _check_media(scope)
        parsed = decode(_DETOKENIZE, "/detokenize", body)
        self._check_model(parsed.model)
        try:
            return _json({"prompt": tokens.decode(tokens.pack(parsed.tokens))})
        except ValueError:
            raise ApiError(400, f"Token id {max(parsed.tokens)} is out of vocabulary") from None

    def _check_model(self, asked: str | None) -> None:
        if asked and asked != self._options.model and asked not in self._adapters.paths:
            raise unknown_model(asked, self._options.model)

    # ---- adapters

    async def _load_adapter(self, scope: Message, body: bytes) -> _Reply:
        _check_media(scope)
        parsed = decode(_LOAD, "/v1/load_lora_adapter", body)
        said = self._adapters.load(parsed)
        self._runner.engine.adapters.preload(parsed.lora_name)
        return 200, said.encode(), _TEXT

    async def _unload_adapter(self, scope: Message, body: bytes) -> _Reply:
        _check_media(scope)
        parsed = decode(_UNLOAD, "/v1/unload_lora_adapter", body)
        said = self._adapters.unload(parsed)
        self._runner.engine.adapters.drop(parsed.lora_name)
        return 200, said.encode(), _TEXT

    # ---- sleep and cache

    async def _sleep(self, scope: Message, _body: bytes) -> _Reply:
        query = _query(scope)
        level, mode = query.get("level", ["1"])[-1], query.get("mode", ["abort"])[-1]
        if level not in {"0", "1", "2"}:
            raise _bad_level(level)
        if mode not in _MODES:
            expected = "'abort', 'wait' or 'keep'"
            raise refusals.bad_query("mode", "literal_error", f"Input should be {expected}", mode,
                                     {"expected": expected})  # fmt: skip
        self._sleep_level = int(level)
        if mode == "wait":
            await self._runner.drained()
        elif mode == "abort":
            self._runner.give_up_all()
        self._runner.pause("sleep")
        if self._sleep_level:
            self._runner.clear_cache()
        self._runner.metrics.fell_asleep(self._sleep_level)
        return _json({"status": "sleeping", "level": self._sleep_level})

    async def _wake_up(self, scope: Message, _body: bytes) -> _Reply:
        tags = _query(scope).get("tags")
        awake = tags is None or {"weights", "kv_cache"} <= set(tags) or self._sleep_level is None
        if awake:
            self._sleep_level = None
            self._runner.metrics.fell_asleep(None)
            self._runner.resume("sleep")
        return _json({"status": "awake" if awake else "sleeping", "tags": tags})

    async def _is_sleeping(self, _scope: Message, _body: bytes) -> _Reply:
        return _json({"is_sleeping": self._sleep_level is not None})

    async def _reset_prefix_cache(self, _scope: Message, _body: bytes) -> _Reply:
        return _json({"success": self._runner.clear_cache()})

    # ---- ours

    async def _set_fault(self, _scope: Message, body: bytes) -> _Reply:
        return _json(self._faults.set(body))

    async def _show_faults(self, _scope: Message, _body: bytes) -> _Reply:
        return _json(self._faults.shown())

    async def _kv_pull(self, _scope: Message, body: bytes) -> _Reply:
        return 200, self._connected.serve_pull(_plain(_PULL, body)), JSON

    async def _kv_meet(self, _scope: Message, body: bytes) -> _Reply:
        return 200, await self._connected.serve_meet(_plain(_MEET, body)), JSON

    async def _kv_done(self, _scope: Message, body: bytes) -> _Reply:
        return 200, self._connected.serve_done(_plain(_DONE, body)), JSON

    @property
    def _connected(self) -> Connector:
        if self._connector is None:
            raise RuntimeError("the engine has no KV connector")
        return self._connector


def _json(body: Any) -> _Reply:
    return 200, msgspec.json.encode(body), JSON


def _plain(wanted: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return wanted.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, str(error)) from None


def _check_media(scope: Message) -> None:
    if not header(scope, b"content-type").lower().startswith("application/json"):
        raise refusals.WRONG_MEDIA_TYPE


def _query(scope: Message) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"))


def _bad_level(level: str) -> ApiError:
    if not level.removeprefix("-").isdigit():
        said = "Input should be a valid integer, unable to parse string as an integer"
        return refusals.bad_query("level", "int_parsing", said, level, {})
    bound, word = ("ge", "greater") if level.startswith("-") else ("le", "less")
    limit = 0 if bound == "ge" else 2
    return refusals.bad_query("level", f"{word}_than_equal", f"Input should be {word} than or equal to {limit}", level,
                              {bound: limit})  # fmt: skip
