"""A real Prometheus over pages that a test serves."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from fleet.sources.prometheus import instance_of


@contextmanager
def prometheus(binary: str, folder: Path, port: int, jobs: dict[str, list[str]]) -> Iterator[str]:
    """A real Prometheus that scrapes ``jobs`` four times a second."""
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "200ms"},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [instance_of(url) for url in urls]}]}
            for job, urls in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    process = subprocess.Popen(
        [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: requests.get(f"{url}/-/ready", timeout=1).ok, "Prometheus is ready")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def until(condition: Any, what: str, *, limit_s: float = 60.0) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {limit_s} s: {what}")
