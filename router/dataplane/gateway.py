"""Requests of all client connections: answered here, or handed to an exchange."""

from __future__ import annotations

from router.aliases import renamed
from router.dataplane import local
from router.dataplane.body import parse
from router.dataplane.client import ClientConnection
from router.dataplane.exchange import Exchange
from router.dataplane.hub import Hub
from router.dataplane.reader import ClientRequest
from router.dataplane.replies import Refusal
from router.tenants import Tenant
from router.tracing.hooks import begin, parents


class Gateway(Hub):
    """Serves requests of all client connections. One an event loop; nothing here blocks."""

    def client(self) -> ClientConnection:
        """A new client's connection (a protocol factory for ``create_server``)."""
        return ClientConnection(self, self.serve)

    def serve(self, client: ClientConnection, request: ClientRequest) -> Exchange | None:
        """Answer ``request``; the exchange if that is not done at once."""
        if not request.request_id:
            request.request_id = self.new_id()
        tenant = self.director.identify(request.authorization)
        if isinstance(tenant, Refusal):
            if not local.is_health(request):
                self._refuse(client, request, tenant)
                return None
            tenant = None
        answer = local.answer(self.director.endpoints, request, draining=self.draining)
        if answer is not None:
            keep_alive = self._keep_alive(request)
            client.write(answer.to_bytes(request, close=not keep_alive))
            client.finish(keep_alive=keep_alive)
            return None
        return self._infer(client, request, tenant)

    def _keep_alive(self, request: ClientRequest) -> bool:
        return request.keep_alive and not request.http10 and not self.draining

    def _refuse(self, client: ClientConnection, request: ClientRequest, refusal: Refusal) -> None:
        """Refuse a request before it is in the books."""
        self.director.refused(refusal.status)
        if self.tracing is not None:
            given, state = parents(request.head)
            self.tracing.turned_down(refusal, path=request.target, parents=given, state=state)
        keep_alive = self._keep_alive(request)
        head_only = request.method == b"HEAD"
        client.write(refusal.reply(request_id=request.request_id, close=not keep_alive, head_only=head_only))
        client.finish(keep_alive=keep_alive)

    def _infer(self, client: ClientConnection, request: ClientRequest, tenant: Tenant | None) -> Exchange | None:
        parsed = parse(request.body)
        if isinstance(parsed, Refusal):
            self._refuse(client, request, parsed)
            return None
        split = self.director.aliases.get(parsed.model) if self.director.aliases else None
        if split is not None:
            parsed.model = split.draw(self.director.rng)
            request.body = renamed(request.body, parsed.model)
        ticket = self.director.open(parsed, request_id=request.request_id, hints=request.hints, client=tenant,
                                    size=len(request.body))  # fmt: skip
        exchange = Exchange(self, client, request, ticket)
        try:
            if self.tracing is not None:
                request.head = begin(self.tracing, ticket, request.head, request.target)
            exchange.route()
        except BaseException:  # a fault of our own ends the connection; the books must not keep the request
            exchange.cancel()
            raise
        return None if exchange.done else exchange
