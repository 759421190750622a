"""What the picker's gRPC port offers: ``ExternalProcessor/Process`` and gRPC health."""

from __future__ import annotations

from typing import Final

from router.picker_server.body_router import BodyRouter
from router.picker_server.header_blocks import Headers
from router.picker_server.http2 import Call, Connection, Stream
from router.picker_server.protobuf import BadMessageError, fields, number_field
from router.picker_server.session import Desk, Session

PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_CHECK, _WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
FILTER_HEADER: Final = b"x-fleet-filter"
"""Which filter of the chain calls (``initial_metadata`` in Envoy's configuration): ``body-router``, else the picker."""
_SERVING, _NOT_SERVING, _UNKNOWN = 1, 2, 3
_NOT_FOUND = 5


class Server:
    """All connections of one port."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.connections: set[Connection] = set()
        self._watches: set[_Health] = set()
        self.draining = False

    def connection(self) -> Connection:
        """A new peer (a protocol factory for ``create_server``)."""
        limit = self.desk.director.settings.body_bytes + (1 << 20)
        return Connection(self._open, self.connections, message_limit=limit)

    def _open(self, path: str, headers: Headers, stream: Stream) -> Call | None:
        if path == PROCESS:
            if headers.get(FILTER_HEADER) == b"body-router":
                return BodyRouter(self.desk, stream)
            return Session(self.desk, stream)
        if path in (_CHECK, _WATCH):
            return _Health(self, stream, watch=path == _WATCH)
        return None

    @property
    def ready(self) -> bool:
        """A request would find an endpoint."""
        return not self.draining and bool(self.desk.director.endpoints.ready)

    @property
    def calls(self) -> int:
        """Calls under way, health watches apart."""
        return sum(connection.calls for connection in self.connections) - len(self._watches)

    def tick(self) -> None:
        """Tell those who watch what changed."""
        for watch in tuple(self._watches):
            watch.tell()

    def drain(self) -> None:
        """Not serving any more; calls under way go on."""
        self.draining = True
        self.tick()
        for connection in tuple(self.connections):
            connection.drain()

    def close(self) -> None:
        """Close all connections."""
        for connection in tuple(self.connections):
            connection.close()

    def status(self, service: str) -> int:
        """gRPC health: ``liveness`` is this process, all else whether requests can be served."""
        if service == "liveness":
            return _SERVING
        if service in ("", "readiness", SERVICE):
            return _SERVING if self.ready else _NOT_SERVING
        return _UNKNOWN

    def watch(self, call: _Health, *, on: bool) -> None:
        """Enter or remove a health watch."""
        (self._watches.add if on else self._watches.discard)(call)


class _Health:
    """``Check`` answers once, ``Watch`` at every change."""

    def __init__(self, server: Server, stream: Stream, *, watch: bool) -> None:
        self._server, self._stream, self._watch = server, stream, watch
        self._service = ""
        self._told = 0

    def message(self, data: bytes) -> None:
        """See :class:`router.picker_server.http2.Call`."""
        try:
            parts = dict(fields(data))
        except BadMessageError as error:
            self._stream.finish(3, str(error))
            return
        name = parts.get(1, b"")
        self._service = name.decode("utf-8", "replace") if isinstance(name, bytes) else ""
        if self._watch:
            self._server.watch(self, on=True)
            self.tell()
        elif (status := self._server.status(self._service)) == _UNKNOWN:
            self._stream.finish(_NOT_FOUND, "unknown service")
        else:
            self._stream.send(number_field(1, status))
            self._stream.finish()

    def tell(self) -> None:
        """Send the status if it is news."""
        status = self._server.status(self._service)
        if status != self._told:
            self._told = status
            self._stream.send(number_field(1, status))

    def half_closed(self) -> None:
        """See :class:`router.picker_server.http2.Call`."""
        if not self._watch:
            self._stream.finish()

    def gone(self) -> None:
        """See :class:`router.picker_server.http2.Call`."""
        self._server.watch(self, on=False)
