"""Clients of the platform API (:mod:`fleet.discovery`): blocking, for the controller and the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import requests

from fleet.discovery import parse_fleet, parse_inventory, static_fleet
from fleet.errors import SourceError
from fleet.types import GpuInventory, Variant


class Platform(Protocol):
    """What runs replicas: the simulator's API, Kubernetes, or nothing but a list."""

    name: str
    can_scale: bool

    def variants(self) -> tuple[Variant, ...]:
        """Variants with their replicas, now.

        Raises: SourceError when the platform does not answer.
        """
        ...

    def scale(self, variant: str, replicas: int) -> None:
        """Ask for ``replicas`` of ``variant``.

        Raises: SourceError when the platform refuses or does not answer.
        """
        ...


class LimitedPlatform(Platform, Protocol):
    """A platform that knows of GPUs too."""

    def inventory(self) -> GpuInventory | None:
        """GPUs that variants may use, as of the last :meth:`variants`; ``None``: nothing limits them.

        Raises: SourceError when the platform does not say.
        """
        ...


class HttpPlatform:
    """The platform API over HTTP."""

    can_scale = True

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        self.name = url.rstrip("/")
        self._timeout_s = timeout_s
        self._session = requests.Session()
        self._inventory: GpuInventory | None = None

    def variants(self) -> tuple[Variant, ...]:
        """See :class:`Platform`."""
        document = self._call("GET", "/fleet")
        found = parse_fleet(document, where=self.name)
        self._inventory = parse_inventory(document, where=self.name)
        return found

    def inventory(self) -> GpuInventory | None:
        """See :class:`LimitedPlatform`."""
        return self._inventory

    def scale(self, variant: str, replicas: int) -> None:
        """See :class:`Platform`."""
        self._call("PUT", f"/variants/{variant}/scale", {"replicas": replicas})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            response = self._session.request(method, self.name + path, json=body, timeout=self._timeout_s)
            response.raise_for_status()
            return response.json()
        except (requests.RequestException, ValueError) as error:
            raise SourceError(f"{method} {path} failed: {type(error).__name__}", where=self.name,
                              next_step="Check that the platform API runs.") from error  # fmt: skip


class StaticPlatform:
    """A fixed list of engines; scaling is only recommended."""

    can_scale = False

    def __init__(self, urls: Sequence[str], *, model: str = "") -> None:
        self.name = "static list"
        self._variants = static_fleet(urls, model=model)

    def variants(self) -> tuple[Variant, ...]:
        """See :class:`Platform`."""
        return self._variants

    def inventory(self) -> GpuInventory | None:
        """None: nothing is known."""
        return None

    def scale(self, variant: str, replicas: int) -> None:
        """Refuses: there is nothing to scale."""
        raise SourceError(
            f"{variant} cannot be scaled", where=self.name, next_step="Scale it by hand; this is a recommendation."
        )
