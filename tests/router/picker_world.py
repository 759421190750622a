"""Two simulated engines, the picker and a real Envoy with the configuration in ``deploy/envoy``, as processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.ports import free_ports
from tests.simulator.conftest import MODEL, EngineProcess, launch
from tests.waiting import ENDS_WITHIN_S, until

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy" / "envoy" / "envoy.yaml"


def envoy_binary() -> str:
    """Envoy of the environment ``.venvs/envoy`` (its package shares a name with the ext_proc stubs)."""
    found = sorted((ROOT / ".venvs" / "envoy" / "lib").glob("python3*/site-packages/envoy/_bin/envoy"))
    if found:
        return str(found[0])
    message = "Envoy is not installed: make tools"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@dataclass
class World:
    """Everything that was started; ``close`` ends it."""

    folder: Path
    engines: list[EngineProcess] = field(default_factory=list)
    picker: subprocess.Popen[str] | None = None
    envoy: subprocess.Popen[bytes] | None = None
    picker_port: int = 0
    admin_port: int = 0
    port: int = 0
    envoy_admin: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **more)

    def start_engines(self, *options: str, each: Callable[[], Sequence[str]] = tuple, count: int = 2) -> None:
        self.engines = [launch("--speed", "20", *options, *each()) for _ in range(count)]
        for engine in self.engines:
            engine.ready()

    def start_picker(self, *options: str) -> None:
        self.picker_port = self.picker_port or free_ports()
        self.admin_port = free_ports()
        log = (self.folder / "picker.log").open("a")
        engines = ",".join(one.url for one in self.engines)
        self.picker = subprocess.Popen(
            [sys.executable, "-m", "fleet.cli", "router", "picker", "--engines", engines,
             "--port", str(self.picker_port), "--admin-port", str(self.admin_port), "--home", str(self.folder),
             "--scrape-s", "0.2", *options], stderr=log, stdout=log, text=True)  # fmt: skip
        self.wait(lambda: httpx.get(f"{self.admin}/readyz").status_code == 200, "picker")

    def start_router(self, *options: str, discover: str = "") -> None:
        """The proxy instead of Envoy and the picker."""
        self.port, self.admin_port = free_ports(), free_ports()
        engines = ",".join(one.url for one in self.engines)
        source = ("--discover", discover) if discover else ("--engines", engines)
        log = (self.folder / "router.log").open("a")
        self.picker = subprocess.Popen(
            [sys.executable, "-m", "fleet.cli", "router", "serve", *source, "--port", str(self.port),
             "--admin-port", str(self.admin_port), "--home", str(self.folder), "--scrape-s", "0.2", *options],
            stderr=log, stdout=log, text=True)  # fmt: skip
        self.wait(lambda: httpx.get(f"{self.admin}/readyz").status_code == 200, "router")

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def start_envoy(self, change: Any = lambda _config: None) -> None:
        if self.envoy is not None:
            self.envoy.terminate()
            self.envoy.wait(ENDS_WITHIN_S)
        config = yaml.safe_load(CONFIG.read_text())
        self.port, self.envoy_admin = free_ports(), free_ports()
        patch_ports(config, self)
        change(config)
        path = self.folder / "envoy.yaml"
        path.write_text(yaml.safe_dump(config))
        log = (self.folder / "envoy.log").open("wb")
        self.envoy = subprocess.Popen(
            [envoy_binary(), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"],
            stdout=log, stderr=log,
        )  # fmt: skip
        self.wait(lambda: httpx.get(f"http://127.0.0.1:{self.envoy_admin}/ready").status_code == 200, "envoy")
        if self.picker is not None and self.picker.poll() is None:
            self.wait_picker_seen()

    def wait_picker_seen(self, *, healthy: bool = True) -> None:
        flag = "healthy" if healthy else "/failed_active_hc"
        pattern = re.compile(rf"picker::127\.0\.0\.1:\d+::health_flags::{flag}")
        self.wait(lambda: pattern.search(httpx.get(f"http://127.0.0.1:{self.envoy_admin}/clusters").text), "health")

    def wait(self, ready: Any, what: str) -> None:
        until(ready, lambda: f"{what} is not ready\n{self._logs()}")

    def _logs(self) -> str:
        return "".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))

    def stop_picker(self, *, kill: bool = False) -> None:
        if self.picker is not None:
            (self.picker.kill if kill else self.picker.terminate)()
            self.picker.wait(ENDS_WITHIN_S)

    def close(self) -> None:
        for process in (self.envoy, self.picker):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(ENDS_WITHIN_S)
        for engine in self.engines:
            engine.end()


def patch_ports(config: dict[str, Any], world: World) -> None:
    """Free ports instead of the fixed ones."""
    resources = config["static_resources"]
    config["admin"]["address"]["socket_address"]["port_value"] = world.envoy_admin
    resources["listeners"][0]["address"]["socket_address"]["port_value"] = world.port
    clusters = {one["name"]: one for one in resources["clusters"]}
    lists = {"picker": [world.picker_port], "engines": [one.port for one in world.engines]}
    for name, ports in lists.items():
        clusters[name]["load_assignment"]["endpoints"] = [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
            for port in ports]}]  # fmt: skip
    clusters["picker"]["health_checks"][0].update(interval="0.2s", no_traffic_interval="0.2s")


def ext_proc(config: dict[str, Any]) -> dict[str, Any]:
    """The picker's filter in a configuration."""
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return next(one["typed_config"] for one in manager["http_filters"] if one["name"].endswith("ext_proc"))


def body(prompt: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": 5, **more}


def said(url: str, name: str) -> float:
    """The sum of the series on a metrics page whose lines begin with ``name``."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
