"""What the hot path knows of tracing: a request's trace is told what happened, if there is one. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from router.dataplane.replies import Refusal

if TYPE_CHECKING:
    from router.ticket import Ticket

_CONTEXT: Final = re.compile(rb"^(traceparent|tracestate):([^\r\n]*)\r\n", re.IGNORECASE | re.MULTILINE)
_NAME_PARENT: Final = b"traceparent"


class Trace(Protocol):
    """The span of one request that is recorded. Its end is told as the history's is, with the facts."""

    def waited(self, wait_s: float) -> None:
        """Flow control held it for so long."""

    def failed(self, url: str, reason: str) -> None:
        """An engine failed it before a byte of an answer came."""

    def refused(self, refusal: Refusal) -> None:
        """The router itself answers it."""


class Tracing(Protocol):
    """Where traces begin."""

    def begin(self, ticket: Ticket, *, path: bytes, parents: Sequence[str], state: str) -> str:
        """Begin the span of ``ticket``, if it is to be recorded.

        Args:
            ticket: gets its :class:`Trace`, or none.
            path: of the request.
            parents: values of the client's ``traceparent``; of several none is believed, as of a wrong one.
            state: its ``tracestate``.
        Returns: the ``traceparent`` for the engine.
        """

    def turned_down(self, refusal: Refusal, *, path: bytes, parents: Sequence[str], state: str) -> None:
        """A request was refused before its body was understood, or whose it is."""


def parents(head: bytes) -> tuple[list[str], str]:
    """The values of ``traceparent`` and the joined ``tracestate`` among header lines."""
    found: list[str] = []
    state: list[str] = []
    for name, value in _CONTEXT.findall(head):
        (found if name.lower() == _NAME_PARENT else state).append(value.decode("latin-1").strip(" \t"))
    return found, ",".join(state)


def with_parent(head: bytes, parent: str, *, keep_state: bool) -> bytes:
    """Header lines with another ``traceparent``; ``tracestate`` stays where it belongs to the same trace."""

    def kept(line: re.Match[bytes]) -> bytes:
        return line[0] if keep_state and line[1].lower() != _NAME_PARENT else b""

    return b"%btraceparent: %b\r\n" % (_CONTEXT.sub(kept, head), parent.encode("ascii"))


def begin(tracing: Tracing, ticket: Ticket, head: bytes, path: bytes) -> bytes:
    """Begin a request's span; the header lines with which it goes on to an engine."""
    given, state = parents(head)
    parent = tracing.begin(ticket, path=path, parents=given, state=state)
    same = len(given) == 1 and given[0][3:35] == parent[3:35]
    return with_parent(head, parent, keep_state=same)


def finished(ticket: Ticket) -> Any:
    """The ticket's trace, taken from it: the ring of decisions keeps tickets, and need not keep spans."""
    trace, ticket.trace = ticket.trace, None
    return trace
