"""Answers that the router gives itself, in the shape of OpenAI's errors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec

REASON_HEADER = "x-llm-d-request-dropped-reason"

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS_LINES = {code: b"HTTP/1.1 %d %b\r\n" % (code, phrase) for code, phrase in _PHRASES.items()}


def status_line(status: int) -> bytes:
    """``HTTP/1.1 200 OK`` with its line end; a status without a known phrase gets none."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request gets no answer from an engine."""

    status: int
    message: str
    kind: str = "invalid_request_error"
    """OpenAI's ``type``."""
    code: str = ""
    """OpenAI's ``code``: a word for programs."""
    dropped: str = ""
    """Value of :data:`REASON_HEADER`."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON that the client reads."""
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.code or str(self.status)}
        return msgspec.json.encode({"error": error})

    def reply(
        self, *, request_id: str = "", close: bool = False, head_only: bool = False,
        extra: Mapping[str, str] | None = None,
    ) -> bytes:  # fmt: skip
        """The whole response; ``extra``: further headers."""
        extra = {**self.headers, **(extra or {})}
        if self.dropped:
            extra[REASON_HEADER] = self.dropped
        return reply(self.status, self.body(), request_id=request_id, close=close, head_only=head_only, extra=extra)


def reply(
    status: int, body: bytes, *, content_type: str = "application/json", request_id: str = "", close: bool = False,
    head_only: bool = False, extra: Mapping[str, str] | None = None,
) -> bytes:  # fmt: skip
    """A response of the router's own; ``head_only`` answers HEAD."""
    lines = [status_line(status), f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n".encode()]
    lines += [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in (extra or {}).items()]
    if request_id:
        lines.append(b"x-request-id: %b\r\n" % request_id.encode())
    if close:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n" if head_only else b"\r\n" + body)
    return b"".join(lines)


def server_error(status: int, message: str, *, code: str, dropped: str = "", retry_after_s: int = 0) -> Refusal:
    """A refusal that is not the client's fault."""
    headers = {"retry-after": str(retry_after_s)} if retry_after_s else {}
    return Refusal(status, message, kind="server_error", code=code, dropped=dropped, headers=headers)
