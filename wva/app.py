"""The controller's HTTP side: health, metrics, the last pass, the state, an operator's overrides."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from wva import snapshot_file
from wva.loop import ControlLoop
from wva.overrides_api import serve_overrides

JSON = "application/json"


def make_app(loop: ControlLoop, clock: Callable[[], float], *, token: str = "") -> FastAPI:
    """``/healthz`` (503 until the first pass that decided), ``/readyz``, ``/metrics``, ``/fleet`` and ``/state``.

    A controller that follows another one is healthy, but not ready: a Service then sends nobody to it.
    """
    app = FastAPI(title="llm-fleet wva", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/healthz", responses={503: {"description": "No pass has decided yet."}})
    def healthz() -> Response:
        last = loop.last
        body = {
            "status": "ok" if last else "follower" if loop.follows else "starting",
            "last_pass_age_s": round(clock() - last.snapshot.at_s, 3) if last else None,
            "problems": [problem.line for problem in last.problems] if last else [],
        }
        healthy = last is not None or loop.follows
        return Response(snapshot_file.to_json(body), status_code=200 if healthy else 503, media_type=JSON)

    @app.get("/readyz", response_class=PlainTextResponse, responses={503: {"description": "It does not lead."}})
    def readyz() -> Response:
        ready = loop.last is not None
        return PlainTextResponse("ok" if ready else "not leading, or no pass yet", 200 if ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        return Response(loop.metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/fleet")
    def fleet() -> Response:
        last = loop.last
        if last is None:
            return Response(b'{"snapshot":null,"decisions":[],"problems":[]}', media_type=JSON)
        return Response(snapshot_file.to_json(last), media_type=JSON)

    @app.get("/state")
    def state() -> Response:
        return Response(snapshot_file.to_json(loop.state), media_type=JSON)

    serve_overrides(app, loop, token)
    return app
