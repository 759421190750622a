"""Serves one engine's application on a socket of its own; many of them share an event loop.

uvicorn's protocol does HTTP. Its server is left out: it polls ten times a second for each socket, and cannot refuse
connections for a while or break one, as the faults here ask for.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fleet.shell import bind
from simulator.asgi import TRANSPORT, reset

GRACE_S = 1.0
"""Requests under way get this long at the end."""
_CHECK_S = 0.02


class Connection(HttpToolsProtocol):
    """uvicorn's, which lets the application reach the transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Put the transport where requests find it."""
        self.app_state = {TRANSPORT: transport}
        super().connection_made(transport)


class Listener:
    """One bound socket and its connections."""

    def __init__(self, app: Any, sock: socket.socket) -> None:
        """Nothing is accepted before :meth:`start`."""
        self._sock = sock
        self.host, self.port = sock.getsockname()[:2]
        self._config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None,
                                      log_level="warning", access_log=False, server_header=False)  # fmt: skip
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept connections."""
        if not self._config.loaded:
            self._config.load()
        self._server = await asyncio.get_running_loop().create_server(self._connect, sock=self._sock, backlog=2048)

    def _connect(self) -> Connection:
        return Connection(config=self._config, server_state=self._state, app_state={})

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept_again(self) -> None:
        """Listen again after :meth:`refuse`.

        Raises: ConfigError when somebody else has taken the port meanwhile.
        """
        if self._server is None:
            self._sock = bind(self.host, self.port, what="engine", setting="--port")
            await self.start()

    def kill(self) -> None:
        """As if the process had died: no more connections, and all that are open are reset."""
        self.refuse()
        for connection in list(self._state.connections):
            if connection.transport is not None:
                reset(connection.transport)
        for task in list(self._state.tasks):
            task.cancel()

    async def stop(self) -> None:
        """Refuse new requests, give those under way a moment, then end them."""
        self.refuse()
        for connection in list(self._state.connections):
            connection.shutdown()
        waited = 0.0
        while self._state.connections and waited < GRACE_S:
            await asyncio.sleep(_CHECK_S)
            waited += _CHECK_S
        self.kill()
