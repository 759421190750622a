"""From scraped pages to the store, with what a scrape adds: target labels, ``up``, staleness. Reads nothing itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from alerts.store import Labels, SeriesStore, labels_of
from fleet import signals as s
from fleet.sources.exposition import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A metrics page to scrape; ``labels`` are added where the page does not set them itself."""

    job: str
    url: str
    """Base URL; the page is at ``/metrics``."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def instance(self) -> str:
        """``host:port``, as Prometheus names it."""
        return self.url.split("://", 1)[-1].split("/", 1)[0]

    @property
    def own_labels(self) -> dict[str, str]:
        """Labels of every series of this target."""
        return {"job": self.job, "instance": self.instance, **self.labels}


Key = tuple[str, Labels]


class Ingest:
    """Feeds one store; a series that a page no longer has, or whose target is gone, ends."""

    def __init__(self, store: SeriesStore) -> None:
        self._store = store
        self._last: dict[str, set[Key]] = {}
        self._up: dict[str, Labels] = {}

    def scraped(self, target: Target, points: Iterable[Point] | None, at_s: float) -> None:
        """Take one scrape; ``None``: the target did not answer."""
        own = target.own_labels
        present: set[Key] = set()
        for point in points or ():
            key = (point.name, labels_of(own | {k: v for k, v in point.labels.items() if v}))
            if key not in present:
                present.add(key)
                self._store.append(*key, at_s, point.value)
        self._end(self._last.get(target.url, set()) - present, at_s)
        self._last[target.url] = present
        self._up[target.url] = labels_of(own)
        self._store.append(s.UP.name, labels_of(own), at_s, 0.0 if points is None else 1.0)

    def forget_all_but(self, urls: Collection[str], at_s: float) -> None:
        """Targets that are no longer discovered: all their series end, ``up`` too."""
        for url in set(self._last) - set(urls):
            self._end(self._last.pop(url), at_s)
            self._store.end(s.UP.name, self._up.pop(url), at_s)

    def _end(self, keys: Iterable[Key], at_s: float) -> None:
        for name, labels in keys:
            self._store.end(name, labels, at_s)
