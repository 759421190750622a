"""Paths: what the router answers itself, what it passes on, what it refuses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from router.dataplane.reader import ClientRequest
from router.dataplane.replies import Refusal, reply
from router.endpoints import EndpointSet

_PASSED_ON: Final = re.compile(rb"/v1(?:/[A-Za-z0-9_-]{1,64}){1,4}")
_ENGINE_ADMIN: Final = frozenset({b"/v1/load_lora_adapter", b"/v1/unload_lora_adapter", b"/v1/models"})
"""Under ``/v1`` too, but not for clients to POST to."""
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]+(/[^#]*|)", re.IGNORECASE)
_READ: Final = (b"GET", b"HEAD")
_HEALTH: Final = (b"/health", b"/healthz")
_SHORT: Final = 256
"""Bytes of a target up to which it is remembered what it is."""


@dataclass(frozen=True, slots=True)
class Local:
    """An answer of the router's own."""

    status: int
    body: bytes
    extra: dict[str, str] | None = None

    def to_bytes(self, request: ClientRequest, *, close: bool) -> bytes:
        """The whole response."""
        return reply(self.status, self.body, request_id=request.request_id, close=close,
                     head_only=request.method == b"HEAD", extra=self.extra)  # fmt: skip


def _refuse(status: int, message: str, code: str, **extra: str) -> Local:
    return Local(status, Refusal(status, message, code=code).body(), extra or None)


def answer(endpoints: EndpointSet, request: ClientRequest, *, draining: bool) -> Local | None:
    """The router's own answer to ``request``, or ``None`` where an engine has to give it."""
    target = request.target
    if request.method == b"POST" and _for_engines(target):
        return None
    if not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match is None:
            return _refuse(400, "the request target is neither a path nor an http URL", "bad_target")
        target = request.target = match[1] or b"/"
        if request.method == b"POST" and _for_engines(target):
            return None
    path = target.partition(b"?")[0]
    return _own(endpoints, request.method, path, draining=draining)


def _served(target: bytes) -> bool:
    path = target.partition(b"?")[0]
    return _PASSED_ON.fullmatch(path) is not None and path not in _ENGINE_ADMIN


_MOST: Final = 256
_known: Final[dict[bytes, bool]] = {}
"""What short targets are, so many of them."""


def _for_engines(target: bytes) -> bool:
    """A path (with or without a query) that engines serve when it is POSTed to."""
    found = _known.get(target)
    if found is None:
        found = _served(target)
        if len(target) <= _SHORT:
            if len(_known) >= _MOST:
                _known.clear()
            _known[target] = found
    return found


def is_health(request: ClientRequest) -> bool:
    """A look at the router's health, which needs no key."""
    return request.method in _READ and request.target in _HEALTH


def _own(endpoints: EndpointSet, method: bytes, path: bytes, *, draining: bool) -> Local:
    if path in _HEALTH or path == b"/v1/models":
        if method not in _READ:
            return _refuse(405, "this path is read with GET", "method_not_allowed", allow="GET, HEAD")
        return _models(endpoints) if path == b"/v1/models" else _health(endpoints, draining=draining)
    if _for_engines(path):
        return _refuse(405, "this path takes POST", "method_not_allowed", allow="POST")
    return _refuse(404, "there is no such path here", "not_found")


def _health(endpoints: EndpointSet, *, draining: bool) -> Local:
    if draining:
        return Local(503, b'{"status":"stopping"}')
    ready = len(endpoints.ready)
    return Local(200, b'{"status":"ok","ready_endpoints":%d}' % ready)


def _models(endpoints: EndpointSet) -> Local:
    """Every model once, as the first engine that serves it describes it."""
    merged: dict[str, Any] = {}
    for endpoint in endpoints.ready:
        for entry in endpoint.model_entries:
            merged.setdefault(str(entry["id"]), entry)
        for name in sorted(endpoint.models):
            merged.setdefault(name, {"id": name, "object": "model", "owned_by": "llm-fleet"})
    return Local(200, msgspec.json.encode({"object": "list", "data": list(merged.values())}))
