"""Who asks: the user that a verified front proxy names, and whether that user may."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from fleet.errors import ConfigError
from fleet.kube.api import ACCESS_REVIEWS, CONFIG_MAPS, KubeApi, KubeError
from wva.external_metrics.answers import GROUP, VERSION, Query

CONFIG_MAP = CONFIG_MAPS.path("kube-system", "extension-apiserver-authentication")
REFRESH_S = 60.0
"""The cluster's CA is read anew after so long: it rotates."""
CACHE_S = 10.0
MASTERS = "system:masters"
USER_HEADERS, GROUP_HEADERS = ("X-Remote-User",), ("X-Remote-Group",)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontProxy:
    """Whose word about users is believed."""

    ca: str
    """PEM of the CA that signs the proxy's certificate: of it alone."""
    names: frozenset[str] = frozenset()
    """Common names that the certificate may have; empty: any."""
    user_headers: tuple[str, ...] = USER_HEADERS
    group_headers: tuple[str, ...] = GROUP_HEADERS


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A caller that the front proxy vouches for."""

    name: str
    groups: tuple[str, ...] = ()


def parse_config_map(data: Mapping[str, str]) -> FrontProxy:
    """The front proxy of ``extension-apiserver-authentication``.

    Raises: ValueError when it names no CA or holds no lists.
    """
    if not data.get("requestheader-client-ca-file"):
        raise ValueError("requestheader-client-ca-file is missing")

    def listed(name: str) -> tuple[str, ...]:
        return tuple(str(each) for each in json.loads(data.get(f"requestheader-{name}") or "[]"))

    return FrontProxy(
        ca=data["requestheader-client-ca-file"], names=frozenset(listed("allowed-names")),
        user_headers=listed("username-headers") or USER_HEADERS,
        group_headers=listed("group-headers") or GROUP_HEADERS,
    )  # fmt: skip


def user_of(proxy: FrontProxy, certificate: Mapping[str, Any] | None, headers: Message) -> User | None:
    """The caller; ``None`` where no verified certificate of the front proxy vouches for one.

    Args:
        proxy: whose word is believed.
        certificate: the peer's, as ``ssl`` gives it after checking it against ``proxy.ca``; ``None``: there is none.
        headers: of the request.
    """
    if not certificate:
        return None
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    names = {value for key, value in subject if key == "commonName"}
    if proxy.names and not names & proxy.names:
        return None
    user = next((headers[name] for name in proxy.user_headers if headers.get(name)), None)
    groups = tuple(group for name in proxy.group_headers for group in headers.get_all(name, []))
    return User(name=user, groups=groups) if user else None


class Gate:
    """The TLS side: a context for each connection, from the certificate as it is now and the front proxy's CA.

    Args:
        certificate: PEM file of the server.
        key: PEM file of its key.
        proxy: gives the front proxy; called anew every ``REFRESH_S``.

    Raises: ConfigError when a file cannot be used.
    """

    def __init__(self, certificate: str, key: str, proxy: Callable[[], FrontProxy]) -> None:
        self._certificate, self._key, self._load = certificate, key, proxy
        self._lock = threading.Lock()
        self._proxy = proxy()
        self._context = self._built(self._proxy)
        self._at = time.monotonic()

    def current(self) -> tuple[FrontProxy, ssl.SSLContext]:
        """The front proxy, and a context that trusts its CA and no other; the last good one while it cannot be read."""
        with self._lock:
            if time.monotonic() - self._at > REFRESH_S:
                self._at = time.monotonic()
                try:
                    proxy = self._load()
                    self._proxy, self._context = proxy, self._built(proxy)
                except (KubeError, ConfigError):
                    return self._proxy, self._context
            return self._proxy, self._context

    def _built(self, proxy: FrontProxy) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            context.load_cert_chain(self._certificate, self._key)
        except OSError as error:
            raise ConfigError(f"cannot be used: {error}", where=f"--tls-cert {self._certificate}",
                              next_step="Give a PEM certificate and its key (--tls-key).") from None  # fmt: skip
        try:
            context.load_verify_locations(cadata=proxy.ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"is no CA in PEM: {error}", where="request-header CA",
                              next_step="Check --requestheader-ca.") from None  # fmt: skip
        return context


class Reviewer:
    """Asks the API server whether a user may read a metric; whatever is not allowed clearly is denied."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._known: dict[tuple[User, Query], tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def allows(self, user: User, query: Query) -> bool:
        """Whether ``user`` may; answers are remembered for ``CACHE_S``, failures are not and deny."""
        if MASTERS in user.groups:
            return True
        now = time.monotonic()
        with self._lock:
            self._known = {key: value for key, value in self._known.items() if now - value[0] < CACHE_S}
            known = self._known.get((user, query))
        if known:
            return known[1]
        attributes = {"namespace": query.namespace, "verb": "list", "group": GROUP, "version": VERSION,
                      "resource": query.metric}  # fmt: skip
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {"user": user.name, "groups": list(user.groups), "resourceAttributes": attributes}}  # fmt: skip
        try:
            allowed = (self._api.create(ACCESS_REVIEWS.path(), body).get("status") or {}).get("allowed") is True
        except KubeError:
            return False
        with self._lock:
            self._known[user, query] = (now, allowed)
        return allowed


def published_proxy(api: KubeApi) -> FrontProxy:
    """The front proxy as the cluster publishes it.

    Raises: KubeError, or ConfigError when what it publishes cannot be used.
    """
    try:
        return parse_config_map(api.get(CONFIG_MAP).get("data") or {})
    except ValueError as error:
        raise ConfigError(f"cannot be used: {error}", where="kube-system/extension-apiserver-authentication",
                          next_step="Give --requestheader-ca FILE.") from None  # fmt: skip
