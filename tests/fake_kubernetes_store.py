"""What the fake API server remembers and refuses: objects, resource versions, a watch log, validation."""

from __future__ import annotations

import copy
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import jsonschema

from wva.kube.crd import crd

Object = dict[str, Any]
MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
QUALIFIED = re.compile(r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")


class Refused(Exception):  # noqa: N818  # an answer, not a defect
    """An answer with a Status body."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(message)

    def status(self) -> Object:
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": self.reason,
                "code": self.code, "message": str(self)}  # fmt: skip


def need(body: Object, *paths: str) -> None:
    """Refuse with 422 unless every dotted path holds something."""
    for path in paths:
        value: Any = body
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None or value == "":
            raise Refused(422, "Invalid", f"{path}: Required value")


def micro_times(body: Object, *paths: str) -> None:
    for path in paths:
        value: Any = body
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and not MICRO_TIME.match(str(value)):
            raise Refused(400, "BadRequest", f"{path}: parsing time {value!r}: six digits of a second are required")


def check_lease(body: Object) -> None:
    micro_times(body, "spec.acquireTime", "spec.renewTime")
    spec = body.get("spec") or {}
    if (spec.get("leaseDurationSeconds") or 1) <= 0:
        raise Refused(422, "Invalid", "spec.leaseDurationSeconds: must be greater than 0")
    if (spec.get("leaseTransitions") or 0) < 0:
        raise Refused(422, "Invalid", "spec.leaseTransitions: must be greater than or equal to 0")


def check_event(body: Object) -> None:
    micro_times(body, "eventTime", "series.lastObservedTime")
    need(body, "eventTime", "reportingController", "reportingInstance", "action", "reason", "type", "regarding.kind")
    if not QUALIFIED.match(body["reportingController"]):
        raise Refused(422, "Invalid", "reportingController: must be a qualified name")
    limits = {"reportingInstance": 128, "action": 128, "reason": 128, "note": 1024}
    for name, limit in limits.items():
        if len(body.get(name) or "") > limit:
            raise Refused(422, "Invalid", f"{name}: can have at most {limit} characters")
    if body["type"] not in ("Normal", "Warning"):
        raise Refused(422, "Invalid", "type: has invalid value")
    if body["regarding"].get("namespace") != body["metadata"].get("namespace"):
        raise Refused(422, "Invalid", "regarding.namespace: does not match event.namespace")


def check_pod(body: Object) -> None:
    need(body, "spec.containers")
    for container in body["spec"]["containers"]:
        need(container, "name")


def check_workload(body: Object) -> None:
    need(body, "spec.selector.matchLabels", "spec.template")
    labels = (body["spec"]["template"].get("metadata") or {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in body["spec"]["selector"]["matchLabels"].items()):
        raise Refused(422, "Invalid", "spec.template.metadata.labels: `selector` does not match template `labels`")
    check_pod(body["spec"]["template"])


def check_autoscaler(body: Object) -> None:
    need(body, "spec.scaleTargetRef.kind", "spec.scaleTargetRef.name", "spec.maxReplicas")


def check_variant(body: Object) -> None:
    """The CRD's own schema, and its two rules."""
    version = crd()["spec"]["versions"][0]
    for part in ("spec", "status"):
        if part in body:
            schema = version["schema"]["openAPIV3Schema"]["properties"][part]
            prune(body[part], schema)
            try:
                jsonschema.validate(body[part], schema)
            except jsonschema.ValidationError as error:
                raise Refused(422, "Invalid", f"{part}.{error.json_path}: {error.message}") from None
    need(body, "spec")
    spec = body["spec"]
    if spec["minReplicas"] > spec["maxReplicas"] or spec["scaleDownThreshold"] >= spec["saturationThreshold"]:
        raise Refused(422, "Invalid", "spec: a validation rule failed")


def check_slice(body: Object) -> None:
    need(body, "addressType", "endpoints")
    for endpoint in body["endpoints"]:
        need(endpoint, "addresses")


def check_pool(body: Object) -> None:
    need(body, "spec.selector.matchLabels", "spec.targetPorts", "spec.endpointPickerRef.name")
    for port in body["spec"]["targetPorts"]:
        need(port, "number")


def prune(value: Any, schema: Mapping[str, Any]) -> None:
    """Drop unknown fields and fill in defaults, as an API server does."""
    if schema["type"] == "object" and isinstance(value, dict):
        for name in [name for name in value if name not in schema.get("properties", {})]:
            del value[name]
        for name, child in schema.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = copy.deepcopy(child["default"])
            if name in value:
                prune(value[name], child)
    if schema["type"] == "array" and isinstance(value, list):
        for item in value:
            prune(item, schema["items"])


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A collection that the fake serves."""

    group: str
    version: str
    plural: str
    kind: str
    check: Callable[[Object], None] = lambda _: None
    status: bool = False
    scale: bool = False
    custom: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


LWS = "leaderworkerset.x-k8s.io"
KINDS = (
    Kind(group="", version="v1", plural="pods", kind="Pod", check=check_pod, status=True),
    Kind(group="", version="v1", plural="configmaps", kind="ConfigMap"),
    Kind(group="", version="v1", plural="nodes", kind="Node", status=True),
    Kind(group="", version="v1", plural="resourcequotas", kind="ResourceQuota", status=True),
    Kind(group="apps", version="v1", plural="deployments", kind="Deployment", check=check_workload, status=True,
         scale=True),
    Kind(group="apps", version="v1", plural="replicasets", kind="ReplicaSet", check=check_workload, status=True),
    Kind(group=LWS, version="v1", plural="leaderworkersets", kind="LeaderWorkerSet", status=True, scale=True,
         custom=True),
    Kind(group="autoscaling", version="v2", plural="horizontalpodautoscalers", kind="HorizontalPodAutoscaler",
         check=check_autoscaler, status=True),
    Kind(group="keda.sh", version="v1alpha1", plural="scaledobjects", kind="ScaledObject", status=True, custom=True),
    Kind(group="llmd.ai", version="v1alpha1", plural="variantautoscalings", kind="VariantAutoscaling",
         check=check_variant, status=True, custom=True),
    Kind(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease", check=check_lease),
    Kind(group="events.k8s.io", version="v1", plural="events", kind="Event", check=check_event),
    Kind(group="discovery.k8s.io", version="v1", plural="endpointslices", kind="EndpointSlice", check=check_slice),
    Kind(group="inference.networking.k8s.io", version="v1", plural="inferencepools", kind="InferencePool",
         check=check_pool, status=True, custom=True),
)  # fmt: skip


@dataclass(kw_only=True)
class Change:
    """One line of a watch."""

    version: int
    type: str
    object: Object


@dataclass
class Store:
    """All objects of the fake cluster; every method holds the lock."""

    lock: threading.Condition = field(default_factory=threading.Condition)
    version: int = 100
    compacted: int = 0
    objects: dict[tuple[str, str], dict[tuple[str, str], Object]] = field(default_factory=dict)
    log: dict[tuple[str, str], list[Change]] = field(default_factory=dict)

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        with self.lock:
            return copy.deepcopy(self._find(kind, namespace, name))

    def list(self, kind: Kind, namespace: str) -> tuple[list[Object], int]:
        with self.lock:
            items = self._all(kind)
            chosen = [items[key] for key in sorted(items) if not namespace or key[0] == namespace]
            return copy.deepcopy(chosen), self.version

    def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        body = copy.deepcopy(body)
        self._typed(kind, body)
        meta = body.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        if not meta.get("name"):
            raise Refused(422, "Invalid", "metadata.name: Required value: name or generateName is required")
        if meta.setdefault("namespace", namespace) != namespace:
            raise Refused(400, "BadRequest", "the namespace of the object does not match the namespace of the request")
        if meta.get("resourceVersion"):
            raise Refused(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if kind.status and kind.custom:
            body.pop("status", None)
        kind.check(body)
        with self.lock:
            if (namespace, meta["name"]) in self._all(kind):
                raise Refused(409, "AlreadyExists", f'{kind.plural}.{kind.group} "{meta["name"]}" already exists')
            meta.update(uid=meta.get("uid") or str(uuid.uuid4()), generation=1, creationTimestamp=now())
            return self._put(kind, body, "ADDED")

    def update(self, kind: Kind, namespace: str, name: str, body: Object, *, part: str = "", patch: bool = False,
               unconditional: bool = False) -> Object:  # fmt: skip
        """Replace an object, or its status; ``patch``: ``body`` was merged into the present object already."""
        with self.lock:
            old = self._find(kind, namespace, name)
            body = copy.deepcopy(body)
            self._typed(kind, body)
            wanted = body["metadata"].get("resourceVersion")
            if not wanted and kind.custom and not patch and not unconditional:
                raise Refused(422, "Invalid", "metadata.resourceVersion: must be specified for an update")
            if wanted and wanted != old["metadata"]["resourceVersion"]:
                what = f'{kind.plural}.{kind.group} "{name}"'
                raise Refused(409, "Conflict", f"Operation cannot be fulfilled on {what}: "
                              "the object has been modified; please apply your changes to the latest one")  # fmt: skip
            new = self._merged(kind, old, body, part)
            kind.check(new)
            if new == old:
                return copy.deepcopy(old)
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] = old["metadata"]["generation"] + 1
            return self._put(kind, new, "MODIFIED")

    def delete(self, kind: Kind, namespace: str, name: str) -> Object:
        with self.lock:
            gone = self._all(kind).pop((namespace, name), None) or self._find(kind, namespace, name)
            self.version += 1
            gone["metadata"]["resourceVersion"] = str(self.version)
            self._log(kind, "DELETED", gone)
            return gone

    def since(self, kind: Kind, version: int) -> list[Change]:
        with self.lock:
            if version < self.compacted:
                raise Refused(410, "Expired", f"too old resource version: {version} ({self.compacted})")
            return [change for change in self.log.get((kind.group, kind.plural), []) if change.version > version]

    def compact(self) -> None:
        """Forget the past: every older resource version is expired from now on."""
        with self.lock:
            self.version += 1
            self.compacted = self.version
            self.log.clear()
            self.lock.notify_all()

    def _all(self, kind: Kind) -> dict[tuple[str, str], Object]:
        return self.objects.setdefault((kind.group, kind.plural), {})

    def _find(self, kind: Kind, namespace: str, name: str) -> Object:
        found = self._all(kind).get((namespace, name))
        if found is None:
            dotted = f"{kind.plural}.{kind.group}".rstrip(".")
            raise Refused(404, "NotFound", f'{dotted} "{name}" not found')
        return found

    def _typed(self, kind: Kind, body: Object) -> None:
        named = (body.setdefault("apiVersion", kind.api_version), body.setdefault("kind", kind.kind))
        if named != (kind.api_version, kind.kind):
            raise Refused(400, "BadRequest", f"the object is a {named}, the path is of {kind.api_version} {kind.kind}")

    def _merged(self, kind: Kind, old: Object, body: Object, part: str) -> Object:
        kept = {"uid", "creationTimestamp", "generation", "name", "namespace"}
        if part == "status":
            return {**copy.deepcopy(old), "status": body.get("status", {})}
        body["metadata"].update({key: old["metadata"][key] for key in kept})
        body["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if kind.status:
            body.pop("status", None)
            if "status" in old:
                body["status"] = copy.deepcopy(old["status"])
        return body

    def _put(self, kind: Kind, body: Object, change: str) -> Object:
        self.version += 1
        meta = body["metadata"]
        meta["resourceVersion"] = str(self.version)
        self._all(kind)[(meta["namespace"], meta["name"])] = body
        self._log(kind, change, body)
        return copy.deepcopy(body)

    def _log(self, kind: Kind, change: str, body: Object) -> None:
        entry = Change(version=self.version, type=change, object=copy.deepcopy(body))
        self.log.setdefault((kind.group, kind.plural), []).append(entry)
        self.lock.notify_all()


def now() -> str:
    """metav1.Time, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
