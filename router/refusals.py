"""What a client is told when its request is not routed. Pure."""

from __future__ import annotations

from typing import Final

from router.dataplane.replies import Refusal, server_error

UNKNOWN_KEY: Final = Refusal(401, "this needs the API key of a tenant: Authorization: Bearer KEY",
                             kind="authentication_error", code="invalid_api_key",
                             headers={"www-authenticate": "Bearer"})  # fmt: skip


def not_served(model: str) -> Refusal:
    """No engine has the model, nor does the platform know a variant of it."""
    return Refusal(404, f"the model {model!r} is served by no engine here",
                   code="model_not_found", dropped="rejected-no-endpoints")  # fmt: skip


def none_left() -> Refusal:
    """Every engine that was tried failed the request."""
    return server_error(503, "the engines tried failed, and no other is left", code="engines_failed",
                        dropped="rejected-no-endpoints", retry_after_s=1)  # fmt: skip


def none_ready(reason: str) -> Refusal:
    """There are engines for the request, and none can take it now."""
    return server_error(503, f"no engine can take this request now ({reason}); try again shortly",
                        code=reason, dropped="rejected-no-endpoints", retry_after_s=2)  # fmt: skip
