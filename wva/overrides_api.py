"""An operator's overrides over HTTP: pause a variant, narrow its bounds, hold everything for a while."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Body, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from fleet.errors import ConfigError
from fleet.types import VariantSpec
from wva import snapshot_file
from wva.loop import ControlLoop
from wva.operator import KeptError, Operator
from wva.overrides import Override, Overrides
from wva.types import key_of

_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "The body is no text."}, 401: {"description": "The token is missing or wrong."},
    403: {"description": "Overrides are not allowed here."},
    503: {"description": "Another controller decides, or it cannot be kept."},
}  # fmt: skip


_LAYING: Final[dict[int | str, dict[str, Any]]] = {
    404: {"description": "No such variant in the last pass."}, 422: {"description": "Bounds that cannot be laid."},
}  # fmt: skip


class OverrideBody(BaseModel):
    """What is laid over a variant."""

    model_config = ConfigDict(extra="forbid")

    paused: bool = False
    min_replicas: Annotated[int | None, Field(ge=0, le=100_000)] = None
    max_replicas: Annotated[int | None, Field(ge=0, le=100_000)] = None
    by: Annotated[str, Field(max_length=200)] = ""


class DryRunBody(BaseModel):
    """Whether to scale."""

    model_config = ConfigDict(extra="forbid")

    on: bool
    by: Annotated[str, Field(max_length=200)] = ""


@dataclass(frozen=True, slots=True)
class _Door:
    """Who may lay what over which variant."""

    loop: ControlLoop
    token: str

    def operator(self, authorization: str) -> Operator:
        """The keeper of overrides, for those who may change them."""
        if self.loop.operator is None:
            raise HTTPException(403, "the controller takes no overrides; start it with --allow-overrides")
        if self.token and not hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
            raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        return self.loop.operator

    def variant(self, namespace: str, name: str) -> VariantSpec:
        """A variant of the last pass."""
        if self.loop.follows:
            raise HTTPException(503, "another controller decides: ask that one")
        entries = self.loop.last.snapshot.variants if self.loop.last else ()
        found = next((entry.spec for entry in entries if key_of(entry.spec) == f"{namespace}/{name}"), None)
        if found is None:
            raise HTTPException(404, f"no variant {name} in namespace {namespace} in the last pass")
        return found

    def answer(self, laid: Overrides) -> Response:
        """What holds now."""
        body = {"allowed": self.loop.operator is not None, "dry_run": laid.dry_run, "variants": laid.variants}
        return Response(snapshot_file.to_json(body), media_type="application/json")


def serve_overrides(app: FastAPI, loop: ControlLoop, token: str) -> None:
    """Add the routes: all may read; what changes something needs the switch and, where there is one, the token.

    A page of another origin cannot send these: a browser asks first for PUT and DELETE, and nobody here answers that.
    """
    door = _Door(loop, token)

    @app.exception_handler(KeptError)
    def not_kept(_request: Request, error: KeptError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503)

    @app.get("/overrides")
    def overrides() -> Response:
        return door.answer(loop.operator.now if loop.operator else Overrides())

    @app.put("/overrides/{namespace}/{name}", responses={**_ANSWERS, **_LAYING})
    def lay(
        namespace: str, name: str, body: Annotated[OverrideBody, Body()], authorization: Annotated[str, Header()] = ""
    ) -> Response:
        operator, spec = door.operator(authorization), door.variant(namespace, name)
        try:
            return door.answer(operator.set_variant(spec, Override(**body.model_dump())))
        except ConfigError as error:
            raise HTTPException(422, str(error)) from None

    @app.delete("/overrides/{namespace}/{name}", responses=_ANSWERS)
    def clear(namespace: str, name: str, by: str = "", authorization: Annotated[str, Header()] = "") -> Response:
        return door.answer(door.operator(authorization).clear_variant(namespace, name, by=by[:200]))

    @app.put("/dry-run", responses=_ANSWERS)
    def dry_run(body: Annotated[DryRunBody, Body()], authorization: Annotated[str, Header()] = "") -> Response:
        return door.answer(door.operator(authorization).set_dry_run(on=body.on, by=body.by))
