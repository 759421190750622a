"""Body-based routing as a filter of its own: the model's name from the body becomes a header that routes match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.dataplane.body import parse as parse_body
from router.dataplane.replies import Refusal
from router.picker_server import messages
from router.picker_server.messages import BodyMode, Message, Phase
from router.picker_server.protobuf import BadMessageError

if TYPE_CHECKING:
    from router.picker_server.session import Desk, Out

MODEL_HEADER: Final = "X-Gateway-Model-Name"
BASE_HEADER: Final = "X-Gateway-Base-Model-Name"
_INVALID = 3


class BodyRouter:
    """A call of ``ExternalProcessor/Process`` by the first filter of the chain; a body without a model just passes."""

    def __init__(self, desk: Desk, out: Out) -> None:
        self._desk, self._out = desk, out
        self._body = bytearray()
        self._buffered = self._done = False

    def message(self, data: bytes) -> None:
        """See :class:`router.picker_server.http2.Call`."""
        try:
            message = messages.parse(data)
        except BadMessageError as error:
            self._out.finish(_INVALID, str(error))
            return
        if message.request_mode is not None:
            self._buffered = message.request_mode in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL)
        if message.phase in (Phase.RESPONSE_HEADERS, Phase.RESPONSE_BODY, Phase.RESPONSE_TRAILERS):
            self._pass(message)
        else:
            self._request(message)

    def _request(self, message: Message) -> None:
        phase = message.phase
        if phase is Phase.REQUEST_HEADERS:
            if message.end or self._buffered:
                self._out.send(messages.answer(phase))
        elif phase is Phase.REQUEST_BODY:
            self._more(message.body, end=message.end or self._buffered)
        elif phase is Phase.REQUEST_TRAILERS:
            if not self._done:
                self._whole(trailers=True)
            self._out.send(messages.trailers(phase))

    def _pass(self, message: Message) -> None:
        """The answer is none of this filter's business."""
        phase = message.phase
        if phase is Phase.RESPONSE_HEADERS:
            self._out.send(messages.answer(phase))
        elif phase is Phase.RESPONSE_BODY:
            for part in messages.streamed(phase, message.body, end=message.end):
                self._out.send(part)
        elif phase is Phase.RESPONSE_TRAILERS:
            self._out.send(messages.trailers(phase))

    def _more(self, data: bytes, *, end: bool) -> None:
        if self._done:
            return
        self._body += data
        limit = self._desk.director.settings.body_bytes
        if len(self._body) > limit:
            self._done = True
            refusal = Refusal(413, f"the body is larger than {limit} bytes", code="body_too_large")
            self._out.send(messages.immediate(413, refusal.body(), [("content-type", "application/json")],
                                              details=refusal.code))  # fmt: skip
        elif end:
            self._whole(trailers=False)

    def _whole(self, *, trailers: bool) -> None:
        self._done = True
        body = bytes(self._body)
        headers = self._headers(body)
        if self._buffered:
            self._out.send(messages.answer(Phase.REQUEST_BODY, headers=headers, clear_route=True))
            return
        self._out.send(messages.answer(Phase.REQUEST_HEADERS, headers=headers, clear_route=True))
        for part in messages.streamed(Phase.REQUEST_BODY, body, end=not trailers):
            self._out.send(part)

    def _headers(self, body: bytes) -> list[tuple[str, str]]:
        parsed = parse_body(body)
        if isinstance(parsed, Refusal) or not parsed.model.isprintable():
            return []
        headers = [(MODEL_HEADER, parsed.model)]
        if (base := self._base(parsed.model)) is not None:
            headers.append((BASE_HEADER, base))
        return headers

    def _base(self, model: str) -> str | None:
        """The model that an adapter belongs to, itself for a base model; ``None``: not known."""
        for endpoint in self._desk.director.endpoints.all:
            for entry in endpoint.model_entries:
                if isinstance(entry, dict) and entry.get("id") == model:
                    return str(entry.get("parent") or model)
        return None

    def half_closed(self) -> None:
        """See :class:`router.picker_server.http2.Call`."""
        self._out.finish()

    def gone(self) -> None:
        """See :class:`router.picker_server.http2.Call`."""
        self._body.clear()
