"""Login by a proxy's header: pages and sockets are refused without it, probes are not."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from dashboards.login import HeaderLogin


async def page(_request: object) -> PlainTextResponse:
    return PlainTextResponse("page")


async def stream(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


@pytest.fixture
def client() -> TestClient:
    routes = [Route("/", page), Route("/healthz", page), WebSocketRoute("/_stcore/stream", stream)]
    return TestClient(HeaderLogin(Starlette(routes=routes), "X-Forwarded-User"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no header"),
        pytest.param({"X-Forwarded-User": " "}, 401, id="an empty name"),
        pytest.param({"X-Forwarded-User": "ana"}, 200, id="a user"),
        pytest.param([("X-Forwarded-User", "ana"), ("X-Forwarded-User", "root")], 401, id="two names"),
    ],
)
def test_pages_need_a_user(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/", headers=headers).status_code == status


def test_probes_need_none(client: TestClient) -> None:
    assert client.get("/healthz").status_code == 200


def test_a_socket_needs_a_user(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/_stcore/stream"):
        pass
    with client.websocket_connect("/_stcore/stream", headers={"X-Forwarded-User": "ana"}) as socket:
        assert socket.receive_text() == "hello"
