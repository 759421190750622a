"""Processes of ``fleet bench picker``: canned engines and a load in C, Envoy, pickers."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.proxy.tools import free_ports
from fleet.errors import ConfigError

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIG: Final = ROOT / "deploy" / "envoy" / "envoy.yaml"
ENGINES: Final = 4


def envoy_binary() -> Path:
    """Envoy of ``make tools``.

    Raises: ConfigError when it is not there.
    """
    found = sorted((ROOT / ".venvs" / "envoy").glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    if not found:
        raise ConfigError("Envoy is not installed", where=".venvs/envoy", next_step="Run make tools.")
    return found[0]


@contextlib.contextmanager
def process(command: Sequence[str], log: Path, *, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on ``port`` before the block begins, and is gone after it.

    Raises: ConfigError when it never listens.
    """
    with log.open("ab") as file, subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT) as made:
        try:
            _await(made, port, log)
            yield made
        finally:
            made.terminate()
            try:
                made.wait(10)
            except subprocess.TimeoutExpired:
                made.kill()


def _await(made: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s and made.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-300:]
    raise ConfigError(f"a process of the bench did not start: {tail}", where=str(log), next_step="Look at that log.")


def envoy_config(*, port: int, admin: int, engines: Sequence[int], picker: int | None) -> dict[str, Any]:
    """The configuration of ``deploy/envoy`` on other ports; without ``picker``, Envoy balances alone."""
    config: dict[str, Any] = copy.deepcopy(yaml.safe_load(CONFIG.read_text(encoding="utf-8")))
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    resources = config["static_resources"]
    listener = resources["listeners"][0]
    listener["address"]["socket_address"]["port_value"] = port
    clusters = {one["name"]: one for one in resources["clusters"]}
    clusters["engines"]["load_assignment"]["endpoints"] = [_endpoints(engines)]
    if picker is not None:
        clusters["picker"]["load_assignment"]["endpoints"] = [_endpoints([picker])]
        del clusters["picker"]["health_checks"]  # the minimal one has no health service
        return config
    resources["clusters"] = [clusters["engines"]]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [one for one in manager["http_filters"] if not one["name"].endswith("ext_proc")]
    host = manager["route_config"]["virtual_hosts"][0]
    host["routes"] = [{"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}}]
    return config


def _endpoints(ports: Sequence[int]) -> dict[str, Any]:
    return {"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports
    ]}  # fmt: skip


@contextlib.contextmanager
def envoy(folder: Path, name: str, *, engines: Sequence[int], picker: int | None) -> Iterator[tuple[int, int]]:
    """A running Envoy; gives its port and its process id."""
    port, admin = free_ports(2)
    path = folder / f"envoy-{name}.yaml"
    config = envoy_config(port=port, admin=admin, engines=engines, picker=picker)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [str(envoy_binary()), "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    with process(command, folder / f"envoy-{name}.log", port=port) as made:
        yield port, made.pid


def ours(port: int, admin: int, engines: Sequence[int], home: Path) -> list[str]:
    """The command that serves our picker."""
    urls = ",".join(f"http://127.0.0.1:{engine}" for engine in engines)
    return [sys.executable, "-m", "fleet.cli", "router", "picker", "--engines", urls, "--port", str(port),
            "--admin-port", str(admin), "--home", str(home)]  # fmt: skip


def minimal(port: int, engines: Sequence[int]) -> list[str]:
    """The command that serves the minimal one."""
    return [sys.executable, "-m", "benchmarks.picker.minimal", str(port), *(f"127.0.0.1:{one}" for one in engines)]


def cpu_s(pid: int | None) -> float:
    """CPU seconds that a process has used; 0 for none."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(binary: Path, port: int, *, connections: int, warm_s: float, run_s: float, stream: bool) -> dict[str, float]:
    """One measurement."""
    command = [str(binary), str(port), str(connections), str(warm_s), str(run_s), "1" if stream else "0", "600"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found
