"""A real Prometheus and a real Alertmanager as processes, with the shipped rules on a reduced time scale."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import requests
import yaml

from alerts.alertmanager import configuration
from alerts.model import Links, Rulebook
from alerts.render import rule_files
from alerts.rules import rulebook
from fleet.errors import ConfigError
from fleet.slo import DEFAULT_SLOS

_WAITS: Final = ("group_wait", "group_interval", "repeat_interval")


def binary(*names: str, package: str) -> str:
    """Path of a component.

    Raises: ConfigError when it is not installed.
    """
    for name in names:
        if path := shutil.which(name):
            return path
    raise ConfigError(f"{names[0]} is not installed", next_step=f"Install the Debian package {package}.")


def scaled_rules(scale: float) -> Rulebook:
    """The shipped rules with every window, offset and wait divided by ``scale``."""
    whole, factor = rulebook(DEFAULT_SLOS), 1 / scale
    return Rulebook(
        recordings=tuple(replace(rule, expr=rule.expr.scaled(factor)) for rule in whole.recordings),
        alerts=tuple(replace(a, expr=a.expr.scaled(factor), for_s=a.for_s * factor) for a in whole.alerts),
    )


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _faster(route: dict[str, Any], scale: float) -> dict[str, Any]:
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    waits = {name: f"{float(route[name][:-1]) * units[route[name][-1]] / scale * 1000:.0f}ms"
             for name in _WAITS if name in route}  # fmt: skip
    return (
        route | waits | ({"routes": [_faster(child, scale) for child in route["routes"]]} if "routes" in route else {})
    )


@contextmanager
def _process(command: list[str], folder: Path, name: str, ready: str, *, within_s: float = 30) -> Iterator[None]:
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            _wait(process, ready, folder / f"{name}.log", within_s)
            yield
        finally:
            process.terminate()
            process.wait(10)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.05)
    raise RuntimeError(f"did not become ready: {log.read_text()[-2000:]}")


@contextmanager
def alertmanager(folder: Path, hooks: str, *, scale: float) -> Iterator[str]:
    """Alertmanager with the shipped configuration, its waits divided by ``scale``; gives its address."""
    folder.mkdir(parents=True, exist_ok=True)
    shipped = configuration(page=f"{hooks}/page", ticket=f"{hooks}/ticket")
    shipped["route"] = _faster(shipped["route"], scale)
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(shipped))
    port = _free_port()
    command = [binary("prometheus-alertmanager", "alertmanager", package="prometheus-alertmanager"),
               "--config.file=alertmanager.yaml", f"--storage.path={folder / 'am'}", "--cluster.listen-address=",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with _process(command, folder, "alertmanager", f"http://127.0.0.1:{port}/-/ready"):
        yield f"127.0.0.1:{port}"


def _prometheus_config(pages: str, world: str, interval_s: float, manager: str) -> dict[str, Any]:
    every = f"{interval_s * 1000:.0f}ms"
    config: dict[str, Any] = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every,
                   "external_labels": {"cluster": world}},
        "rule_files": ["*.rules.yaml"],
        "scrape_configs": [{"job_name": "all", "http_sd_configs": [
            {"url": f"http://{pages}/sd/{world}", "refresh_interval": "1s"}]}],
    }  # fmt: skip
    if manager:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [manager]}]}]}
    return config


@contextmanager
def prometheus(
    folder: Path, pages: str, world: str, *, rules: Rulebook, interval_s: float, manager: str = ""
) -> Iterator[str]:
    """Prometheus over one world's pages; gives its address."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rule_files(rules, Links(), source="slos.yaml").items():
        (folder / name).write_text(text)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_prometheus_config(pages, world, interval_s, manager)))
    port = _free_port()
    command = [binary("prometheus", package="prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    with _process(command, folder, "prometheus", f"http://127.0.0.1:{port}/-/ready"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def fleet_of(worlds: list[str], folder: Path, port: int, *, scale: float, interval_s: float) -> Iterator[None]:
    """One Alertmanager, and a Prometheus a world (told apart by the label ``cluster``)."""
    rules = scaled_rules(scale)
    with ExitStack() as stack:
        manager = stack.enter_context(alertmanager(folder, f"http://127.0.0.1:{port}/hook", scale=scale))
        for world in worlds:
            stack.enter_context(prometheus(folder / world, f"127.0.0.1:{port}", world, rules=rules,
                                           interval_s=interval_s, manager=manager))  # fmt: skip
        yield
