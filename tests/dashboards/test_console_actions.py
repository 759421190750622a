"""Actions from the console: what is sent, what a refusal says, and that both switches are needed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboards.actions import Actions, Laid, parse
from fleet.errors import SourceError
from tests.dashboards.test_console_pages import app, text

SPEC = {"namespace": "default", "name": "llama-8b-h100", "min_replicas": 1, "max_replicas": 6}


class Controller:
    """Answers as the controller does, and remembers what it was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any, str]] = []
        self.url, self.allowed, self.refuse = "", True, ""
        self.variants: dict[str, Any] = {}

    def overrides(self) -> dict[str, Any]:
        return {"allowed": self.allowed, "dry_run": False, "variants": self.variants}


@pytest.fixture
def controller() -> Iterator[Controller]:
    fake = Controller()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/overrides": fake.overrides(), "/fleet": {"snapshot": {"variants": [{"spec": SPEC}]}}}
            self._answer(found.get(self.path, {}))

        def do_PUT(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fake.sent.append(("PUT", self.path, body, self.headers.get("Authorization", "")))
            if fake.refuse:
                self._answer({"detail": fake.refuse}, 422)
                return
            fake.variants["default/llama-8b-h100"] = {"paused": True, "by": body.get("by"), "at_s": 1.8e9}
            self._answer(fake.overrides())

        def do_DELETE(self) -> None:
            fake.sent.append(("DELETE", self.path, None, self.headers.get("Authorization", "")))
            fake.variants.clear()
            self._answer(fake.overrides())

        def _answer(self, document: Any, status: int = 200) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield fake
    server.shutdown()
    server.server_close()


def test_what_is_sent(controller: Controller) -> None:
    to = Actions(controller.url, "secret")
    assert to.pause("default/llama-8b-h100", by="ada").variants["default/llama-8b-h100"].paused
    to.bound("a b/c", 2, 4, by="ada")
    to.dry_run(on=True, by="ada")
    assert to.clear("default/llama-8b-h100", by="a&b").variants == {}
    assert controller.sent == [
        ("PUT", "/overrides/default/llama-8b-h100", {"paused": True, "by": "ada"}, "Bearer secret"),
        ("PUT", "/overrides/a%20b/c", {"min_replicas": 2, "max_replicas": 4, "by": "ada"}, "Bearer secret"),
        ("PUT", "/dry-run", {"on": True, "by": "ada"}, "Bearer secret"),
        ("DELETE", "/overrides/default/llama-8b-h100?by=a%26b", None, "Bearer secret"),
    ]


def test_a_refusal_and_silence_are_one_line(controller: Controller) -> None:
    controller.refuse = "bounds 1 to 9 do not lie in the variant's own"
    with pytest.raises(SourceError, match="HTTP 422: bounds 1 to 9"):
        Actions(controller.url, "").bound("default/x", 1, 9, by="")
    with pytest.raises(SourceError, match="does not answer"):
        Actions("http://127.0.0.1:9", "").pause("default/x", by="")


@pytest.mark.parametrize("document", [None, {}, [], {"variants": []}])
def test_a_controller_that_knows_no_overrides_allows_none(document: Any) -> None:
    assert not parse(document).allowed
    assert not parse(document).any


def test_what_holds_in_words() -> None:
    assert Laid(paused=True).words == "paused"
    assert Laid(min_replicas=2).words == "at least 2 replicas"
    assert Laid(max_replicas=2).words == "at most 2 replicas"


@pytest.fixture
def page(controller: Controller, filled_history: str, monkeypatch: pytest.MonkeyPatch, fresh_caches: None) -> AppTest:
    monkeypatch.setenv("CONSOLE_HISTORY_URL", filled_history)
    monkeypatch.setenv("CONSOLE_WVA", controller.url)
    return app("autoscaling")


def test_without_the_consoles_switch_nothing_can_be_done(page: AppTest) -> None:
    page.run()
    assert not page.exception
    assert "Operator" not in text(page)


def test_what_holds_is_shown_even_where_nothing_may_be_done(page: AppTest, controller: Controller) -> None:
    controller.variants["default/x"] = {"max_replicas": 2, "by": "<b>", "at_s": 1.8e9}
    page.run()
    assert "at most 2 replicas by &lt;b&gt;" in text(page)
    assert [button for button in page.button if button.key == "pause"] == []


def test_without_the_controllers_switch_it_says_how(
    page: AppTest, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSOLE_ACTIONS", "true")
    controller.allowed = False
    page.run()
    assert "--allow-overrides" in text(page)


def test_two_switches_then_a_pause(page: AppTest, controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSOLE_ACTIONS", "true")
    page.run()
    assert "every variant follows its own bounds" in text(page)
    assert [button for button in page.button if button.key == "pause"] == []
    page.toggle(key="acting").set_value(True).run()
    page.button(key="pause").click().run()
    assert not page.exception
    assert controller.sent[0][:3] == ("PUT", "/overrides/default/llama-8b-h100", {"paused": True, "by": "console"})
    assert "paused by console" in text(page)
    assert "Done" in text(page)
