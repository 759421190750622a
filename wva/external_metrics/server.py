"""Serves the external metrics API over TLS to the API server's aggregator."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from wva.external_metrics import answers
from wva.external_metrics.answers import Answer, Query
from wva.external_metrics.auth import FrontProxy, Gate, User, user_of
from wva.kube.status import rfc3339
from wva.loop import ControlLoop

log = logging.getLogger(__name__)

CONNECTION_S = 10.0
"""A connection that says nothing for so long is closed; also the limit of the TLS handshake."""
HEALTH = frozenset({"/healthz", "/livez", "/readyz"})


@dataclass(frozen=True, kw_only=True)
class Api:
    """What the server answers from.

    Args:
        loop: the controller.
        gate: TLS and the front proxy.
        allows: whether a user may ask.
        clock: Unix time in seconds.
        fresh_s: decisions older than this are not served: the HPA would believe them.
    """

    loop: ControlLoop
    gate: Gate
    allows: Callable[[User, Query], bool]
    clock: Callable[[], float]
    fresh_s: float

    def answer(self, target: str, user: User | None) -> Answer:
        """The answer to a GET of ``target``."""
        url = urlsplit(target)
        query = answers.query_of(unquote(url.path))
        if query is None and not url.path.startswith("/apis"):
            return answers.not_found("the server could not find the requested resource")
        if user is None:
            return answers.failure(401, "Unauthorized", "Unauthorized")
        if query is None:
            found = answers.discovery(url.path)
            return found or answers.not_found("the server could not find the requested resource")
        if not self.allows(user, query):
            what = f'{query.metric}.{answers.GROUP} is forbidden: User "{user.name}" cannot list it'
            return answers.failure(403, "Forbidden", f'{what} in the namespace "{query.namespace}"')
        return self._values(query, parse_qs(url.query).get("labelSelector", [""])[-1])

    def _values(self, query: Query, label_selector: str) -> Answer:
        last, now_s = self.loop.last, self.clock()
        fresh = last is not None and abs(now_s - last.snapshot.at_s) <= self.fresh_s
        decisions = last.decisions if last and fresh else None
        time = rfc3339(last.snapshot.at_s) if last else ""
        return answers.values(query, label_selector, decisions, time=time)

    def healthy(self, path: str) -> bool:
        """``/readyz``: values are served; the others: the process runs."""
        return path != "/readyz" or self.loop.last is not None


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "wva", ""
    timeout = CONNECTION_S
    api: Api

    def setup(self) -> None:
        """TLS, in the connection's own thread: a peer that dawdles keeps nobody else waiting."""
        self.proxy, context = self.api.gate.current()
        self.request.settimeout(CONNECTION_S)
        self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self) -> None:
        """Health without a word about the caller, everything else with one."""
        path = urlsplit(self.path).path
        if path in HEALTH:
            healthy = self.api.healthy(path)
            return self._send(200 if healthy else 503, b"ok" if healthy else b"not ready", "text/plain")
        user = user_of(self.proxy, self.request.getpeercert(), self.headers)
        answer = self.api.answer(self.path, user)
        return self._send(answer.status, json.dumps(answer.body).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        """Close the TLS socket too, which stands in for the accepted one."""
        try:
            super().finish()
        finally:
            self.request.close()

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    proxy: FrontProxy


class Server(ThreadingHTTPServer):
    """Peers that fail the handshake or go away are their own problem."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line for debugging; the server goes on."""
        log.debug("external metrics: connection of %s ended", client_address, exc_info=True)


def serve(api: Api, sock: socket.socket) -> Server:
    """Answer on ``sock`` from a thread of its own until ``shutdown`` and ``server_close``."""
    server = Server(sock.getsockname()[:2], type("Bound", (Handler,), {"api": api}), bind_and_activate=False)
    server.socket.close()
    sock.setblocking(True)
    server.socket = sock
    threading.Thread(target=server.serve_forever, name="external metrics", daemon=True).start()
    return server
