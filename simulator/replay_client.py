"""One streaming request against an OpenAI-compatible server: sent, timed, counted, and its end classified.

Cheap by design: per chunk it counts event markers in the bytes and reads the clock; JSON is parsed once, at the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from fleet.errors import ConfigError
from simulator.prompt_text import parts
from simulator.replay_stats import BROKEN_STREAM, CONNECTION, OK, STREAM_ERROR, TIMEOUT, Outcome, Tally
from simulator.workload import TimedRequest

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}

_EVENT = b"\ndata:"
_DONE = b"data: [DONE]"
_TAIL = 4096
"""Bytes kept of a stream's end: the usage event and ``[DONE]`` fit."""
_CHAT_CONTENT = re.compile(rb'"(?:content|reasoning|reasoning_content)":\s*"[^"]')
"""A chat stream opens with a role event whose content is empty; the first token is the first content after it."""


def base_url(target: str) -> str:
    """The server's base URL without ``/v1`` and trailing slash.

    Raises: ConfigError when it is no http(s) URL with a host.

    >>> base_url("http://127.0.0.1:8080/v1/")
    'http://127.0.0.1:8080'
    """
    try:
        parsed = urlsplit(target)
        usable = parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{target!r} is no URL", where="--target", limit="http://HOST:PORT",
                          next_step="Name the router or an engine, for example http://127.0.0.1:8080.")  # fmt: skip
    return target.rstrip("/").removesuffix("/v1")


def body(request: TimedRequest, *, model: str, api: str, label: str) -> bytes:
    """The request's JSON; ``label`` makes its text differ from every other request's."""
    prefix, rest = parts(request, label)
    payload: dict[str, Any] = {
        "model": model, "max_tokens": request.output_tokens, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True}, "temperature": 0.0,
    }  # fmt: skip
    if api == "chat":
        system = [{"role": "system", "content": prefix}] if prefix else []
        payload["messages"] = [*system, {"role": "user", "content": rest}]
    else:
        payload["prompt"] = prefix + rest
    return msgspec.json.encode(payload)


@dataclass(slots=True)
class StreamMeter:
    """Times and counts one event stream, chunk by chunk as the network cuts it."""

    chat: bool
    first_s: float | None = None
    """Time of the first content."""
    last_s: float | None = None
    """Time of the last chunk with an event."""
    events: int = 0
    tail: bytes = b"\n"
    """The newest bytes; the leading line end lets the first event match like the others."""

    def feed(self, chunk: bytes, now_s: float) -> int:
        """Take bytes that arrived at ``now_s``; returns how many events they completed the marker of."""
        seen = (self.tail[-len(_EVENT) + 1 :] + chunk).count(_EVENT)
        self.tail = (self.tail + chunk)[-_TAIL:]
        if seen:
            self.events += seen
            self.last_s = now_s
        if self.first_s is None and (seen or self.events) and self._has_content():
            self.first_s = now_s
        return seen

    def _has_content(self) -> bool:
        return not self.chat or _CHAT_CONTENT.search(self.tail) is not None

    def end(self) -> tuple[str, int, str]:
        """(kind, output tokens, detail) once the stream has closed."""
        final = self._last_event()
        if "error" in final:
            return STREAM_ERROR, self.events, str(final["error"])[:200]
        if _DONE not in self.tail:
            return BROKEN_STREAM, self.events, "the stream ended without [DONE]"
        usage = final.get("usage")
        return OK, int(usage["completion_tokens"]) if usage else self.events - 1, ""

    def _last_event(self) -> dict[str, Any]:
        """The last event with JSON in it; empty when there is none (or it is cut)."""
        for line in reversed(self.tail.split(b"\n")):
            if line.startswith(b"data: {"):
                try:
                    event = json.loads(line[6:])
                except ValueError:
                    return {}
                return event if isinstance(event, dict) else {}
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Sends requests to one server through one session."""

    session: aiohttp.ClientSession
    url: str
    """Full URL of the completions or chat endpoint."""
    chat: bool
    tally: Tally
    clock: Callable[[], float]

    async def send(self, payload: bytes) -> Outcome:
        """One request to its end; never raises for what a server or network may do."""
        started_s = self.clock()
        meter = StreamMeter(chat=self.chat)
        headed = False
        try:
            async with self.session.post(self.url, data=payload, headers=HEADERS) as response:
                headed = True
                if response.status != 200:
                    detail = (await response.content.read(300)).decode(errors="replace")
                    return Outcome(kind=f"http_{response.status}", detail=detail.replace("\n", " "))
                await self._read(response, meter, started_s)
        except TimeoutError:
            return Outcome(kind=TIMEOUT, tokens=meter.events, detail="no end within --timeout-s")
        except (aiohttp.ClientError, OSError) as error:
            kind = BROKEN_STREAM if headed else CONNECTION
            return Outcome(kind=kind, tokens=meter.events, detail=str(error) or type(error).__name__)
        return self._finished(meter, started_s)

    async def _read(self, response: aiohttp.ClientResponse, meter: StreamMeter, started_s: float) -> None:
        while chunk := await response.content.readany():
            now_s = self.clock()
            waiting = meter.first_s is None
            if seen := meter.feed(chunk, now_s):
                self.tally.tokens(now_s, seen)
            if waiting and meter.first_s is not None:
                self.tally.first_token(now_s, now_s - started_s)

    def _finished(self, meter: StreamMeter, started_s: float) -> Outcome:
        kind, tokens, detail = meter.end()
        now_s = self.clock()
        self.tally.tokens(now_s, tokens - meter.events)
        first_s, last_s = meter.first_s, meter.last_s
        if kind != OK or first_s is None or last_s is None:
            return Outcome(kind=kind, tokens=tokens, detail=detail)
        tpot_s = (last_s - first_s) / (tokens - 1) if tokens > 1 else None
        return Outcome(kind=OK, tokens=tokens, ttft_s=first_s - started_s, tpot_s=tpot_s, e2e_s=now_s - started_s)
