"""Mooncake's bootstrap server of one prefill engine: who prefills, and where its blocks can be had."""

from __future__ import annotations

import msgspec

from simulator.asgi import Message, Receive, Send, reply

_NOT_FOUND = msgspec.json.encode({"detail": "Not Found"})


class BootstrapApp:
    """Answers ``GET /query`` as vLLM's: data-parallel rank to engine id and workers (tensor rank, pipeline rank).

    A worker's address is the engine's HTTP address here, where a real one is a ZeroMQ socket.
    """

    def __init__(self, engine_id: str, address: str) -> None:
        self._said = msgspec.json.encode({"0": {"engine_id": engine_id, "worker_addr": {"0": {"0": address}}}})

    async def __call__(self, scope: Message, _receive: Receive, send: Send) -> None:
        """One request, as ASGI."""
        asked = (scope["method"], scope["path"]) == ("GET", "/query")
        await reply(send, 200 if asked else 404, self._said if asked else _NOT_FOUND)
