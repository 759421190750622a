"""The Kubernetes API as plain dictionaries, over the official client (which brings authentication and TLS)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.rest import RESTResponse
from kubernetes.config.config_exception import ConfigException
from yaml import YAMLError

from fleet.errors import ConfigError, SourceError

Object = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"


class KubeError(SourceError):
    """A call that the API server refused or did not answer; ``status`` 0 where it did not answer."""

    def __init__(self, what: str, *, where: str, status: int = 0, reason: str = "", next_step: str = "") -> None:
        self.status, self.reason = status, reason
        super().__init__(what, where=where, next_step=next_step)

    @property
    def conflict(self) -> bool:
        """The object was changed meanwhile."""
        return self.status == 409

    @property
    def expired(self) -> bool:
        """The resource version is too old: everything must be listed anew."""
        return self.status == 410


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A collection of the API."""

    group: str
    """Empty: the core group."""
    version: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, of an object, or of its subresource; no ``namespace``: all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, *(("namespaces", namespace) if namespace else ()), self.plural, name, subresource]
        return "/".join(part for part in parts if part)


PODS = Resource(group="", version="v1", plural="pods")
NODES = Resource(group="", version="v1", plural="nodes")
RESOURCE_QUOTAS = Resource(group="", version="v1", plural="resourcequotas")
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps")
DEPLOYMENTS = Resource(group="apps", version="v1", plural="deployments")
REPLICA_SETS = Resource(group="apps", version="v1", plural="replicasets")
LEADER_WORKER_SETS = Resource(group="leaderworkerset.x-k8s.io", version="v1", plural="leaderworkersets")
AUTOSCALERS = Resource(group="autoscaling", version="v2", plural="horizontalpodautoscalers")
SCALED_OBJECTS = Resource(group="keda.sh", version="v1alpha1", plural="scaledobjects")
VARIANT_AUTOSCALINGS = Resource(group="llmd.ai", version="v1alpha1", plural="variantautoscalings")
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases")
EVENTS = Resource(group="events.k8s.io", version="v1", plural="events")
ACCESS_REVIEWS = Resource(group="authorization.k8s.io", version="v1", plural="subjectaccessreviews")

OPTIONAL = frozenset({LEADER_WORKER_SETS, SCALED_OBJECTS, VARIANT_AUTOSCALINGS})
"""Collections that a cluster need not have."""


