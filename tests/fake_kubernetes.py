"""A Kubernetes API server over real HTTP, as strict as a real one where a controller could get it wrong.

Run it beside a controller: ``python -m tests.fake_kubernetes 8001`` and ``kubectl --server http://127.0.0.1:8001``.
"""

from __future__ import annotations

import copy
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fake_kubernetes_store import KINDS, LWS, Kind, Object, Refused, Store

PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json")


@dataclass(kw_only=True)
class Fault:
    """Answers that go wrong: ``count`` of them, or all until it is removed when ``count`` is negative."""

    status: int = 500
    count: int = -1
    matches: Callable[[str, str], bool] = lambda _method, _path: True
    delay_s: float = 0.0
    after: bool = False
    """The request takes effect, and only its answer is lost."""


@dataclass
class FakeKubernetes:
    """The cluster: its store, its faults, and everything that was asked."""

    store: Store = field(default_factory=Store)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)
    """Plurals of collections that are not installed."""
    allow: Callable[[Object], bool] = lambda _spec: True
    """Answers SubjectAccessReviews."""
    mute: bool = False
    """Watches stay open and say nothing."""
    watches: int = 0
    """Watches ended when this changes."""
    url: str = ""

    def kind(self, plural: str) -> Kind:
        return next(each for each in KINDS if each.plural == plural)

    def add(self, plural: str, body: Object, namespace: str = "default") -> Object:
        """Create an object, with its status where it has one."""
        kind = self.kind(plural)
        made = self.store.create(kind, namespace, body)
        if "status" in body and kind.custom:
            made["status"] = copy.deepcopy(body["status"])
            made = self.store.update(kind, namespace, made["metadata"]["name"], made, part="status")
        return made

    def get(self, plural: str, name: str, namespace: str = "default") -> Object:
        return self.store.get(self.kind(plural), namespace, name)

    def all(self, plural: str) -> list[Object]:
        return self.store.list(self.kind(plural), "")[0]

    def change(self, plural: str, name: str, namespace: str = "default", *, part: str = "", **top: Any) -> Object:
        """Merge ``top`` into an object."""
        kind = self.kind(plural)
        body = merged(self.store.get(kind, namespace, name), top)
        return self.store.update(kind, namespace, name, body, part=part, unconditional=True)

    def remove(self, plural: str, name: str, namespace: str = "default") -> None:
        self.store.delete(self.kind(plural), namespace, name)

    def drop_watches(self) -> None:
        """Cut every open watch in the middle."""
        with self.store.lock:
            self.watches += 1
            self.store.lock.notify_all()

    def count(self, method: str, ending: str) -> int:
        return sum(verb == method and urlsplit(path).path.endswith(ending) for verb, path in list(self.requests))

    def fault_for(self, method: str, path: str) -> Fault | None:
        for fault in list(self.faults):
            if fault.count and fault.matches(method, path):
                fault.count -= 1
                return fault
        return None


