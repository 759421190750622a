"""Leader election by a Lease: at most one writer, whatever the clocks say.

A lease counts as held for its duration after *this* process saw it change; the times inside it are for people. Its
holder leads for less than that after it began the last renewal that succeeded, so that a write which starts while it
leads ends, by the deadline of each call, before anyone else may take over.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from fleet.errors import ConfigError
from fleet.kube.api import LEASES, KubeApi, KubeError, Object

log = logging.getLogger(__name__)

DURATION_S, LEAD_S, RETRY_S = 15.0, 10.0, 2.0


def micro_time(at_s: float) -> str:
    """Kubernetes' MicroTime: always six digits of a second.

    >>> micro_time(0.0)
    '1970-01-01T00:00:00.000000Z'
    """
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Elector:
    """Tries to hold one lease, and says whether it does.

    Args:
        api: the cluster; its deadline for a call must fit between ``lead_s`` and ``duration_s``.
        namespace: of the lease.
        name: of the lease.
        identity: of this process; no other may have it.
        duration_s: how long a lease that nobody renews is respected; whole seconds.
        lead_s: how long this process leads after a renewal.
        retry_s: between two tries.
        steady: seconds that never jump.
        clock: Unix time in seconds, for the times in the lease.
    """

    def __init__(
        self, api: KubeApi, *, namespace: str, name: str, identity: str, duration_s: float = DURATION_S,
        lead_s: float = LEAD_S, retry_s: float = RETRY_S, steady: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        if not duration_s > lead_s > 1.2 * retry_s > 0:
            raise ConfigError(f"{duration_s:g} / {lead_s:g} / {retry_s:g} s", where="leader election",
                              limit="duration > lead > 1.2 x retry")  # fmt: skip
        self._api, self.identity = api, identity
        self._collection, self._path = LEASES.path(namespace), LEASES.path(namespace, name)
        self._name, self._namespace = name, namespace
        self._duration_s, self._lead_s, self._retry_s = duration_s, lead_s, retry_s
        self._steady, self._clock = steady, clock
        self._renewed_at: float | None = None
        self._seen: tuple[object, ...] = ()
        self._seen_at = 0.0
        self._leading = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leader election", daemon=True)

    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._renewed_at is not None and self._steady() < self._renewed_at + self._lead_s

    def start(self) -> None:
        """Try from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop trying, and give the lease back at once where it is held; nothing may be written afterwards."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * self._retry_s)
        try:
            self.release()
        except KubeError as error:
            log.warning("lease: not released, it runs out by itself: %s", error)

    def step(self) -> bool:
        """One try to get or keep the lease; whether this process leads after it."""
        began = self._steady()
        try:
            if self._hold():
                self._renewed_at = began
        except KubeError as error:
            if not error.conflict:
                log.warning("lease: %s", error)
        self._say()
        return self.leads()

    def release(self) -> None:
        """Give the lease back.

        Raises: KubeError; the lease then runs out by itself.
        """
        if self._renewed_at is None:
            return
        self._renewed_at = None
        lease = self._api.get(self._path)
        if (lease.get("spec") or {}).get("holderIdentity") == self.identity:
            now = micro_time(self._clock())
            lease["spec"].update(holderIdentity="", leaseDurationSeconds=1, renewTime=now, acquireTime=now)
            self._api.replace(self._path, lease)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.step()
            self._stopped.wait(self._retry_s * random.uniform(1.0, 1.2))

    def _hold(self) -> bool:
        """Whether the lease is ours after this.

        Raises: KubeError; a conflict when another process was faster.
        """
        try:
            lease = self._api.get(self._path)
        except KubeError as error:
            if error.status != 404:
                raise
            self._api.create(self._collection, self._first())
            return True
        spec = lease.get("spec") or {}
        if self._is_held_by_another(spec):
            self._renewed_at = None
            return False
        lease["spec"] = self._taken(spec)
        self._api.replace(self._path, lease)
        return True

    def _is_held_by_another(self, spec: Object) -> bool:
        record = tuple(spec.get(key) for key in ("holderIdentity", "renewTime", "acquireTime", "leaseTransitions"))
        if record != self._seen:
            self._seen, self._seen_at = record, self._steady()
        holder = spec.get("holderIdentity")
        lasts_s = float(spec.get("leaseDurationSeconds") or self._duration_s)
        return bool(holder) and holder != self.identity and self._steady() < self._seen_at + lasts_s

    def _taken(self, spec: Object) -> Object:
        now = micro_time(self._clock())
        ours = spec.get("holderIdentity") == self.identity
        transitions = int(spec.get("leaseTransitions") or 0) + (0 if ours else 1)
        return {
            **spec, "holderIdentity": self.identity, "leaseDurationSeconds": int(self._duration_s), "renewTime": now,
            "acquireTime": spec.get("acquireTime") or now if ours else now, "leaseTransitions": transitions,
        }  # fmt: skip

    def _first(self) -> Object:
        meta = {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": self._taken({})}

    def _say(self) -> None:
        if self.leads() != self._leading:
            self._leading = not self._leading
            log.info("lease: %s %s", self.identity, "leads" if self._leading else "does not lead")
