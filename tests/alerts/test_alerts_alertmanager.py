"""A real Alertmanager with the committed configuration inhibits what :func:`alerts.alertmanager.muted` says it does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from alerts.alertmanager import muted
from alerts.cli import SLO_FILE
from tests.waiting import until

CONFIG = SLO_FILE.parent / "generated" / "alertmanager" / "alertmanager.yaml"
A, B = {"namespace": "prod", "model_name": "a"}, {"namespace": "prod", "model_name": "b"}
FIRING = (
    {"alertname": "EngineStalled", "severity": "critical", "pod": "a-0", **A},
    {"alertname": "GPUHung", "severity": "critical", "pod": "a-0", "namespace": "prod"},
    {"alertname": "GPUHung", "severity": "critical", "pod": "b-0", "namespace": "prod"},
    {"alertname": "HighTTFT", "severity": "critical", **A},
    {"alertname": "HighTTFT", "severity": "critical", **B},
    {"alertname": "QueueBacklog", "severity": "warning", **A},
    {"alertname": "LowCacheHitRate", "severity": "warning", **B},
    {"alertname": "NodeNotReady", "severity": "critical", "node": "n1"},
    {"alertname": "PredictorFitFailing", "severity": "warning"},
    {"alertname": "RouterShedding", "severity": "warning", **B},
    {"alertname": "PodCrashLooping", "severity": "critical", "namespace": "prod", "pod": "c-0"},
    {"alertname": "TargetDown", "severity": "warning", "namespace": "prod", "pod": "c-0", "job": "vllm"},
    {"alertname": "TargetDown", "severity": "warning", "job": "other"},
)
QUIET = {"GPUHung a-0", "HighTTFT a", "QueueBacklog a", "LowCacheHitRate b", "RouterShedding b", "TargetDown c-0"}


def named(labels: dict[str, str]) -> str:
    return f"{labels['alertname']} {labels.get('pod') or labels.get('model_name', '')}"


@pytest.fixture
def alertmanager(alertmanager_binary: str, free_port: int, tmp_path: Path) -> Iterator[str]:
    command = [alertmanager_binary, f"--config.file={CONFIG}", f"--storage.path={tmp_path}",
               "--cluster.listen-address=",
               f"--web.listen-address=127.0.0.1:{free_port}"]  # fmt: skip
    url = f"http://127.0.0.1:{free_port}"
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: requests.get(f"{url}/-/ready", timeout=10).ok, (tmp_path / "log").read_text)
            yield url
        finally:
            process.terminate()


def inhibited(url: str) -> set[str]:
    found = requests.get(f"{url}/api/v2/alerts", timeout=30).json()
    assert len(found) == len(FIRING)
    return {named(alert["labels"]) for alert in found if alert["status"]["inhibitedBy"]}


def test_what_we_say_is_muted() -> None:
    assert {named(labels) for labels in FIRING if muted(labels, FIRING)} == QUIET


@pytest.mark.integration
def test_a_real_alertmanager_inhibits_the_same(alertmanager: str) -> None:
    body = [{"labels": labels} for labels in FIRING]
    requests.post(f"{alertmanager}/api/v2/alerts", json=body, timeout=30).raise_for_status()
    assert until(
        lambda: inhibited(alertmanager) == QUIET, lambda: f"these alone are inhibited: {inhibited(alertmanager)}"
    )
