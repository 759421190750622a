"""Login by a reverse proxy: without its header nobody sees a page or opens a session.

The proxy (oauth2-proxy, an Envoy OIDC filter, an ingress) authenticates and names the user in a header, which it must
strip from what clients send. The console must then be reachable through the proxy alone.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

OPEN: Final = ("/healthz", "/metrics", "/_stcore/health")
"""Paths for probes and scrapes, which carry no user."""


class HeaderLogin:
    """ASGI middleware: 401 for HTTP, a refused handshake for WebSockets, where the header is missing or empty."""

    def __init__(self, app: ASGIApp, header: str) -> None:
        self._app, self._header = app, header.lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in {"http", "websocket"} or scope["path"] in OPEN or self._user(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = b"401: sign in through the proxy in front of this console\n"
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _user(self, scope: Scope) -> bool:
        """Whether exactly one non-empty header names a user: two would mean that a client's own one got through."""
        found = [value for name, value in scope["headers"] if name == self._header]
        return len(found) == 1 and bool(found[0].strip())
