"""How an engine asks others for KV blocks: over HTTP. Imported only by engines with a KV connector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from simulator.connector import LoadFailedError
from simulator.transfer import Transfer

TIMEOUT_S = 10.0
MEET_S = 480.0
"""A decode engine waits this long for the prefill engine (vLLM's ``VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT``)."""
_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


class HttpPeers:
    """Other engines, by the address in ``kv_transfer_params``."""

    def __init__(self) -> None:
        """No connection yet."""
        self._session: aiohttp.ClientSession | None = None

    async def pull(self, transfer: Transfer) -> Transfer:
        """Claim the blocks of ``transfer``; where they are not computed yet, wait for that.

        Raises: LoadFailedError when the other engine is gone, or does not keep them.
        """
        try:
            body: dict[str, object] = {"engine_id": transfer.engine_id}
            if transfer.bootstrap:
                transfer = await self._found(transfer)
                body["transfer_id"] = transfer.request_id
                status = await self._post(transfer, "meet", body, timeout_s=MEET_S)
            else:
                body |= {"request_id": transfer.request_id, "blocks": transfer.blocks}
                status = await self._post(transfer, "pull", body)
        except _ERRORS as error:
            raise LoadFailedError(f"the prefill engine does not answer ({error})") from None
        if status != 200:
            raise LoadFailedError(f"the prefill engine does not keep these blocks (status {status})")
        return transfer

    async def _found(self, transfer: Transfer) -> Transfer:
        """Ask the bootstrap server for the address of the engine that ``transfer`` names."""
        async with self._opened().get(transfer.bootstrap + "/query") as response:
            ranks: dict[str, Any] = await response.json() if response.status == 200 else {}
        for entry in ranks.values():
            if entry.get("engine_id") == transfer.engine_id:
                address = str(entry.get("worker_addr", {}).get("0", {}).get("0", ""))
                host, _, port = address.rpartition(":")
                if port.isdigit():
                    return replace(transfer, host=host, port=int(port))
        raise LoadFailedError(f"{transfer.bootstrap} knows no engine {transfer.engine_id}")

    async def done(self, transfer: Transfer) -> None:
        """They were read. A prefill engine that has gone meanwhile has nothing to release."""
        try:
            await self._post(transfer, "done", {"request_id": transfer.request_id})
        except _ERRORS:
            return

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self._session

    async def _post(
        self, transfer: Transfer, what: str, body: Mapping[str, object], *, timeout_s: float = TIMEOUT_S
    ) -> int:
        url = f"http://{transfer.host}:{transfer.port}/sim/kv/{what}"
        limit = aiohttp.ClientTimeout(total=timeout_s)
        async with self._opened().post(url, json=body, timeout=limit) as response:
            await response.read()
            return response.status
