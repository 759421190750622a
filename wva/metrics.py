"""The ``wva_*`` series, each by its entry in the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fleet import signals as s
from fleet.types import Decision, FleetSnapshot, Reason, ReplicaState

STATUSES = ("fresh", "stale", "missing", "unavailable")


def _gauge(signal: s.Signal, registry: CollectorRegistry) -> Gauge:
    return Gauge(signal.name, signal.meaning, signal.labels, registry=registry)


def _counter(signal: s.Signal, registry: CollectorRegistry) -> Counter:
    return Counter(signal.name.removesuffix("_total"), signal.meaning, signal.labels, registry=registry)


class WvaMetrics:
    """One registry with everything the controller exports; series of variants that went away are removed."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._desired = _gauge(s.WVA_DESIRED, self.registry)
        self._current = _gauge(s.WVA_CURRENT, self.registry)
        self._ratio = _gauge(s.WVA_RATIO, self.registry)
        self._at_max = _gauge(s.WVA_AT_MAX, self.registry)
        self._saturation = _gauge(s.WVA_SATURATION, self.registry)
        self._freshness = _gauge(s.WVA_FRESHNESS, self.registry)
        self._age = _gauge(s.WVA_SIGNAL_AGE, self.registry)
        self._cost = _gauge(s.WVA_COST, self.registry)
        self._models = _gauge(s.WVA_MODELS, self.registry)
        self._last_pass = _gauge(s.WVA_LAST_PASS, self.registry)
        self._scalings = _counter(s.WVA_SCALINGS, self.registry)
        self._errors = _counter(s.WVA_ERRORS, self.registry)
        self._pod_misses = _counter(s.WVA_POD_MISS, self.registry)
        self._leader = _gauge(s.WVA_LEADER, self.registry)
        self._leader.set(1)
        self._pass = Histogram(s.WVA_PASS.name, s.WVA_PASS.meaning, s.WVA_PASS.labels, registry=self.registry)
        self._known: set[tuple[str, str, str]] = set()

    def page(self) -> bytes:
        """The exposition page."""
        return generate_latest(self.registry)

    def failed(self, component: str, error_type: str) -> None:
        """Count an error."""
        self._errors.labels(component, error_type).inc()

    def unmapped(self, pods: Sequence[tuple[str, str]]) -> None:
        """Count pods that could not be mapped to a variant, each as its namespace and the reason."""
        for namespace, reason in pods:
            self._pod_misses.labels(namespace, reason).inc()

    def leading(self, leads: bool, at_s: float) -> None:
        """Say at ``at_s`` who decides; one that does not lead publishes nothing about variants, and is not stalled."""
        self._leader.set(leads)
        if not leads:
            self._forget(set())
            self._models.set(0)
            self._last_pass.set(at_s)

    def timed(self, status: str, duration_s: float) -> None:
        """Record how long a pass took; ``status`` is ``success`` or ``error``."""
        self._pass.labels(status).observe(duration_s)

    def decided(self, snapshot: FleetSnapshot, decisions: Sequence[Decision]) -> None:
        """Publish the decisions of a pass."""
        self._forget({_labels(decision) for decision in decisions})
        for decision in decisions:
            self._publish(decision)
        for entry in snapshot.variants:
            running = sum(seen.replica.state in (ReplicaState.READY, ReplicaState.STARTING) for seen in entry.replicas)
            self._cost.labels(entry.spec.name).set(running * entry.spec.cost_per_hour)
        self._models.set(len({decision.model for decision in decisions}))
        self._last_pass.set(snapshot.at_s)

    def scaled(self, decision: Decision) -> None:
        """Count a decision that changed the replicas asked for."""
        self._scalings.labels(*_labels(decision), str(decision.direction), str(decision.reason)).inc()

    def unavailable(self) -> None:
        """Say that nothing could be observed; the desired replicas stay as they are."""
        self._models.set(0)
        for variant, _, _ in self._known:
            self._status(variant, "unavailable")

    def _publish(self, decision: Decision) -> None:
        labels = _labels(decision)
        self._desired.labels(*labels).set(decision.desired)
        self._current.labels(*labels).set(decision.current)
        self._ratio.labels(*labels).set(decision.desired / decision.current if decision.current else decision.desired)
        self._at_max.labels(*labels).set(decision.reason is Reason.AT_MAX)
        by_model = (decision.variant, decision.namespace, decision.model, decision.accelerator)
        if decision.saturation is not None:
            self._saturation.labels(*by_model).set(decision.saturation)
        else:
            _drop(self._saturation, decision.variant)
        if (age_s := decision.signals.get("age_s")) is not None:
            self._age.labels(decision.variant).set(age_s)
        else:
            _drop(self._age, decision.variant)
        self._status(decision.variant, freshness(decision))

    def _status(self, variant: str, holds: str) -> None:
        for status in STATUSES:
            self._freshness.labels(variant, status).set(status == holds)

    def _forget(self, present: set[tuple[str, str, str]]) -> None:
        """Remove series of variants, or of a variant's former accelerator, that no decision names any more."""
        for gone in self._known - present:
            for gauge in (self._desired, self._current, self._ratio, self._at_max):
                gauge.remove(*gone)
            _drop(self._saturation, gone[0])
            if gone[0] not in {variant for variant, _, _ in present}:
                for gauge in (self._freshness, self._age, self._cost):
                    _drop(gauge, gone[0])
        self._known = present


def freshness(decision: Decision) -> str:
    """Status of a variant's metrics: that of its least known ready replica.

    ``unavailable``: replicas were asked for and none is ready. A variant at zero, as wanted, is ``fresh``: nothing that
    a decision needs is missing.
    """
    if not decision.signals.get("ready"):
        return "unavailable" if decision.signals.get("requested") else "fresh"
    if decision.signals.get("stale"):
        return "stale"
    return "missing" if decision.signals.get("missing") else "fresh"


def _labels(decision: Decision) -> tuple[str, str, str]:
    return decision.variant, decision.namespace, decision.accelerator or "unresolved"


def _drop(gauge: Gauge, variant: str) -> None:
    gauge.remove_by_labels({"variant_name": variant})
