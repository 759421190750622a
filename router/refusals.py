"""What a client is told when its request is not routed, and why that is so in the metrics. No I/O."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from router.admission import IN_VAIN
from router.dataplane.replies import Refusal, server_error
from router.profile import NO_ENDPOINTS, NO_MODEL
from router.tenants import Tenant
from router.ticket import Ticket

UNKNOWN_KEY: Final = Refusal(401, "this needs the API key of a tenant: Authorization: Bearer KEY",
                             kind="authentication_error", code="invalid_api_key",
                             headers={"www-authenticate": "Bearer"})  # fmt: skip


def not_served(model: str) -> Refusal:
    """No engine has the model, nor does the platform know a variant of it."""
    return Refusal(404, f"the model {model!r} is served by no engine here; GET /v1/models names those that are",
                   code="model_not_found", dropped="rejected-no-endpoints")  # fmt: skip


def none_left() -> Refusal:
    """Every engine that was tried failed the request."""
    return server_error(503, "the engines tried failed, and no other is left", code="engines_failed",
                        dropped="rejected-no-endpoints", retry_after_s=1)  # fmt: skip


def none_ready(reason: str) -> Refusal:
    """There are engines for the request, and none can take it now."""
    return server_error(503, f"no engine can take this request now ({reason}); try again shortly",
                        code=reason, dropped="rejected-no-endpoints", retry_after_s=2)  # fmt: skip


def over_limits(ticket: Ticket, client: Tenant, now_s: float) -> Refusal | None:
    """Charge the request to its tenant, or say what limit that would break."""
    if not client.may_use(ticket.model):
        ticket.meters.refuse("model_not_allowed")
        return not_served(ticket.model)
    wait_s = client.wait_s(ticket.input_tokens, now_s)
    if not wait_s:
        client.begin(ticket.input_tokens)
        return None
    ticket.meters.refuse("rate_limited")
    return Refusal(429, f"the limits of {client.spec.name!r} are reached", kind="rate_limit_error",
                   code="rate_limit_exceeded", headers={"retry-after": str(math.ceil(wait_s))})  # fmt: skip


def none_found(ticket: Ticket, declared: Collection[str]) -> Refusal:
    """Why no engine was found; ``declared``: models that the platform has a variant of."""
    meters = ticket.meters
    if ticket.turned_down is not None:
        meters.refuse(IN_VAIN)
        return ticket.turned_down
    if ticket.tried:
        meters.refuse("engines_failed")
        return none_left()
    model, reason = ticket.model, ticket.pick.reason if ticket.pick is not None else NO_ENDPOINTS
    if reason == NO_MODEL and model in declared:
        reason = "no_ready"  # the platform has a variant of it, and none of its engines is ready
    meters.refuse(reason)
    return not_served(model) if reason == NO_MODEL else none_ready(reason)
