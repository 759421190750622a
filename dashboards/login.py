"""Login: by a reverse proxy's header, or at an OpenID Connect provider through Streamlit.

**Proxy.** Without its header nobody sees a page or opens a session.

The proxy (oauth2-proxy, an Envoy OIDC filter, an ingress) authenticates and names the user in a header, which it must
strip from what clients send. The console must then be reachable through the proxy alone.

**Provider.** Streamlit sends people there and keeps who they are in a signed cookie; :func:`dashboards.frame.run` draws
nothing for those who have none, or whom ``oidc_allow`` leaves out.
"""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from dashboards.settings import ConsoleSettings
from fleet.errors import ConfigError

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


NEEDED: Final = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")


def check_oidc(settings: ConsoleSettings) -> None:
    """Say what is missing for a login at a provider before the console starts.

    Raises: ConfigError.
    """
    if settings.oidc is None:
        if settings.oidc_allow:
            raise ConfigError("nobody signs in, so nobody can be told apart", where="--oidc-allow",
                              next_step="Add --oidc FILE.")  # fmt: skip
        return
    if settings.login_header:
        raise ConfigError("give one login, not two", where="--oidc", next_step="Leave out --login-header.")
    if find_spec("authlib") is None:
        raise ConfigError("the package Authlib is missing", where="--oidc", next_step="Install llm-fleet[oidc].")
    section = _auth_of(settings.oidc)
    missing = [name for name in NEEDED if not str(section.get(name, ""))]
    if missing:
        raise ConfigError(f"[auth] lacks {', '.join(missing)}", where=str(settings.oidc),
                          next_step="docs/console.md shows the section.")  # fmt: skip


def _auth_of(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path),
                          next_step="docs/console.md shows the file.") from None  # fmt: skip
    section = document.get("auth")
    if not isinstance(section, dict):
        raise ConfigError("has no section [auth]", where=str(path),
                          next_step="docs/console.md shows the section.")  # fmt: skip
    return section


def may_look(email: str, verified: object, allow: str) -> bool:
    """Whether somebody who signed in may look.

    Args:
        email: as the provider tells it.
        verified: the claim ``email_verified``; one that is there and false counts as no address.
        allow: addresses and ``@domains``, comma-separated; empty: everyone.

    >>> may_look("Ada@Example.org", True, "bob@x.org, @example.org"), may_look("a@example.org.ev", True, "@example.org")
    (True, False)
    """
    allowed = {entry.strip().lower() for entry in allow.split(",") if entry.strip()}
    if not allowed:
        return True
    address = email.strip().lower()
    if not address or "@" not in address or verified in {False, "false"}:
        return False
    return address in allowed or f"@{address.rsplit('@', 1)[1]}" in allowed
