"""The KV-cache index's own metrics, under the names of :mod:`fleet.signals`."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet import signals as s
from fleet.signals import Kind, Signal
from router.kvevents.subscriber import Subscriber
from router.kvevents.tokens import Tokens
from router.kvevents.window import Told


class IndexCollector(Collector):
    """Gives index, subscriber and token counts to a registry."""

    def __init__(self, subscriber: Subscriber, tokens: Tokens | None = None, told: Told | None = None) -> None:
        self._subscriber, self._tokens, self._told = subscriber, tokens, told

    def collect(self) -> Iterable[Metric]:
        """All families."""
        index, heard = self._subscriber.index, self._subscriber.heard
        counts = index.counts
        plain: tuple[tuple[Signal, float], ...] = (
            (s.KV_INDEX_BLOCKS, len(index)), (s.KV_INDEX_BYTES, index.nbytes), (s.KV_INDEX_STORED, counts.stored),
            (s.KV_INDEX_REMOVED, counts.removed), (s.KV_INDEX_LOOKUPS, counts.lookups), (s.KV_INDEX_HITS, counts.hits),
            (s.KV_EVENTS, heard.events), (s.KV_EVENT_GAPS, heard.gaps), (s.KV_EVENTS_LOST, heard.lost),
            (s.KV_EVENT_LAG, heard.lag_s),
        )  # fmt: skip
        for signal, value in plain:
            yield _family(signal, [((), value)])
        yield _family(s.KV_INDEX_LEFT_OUT, [(("unresolved",), counts.unresolved), (("full",), counts.refused)])
        if (told := self._told) is not None:
            yield _family(s.KV_BACKEND_UP, [((), told.up)])
            yield _family(s.KV_BACKEND_ERRORS, [((), told.errors)])
            blocks = (("written", told.rows), ("loaded", told.loaded), ("unconfirmed", told.refused))
            yield _family(s.KV_BACKEND_BLOCKS, [((what,), count) for what, count in blocks])
        if self._tokens is not None:
            yield _family(s.KV_PROMPTS, [((origin.value,), n) for origin, n in self._tokens.counts.items()])


def _family(signal: Signal, rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    kind = CounterMetricFamily if signal.kind is Kind.COUNTER else GaugeMetricFamily
    name = signal.name.removesuffix("_total")
    family = kind(name, signal.meaning, labels=signal.labels)
    for labels, value in rows:
        family.add_metric(labels, value)
    return family
