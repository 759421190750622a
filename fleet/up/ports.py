"""Free ports for all parts; one that is taken is replaced, and said."""

from __future__ import annotations

import socket
from dataclasses import asdict

from fleet.up.plan import Ports

_ENGINES = 32
"""Ports kept free above ``engine_base``."""


def is_free(host: str, port: int) -> bool:
    """Whether ``port`` can be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


def choose(host: str, wanted: Ports) -> tuple[Ports, list[str]]:
    """Ports that are free, as near above the wanted ones as there are, and a word for each that was replaced."""
    chosen: dict[str, int] = {}
    notes: list[str] = []
    for name, port in asdict(wanted).items():
        if name == "engine_base":
            chosen[name] = _free_block(host, port, set(chosen.values()))
        else:
            chosen[name] = next(p for p in range(port, 65_000) if p not in chosen.values() and is_free(host, p))
        if chosen[name] != port:
            notes.append(f"{name.replace('_', ' ')} {port} -> {chosen[name]}")
    return Ports(**chosen), notes


def _free_block(host: str, first: int, used: set[int]) -> int:
    while any(port in used or not is_free(host, port) for port in range(first, first + _ENGINES)):
        first += _ENGINES
    return first
