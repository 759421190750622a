"""Simulated engines as processes, for tests that talk to them over sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.ports import free_ports
from tests.waiting import ENDS_WITHIN_S, until

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


@dataclass
class EngineProcess:
    """``fleet sim engine`` and its address."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self, path: str = "/health") -> int:
        """0 while nobody answers."""
        try:
            return httpx.get(self.url + path, timeout=10).status_code
        except httpx.TransportError:
            return 0

    def ready(self) -> EngineProcess:
        until(lambda: self.process.poll() is not None or self.status() == 200, "healthy")
        assert self.process.poll() is None, self.process.communicate()[1]
        return self

    def end(self) -> str:
        """Stop it; what it wrote."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.communicate(timeout=ENDS_WITHIN_S)[1] or ""


def launch(*options: str, model: str = MODEL) -> EngineProcess:
    port = free_ports(int(options[options.index("--replicas") + 1]) if "--replicas" in options else 1)
    command = [sys.executable, "-m", "simulator.engine_main", "--port", str(port), "--model", model, *options]
    return EngineProcess(subprocess.Popen(command, stderr=subprocess.PIPE, text=True), port)


@pytest.fixture(scope="module")
def launch_engine() -> Iterator[Callable[..., EngineProcess]]:
    """Start engines that end with the module's tests; options as on the command line."""
    started: list[EngineProcess] = []

    def start(*options: str, model: str = MODEL) -> EngineProcess:
        started.append(launch(*options, model=model))
        return started[-1]

    yield start
    for one in started:
        one.end()
