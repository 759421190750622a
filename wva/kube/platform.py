"""Kubernetes as a platform: variants from the cluster's objects, replicas from its pods, scaling by ``/scale``."""

from __future__ import annotations

from collections.abc import Callable

from fleet.errors import SourceError
from fleet.kube import api as k
from fleet.kube.api import KubeApi, Object, Resource
from fleet.kube.reflector import Reflector, whole
from fleet.types import GpuInventory, Variant
from wva.kube.inventory import inventory, slim_node, slim_quota
from wva.kube.objects import Miss, slim_pod, slim_replica_set
from wva.kube.world import ClusterObjects, Found, World, assemble

WORKLOADS = {"Deployment": k.DEPLOYMENTS, "LeaderWorkerSet": k.LEADER_WORKER_SETS}
TRIES = 3
"""Of a scale request that another change of the workload came before."""


class KubePlatform:
    """The variants of one cluster or namespace; see :class:`fleet.platform.Platform`.

    Args:
        api: the cluster.
        namespace: what is looked at; empty: all namespaces.
        scale_directly: whether ``scale`` writes; otherwise an HPA or KEDA acts on what is published.
        may_write: whether this process leads; asked before each write.
        gpu_limit: ``none``, ``quota`` (ResourceQuotas) or ``nodes`` (those, and the GPUs of the nodes that there are).
    """

    def __init__(
        self, api: KubeApi, *, namespace: str = "", scale_directly: bool = False,
        may_write: Callable[[], bool] = lambda: True, gpu_limit: str = "none",
    ) -> None:  # fmt: skip
        self.name, self.can_scale = api.where, scale_directly
        self._api, self._may_write = api, may_write
        self.world = World()
        """As of the last :meth:`variants`."""
        self._read = {
            name: Reflector(api, resource, namespace=namespace, slim=_SLIM.get(resource, whole))
            for name, resource in _COLLECTIONS.items()
        }
        self._limits: dict[str, Reflector] = {}
        if gpu_limit != "none":
            self._limits["quotas"] = Reflector(api, k.RESOURCE_QUOTAS, namespace=namespace, slim=slim_quota)
        if gpu_limit == "nodes":
            self._limits["nodes"] = Reflector(api, k.NODES, slim=slim_node)
        self._pods: list[Object] = []

    def start(self) -> None:
        """Begin to follow the cluster."""
        for each in self._every():
            each.start()

    def stop(self) -> None:
        """Stop following it."""
        for each in self._every():
            each.stop()

    def _every(self) -> list[Reflector]:
        return [*self._read.values(), *self._limits.values()]

    def synced(self) -> bool:
        """Whether everything can be read now."""
        return all(each.followed() for each in self._every())

    def variants(self) -> tuple[Variant, ...]:
        """See :class:`fleet.platform.Platform`.

        Raises: SourceError while any collection cannot be followed: what is not seen may still run.
        """
        objects = {name: each.items() for name, each in self._read.items()}
        self.world, self._pods = assemble(ClusterObjects(**objects)), objects["pods"]
        return tuple(each.variant for each in self.world.by_name.values() if each.variant)

    def inventory(self) -> GpuInventory | None:
        """GPUs that the variants of the last :meth:`variants` may use; ``None``: nothing limits them.

        Raises: SourceError while nodes or quotas cannot be followed.
        """
        if not self._limits:
            return None
        nodes = self._limits["nodes"].items() if "nodes" in self._limits else None
        return inventory(nodes, self._limits["quotas"].items(), self._pods, self.world.owned)

    @property
    def misses(self) -> tuple[Miss, ...]:
        """Pods that could not be mapped at the last :meth:`variants`."""
        return self.world.misses

    def scale(self, variant: str, replicas: int) -> None:
        """Ask for ``replicas``, unless the workload is not any more what was decided from.

        Raises: SourceError when another autoscaler owns the workload, when its replicas were changed since the last
            :meth:`variants`, when this process does not lead, or when the API server refuses.
        """
        found = self.world.by_name.get(variant)
        if found is None or found.variant is None:
            raise SourceError(f"{variant} is not known", where=self.name)
        self._check(found)
        for left in reversed(range(TRIES)):
            try:
                return self._ask(found, found.variant.requested, replicas)
            except k.KubeError as error:
                if not error.conflict or not left:
                    raise
        return None

    def _check(self, found: Found) -> None:
        if not self.can_scale:
            raise SourceError(f"{found.declared.name} is only recommended for", where=self.name,
                              next_step="Start wva with --scale-directly.")  # fmt: skip
        if found.scaled_by:
            raise SourceError(f"{found.declared.name} is scaled by {found.scaled_by[0]} already", where=self.name,
                              next_step="Remove it, or run wva without --scale-directly.")  # fmt: skip

    def _ask(self, found: Found, expected: int, replicas: int) -> None:
        namespace, kind, name = found.declared.target
        path = WORKLOADS[kind].path(namespace, name, "scale")
        present = self._api.get(path)
        if (asked := int((present.get("spec") or {}).get("replicas") or 0)) != expected:
            what = f"{kind} {name} was changed from {expected} to {asked} replicas by someone else"
            raise SourceError(what, where=self.name, next_step="The next pass decides anew.")
        if not self._may_write():
            raise SourceError(f"{kind} {name} not scaled: this wva does not lead any more", where=self.name)
        version = present["metadata"]["resourceVersion"]
        body: Object = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        self._api.merge(path, body)


_COLLECTIONS: dict[str, Resource] = {
    "variant_autoscalings": k.VARIANT_AUTOSCALINGS,
    "autoscalers": k.AUTOSCALERS,
    "scaled_objects": k.SCALED_OBJECTS,
    "deployments": k.DEPLOYMENTS,
    "leader_worker_sets": k.LEADER_WORKER_SETS,
    "replica_sets": k.REPLICA_SETS,
    "pods": k.PODS,
}

_SLIM = {k.PODS: slim_pod, k.REPLICA_SETS: slim_replica_set}
