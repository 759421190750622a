"""How an engine asks others for KV blocks: over HTTP. Imported only by engines with a KV connector."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

from simulator.connector import LoadFailedError
from simulator.transfer import Transfer

TIMEOUT_S = 10.0
_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


class HttpPeers:
    """Other engines, by the address in ``kv_transfer_params``."""

    def __init__(self) -> None:
        """No connection yet."""
        self._session: aiohttp.ClientSession | None = None

    async def pull(self, transfer: Transfer) -> None:
        """Claim the blocks of ``transfer``.

        Raises: LoadFailedError when the other engine is gone, or does not keep them.
        """
        body = {"engine_id": transfer.engine_id, "request_id": transfer.request_id, "blocks": transfer.blocks}
        try:
            status = await self._post(transfer, "pull", body)
        except _ERRORS as error:
            raise LoadFailedError(f"the prefill engine does not answer ({error})") from None
        if status != 200:
            raise LoadFailedError(f"the prefill engine does not keep these blocks (status {status})")

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

    async def _post(self, transfer: Transfer, what: str, body: Mapping[str, object]) -> int:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        url = f"http://{transfer.host}:{transfer.port}/sim/kv/{what}"
        async with self._session.post(url, json=body) as response:
            await response.read()
            return response.status