def merged(into: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(into) if isinstance(into, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def matches(selector: str, labels: dict[str, str]) -> bool:
    """Equality terms only; the fake's callers use no others."""
    return all(labels.get(key) == value for key, value in (term.split("=", 1) for term in selector.split(",") if term))


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a path names."""

    kind: Kind
    namespace: str
    name: str
    part: str


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    fake: FakeKubernetes

    def do_GET(self) -> None:
        self._answer(lambda address, query, _: self._get(address, query))

    def do_POST(self) -> None:
        self._answer(lambda address, _, body: (201, self.fake.store.create(address.kind, address.namespace, body)))

    def do_PUT(self) -> None:
        self._answer(lambda address, _, body: (200, self._write(address, body)))

    def do_PATCH(self) -> None:
        self._answer(lambda address, _, body: (200, self._patch(address, body)))

    def do_DELETE(self) -> None:
        self._answer(lambda a, *_: (200, self.fake.store.delete(a.kind, a.namespace, a.name)))

    def _answer(self, act: Callable[[Address, dict[str, str], Object], tuple[int, Object] | None]) -> None:
        fault = self.fake.fault_for(self.command, self.path)
        self.fake.requests.append((self.command, self.path))
        body = self._body()
        if fault:
            time.sleep(fault.delay_s)
            if not fault.after and fault.status:
                return self._fail(fault.status)
        try:
            url = urlsplit(self.path)
            query = {key: values[-1] for key, values in parse_qs(url.query).items()}
            done = self._review(body) if url.path.endswith("/subjectaccessreviews") else None
            done = done or act(self._address(url.path), query, body)
        except Refused as error:
            done = (error.code, error.status())
        if fault and fault.after:
            return self._fail(fault.status)
        if done:
            self._send(*done)
        return None

    def _fail(self, status: int) -> None:
        refused = Refused(status, {429: "TooManyRequests", 410: "Expired"}.get(status, "InternalError"), "injected")
        self._send(status, refused.status())

    def _body(self) -> Object:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        return dict(json.loads(raw)) if raw else {}

    def _review(self, body: Object) -> tuple[int, Object]:
        return 201, {**body, "status": {"allowed": self.fake.allow(body["spec"])}}

    def _address(self, path: str) -> Address:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        head, rest = (("", *parts[1:2]), parts[2:]) if parts[0] == "api" else (tuple(parts[1:3]), parts[3:])
        namespace = rest[1] if rest[:1] == ["namespaces"] and len(rest) > 2 else ""
        rest = rest[2:] if namespace else rest
        kind = next((k for k in KINDS if (k.group, k.version) == head and rest[:1] == [k.plural]), None)
        part = rest[2] if len(rest) > 2 else ""
        if kind is None or kind.plural in self.fake.absent or (part and not getattr(kind, part, False)):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return Address(kind=kind, namespace=namespace, name=rest[1] if len(rest) > 1 else "", part=part)

    def _get(self, at: Address, query: dict[str, str]) -> tuple[int, Object] | None:
        if at.part == "scale":
            return 200, self._scale(at)
        if at.name:
            return 200, self.fake.store.get(at.kind, at.namespace, at.name)
        if query.get("watch") == "true":
            self._watch(at, query)
            return None
        items, version = self.fake.store.list(at.kind, at.namespace)
        items = [
            each for each in items if matches(query.get("labelSelector", ""), each["metadata"].get("labels") or {})
        ]
        start, limit = int(query.get("continue", 0)), int(query.get("limit", 0)) or len(items)
        meta: Object = {"resourceVersion": str(version)}
        if start + limit < len(items):
            meta["continue"] = str(start + limit)
        page = items[start : start + limit]
        for each in page:  # a real list leaves both out of its items
            each.pop("kind"), each.pop("apiVersion")
        return 200, {"kind": f"{at.kind.kind}List", "apiVersion": at.kind.api_version, "metadata": meta, "items": page}

    def _write(self, at: Address, body: Object, *, patch: bool = False) -> Object:
        if self.headers.get("content-type", "application/json") != "application/json" and not patch:
            raise Refused(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
        if (body.get("metadata") or {}).get("name", at.name) != at.name:
            raise Refused(400, "BadRequest", "the name of the object does not match the name on the URL")
        if at.part == "scale":
            return self._rescale(at, body)
        return self.fake.store.update(at.kind, at.namespace, at.name, body, part=at.part, patch=patch)

    def _patch(self, at: Address, body: Object) -> Object:
        wanted = self.headers.get("content-type", "")
        if wanted not in PATCHES or (at.kind.custom and "strategic" in wanted):
            raise Refused(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {wanted}")
        present = self._scale(at) if at.part == "scale" else self.fake.store.get(at.kind, at.namespace, at.name)
        if "resourceVersion" not in body.get("metadata", {}):
            present["metadata"].pop("resourceVersion")
        return self._write(at, merged(present, body), patch=True)

    def _scale(self, at: Address) -> Object:
        whole = self.fake.store.get(at.kind, at.namespace, at.name)
        keys = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        replicas = whole["spec"].get("replicas", 1)
        labels = {f"{LWS.replace('x-k8s', 'sigs.k8s')}/name": at.name} if at.kind.custom else {}
        labels = labels or whole["spec"]["selector"]["matchLabels"]
        return {
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {key: whole["metadata"][key] for key in keys},
            "spec": {"replicas": replicas} if replicas else {},
            "status": {"replicas": whole.get("status", {}).get("replicas", 0),
                       "selector": ",".join(f"{key}={value}" for key, value in labels.items())},
        }  # fmt: skip

    def _rescale(self, at: Address, body: Object) -> Object:
        replicas = (body.get("spec") or {}).get("replicas", 0)
        if replicas < 0:
            raise Refused(422, "Invalid", "spec.replicas: must be greater than or equal to 0")
        with self.fake.store.lock:
            whole = self.fake.store.get(at.kind, at.namespace, at.name)
            version = body["metadata"].get("resourceVersion") or whole["metadata"]["resourceVersion"]
            whole["metadata"]["resourceVersion"] = version
            whole["spec"]["replicas"] = replicas
            self.fake.store.update(at.kind, at.namespace, at.name, whole)
        return self._scale(at)

    def _watch(self, at: Address, query: dict[str, str]) -> None:
        version, store = int(query.get("resourceVersion") or 0), self.fake.store
        mine, ends_s = self.fake.watches, time.monotonic() + float(query.get("timeoutSeconds", 1800))
        self._start_stream()
        while time.monotonic() < ends_s and mine == self.fake.watches:
            try:
                changes = [] if self.fake.mute else store.since(at.kind, version)
            except Refused as error:
                return self._line({"type": "ERROR", "object": error.status()}, last=True)
            for change in changes:
                version = change.version
                if not at.namespace or change.object["metadata"]["namespace"] == at.namespace:
                    self._line({"type": change.type, "object": change.object})
            with store.lock:
                store.lock.wait(timeout=min(0.2, max(ends_s - time.monotonic(), 0.01)))
        if mine != self.fake.watches:
            self.close_connection = True  # in mid-stream: no last chunk
            self.connection.close()
            return None
        return self._bookmark(at, version, wanted=query.get("allowWatchBookmarks") == "true")

    def _bookmark(self, at: Address, version: int, *, wanted: bool) -> None:
        empty = {"kind": at.kind.kind, "apiVersion": at.kind.api_version,
                 "metadata": {"resourceVersion": str(max(version, self.fake.store.version))}}  # fmt: skip
        if wanted and not self.fake.mute:
            self._line({"type": "BOOKMARK", "object": empty})
        self._line(None, last=True)

    def _start_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _line(self, event: Object | None, *, last: bool = False) -> None:
        data = json.dumps(event).encode() + b"\n" if event else b""
        chunk = b"%x\r\n%s\r\n" % (len(data), data) if data else b""
        self.wfile.write(chunk + (b"0\r\n\r\n" if last else b""))
        self.wfile.flush()

    def _send(self, status: int, document: Object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    """A peer that goes away in the middle is no error of the fake."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)


@contextmanager
def serving(fake: FakeKubernetes | None = None, port: int = 0) -> Iterator[FakeKubernetes]:
    """``fake`` behind a real server."""
    fake = fake or FakeKubernetes()
    server = Server(("127.0.0.1", port), type("Bound", (Handler,), {"fake": fake}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        fake.drop_watches()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with serving(port=int(sys.argv[1]) if sys.argv[1:] else 0) as running:
        print(running.url, flush=True)  # noqa: T201  # the user asks for it
        threading.Event().wait()
