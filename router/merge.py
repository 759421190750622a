"""The metric pages of a router's workers as one page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from fleet import signals as s

SAME: Final = frozenset(
    signal.name for signal in (s.ROUTER_READY, s.ROUTER_ENDPOINT_QUEUE, s.ROUTER_SCRAPE_AGE, s.ROUTER_SLO_TARGET)
)
"""Gauges of engines and of files, which every worker reads for itself: the largest counts. All else adds up."""

Key = tuple[str, tuple[tuple[str, str], ...]]


class _Merged(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def merge(pages: Sequence[str]) -> bytes:
    """One page of what ``pages`` say: counters and histograms add up, so do gauges but those in :data:`SAME`."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[Key, float]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            families.setdefault(family.name, family)
            found = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                before = found.get(key)
                both = sample.value if before is None else before + sample.value
                found[key] = max(sample.value, before or 0.0) if family.name in SAME else both
    registry = CollectorRegistry()
    registry.register(_Merged(_filled(families[name], found) for name, found in values.items()))
    return generate_latest(registry)


def _filled(family: Metric, values: dict[Key, float]) -> Metric:
    """The family with these samples, those of one histogram together and in order."""
    whole = Metric(family.name, family.documentation, family.type)
    whole.samples = [Sample(name, dict(labels), value) for (name, labels), value in values.items()]
    return whole
