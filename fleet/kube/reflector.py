"""Keeps a collection of the cluster in memory by list and watch, and knows when it cannot be trusted."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from fleet.errors import SourceError
from fleet.kube.api import OPTIONAL, KubeApi, KubeError, Object, Resource, error_in

log = logging.getLogger(__name__)

PAGE = "500"
WATCH_S = 30.0
"""A watch is opened anew after so long: a dead connection goes unnoticed for little more."""
RETRY_S, RETRY_MAX_S = 0.2, 5.0
ABSENT_RETRY_S = 30.0
"""A collection that is not installed is looked for again after so long."""


def whole(item: Object) -> Object:
    """Keeps everything."""
    return item


class Reflector:
    """One collection, read by a thread of its own.

    Args:
        api: the cluster.
        resource: what to read; one of ``OPTIONAL`` may be missing and counts as empty then.
        namespace: its namespace; empty: all.
        slim: what is kept of an object.
        watch_s: see ``WATCH_S``.
    """

    def __init__(
        self, api: KubeApi, resource: Resource, *, namespace: str = "", slim: Callable[[Object], Object] = whole,
        watch_s: float = WATCH_S,
    ) -> None:  # fmt: skip
        self._api, self._resource, self._slim, self._watch_s = api, resource, slim, watch_s
        self._path = resource.path(namespace)
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._items: dict[tuple[str, str], Object] = {}
        self._version = ""
        self._error: KubeError | None = None
        self._synced = False
        self._retry_s = RETRY_S
        self._thread = threading.Thread(target=self._run, name=f"watch {resource.plural}", daemon=True)

    def start(self) -> None:
        """Read from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop soon; the thread ends with its present call."""
        self._stopped.set()

    def followed(self) -> bool:
        """Whether :meth:`items` can be trusted now."""
        with self._lock:
            return self._synced and self._error is None

    def items(self) -> list[Object]:
        """The objects, now.

        Raises: SourceError when they were never read, or cannot be followed at present.
        """
        with self._lock:
            if (error := self._error) is not None:
                raise SourceError(error.what, where=error.where, next_step=error.next_step) from error
            if not self._synced:
                raise SourceError(f"{self._resource.plural} were not read yet", where=self._api.where)
            return list(self._items.values())

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._once()
                self._retry_s = RETRY_S
            except KubeError as error:
                self._stopped.wait(self._failed(error))

    def _once(self) -> None:
        """One watch to its end, after a list where there is nothing to go on from."""
        if not self._version:
            self._list()
        seconds = max(round(self._watch_s * random.uniform(0.8, 1.2)), 1)
        query = {"resourceVersion": self._version, "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        events = self._api.watch(self._path, query, silence_s=seconds + 5.0)
        with self._lock:
            self._error, self._synced = None, True
        for event in events:
            if self._stopped.is_set():
                return
            self._apply(event)

    def _list(self) -> None:
        items: dict[tuple[str, str], Object] = {}
        query = {"limit": PAGE}
        while True:
            page = self._api.get(self._path, query)
            items.update((_key(item), self._slim(item)) for item in page.get("items") or ())
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                break
            query["continue"] = meta["continue"]
        with self._lock:
            self._items, self._version = items, str(meta.get("resourceVersion") or "")

    def _apply(self, event: Object) -> None:
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            raise error_in(event, self._api.where)
        with self._lock:
            if kind in ("ADDED", "MODIFIED"):
                self._items[_key(item)] = self._slim(item)
            elif kind == "DELETED":
                self._items.pop(_key(item), None)
            self._version = str((item.get("metadata") or {}).get("resourceVersion") or self._version)

    def _failed(self, error: KubeError) -> float:
        """Remember why nothing can be trusted; seconds to wait before the next try."""
        if error.expired:
            self._version = ""
        if error.status == 404 and self._resource in OPTIONAL:
            with self._lock:
                self._items, self._version, self._error, self._synced = {}, "", None, True
            return ABSENT_RETRY_S
        with self._lock:
            self._error = error
        if error.expired:
            return RETRY_S
        self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
        return self._retry_s * random.uniform(0.5, 1.0)


def _key(item: Object) -> tuple[str, str]:
    meta = item["metadata"]
    return str(meta.get("namespace", "")), str(meta["name"])
