"""Both legs of one exchange: the prefill's before or beside the decode's, and the way back to decode alone."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from router.dataplane.hub import Hub
from router.dataplane.reader import ClientRequest
from router.disaggregation.leg import PrefillLeg
from router.disaggregation.protocols import (
    PREFILLER_HEADER,
    Protocol,
    cached_tokens,
    clean,
    decode_body,
    prefill_body,
    with_cached,
)
from router.endpoints import address
from router.ticket import Ticket

log = logging.getLogger(__name__)


class Legs:
    """Made when a request that is split goes out; ``go`` sends the decode leg.

    Whatever the prefill engine does, the client gets the decode engine's answer: a prefill that fails, an answer
    without parameters and a decode engine that cannot load the KV (an expired lease) all end in one whole request.
    """

    __slots__ = (
        "_director", "_go", "_hub", "_leg", "_original", "_request", "_room", "_ticket", "_url", "cached", "header",
        "protocol", "used",
    )  # fmt: skip

    def __init__(
        self, hub: Hub, request: ClientRequest, ticket: Ticket, protocol: Protocol, go: Callable[[], None]
    ) -> None:
        self._hub, self._director, self._go = hub, hub.director, go
        self._request, self._ticket, self.protocol = request, ticket, protocol
        self._url = ticket.prefill
        self._original = clean(request.body)
        self._room = secrets.randbits(63)
        self._leg: PrefillLeg | None = None
        self.header = b""
        """A line for the decode leg's head."""
        self.used = False
        """The decode leg relies on the prefill."""
        self.cached: int | None = None
        """Prompt tokens that the prefill engine had cached: what the client's usage should say."""

    def start(self) -> None:
        """Send what goes first."""
        self._request.body = self._original
        if self.protocol is Protocol.SIDECAR:
            self.header = b"%b: %b\r\n" % (PREFILLER_HEADER.encode(), address(self._url).encode())
            self._director.prefilled(self._ticket)
            self._go()
            return
        pool = self._hub.pool(self._url)
        body = prefill_body(self.protocol, self._original, prefill_url=self._url, room=self._room)
        request = self._request
        wire = b"".join((
            b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%bx-request-id: %b\r\ncontent-length: %d\r\n"
            % (pool.base, request.target, pool.authority, self._hub.credentials, request.request_id.encode(),
               len(body)),
            request.head, b"\r\n", body,
        ))  # fmt: skip
        self._leg = PrefillLeg(pool, wire, self._prefilled)
        self._leg.start()
        if self.protocol.at_once:
            self._decode(None)

    def _prefilled(self, answer: Mapping[str, Any] | None, why: str) -> None:
        self._leg = None
        unreachable = why.startswith("no connection")
        self._director.prefilled(self._ticket, failed=why, unreachable=unreachable)
        if why:
            log.warning("prefill at %s failed (%s): decoding alone", self._url, why)
        self.cached = cached_tokens(answer)
        if not self.protocol.at_once:
            self._decode(answer)

    def _decode(self, answer: Mapping[str, Any] | None) -> None:
        body = None
        if answer is not None or self.protocol.at_once:
            body = decode_body(self.protocol, self._original, answer=answer, prefill_url=self._url, room=self._room)
        self.used = body is not None
        self._request.body = self._original if body is None else body
        self._go()

    def merged(self, data: bytes) -> bytes:
        """A piece of the answer, with both legs' usage."""
        return data if self.cached is None else with_cached(data, self.cached)

    def fall_back(self) -> None:
        """The decode engine could not go on from the prefill: it gets the whole request."""
        log.warning("the decode engine could not use what %s prefilled: it computes the prompt itself", self._url)
        self.used, self.cached = False, None
        self.cancel()
        self._director.prefilled(self._ticket, failed="the decode engine could not load the KV")
        self._request.body = self._original

    def cancel(self) -> None:
        """The client has gone, or the leg is of no more use."""
        leg, self._leg = self._leg, None
        if leg is not None:
            leg.cancel()
