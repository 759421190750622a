"""Both legs of one exchange: the prefill's before or beside the decode's, and the way back to decode alone."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from router.dataplane.headers import without
from router.dataplane.hub import Hub
from router.dataplane.reader import ClientRequest
from router.dataplane.response import ResponseReader
from router.dataplane.upstream import Pool
from router.disaggregation.leg import PrefillLeg
from router.disaggregation.protocols import (
    PREFILLER_HEADER,
    RANK_HEADER,
    Meeting,
    Protocol,
    cached_tokens,
    clean,
    decode_body,
    prefill_body,
    ranks,
    with_cached,
    with_threshold,
)
from router.endpoints import address
from router.ticket import Ticket

log = logging.getLogger(__name__)
_ERROR: Final = re.compile(rb'data: *\{ *"(error|object" *: *"error)"')
"""A stream's first event when the decode engine failed."""
_UNMET: Final = re.compile(rb'"finish_reason" *: *"cache_threshold"')
_TOKEN: Final = re.compile(rb'"(?:text|content|reasoning|reasoning_content)" *: *"[^"]')
_OPENING: Final = 2
"""Events that may come before the one that ends an answer without a token: a chat's role, and that one."""
_TELLS: Final = 32
"""Bytes of an answer by which that can be seen."""
_ASK_S: Final = 5.0
"""A bootstrap server gets this long to answer; then the request is decoded alone."""


