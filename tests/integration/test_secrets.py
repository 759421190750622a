"""No credential is written anywhere: not at debug level, not in errors, not on pages, not in other processes' sight."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from kubernetes import client

from fleet.cli import fleet
from fleet.errors import ConfigError
from fleet.history import shown
from fleet.kube.api import PODS, KubeApi, KubeError
from fleet.settings import FleetSettings, load
from fleet.up.plan import Ports, UpOptions, environment, parts
from router.profile import DEFAULT
from router.service import RouterService
from router.settings import RouterSettings
from router.tenants import hashed
from tests.router.dataplane_stubs import Engine, completion, on_loop, until
from tests.router.test_router_app import ask, engine_script

SECRET = "S3cret-that-nobody-may-read"
HISTORY = f"postgresql+psycopg://fleet:{SECRET}@127.0.0.1:9/fleet?connect_timeout=1&sslpassword={SECRET}"
ENGINES = ("--engines", "http://127.0.0.1:9")
COMMANDS = {
    "router": ("router", "serve", *ENGINES, "--port", "0", "--admin-port", "0"),
    "picker": ("router", "picker", *ENGINES, "--port", "0", "--admin-port", "0"),
    "controller": ("wva", "run", *ENGINES, "--model", "m", "--port", "0"),
    "predictor": ("predictor", "evaluate"),
    "alert watcher": ("alerts", "watch", *ENGINES, "--port", "0"),
    "up": ("up", "--duration", "5", "--headless", "--no-console"),
    "history": ("history", "prune"),
}
"""Each of these opens the history, and cannot."""


def run(*command: str, home: Path, history_url: str) -> str:
    """What a command says that ends by itself."""
    settings = {"FLEET_HISTORY_URL": history_url, "FLEET_HOME": str(home), "FLEET_LOG_LEVEL": "DEBUG"}
    done = subprocess.run([sys.executable, "-m", "fleet.cli", *command], capture_output=True, text=True, check=False,
                          timeout=150, env={**os.environ, **settings})  # fmt: skip
    assert done.returncode not in (0, -9), done.stderr
    return done.stdout + done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_tells_the_history_s_password(name, tmp_path):
    for url in (HISTORY, f"{SECRET} is no URL"):
        said = run(*COMMANDS[name], home=tmp_path, history_url=url)
        assert said.strip()
        assert SECRET not in said
        assert "Traceback" not in said


@pytest.mark.integration
def test_no_setting_s_value_is_told_when_it_is_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTER_ENGINE_API_KEY", SECRET)
    monkeypatch.setenv("ROUTER_PORT", "none")
    said = run("router", "serve", *ENGINES, home=tmp_path, history_url="")
    assert "ROUTER_PORT" in said
    assert SECRET not in said


@pytest.mark.parametrize(("url", "told"), [
    pytest.param(HISTORY, "postgresql+psycopg://fleet:***@127.0.0.1:9/fleet", id="password-and-options"),
    pytest.param("sqlite:////var/lib/fleet/h.sqlite3", "sqlite:////var/lib/fleet/h.sqlite3", id="file"),
    pytest.param(SECRET, "a text that is no URL", id="no-url"),
])  # fmt: skip
def test_a_database_is_shown_without_its_password(url, told):
    assert shown(url) == told


def test_no_process_of_fleet_up_shows_the_password_among_its_arguments(tmp_path):
    options = UpOptions(home=tmp_path, history_url=HISTORY, model="m")
    assert [part.name for part in parts(options, Ports()) if SECRET in " ".join(part.argv)] == []
    assert environment(options)["FLEET_HISTORY_URL"] == HISTORY


@on_loop
async def test_the_router_writes_no_key_of_clients_and_engines(tmp_path, caplog):
    """Right keys, wrong keys, in every header where clients put them, while the engine fails and while it answers."""
    caplog.set_level(logging.DEBUG)
    wrong, own = "sk-fleet-" + SECRET[::-1], "engine-" + SECRET
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text(f"tenants:\n  - {{name: search, keys: ['{hashed(SECRET.encode())}'], models: [m]}}\n")
    log = tmp_path / "access.log"

    async def broken(_engine, _request, writer):
        writer.write(b"HTTP/1.1 500 oh\r\ncontent-length: 0\r\n\r\n")

    for script in (engine_script(), engine_script(broken)):
        async with Engine(script) as engine:
            settings = RouterSettings(engines=engine.url, port=0, admin_port=0, tenants=tenants, access_log=log,
                                      engine_api_key=own, scrape_s=0.05, explain=True)  # fmt: skip
            service = RouterService(settings, DEFAULT, home=tmp_path)
            await service.start()
            await until(lambda service=service: service.endpoints.ready[0].models)
            for key in (SECRET, wrong):
                for header in (f"Authorization: Bearer {key}", f"x-api-key: {key}", f"Cookie: session={key}"):
                    await ask(service.port, completion(header.encode(), stream=True))
            assert any(own in request.headers.get("authorization", "") for request in engine.requests)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.admin_port}") as admin:
                paths = ("/config", "/metrics", "/debug/decisions", "/debug/endpoints", "/debug/tenants", "/readyz")
                pages = [(await admin.get(path)).text for path in paths]
            await service.stop()
            assert log.read_text()
            for text in (*pages, caplog.text, log.read_text()):
                assert not [key for key in (SECRET, wrong, own, hashed(SECRET.encode())) if key in text]


def test_the_kubernetes_token_is_not_told(caplog):
    caplog.set_level(logging.DEBUG)
    configuration = client.Configuration(host="http://127.0.0.1:9", api_key={"authorization": f"Bearer {SECRET}"})
    with pytest.raises(KubeError) as refused:
        KubeApi(configuration, timeout_s=1.0).get(PODS.path("default"))
    assert SECRET not in f"{refused.value} {refused.value!r} {caplog.text}"


def test_debug_is_for_our_own_parts_only(monkeypatch):
    """Libraries log headers and statements at that level."""
    monkeypatch.setenv("FLEET_LOG_LEVEL", "DEBUG")
    code = (
        "import logging, fleet.shell; fleet.shell.setup_logging('x'); "
        "print(*(logging.getLogger(name).isEnabledFor(10) for name in ('router.scrape', 'urllib3', 'sqlalchemy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
    monkeypatch.setenv("FLEET_LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigError, match="FLEET_LOG_LEVEL"):
        load(FleetSettings)


def test_every_command_that_opens_a_history_is_tried():
    """A new part joins the list above, or says here why it needs not."""
    elsewhere = {"console": "reads it page by page, shown by ConsoleSettings", "sim": "has no history",
                 "bench": "has its own in memory", "plan": "has no history"}  # fmt: skip
    assert set(fleet.list_commands(None)) - set(elsewhere) == {command[0] for command in COMMANDS.values()}
