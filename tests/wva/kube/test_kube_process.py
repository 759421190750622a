"""Whole processes: ``fleet wva run --kube`` against a cluster, asked as an HPA asks, handing over on SIGTERM."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fake_kubernetes import FakeKubernetes
from tests.waiting import ENDS_WITHIN_S, until
from tests.wva.external_metrics.tls import authority, client_of, get
from tests.wva.kube.kube_cluster import add_deployment, add_variant

QUERY = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/wva_desired_replicas?labelSelector=variant_name%3Da"
PAGE = b"vllm:num_requests_waiting 20\nvllm:num_requests_running 8\nvllm:kv_cache_usage_perc 1.0\n"


@pytest.fixture
def engine_port() -> Iterator[int]:
    class Engine(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def kubeconfig(fake: FakeKubernetes, folder: Path) -> Path:
    entry = {"context": {"cluster": "c", "user": "u"}, "name": "x"}
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [entry],
        "clusters": [{"name": "c", "cluster": {"server": fake.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }  # fmt: skip
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_it_serves_an_hpa_and_gives_the_lease_back(
    fake: FakeKubernetes, tmp_path: Path, free_port: int, engine_port: int
) -> None:
    for name in ("server", "front-ca"):
        authority(tmp_path, name)
    client_of(tmp_path, "proxy", "front-ca", "front-proxy-client")
    data = {"requestheader-client-ca-file": (tmp_path / "front-ca.crt").read_text(),
            "requestheader-allowed-names": '["front-proxy-client"]'}  # fmt: skip
    fake.add("configmaps", {"metadata": {"name": "extension-apiserver-authentication"}, "data": data}, "kube-system")
    add_deployment(fake, "a", 1)
    fake.change("pods", "a-abc-0", part="status", status={"podIP": "127.0.0.1"})
    add_variant(fake, "a", enginePort=engine_port)
    argv = [sys.executable, "-m", "fleet.cli", "wva", "run", "--kube", "--kubeconfig", str(kubeconfig(fake, tmp_path)),
            "--port", "0", "--interval-s", "0.3", "--external-metrics-port", str(free_port),
            "--tls-cert", str(tmp_path / "server.crt"), "--tls-key", str(tmp_path / "server.key")]  # fmt: skip
    process = subprocess.Popen(argv, env={**os.environ, "FLEET_HOME": str(tmp_path), "WVA_QUEUE_FULL": "1"},
                               stderr=subprocess.PIPE, text=True)  # fmt: skip

    def value() -> str | None:
        try:
            status, body = get(tmp_path, free_port, QUERY)
        except OSError:
            return None
        return body["items"][0]["value"] if status == 200 and body["items"] else None

    try:
        until(lambda: value() == "2", "the HPA's value")
        held = fake.get("leases", "llm-fleet-wva")["spec"]["holderIdentity"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_S) == 0
    finally:
        process.kill()
        _, errors = process.communicate()
    assert held
    assert fake.get("leases", "llm-fleet-wva")["spec"]["holderIdentity"] == ""
    assert fake.get("deployments", "a")["spec"]["replicas"] == 1  # dry by default: the HPA acts
    assert fake.get("variantautoscalings", "a")["status"]["desiredOptimizedAlloc"]["numReplicas"] == 2
    assert "Traceback" not in errors