class Legs:
    """Made when a request that is split goes out; ``go`` sends the decode leg.

    Whatever the prefill engine does, the client gets the decode engine's answer: a prefill that fails, an answer
    without parameters and a decode engine that cannot load the KV (an expired lease) all end in one whole request.

    Args:
        hub: connections and settings.
        request: the client's; its body becomes the decode leg's.
        ticket: says which engine prefills.
        protocol: how KV moves.
        go: sends the decode leg.
        anew: sends it again, unless its answer has begun; what was sent before is cancelled.
    """

    __slots__ = (
        "_anew",
        "_ask",
        "_director",
        "_go",
        "_held",
        "_hub",
        "_leg",
        "_meeting",
        "_original",
        "_request",
        "_threshold",
        "_ticket",
        "_trying",
        "_url",
        "cached",
        "header",
        "protocol",
        "used",
    )  # fmt: skip

    def __init__(
        self, hub: Hub, request: ClientRequest, ticket: Ticket, protocol: Protocol,
        *, go: Callable[[], None], anew: Callable[[], None],
    ) -> None:  # fmt: skip
        self._hub, self._director, self._go, self._anew = hub, hub.director, go, anew
        self._request, self._ticket, self.protocol = request, ticket, protocol
        self._url = ticket.prefill
        self._original = clean(request.body)
        self._meeting = Meeting(host=urlsplit(self._url).hostname or "", port=hub.settings.bootstrap_port,
                                number=secrets.randbits(63))  # fmt: skip
        self._leg: PrefillLeg | None = None
        self._ask: PrefillLeg | None = None
        self._held = b""
        self._threshold = hub.settings.cache_hit_threshold
        self._trying = False
        """The decode engine was asked first, and has not said yet whether it answers."""
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
        elif self.protocol is Protocol.MOONCAKE:
            known = self._hub.engine_ids.get(self._url)
            self._meet(known) if known else self._find()
        elif self.protocol is Protocol.SHARED and self._threshold:
            self._trying = True
            self._request.body = with_threshold(self._original, self._threshold)
            self._go()
        else:
            self._send()

    # ---- Mooncake: who prefills there

    def _find(self) -> None:
        """Ask the prefill engine's bootstrap server for its engine ids."""
        pool = Pool(self._meeting.bootstrap, self._hub.settings, self._hub.outbox)

        def answered(answer: Mapping[str, Any] | None, why: str) -> None:
            self._ask = None
            self._found(ranks(answer), why or "no engine id in its answer")

        def over() -> None:
            ask.give_up(f"no answer within {_ASK_S:g} s")
            pool.abort()

        wire = b"GET /query HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % pool.authority
        self._ask = ask = PrefillLeg(pool, wire, answered)
        asyncio.get_running_loop().call_later(_ASK_S, over)
        ask.start()

    def _found(self, known: dict[str, str], why: str) -> None:
        if known:
            self._hub.engine_ids[self._url] = known
            self._meet(known)
            return
        log.warning("the bootstrap server %s: %s", self._meeting.bootstrap, why)
        self._prefilled(None, f"its bootstrap server: {why}")
        self._go()

    def _meet(self, known: Mapping[str, str]) -> None:
        rank = random.choice(list(known))
        self._meeting = replace(self._meeting, rank=rank, engine_id=known[rank])
        self._send()

    # ---- the two legs

    def _send(self) -> None:
        pool = self._hub.pool(self._url)
        body = prefill_body(self.protocol, self._whatever_is_cached(), self._meeting)
        request = self._request
        head = request.head
        if self._meeting.engine_id:
            lines = without(head.splitlines(keepends=True), [RANK_HEADER])
            head = b"".join([*lines, b"%b: %b\r\n" % (RANK_HEADER, self._meeting.rank.encode())])
        wire = b"".join((
            b"POST %b%b HTTP/1.1\r\nhost: %b\r\n%bx-request-id: %b\r\ncontent-length: %d\r\n"
            % (pool.base, request.target, pool.authority, self._hub.credentials, request.request_id.encode(),
               len(body)),
            head, b"\r\n", body,
        ))  # fmt: skip
        self._leg = PrefillLeg(pool, wire, self._prefilled)
        self._ticket.outlived = self.protocol is Protocol.MOONCAKE
        self._leg.start()
        if self.protocol.at_once:
            self._decode(None)

    def _prefilled(self, answer: Mapping[str, Any] | None, why: str) -> None:
        self._leg = None
        if self._ticket.outcome is not None:  # it outlived its client
            self._director.prefilled(self._ticket)
            return
        unreachable = why.startswith("no connection")
        blame = not why.startswith("status 4")  # the decode engine will tell the client what is wrong
        self._director.prefilled(self._ticket, failed=why, unreachable=unreachable, blame=blame)
        if why:
            log.warning("prefill at %s failed (%s): decoding alone", self._url, why)
            self._hub.engine_ids.pop(self._url, None)
        self.cached = cached_tokens(answer)
        if not self.protocol.at_once:
            self._decode(answer)
        elif why and self.used:  # the decode engine waits for what will not come
            self._alone()
            self._anew()

    def _decode(self, answer: Mapping[str, Any] | None) -> None:
        body = None
        if answer is not None or self.protocol.at_once:
            body = decode_body(self.protocol, self._original, self._meeting, answer=answer)
        self.used = body is not None
        self._request.body = self._whatever_is_cached() if body is None or body is self._original else body
        self._go()

    def _whatever_is_cached(self) -> bytes:
        """The request for an engine that is to answer it: a threshold of the engine's own does not count."""
        asked_first = self.protocol is Protocol.SHARED and self._threshold
        return with_threshold(self._original, 0.0) if asked_first else self._original

    def _alone(self) -> None:
        """From here on the decode engine gets the whole request."""
        self.used, self.cached, self._held = False, None, b""
        self._request.body = self._original

    @property
    def rewrites(self) -> bool:
        """The answer may become longer or shorter than the decode engine says."""
        return self.cached is not None or (self.used and self.protocol.at_once)

    def merged(self, data: bytes) -> bytes:
        """A piece of the answer, with both legs' usage."""
        return data if self.cached is None else with_cached(data, self.cached)

    def opening(self, reader: ResponseReader, data: bytes) -> bytes | None:
        """The answer's first bytes, once they may go to the client; ``None``: not yet, or the request was sent again.

        Engines send the head of a stream before they have the KV: nothing of an answer is passed on before its body
        says that the decode engine could use what was prefilled.
        """
        if self._trying:
            return self._tried(reader, data)
        if not self.used:
            return data
        self._held += data
        held = self._held
        failed = reader.status >= 500
        if not reader.done and (failed or len(held) < _TELLS):
            return None
        if failed or (reader.events and _ERROR.match(held)):
            self._fall_back()
            self._go() if reader.done else self._anew()
            return None
        self._held = b""
        return held

    def _tried(self, reader: ResponseReader, data: bytes) -> bytes | None:
        """The answer of a decode engine that was asked first; ``None``: not known yet, or the prompt goes elsewhere."""
        self._held += data
        held = self._held
        unmet = _UNMET.search(held)
        begun = reader.status != 200 or (reader.events and (_TOKEN.search(held) or held.count(b"data:") > _OPENING))
        if not reader.done and (unmet or not begun):
            return None
        self._trying, self._held = False, b""
        if unmet and reader.status == 200:
            self._request.body = self._original
            self._send()
            return None
        self._director.prefilled(self._ticket)
        self._director.metrics.split(self._ticket.model, "decode-first")
        return held

    def _fall_back(self) -> None:
        """The decode engine could not go on from the prefill: it gets the whole request."""
        log.warning("the decode engine could not use what %s prefilled: it computes the prompt itself", self._url)
        self._hub.engine_ids.pop(self._url, None)
        self._alone()
        leg, self._leg = self._leg, None
        if leg is not None:
            leg.cancel()
        self._ticket.outlived = False
        self._director.prefilled(self._ticket, failed="the decode engine could not load the KV")

    def cancel(self) -> None:
        """The answer is over, or the client has gone.

        A Mooncake prefill goes on, and stays in the books: the decode engine may be reading what it computed. It is
        given up when it takes longer than any answer may.
        """
        for leg in (self._ask, self._leg):
            if leg is None:
                continue
            if leg is self._leg and self.protocol is Protocol.MOONCAKE:
                asyncio.get_running_loop().call_later(self._hub.settings.response_s, leg.give_up, "no answer in time")
            else:
                leg.cancel()
        self._ask = self._leg = None
