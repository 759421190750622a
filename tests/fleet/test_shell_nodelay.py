"""Servers on our sockets answer at once: no small write waits for the other side's acknowledgement."""

from __future__ import annotations

import asyncio
import socket

from fleet.shell import bind


async def _nodelay_of_an_accepted_connection() -> int:
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def handle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listening = bind("127.0.0.1", 0, what="test", setting="--port")
    async with await asyncio.start_server(handle, sock=listening):
        _, writer = await asyncio.open_connection(*listening.getsockname())
        found = await seen
        writer.close()
        return found


def test_accepted_connections_have_nagles_delay_off() -> None:
    assert asyncio.run(_nodelay_of_an_accepted_connection())
