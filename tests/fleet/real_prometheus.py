"""A real Prometheus over pages that a test serves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from fleet.sources.prometheus import instance_of
from tests.waiting import ENDS_WITHIN_S, until


@contextmanager
def prometheus(binary: str, folder: Path, port: int, jobs: dict[str, list[str]]) -> Iterator[str]:
    """A real Prometheus that scrapes ``jobs`` thrice a second; a busy machine gets the whole time between to answer."""
    config = {
        "global": {"scrape_interval": "333ms", "scrape_timeout": "333ms"},
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
        until(lambda: requests.get(f"{url}/-/ready", timeout=10).ok, "Prometheus is ready")
        yield url
    finally:
        process.terminate()
        process.wait(ENDS_WITHIN_S)
