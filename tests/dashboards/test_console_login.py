"""Login: by a proxy's header (pages and sockets are refused without it, probes are not), and at an OIDC provider."""

from __future__ import annotations

from pathlib import Path

import pytest
import streamlit as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from streamlit.testing.v1 import AppTest

from dashboards.login import NEEDED, HeaderLogin, check_oidc, may_look
from dashboards.settings import ConsoleSettings
from fleet.errors import ConfigError


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


# -- at a provider -------------------------------------------------------------------------------------------------

AUTH = "[auth]\n" + "".join(f'{name} = "https://example.org"\n' for name in NEEDED)


@pytest.fixture
def oidc(tmp_path: Path) -> Path:
    path = tmp_path / "oidc.toml"
    path.write_text(AUTH)
    return path


def test_a_whole_section_is_taken_and_none_is_needed_without_a_login(oidc: Path) -> None:
    whole = ConsoleSettings(oidc=oidc, oidc_allow="@example.org")
    check_oidc(whole)
    check_oidc(ConsoleSettings())
    for name in NEEDED:
        oidc.write_text("".join(line for line in AUTH.splitlines(keepends=True) if not line.startswith(name)))
        with pytest.raises(ConfigError, match=f"lacks {name}"):
            check_oidc(whole)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        pytest.param("", {}, "has no section", id="no section"),
        pytest.param("[auth", {}, "cannot be read", id="no TOML"),
        pytest.param('[auth]\nclient_id = "x"', {}, "lacks redirect_uri, cookie_secret", id="half a section"),
        pytest.param(AUTH, {"login_header": "X-User"}, "one login, not two", id="two logins"),
    ],
)
def test_what_is_missing_is_said_before_it_starts(oidc: Path, text: str, options: dict[str, str], says: str) -> None:
    oidc.write_text(text)
    with pytest.raises(ConfigError, match=says):
        check_oidc(ConsoleSettings(oidc=oidc, **options))


def test_a_list_without_a_login_is_refused() -> None:
    with pytest.raises(ConfigError, match="nobody signs in"):
        check_oidc(ConsoleSettings(oidc_allow="@example.org"))


@pytest.mark.parametrize(
    ("email", "verified", "allow", "may"),
    [
        pytest.param("", None, "", True, id="no list: everyone"),
        pytest.param("Ada@Example.org", True, "bob@x.org,@example.org", True, id="a domain"),
        pytest.param("bob@x.org", None, "BOB@x.org", True, id="an address"),
        pytest.param("ada@sub.example.org", True, "@example.org", False, id="another domain below it"),
        pytest.param("ada@example.org", False, "@example.org", False, id="an address that was not verified"),
        pytest.param("example.org", True, "@example.org", False, id="no address"),
        pytest.param("a@b@example.org", True, "b@example.org", False, id="two signs"),
    ],
)
def test_who_may_look(email: str, verified: object, allow: str, may: bool) -> None:
    assert may_look(email, verified, allow) is may


DOOR = """
import streamlit as st
from dashboards import frame
if frame.admitted():
    st.html("the fleet")
"""


@pytest.mark.parametrize(
    ("user", "says"),
    [
        pytest.param({"is_logged_in": False}, "Sign in", id="nobody"),
        pytest.param({"is_logged_in": True, "email": "eve@elsewhere.org"}, "not on this console", id="a stranger"),
        pytest.param({"is_logged_in": True, "email": "ada@example.org"}, "the fleet", id="one of the list"),
    ],
)
def test_pages_are_drawn_for_those_on_the_list(
    oidc: Path, user: dict[str, object], says: str, monkeypatch: pytest.MonkeyPatch, fresh_caches: None
) -> None:
    monkeypatch.setenv("CONSOLE_OIDC", str(oidc))
    monkeypatch.setenv("CONSOLE_OIDC_ALLOW", "@example.org")
    monkeypatch.setattr(st, "user", user)
    page = AppTest.from_string(DOOR, default_timeout=60).run()
    said = " ".join(element.proto.body for element in page.get("html"))
    assert not page.exception
    assert says in said
    assert said.endswith("the fleet") == (says == "the fleet")
