"""Clients of the platform API (:mod:`fleet.discovery`): blocking, for the controller and the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import requests

from fleet.discovery import parse_fleet, static_fleet
from fleet.errors import SourceError
from fleet.types import Variant


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


class HttpPlatform:
    """The platform API over HTTP."""

    can_scale = True

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        self.name = url.rstrip("/")
        self._timeout_s = timeout_s
        self._session = requests.Session()

    def variants(self) -> tuple[Variant, ...]:
        """See :class:`Platform`."""
        return parse_fleet(self._call("GET", "/fleet"), where=self.name)

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

    def scale(self, variant: str, replicas: int) -> None:
        """Refuses: there is nothing to scale."""
        raise SourceError(
            f"{variant} cannot be scaled", where=self.name, next_step="Scale it by hand; this is a recommendation."
        )
