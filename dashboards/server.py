"""The process behind ``fleet console``: Streamlit's pages, a health check, metrics and plotly.js on one port."""

from __future__ import annotations

import gc
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from streamlit.config import set_option
from streamlit.starlette import App

from dashboards import data
from dashboards.login import HeaderLogin
from dashboards.plot import PLOTLY_PATH
from dashboards.rollup import Folder
from dashboards.settings import ConsoleSettings
from dashboards.source import Reader
from fleet.settings import load, load_slos
from fleet.stopping import on_stop

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).parent / "script" / "app.py"
"""In a folder of its own: Streamlit takes a ``pages`` folder beside its script for scripts, ours holds modules."""
STOP_WITHIN_S = 2


async def _healthz(_request: Request) -> Response:
    return PlainTextResponse("ok")


async def _metrics(_request: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _plotly(_request: Request) -> Response:
    """The charts' library out of the installed package: nothing is fetched from elsewhere."""
    path = str(files("plotly") / "package_data" / "plotly.min.js")
    return FileResponse(path, media_type="text/javascript", headers={"Cache-Control": "public, max-age=31536000"})


@lru_cache(maxsize=1)
def _opened(identity: tuple[str, int]) -> Reader:
    chosen = load(ConsoleSettings)
    return data.opened(identity[0], chosen, load_slos(chosen.resolved_slo_file()))


def _reader() -> Reader:
    """The history for the summaries, beside the pages' own connections.

    Raises: HistoryError while there is none.
    """
    url = load(ConsoleSettings).resolved_history_url()
    return _opened((url, data.file_identity(url)))


def _routes() -> list[Route]:
    handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/healthz": _healthz,
        "/metrics": _metrics,
        PLOTLY_PATH: _plotly,
    }
    return [Route(path, handler, methods=["GET", "HEAD"]) for path, handler in handlers.items()]


def serve(sock: socket.socket) -> None:
    """Serve on a bound socket until SIGTERM or SIGINT; settings come from the environment."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the history's library tells of each of its plug-ins
    host, port = sock.getsockname()[:2]
    started = time.perf_counter()
    chosen = load(ConsoleSettings)
    app: ASGIApp = App(SCRIPT, routes=_routes())
    if chosen.oidc is not None:  # only now: before there is an app, the settings beside its script are not read
        set_option("secrets.files", [str(chosen.oidc.resolve())])
    gc.collect()
    gc.freeze()  # what the imports have made stays: the collector need not look at it again
    header = chosen.login_header
    config = uvicorn.Config(
        HeaderLogin(app, header) if header else app,
        log_config=None,
        access_log=False,
        ws_max_size=16 * 2**20,
        timeout_graceful_shutdown=STOP_WITHIN_S,
    )
    server = uvicorn.Server(config)
    on_stop(lambda: setattr(server, "should_exit", True))  # before uvicorn has its own handlers, and when it ends
    folder = Folder(_reader)
    folder.start()
    log.info("listening on http://%s:%d (%.1f s)", host, port, time.perf_counter() - started)
    try:
        server.run(sockets=[sock])
    finally:
        folder.stop()
    log.info("stopped")
