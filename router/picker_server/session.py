"""One HTTP request of Envoy's, as ext_proc shows it: headers and body in, an endpoint out, the answer watched.

The order is the protocol's: headers, body, trailers, of the request and then of the answer. In duplex mode the answer
to the headers waits until the body has come, for the body names the model; then the body goes back as it came, in
chunks. In buffered mode headers are answered at once, and the endpoint is set with the body. Chunks of an engine's
answer go back the moment they come.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fleet.history import RequestOutcome
from router.dataplane.body import parse as parse_body
from router.dataplane.replies import REASON_HEADER, Refusal, server_error
from router.director import Director
from router.disaggregation.protocols import PREFILLER_HEADER
from router.hints import HEADERS as HINTS
from router.hints import NO_HINTS, Hints, with_hint
from router.picker_server import messages
from router.picker_server.addresses import Addresses
from router.picker_server.messages import DESTINATION, SCORES, SERVED, SUBSET, BodyMode, Message, Phase
from router.picker_server.protobuf import BadMessageError
from router.picker_server.rewrite import Names, Rewriter
from router.ticket import Ticket
from router.tracing.hooks import Tracing

_LB: Final = "envoy.lb"
_SUBSET_SPACE: Final = "envoy.lb.subset_hint"
_TEST_HEADER: Final = "test-epp-endpoint-selection"
_REWRITE: Final = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
_CANCELLED = 499
_PROXYS_OWN: Final = (502, 503, 504)
"""Status of answers that a proxy gives where an engine gave none."""
_INVALID = 3


class Out(Protocol):
    """Where a session answers (:class:`router.picker_server.http2.Stream`)."""

    def send(self, message: bytes) -> None:
        """A message."""

    def finish(self, status: int = 0, text: str = "") -> None:
        """The end."""


@dataclass(slots=True, kw_only=True)
class Desk:
    """What all sessions share."""

    director: Director
    addresses: Addresses
    names: Names = field(default_factory=Names)
    """Model rewrites and objectives."""
    fallbacks: int = 0
    """Further endpoints named behind the best, for proxies that retry down a list."""
    emit_scores: bool = False
    conformance: bool = False
    """Obey :data:`_TEST_HEADER`: for conformance tests only, for it lets clients choose."""
    tracing: Tracing | None = None
    """Begins requests' spans; ``None``: there are none."""
    buffered: int = 0
    """Bytes of bodies that are held."""


