"""What ``fleet wva run --kube`` adds to a controller: the platform, the election, the reports."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path

from fleet.errors import ConfigError
from fleet.kube.api import KubeApi, connect
from wva.external_metrics.auth import FrontProxy, Gate, Reviewer, published_proxy
from wva.external_metrics.server import Api, Server, serve
from wva.kube.kept import LeaseKeeper
from wva.kube.lease import Elector
from wva.kube.platform import KubePlatform
from wva.kube.report import Reporter
from wva.loop import ControlLoop
from wva.settings import WvaSettings

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
START_S = 5.0
"""The first pass waits so long, at most, for the cluster to be read and the lease to be won."""


class KubeParts:
    """The cluster side of one controller.

    Args:
        settings: namespace, lease, and whether to scale.
        api: the cluster.
        identity: this process; unset: host name and a random part.
    """

    def __init__(self, settings: WvaSettings, api: KubeApi, *, identity: str = "") -> None:
        self.identity = identity or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self.api, self._write_status = api, settings.write_status
        space = settings.lease_namespace or own_namespace(settings.namespace)
        self.elector = Elector(api, namespace=space, name=settings.lease_name, identity=self.identity)
        self.keeper = LeaseKeeper(api, namespace=space, name=settings.lease_name)
        self.platform = KubePlatform(api, namespace=settings.namespace, scale_directly=settings.scale_directly,
                                     may_write=self.elector.leads, gpu_limit=settings.gpu_limit)  # fmt: skip

    def start(self, loop: ControlLoop) -> None:
        """Follow the cluster, run for leader, and report what ``loop`` decides."""
        if self._write_status:
            loop.report_to(Reporter(self.api, self.platform, loop.metrics, instance=self.identity,
                                    may_write=self.elector.leads))  # fmt: skip
        self.platform.start()
        self.elector.step()
        self.elector.start()
        deadline = time.monotonic() + START_S
        while not self.platform.synced() and time.monotonic() < deadline:
            time.sleep(0.05)

    def serve_metrics(self, settings: WvaSettings, loop: ControlLoop, sock: socket.socket) -> Server:
        """Serve the external metrics API on ``sock``.

        Raises: ConfigError when certificate, key or CA cannot be used; KubeError when the cluster does not say its CA.
        """
        if not (settings.tls_cert and settings.tls_key):
            raise ConfigError("needs a certificate and its key", where="--external-metrics-port",
                              next_step="Give --tls-cert FILE and --tls-key FILE.")  # fmt: skip
        gate = Gate(settings.tls_cert, settings.tls_key, lambda: self._front_proxy(settings.requestheader_ca))
        fresh_s = max(settings.stale_after_s, 2 * settings.interval_s)
        api = Api(loop=loop, gate=gate, allows=Reviewer(self.api).allows, clock=time.time, fresh_s=fresh_s)
        return serve(api, sock)

    def _front_proxy(self, file: str) -> FrontProxy:
        if not file:
            return published_proxy(self.api)
        try:
            return FrontProxy(ca=Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=f"--requestheader-ca {file}",
                              next_step="Check the path.") from None  # fmt: skip

    def stop(self) -> None:
        """Hand over; call it when the loop has stopped."""
        self.platform.stop()
        self.elector.stop()
        self.api.close()


def build_kube(settings: WvaSettings) -> KubeParts:
    """The cluster side, not yet started.

    Raises: ConfigError when there is no cluster to talk to.
    """
    return KubeParts(settings, connect(kubeconfig=settings.kubeconfig, context=settings.context))


def own_namespace(watched: str) -> str:
    """Where the lease lives: the pod's own namespace, else the one that is watched, else ``default``."""
    if SERVICE_ACCOUNT.exists():
        return SERVICE_ACCOUNT.read_text(encoding="utf-8").strip()
    return os.environ.get("POD_NAMESPACE") or watched or "default"
