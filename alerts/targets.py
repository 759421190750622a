"""Which pages to scrape: the engines of a platform or a list, our own parts, and a file of others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alerts.ingest import Target
from alerts.settings import AlertsSettings
from fleet.errors import ConfigError, SourceError
from fleet.platform import HttpPlatform, Platform, StaticPlatform
from fleet.settings import read_yaml
from fleet.types import ReplicaState, Variant

log = logging.getLogger(__name__)

_SCRAPED = frozenset({ReplicaState.READY, ReplicaState.FAILED})
"""A replica that starts has no page yet, one that stops is meant to go."""


def engine_targets(variants: Iterable[Variant]) -> list[Target]:
    """One target for each replica that should answer."""
    return [
        Target(job="vllm", url=replica.url, labels={"pod": replica.name, "namespace": variant.spec.namespace,
                                                    "variant_name": variant.spec.name})
        for variant in variants
        for replica in variant.replicas
        if replica.state in _SCRAPED
    ]  # fmt: skip


def _file_target(entry: Any, where: str) -> Target:
    labels = entry.get("labels", {}) if isinstance(entry, dict) else None
    if not isinstance(labels, dict) or not {"job", "url"} <= set(entry) or set(entry) - {"job", "url", "labels"}:
        raise ConfigError(f"{entry!r} is no target", where=where, next_step="Write {job: NAME, url: http://host:port}.")
    if not str(entry["url"]).startswith(("http://", "https://")):
        raise ConfigError(f"{entry['url']!r} is no URL", where=where, limit="http:// or https://",
                          next_step="Write the base URL, without /metrics.")  # fmt: skip
    return Target(job=str(entry["job"]), url=str(entry["url"]).rstrip("/"),
                  labels={str(name): str(value) for name, value in labels.items()})  # fmt: skip


def file_targets(path: Path) -> list[Target]:
    """Targets from a YAML list.

    Raises: ConfigError naming the entry that is none.
    """
    entries = read_yaml(path)
    if not isinstance(entries, list):
        raise ConfigError("is no list of targets", where=str(path), next_step="Write - {job: NAME, url: URL} lines.")
    return [_file_target(entry, str(path)) for entry in entries]


class Targets:
    """All pages to scrape; engines come and go with the platform.

    Raises: ConfigError where nothing at all is to be scraped, and for a part's URL that is none.
    """

    def __init__(self, settings: AlertsSettings) -> None:
        self._fixed = file_targets(settings.targets_file) if settings.targets_file else []
        for job, url in (("fleet-router", settings.router), ("wva", settings.wva), ("predictor", settings.predictor)):
            if url:
                self._fixed.append(_file_target({"job": job, "url": url}, f"--{job.removeprefix('fleet-')}"))
        self._platform = _platform(settings)
        self._engines: list[Target] = []
        self._lost = False
        if not self._fixed and self._platform is None:
            raise ConfigError("nothing to watch", where="fleet alerts watch",
                              next_step="Give --platform, --engines, --router or --targets-file.")  # fmt: skip

    async def current(self) -> list[Target]:
        """The pages to scrape now; while the platform does not answer, the engines it named last."""
        if self._platform is not None:
            try:
                variants = await asyncio.to_thread(self._platform.variants)
                self._engines, self._lost = engine_targets(variants), False
            except SourceError as error:
                if not self._lost:
                    log.warning("%s; watching the engines it named last", error)
                self._lost = True
        return [*self._engines, *self._fixed]


def _platform(settings: AlertsSettings) -> Platform | None:
    if settings.platform and settings.engines:
        raise ConfigError("both --platform and --engines are given", where="fleet alerts watch",
                          next_step="Give one: a platform lists its engines itself.")  # fmt: skip
    if settings.platform:
        return HttpPlatform(settings.platform, timeout_s=settings.scrape_timeout_s)
    return StaticPlatform(settings.engines.split(",")) if settings.engines else None
