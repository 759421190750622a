"""What every long-running part's shell needs: quiet logs, a parent that dies, a free port."""

from __future__ import annotations

import ctypes
import errno
import logging
import signal
import socket
import sys
from typing import Final

from fleet.errors import ConfigError
from fleet.settings import FleetSettings, load

OWN: Final = ("fleet", "predictor", "wva", "router", "alerts", "dashboards", "simulator", "planner", "benchmarks")
"""Packages whose loggers ``FLEET_LOG_LEVEL`` makes talkative; others may log headers and statements at that level."""


def setup_logging(name: str) -> None:
    """Log one line an event to standard error, with the part's name, from the level ``FLEET_LOG_LEVEL`` on.

    Raises: ConfigError for a level that is none.
    """
    level = load(FleetSettings).log_level
    logging.basicConfig(stream=sys.stderr, level="INFO" if level == "DEBUG" else level, force=True,
                        format=f"%(asctime)s {name} %(levelname)s %(message)s")  # fmt: skip
    for package in OWN:
        logging.getLogger(package).setLevel(level)
    logging.getLogger("alembic").setLevel("WARNING")  # two lines at every start that tell nobody anything


def die_with_parent() -> None:
    """On Linux, be killed when the parent dies, however it dies: no orphan keeps a port."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)


def bind(host: str, port: int, *, what: str, setting: str, shared: bool = False) -> socket.socket:
    """A listening socket (``port`` 0: any free one); ``shared``: other processes of ours listen there too.

    Raises: ConfigError on one line when the port is taken or may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio sets TCP_NODELAY
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"is no address of this machine: {error.strerror}", where=f"{what} {host}",
                              next_step="Choose another with --host; 0.0.0.0 is all of them.") from None  # fmt: skip
        raise ConfigError(f"port {port} cannot be used: {error.strerror}", where=f"{what} {host}",
                          next_step=f"Choose another with {setting}, or 0 for any free one.") from None  # fmt: skip
    sock.setblocking(False)
    return sock