class KubeApi:
    """Calls one API server; every call has a deadline and is made once, so that callers decide what is safe to repeat.

    Args:
        configuration: where the API server is, and how to authenticate.
        timeout_s: deadline of a call that is no watch.
    """

    def __init__(self, configuration: client.Configuration, *, timeout_s: float = 5.0) -> None:
        configuration.retries = False  # a repeated PUT could land after the lease has passed on
        configuration.connection_pool_maxsize = 16
        self._client = client.ApiClient(configuration)
        self._timeout_s = timeout_s
        self.where = f"Kubernetes {configuration.host}"

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Object:
        """The object or list at ``path``.

        Raises: KubeError.
        """
        return self._json(self._call("GET", path, query=query), path)

    def create(self, path: str, body: Object) -> Object:
        """Create ``body`` in the collection at ``path``.

        Raises: KubeError; a conflict when it exists.
        """
        return self._json(self._call("POST", path, body=body), path)

    def replace(self, path: str, body: Object) -> Object:
        """Replace the object at ``path``; its ``metadata.resourceVersion`` must still be current.

        Raises: KubeError; a conflict when it was changed meanwhile.
        """
        return self._json(self._call("PUT", path, body=body), path)

    def merge(self, path: str, body: Object) -> Object:
        """Merge ``body`` into the object at ``path``; with ``metadata.resourceVersion`` only if it is still current.

        Raises: KubeError.
        """
        return self._json(self._call("PATCH", path, body=body, content_type=MERGE_PATCH), path)

    def watch(self, path: str, query: Mapping[str, str], *, silence_s: float) -> Iterator[Object]:
        """Open a watch; its events until the server ends it.

        Raises: KubeError when the watch cannot be opened, breaks, or says nothing for ``silence_s``.
        """
        response = self._call("GET", path, query={**query, "watch": "true"}, timeout_s=(self._timeout_s, silence_s))
        return self._events(response.response, path)

    def _events(self, raw: urllib3.HTTPResponse, path: str) -> Iterator[Object]:
        try:
            yield from (self._event(line, path) for line in _lines(raw) if line.strip())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unanswered("GET", path, error) from error
        finally:
            raw.close()
            raw.release_conn()

    def close(self) -> None:
        """Close the connections that idle."""
        self._client.close()

    def _event(self, line: bytes, path: str) -> Object:
        try:
            event: Object = json.loads(line)
        except ValueError as error:
            raise KubeError("a watch event is no JSON", where=f"{self.where} {path}") from error
        return event

    def _call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Object | None = None,
        content_type: str = "application/json", timeout_s: float | tuple[float, float] | None = None,
    ) -> RESTResponse:  # fmt: skip
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            request = self._client.param_serialize(
                method, path, query_params=list((query or {}).items()), header_params=headers, body=body,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            response = self._client.call_api(*request, _request_timeout=timeout_s or self._timeout_s)
            if 200 <= response.status <= 299:
                return response
            raise self._refused(method, path, response)
        except (urllib3.exceptions.HTTPError, OSError, client.ApiException) as error:
            raise self._unanswered(method, path, error) from error

    def _json(self, response: RESTResponse, path: str) -> Object:
        try:
            document = json.loads(response.read())
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._unanswered("read", path, error) from error
        if not isinstance(document, dict):
            raise KubeError("the answer is no object", where=f"{self.where} {path}")
        return document

    def _refused(self, method: str, path: str, response: RESTResponse) -> KubeError:
        text = response.read() or b""
        try:
            said = json.loads(text)
            message, reason = str(said.get("message", "")), str(said.get("reason", ""))
        except (ValueError, AttributeError):
            message, reason = text[:200].decode("utf-8", "replace"), ""
        return KubeError(f"{method} {path} answered {response.status} {reason}: {message}".strip(" :"),
                         where=self.where, status=response.status, reason=reason,
                         next_step=_next_step(response.status))  # fmt: skip

    def _unanswered(self, method: str, path: str, error: BaseException) -> KubeError:
        return KubeError(f"{method} {path} failed: {type(error).__name__}", where=self.where,
                         next_step="Check that the API server can be reached.")  # fmt: skip


def error_in(event: Object, where: str) -> KubeError:
    """The error that an ERROR event of a watch carries."""
    status = event.get("object") or {}
    return KubeError(f"the watch ended: {status.get('message', 'no reason given')}", where=where,
                     status=int(status.get("code") or 0), reason=str(status.get("reason", "")))  # fmt: skip


def connect(*, kubeconfig: str = "", context: str = "", timeout_s: float = 5.0) -> KubeApi:
    """The API server of a kubeconfig, or of the pod that this runs in when there is none.

    Raises: ConfigError when neither is usable.
    """
    configuration = client.Configuration()
    try:
        if kubeconfig or context or not _in_cluster():
            config.load_kube_config(config_file=kubeconfig or None, context=context or None,
                                    client_configuration=configuration)  # fmt: skip
        else:
            config.load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError, UnicodeDecodeError, YAMLError, AttributeError, TypeError) as error:
        # the client library takes a document of another shape apart before it looks at it
        cause = str(error) if isinstance(error, ConfigException | OSError) else "is no kubeconfig"
        raise ConfigError(f"no cluster: {cause}", where=kubeconfig or "kubeconfig",
                          next_step="Give --kubeconfig FILE, or set KUBECONFIG.") from None  # fmt: skip
    return KubeApi(configuration, timeout_s=timeout_s)


def _in_cluster() -> bool:
    try:
        config.load_incluster_config(client_configuration=client.Configuration())
    except ConfigException:
        return False
    return True


def _next_step(status: int) -> str:
    if status in (401, 403):
        return "Check the service account and its roles (deploy/examples/rbac.yaml)."
    return ""


def _lines(raw: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in raw.stream(amt=None, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest
