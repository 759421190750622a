"""Shared fixtures: real components by path, trace files by folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import scheduling
from tests.ports import free_ports

settings.register_profile(
    "fleet", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=os.environ.get("CI") == "true"
)  # a busy machine is no defect; and what CI says of a commit it says each time: other examples are tried elsewhere
settings.load_profile("fleet")

ROOT = Path(__file__).resolve().parent.parent


def _component(*names: str, package: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    message = f"{names[0]} is not installed (Debian package {package})"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def prometheus_binary() -> str:
    """Path of a real Prometheus."""
    return _component("prometheus", package="prometheus")


@pytest.fixture(scope="session")
def promtool_binary() -> str:
    """Path of promtool."""
    return _component("promtool", package="prometheus")


@pytest.fixture(scope="session")
def amtool_binary() -> str:
    """Path of amtool."""
    return _component("amtool", package="prometheus-alertmanager")


@pytest.fixture(scope="session")
def alertmanager_binary() -> str:
    """Path of a real Alertmanager."""
    return _component("prometheus-alertmanager", "alertmanager", package="prometheus-alertmanager")


@pytest.fixture(scope="session")
def chromium_binary() -> str:
    """Path of Chromium."""
    return _component("chromium", "chromium-browser", "google-chrome", package="chromium")


@pytest.fixture(scope="session")
def traces_dir() -> Path:
    """Folder of trace files: FLEET_TRACES, else ../shared/traces beside the checkout."""
    folder = Path(os.environ.get("FLEET_TRACES", ROOT.parent / "shared" / "traces"))
    if not folder.is_dir():
        pytest.skip(f"no trace files in {folder}; set FLEET_TRACES")
    return folder


@pytest.fixture(scope="session")
def schemas_dir() -> Path:
    """Folder of CRD schemas: FLEET_SCHEMAS, else ../shared/schemas beside the checkout."""
    folder = Path(os.environ.get("FLEET_SCHEMAS", ROOT.parent / "shared" / "schemas"))
    if not folder.is_dir():
        pytest.skip(f"no schemas in {folder}; set FLEET_SCHEMAS")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Committed samples."""
    return ROOT / "tests" / "data"


@pytest.fixture
def free_port() -> int:
    """A TCP port that nobody else takes."""
    return free_ports()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What lasts longest comes first."""
    items.sort(key=lambda item: scheduling.place(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> scheduling.ByGroup:
    """Workers get groups of tests, in this order."""
    config.option.loadscopereorder = False
    return scheduling.ByGroup(config, log)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer's shell reaches a test, and no test writes into the checkout."""
    for name in list(os.environ):
        if name.startswith(("FLEET_", "WVA_", "ROUTER_", "PREDICTOR_", "ALERTS_", "CONSOLE_", "SIM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLEET_HOME", str(tmp_path / "home"))
