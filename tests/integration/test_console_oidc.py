"""Signing in at a real OpenID Connect provider: discovery, redirect, code, signed token, the list, signing out."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from fleet.history import History
from tests.integration import screenshots
from tests.ports import free_ports
from tests.waiting import until

pytest.importorskip("oidc_provider_mock", reason="no provider: pip install oidc-provider-mock")
pytest.importorskip("authlib", reason="no client: pip install 'llm-fleet[oidc]'")

PEOPLE = ({"sub": "ada", "email": "ada@example.org", "email_verified": True},
          {"sub": "eve", "email": "eve@elsewhere.org", "email_verified": True},
          {"sub": "mallory", "email": "mallory@example.org", "email_verified": False})  # fmt: skip
NOBODY = [word for part in ("wva", "router", "predictor", "alerts") for word in (f"--{part}", "")]


def answers(address: str) -> bool:
    with urllib.request.urlopen(f"{address}/.well-known/openid-configuration", timeout=30) as response:
        return response.status == 200


@pytest.fixture
def provider() -> Iterator[str]:
    port = free_ports()
    address = f"http://127.0.0.1:{port}"
    users = [word for one in PEOPLE for word in ("--user-claims", json.dumps(one))]
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), *users]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or answers(address), "the provider answers")
        assert process.poll() is None
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def address(provider: str, free_port: int, tmp_path: Path) -> Iterator[str]:
    """A console that lets in example.org."""
    History(url := f"sqlite:///{tmp_path}/history.sqlite3").close()
    section = {
        "redirect_uri": f"http://127.0.0.1:{free_port}/oauth2callback", "cookie_secret": "s" * 64,
        "client_id": "console", "client_secret": "secret",
        "server_metadata_url": f"{provider}/.well-known/openid-configuration",
    }  # fmt: skip
    oidc = tmp_path / "oidc.toml"
    oidc.write_text("[auth]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in section.items()))
    options = [*NOBODY, "--port", str(free_port), "--oidc", str(oidc), "--oidc-allow", "@example.org"]
    with screenshots.console(url, *options, home=tmp_path) as running:
        yield running


def sign_in(page: Page, address: str, name: str) -> None:
    """From the console's door to the provider and back."""
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_url(f"{address}/**")


def sign_out(page: Page, address: str, button: str) -> None:
    """Out of the console and of the provider, back at the console's door."""
    page.get_by_role("button", name=button).click()
    page.get_by_role("button", name="End session").click()
    page.wait_for_url(f"{address}/**")
    expect(page.get_by_text("This console shows the fleet to people it knows.")).to_be_visible()


def test_people_sign_in_at_the_provider_and_those_not_on_the_list_see_nothing(page: Page, address: str, provider: str):
    here = (address, provider)
    page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(here) else route.abort())
    page.goto(f"{address}/vllm")
    expect(page.get_by_text("This console shows the fleet to people it knows.")).to_be_visible()
    assert page.locator("h1").count() == 0, "nothing of the fleet before the login"
    sign_in(page, address, "eve")
    expect(page.get_by_text("You are signed in as eve@elsewhere.org")).to_be_visible()
    assert page.locator("h1").count() == 0
    sign_out(page, address, "Sign in as somebody else")
    sign_in(page, address, "mallory")
    expect(page.get_by_text("You may not look here")).to_be_visible()
    sign_out(page, address, "Sign in as somebody else")
    sign_in(page, address, "ada")
    expect(page.locator("h1")).to_be_visible()
    assert screenshots.complaints(page) == []
    sign_out(page, address, "Sign out")
    assert page.locator("h1").count() == 0
