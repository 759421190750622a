"""Runs an ASGI application the way every part of the project runs: quiet, and stopped cleanly by a signal."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from fleet.stopping import on_stop

GRACE_S = 1
"""Open connections get this long at the end."""


def serve(app: Any, sock: socket.socket, *, lifespan: bool = False) -> None:
    """Serve ``app`` on a bound socket until SIGTERM or SIGINT; returns, so that the exit code is 0."""
    config = uvicorn.Config(app, loop="uvloop", http="httptools", ws="none", lifespan="on" if lifespan else "off",
                            log_config=None, log_level="warning", access_log=False, server_header=False,
                            timeout_graceful_shutdown=GRACE_S)  # fmt: skip
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    on_stop(stop)  # before uvicorn installs its own handlers; it hands the signal back to this one at its end
    server.run(sockets=[sock])