class Session:
    """A call of ``ExternalProcessor/Process``."""

    __slots__ = ("_answer_end", "_body", "_desk", "_events", "_headers", "_held", "_metadata", "_mode", "_out",
                 "_parent", "_renamed", "_rewriter", "_size", "_status", "_ticket", "_trailers",
                 "_turned_down")  # fmt: skip

    def __init__(self, desk: Desk, out: Out) -> None:
        self._desk, self._out = desk, out
        self._mode = BodyMode.DUPLEX
        self._headers: dict[str, str] = {}
        self._metadata = b""
        self._body: list[bytes] = []
        self._size = self._held = 0
        self._ticket: Ticket | None = None
        self._trailers = self._turned_down = self._events = self._answer_end = False
        self._status = 0
        self._parent = ""
        """The request's ``traceparent`` from here on, where it is traced."""
        self._renamed = ""
        """The model's name as the client wrote it, where the engine knows another."""
        self._rewriter: Rewriter | None = None

    # ---- what Envoy says

    def message(self, data: bytes) -> None:
        """See :class:`router.picker_server.http2.Call`."""
        try:
            message = messages.parse(data)
        except BadMessageError as error:
            self._out.finish(_INVALID, str(error))
            return
        if message.request_mode is not None:
            self._mode = BodyMode.BUFFERED if message.request_mode in (2, 3) else BodyMode.DUPLEX
        if message.metadata:
            self._metadata = message.metadata
        if not self._turned_down:
            self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        phase = message.phase
        if phase is Phase.RESPONSE_BODY:
            self._response_body(message)
        elif phase is Phase.REQUEST_BODY:
            self._request_body(message)
        elif phase is Phase.REQUEST_HEADERS:
            self._request_headers(message)
        elif phase is Phase.RESPONSE_HEADERS:
            self._response_headers(message)
        elif phase is Phase.REQUEST_TRAILERS:
            self._trailers = True
            if self._ticket is None:
                self._whole()
        elif phase is Phase.RESPONSE_TRAILERS:
            self._end_of_answer()
            self._out.send(messages.trailers(phase))

    def half_closed(self) -> None:
        """See :class:`router.picker_server.http2.Call`."""
        self._out.finish()

    def gone(self) -> None:
        """See :class:`router.picker_server.http2.Call`."""
        self._release()
        if self._ticket is not None:
            self._desk.director.close(self._ticket, RequestOutcome.ABORTED, self._status or _CANCELLED)

    # ---- the request

    def _request_headers(self, message: Message) -> None:
        self._headers = message.headers
        if message.end:
            self._without_body()
        elif self._mode is BodyMode.BUFFERED:
            self._out.send(messages.passed(Phase.REQUEST_HEADERS))

    def _without_body(self) -> None:
        """A GET names no model: any endpoint will do."""
        urls = self._allowed()
        chosen = self._desk.addresses.any(urls)
        if chosen is None:
            self._turn_down(_no_endpoint())
            return
        self._send_headers(Phase.REQUEST_HEADERS, chosen)

    def _request_body(self, message: Message) -> None:
        if self._ticket is not None or self._answer_end:
            return  # Envoy may end a body twice: nothing is answered twice
        settings = self._desk.director.settings
        self._size += len(message.body)
        if self._size > settings.body_bytes:
            self._turn_down(Refusal(413, f"the body is larger than {settings.body_bytes} bytes", code="body_too_large"))
            return
        if message.body:
            self._body.append(message.body)
            self._held += len(message.body)
            self._desk.buffered += len(message.body)
        if self._desk.buffered > settings.buffered_bytes:
            self._turn_down(server_error(503, "too many request bodies at once", code="overloaded",
                                         dropped="rejected-saturated", retry_after_s=1))  # fmt: skip
        elif message.end or self._mode is BodyMode.BUFFERED:
            self._whole()

    def _whole(self) -> None:
        """The body is there: choose."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        parsed = parse_body(body)
        if isinstance(parsed, Refusal):
            self._desk.director.refused(parsed.status)
            self._turn_down(parsed)
            return
        target = self._desk.names.target(parsed.model, _first(self._headers, _REWRITE), len(body))
        if target != parsed.model:
            self._renamed = parsed.model
            body = Names.renamed(body, parsed.model, target)
            again = parse_body(body)
            if not isinstance(again, Refusal):
                parsed = again
        self._body = [body]
        client = self._desk.director.identify(self._headers.get("authorization", "").encode("latin-1", "replace"))
        if isinstance(client, Refusal):
            self._desk.director.refused(client.status)
            self._turn_down(client)
            return
        ticket = self._ticket = self._desk.director.open(
            parsed, request_id=self._headers.get("x-request-id", ""), hints=_hints(self._headers), client=client,
            size=len(body),
        )  # fmt: skip
        ticket.allowed = self._allowed()
        if self._desk.tracing is not None:
            self._begin(self._desk.tracing, ticket)
        self._desk.director.route(ticket, self._routed)

    def _begin(self, tracing: Tracing, ticket: Ticket) -> None:
        """Begin the request's span; the engine hears of it."""
        headers = self._headers
        parents = [headers["traceparent"]] if "traceparent" in headers else []
        path = headers.get(":path", "").encode("latin-1", "replace")
        self._parent = tracing.begin(ticket, path=path, parents=parents, state=headers.get("tracestate", ""))

    def _allowed(self) -> Collection[str] | None:
        """Engines that the proxy's subset hint (or a conformance test) leaves; ``None``: all."""
        hint: Any = None
        if self._metadata:
            hint = messages.metadata_value(self._metadata, _SUBSET_SPACE, SUBSET)
        if hint is None and self._desk.conformance and (named := self._headers.get(_TEST_HEADER)):
            return self._desk.addresses.hosts(named.split(","))
        if hint is None:
            return None
        return self._desk.addresses.urls(hint.split(",") if isinstance(hint, str) else hint)

    def _routed(self, answer: str | Refusal) -> None:
        ticket = self._ticket
        if ticket is None:
            return
        if isinstance(answer, Refusal):
            if ticket.trace is not None:
                ticket.trace.refused(answer)
            self._desk.director.close(ticket, RequestOutcome.REJECTED, answer.status)
            if ticket.allowed is not None and not ticket.allowed:
                answer = _no_endpoint()
            self._turn_down(answer)
            return
        body = self._body[0]
        if self._mode is BodyMode.BUFFERED:
            self._send_headers(Phase.REQUEST_BODY, answer, body=body if self._renamed else None)
        else:
            self._send_headers(Phase.REQUEST_HEADERS, answer, length=None if self._trailers else len(body))
            for part in messages.streamed(Phase.REQUEST_BODY, body, end=not self._trailers):
                self._out.send(part)
            if self._trailers:
                self._out.send(messages.trailers(Phase.REQUEST_TRAILERS))
        self._release()

    def _send_headers(
        self, phase: Phase, url: str, *, body: bytes | None = None, length: int | None = None
    ) -> None:  # fmt: skip
        headers: list[tuple[str, str]] = []
        addresses = self._desk.addresses
        named = addresses.of(url)
        if self._desk.fallbacks:
            named = ",".join((named, *(addresses.of(one) for one in self._others(url))))
        dynamic: dict[str, Any] = {DESTINATION: named}
        if self._desk.emit_scores and (scores := self._scores()):
            dynamic[SCORES] = scores
        if self._ticket is not None and self._ticket.prefill:
            headers.append((PREFILLER_HEADER, self._desk.addresses.of(self._ticket.prefill)))
        if self._parent:
            headers.append(("traceparent", self._parent))
        if self._ticket is not None and "x-request-id" not in self._headers:
            headers.append(("x-request-id", f"fleet-{self._ticket.key}"))
        if not headers and body is None and len(dynamic) == 1:
            self._out.send(messages.picked(phase, named, length))
            return
        if length is not None:
            headers.append(("content-length", str(length)))
        self._out.send(messages.answer(phase, headers=[(DESTINATION, named), *headers], clear_route=True, body=body,
                                       dynamic={_LB: dynamic}))  # fmt: skip

    def _others(self, url: str) -> Sequence[str]:
        """The next best endpoints, best first."""
        pick = self._ticket.pick if self._ticket else None
        if not self._desk.fallbacks or pick is None or not pick.candidates:
            return ()
        totals = pick.columns.get("total", ())
        ranked = sorted(zip(totals, pick.candidates, strict=False), key=lambda pair: -pair[0])
        return [view.url for _, view in ranked if view.url != url][: self._desk.fallbacks]

    def _scores(self) -> Mapping[str, float]:
        pick = self._ticket.pick if self._ticket else None
        if pick is None:
            return {}
        totals = pick.columns.get("total", ())
        return {self._desk.addresses.of(view.url): total for total, view in zip(totals, pick.candidates, strict=False)}

    def _turn_down(self, refusal: Refusal) -> None:
        self._turned_down = True
        headers = [("content-type", "application/json"), *refusal.headers.items()]
        if refusal.dropped:
            headers.append((REASON_HEADER, refusal.dropped))
        self._out.send(messages.immediate(refusal.status, refusal.body(), headers, details=refusal.code or "refused"))
        self._release()

    def _release(self) -> None:
        """The body is no longer held."""
        self._desk.buffered -= self._held
        self._held = 0
        self._body = []

    # ---- the answer

    def _response_headers(self, message: Message) -> None:
        self._status = int(message.headers.get(":status", "0") or 0)
        self._events = message.headers.get("content-type", "").startswith("text/event-stream")
        remove: list[str] = []
        if self._ticket is not None:
            self._note_server(self._ticket, message.attributes)
            if self._renamed:
                self._rewriter = Rewriter(self._ticket.model, self._renamed)
                remove = ["content-length"]
        if message.end:
            self._end_of_answer()
        if remove:
            self._out.send(messages.answer(Phase.RESPONSE_HEADERS, remove=remove))
        else:
            self._out.send(messages.passed(Phase.RESPONSE_HEADERS))

    def _note_server(self, ticket: Ticket, attributes: bytes) -> None:
        """Which endpoint served it, as the proxy says; none did where the proxy answers itself."""
        served = messages.metadata_value(self._metadata, _LB, SERVED) if self._metadata else None
        director = self._desk.director
        if isinstance(served, str) and (url := self._desk.addresses.url(served)) and url != ticket.url:
            director.served(ticket, url)
        elif self._status in _PROXYS_OWN and attributes and ticket.url:
            details = str(messages.attribute(attributes, "response.code_details") or "")
            if details.startswith("upstream_reset_before_response_started"):
                unreachable = "connection_failure" in details
                director.failed(ticket, details[:120], unreachable=unreachable)

    def _response_body(self, message: Message) -> None:
        body = message.body
        if self._ticket is not None and body:
            if self._events:
                self._desk.director.stream(self._ticket, body)
            else:
                self._desk.director.plain(self._ticket, body)
        if message.end:
            self._end_of_answer()
        if self._rewriter is not None:
            body = self._rewriter.feed(body, end=message.end)
        for part in messages.streamed(Phase.RESPONSE_BODY, body, end=message.end):
            self._out.send(part)

    def _end_of_answer(self) -> None:
        self._answer_end = True
        if self._ticket is not None:
            good = 0 < self._status < 400
            self._desk.director.close(self._ticket, RequestOutcome.OK if good else RequestOutcome.ERROR, self._status)


_HINTS: Final = tuple((name.decode(), what) for name, what in HINTS.items())


def _hints(headers: Mapping[str, str]) -> Hints:
    hints = NO_HINTS
    for name, what in _HINTS:
        if name in headers:
            hints = with_hint(hints, what, headers[name].encode("latin-1", "replace"))
    return hints


def _first(headers: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((headers[name] for name in names if name in headers), None)


def _no_endpoint() -> Refusal:
    return server_error(503, "no endpoint of the pool can take this request", code="no_endpoints",
                        dropped="rejected-no-endpoints", retry_after_s=2)  # fmt: skip
