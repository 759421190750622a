"""Engines behind one DNS name: every address is one (a headless Kubernetes Service, a Compose service, Consul)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from fleet.errors import SourceError
from fleet.types import Variant
from router.discovery.listed import Found, grouped

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses. Raises: OSError when it cannot tell."""


async def resolved(host: str, port: int) -> list[str]:
    """Addresses of ``host`` as the system's resolver gives them, each once, in order."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(entry[4][0]) for entry in found})


def address(host: str) -> str:
    """As it stands in a URL.

    >>> address("10.0.0.1"), address("fd00::1")
    ('10.0.0.1', '[fd00::1]')
    """
    return f"[{host}]" if ":" in host else host


class DnsSource:
    """Every address behind a name.

    Args:
        host: the name.
        port: of the engines.
        scheme: ``http`` or ``https``.
        resolve: the resolver.
    """

    def __init__(self, host: str, port: int, *, scheme: str = "http", resolve: Resolve = resolved) -> None:
        self.name = f"dns://{host}:{port}"
        self._host, self._port, self._scheme, self._resolve = host, port, scheme, resolve

    async def variants(self) -> tuple[Variant, ...]:
        """See :class:`router.discovery.follow.Source`. A name that does not resolve keeps what was known."""
        try:
            addresses = await self._resolve(self._host, self._port)
        except OSError as error:
            raise SourceError(f"{self._host} does not resolve: {error}", where=self.name,
                              next_step="Check the name, and that it has ready pods.") from error  # fmt: skip
        return grouped(
            Found(url=f"{self._scheme}://{address(one)}:{self._port}", variant=self._host) for one in addresses
        )

    async def close(self) -> None:
        """See :class:`router.discovery.follow.Source`."""
