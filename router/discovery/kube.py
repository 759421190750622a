"""Engines of a Kubernetes Service (EndpointSlices) or of an InferencePool (its pods), followed by list and watch.

Needs the ``kube`` extra, and the rights to get the pool and to list and watch pods, or endpoint slices.
"""

from __future__ import annotations

import asyncio
import time

from fleet.kube.api import PODS, KubeApi, Resource
from fleet.kube.reflector import Reflector
from fleet.types import Variant
from router.discovery.listed import grouped
from router.discovery.pods import from_pods, from_slices, pool_of, slim_pod

SLICES = Resource(group="discovery.k8s.io", version="v1", plural="endpointslices")
POOLS = Resource(group="inference.networking.k8s.io", version="v1", plural="inferencepools")
FIRST_S = 5.0
"""At the start the first list is waited for so long."""


class ServiceSource:
    """The endpoints of a Service.

    Args:
        api: the cluster.
        namespace, service: which Service.
        port: name or number of its port; empty: the first.
    """

    def __init__(self, api: KubeApi, *, namespace: str, service: str, port: str = "") -> None:
        self.name = f"service {namespace}/{service}"
        self._service, self._port = service, port
        self._slices = Reflector(api, SLICES, namespace=namespace)
        self._slices.start()
        self._until_s = time.monotonic() + FIRST_S

    async def variants(self) -> tuple[Variant, ...]:
        """See :class:`router.discovery.follow.Source`."""
        await _first(self._slices, self._until_s)
        return grouped(from_slices(self._slices.items(), self._service, self._port))

    async def close(self) -> None:
        """See :class:`router.discovery.follow.Source`."""
        self._slices.stop()


class PoolSource:
    """The pods of an InferencePool.

    Args:
        api: the cluster.
        namespace, pool: which pool.
    """

    def __init__(self, api: KubeApi, *, namespace: str, pool: str) -> None:
        self.name = f"inference pool {namespace}/{pool}"
        self._pool, self._where = (namespace, pool), f"InferencePool {namespace}/{pool}"
        self._pools = Reflector(api, POOLS, namespace=namespace)
        self._pods = Reflector(api, PODS, namespace=namespace, slim=slim_pod)
        for reflector in (self._pools, self._pods):
            reflector.start()
        self._until_s = time.monotonic() + FIRST_S

    async def variants(self) -> tuple[Variant, ...]:
        """See :class:`router.discovery.follow.Source`."""
        for reflector in (self._pools, self._pods):
            await _first(reflector, self._until_s)
        pools = [each for each in self._pools.items() if each["metadata"]["name"] == self._pool[1]]
        selector, ports = pool_of(pools[0] if pools else {}, self._where)
        return grouped(from_pods(self._pods.items(), selector, ports))

    async def close(self) -> None:
        """See :class:`router.discovery.follow.Source`."""
        for reflector in (self._pools, self._pods):
            reflector.stop()


async def _first(reflector: Reflector, until_s: float) -> None:
    """Wait until the collection was read, at the start only."""
    while not reflector.followed() and time.monotonic() < until_s:  # noqa: ASYNC110 - a thread fills it
        await asyncio.sleep(0.02)
