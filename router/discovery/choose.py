"""From ``--discover`` and its siblings to a source of engines."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from fleet.errors import ConfigError
from router.discovery.dns import DnsSource
from router.discovery.file import FileSource
from router.discovery.follow import HttpPlatform, Source

FORMS = (
    "file:PATH, dns://HOST:PORT, kube-service://NAMESPACE/NAME[:PORT], kube-pool://NAMESPACE/NAME, or a platform's URL"
)


def source(text: str) -> Source:
    """The source that ``text`` names.

    Raises: ConfigError when it names none, or the cluster's configuration cannot be used.
    """
    if text.startswith("file:"):
        return FileSource(Path(text.removeprefix("file:").removeprefix("//")))
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _refused(text) from None
    if parts.scheme == "dns" and host and port:
        return DnsSource(host, port)
    if parts.scheme in ("http", "https") and host:
        return HttpPlatform(text)
    name, _, number = parts.path.strip("/").partition(":")
    if parts.scheme in ("kube-service", "kube-pool") and host and name:
        return _kube(parts.scheme, host, name, number)
    raise _refused(text)


def _refused(text: str) -> ConfigError:
    return ConfigError(f"{text!r} names no source of engines", where="--discover", limit=FORMS,
                       next_step="Write one of these.")  # fmt: skip


def _kube(scheme: str, namespace: str, name: str, port: str) -> Source:
    try:
        from fleet.kube.api import connect  # noqa: PLC0415 - the kube extra is needed for this alone
        from router.discovery.kube import PoolSource, ServiceSource  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("the Kubernetes client is not installed", where="--discover",
                          next_step="Install llm-fleet[kube].") from error  # fmt: skip
    api = connect()
    if scheme == "kube-pool":
        return PoolSource(api, namespace=namespace, pool=name)
    return ServiceSource(api, namespace=namespace, service=name, port=port)
