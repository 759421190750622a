"""The rulebook over a window in memory: what Prometheus does with rule files, for one machine without one. Pure.

``scale`` compresses time for a demonstration: windows, offsets and ``for`` durations are multiplied by it (0.1 makes
five minutes thirty seconds); limits are not.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from alerts.algebra import Expr, Vector, lookbacks, vector
from alerts.model import Alert, Recording, Rulebook
from alerts.store import LOOKBACK_S, Labels, SeriesStore, labels_of


class State(enum.StrEnum):
    """As Prometheus calls them."""

    PENDING = "pending"
    FIRING = "firing"


@dataclass(slots=True, kw_only=True)
class Instance:
    """One alert for one set of labels, while its condition holds."""

    alert: Alert
    labels: Labels
    """The rule's labels included."""
    since_s: float
    """When the condition began to hold."""
    value: float
    state: State = State.PENDING
    fired_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An instance began to fire, or ceased."""

    instance: Instance
    firing: bool


@dataclass(slots=True)
class _Rule:
    """An alert with its instances by the labels of the condition."""

    alert: Alert
    instances: dict[Labels, Instance] = field(default_factory=dict)


def _reach_s(expr: Expr) -> float:
    return max((seconds for _, seconds in lookbacks(expr)), default=0.0)


class Evaluator:
    """Evaluates recordings, then alerts, at the times it is given.

    Args:
        rules: what to evaluate; alerts that are not ``local`` are left out.
        scale: compression of windows and waits.
        keep_s: how far back the caller's store reaches; rules that need more are left out and named in ``left_out``.
    """

    def __init__(self, rules: Rulebook, *, scale: float = 1.0, keep_s: float = 21_600.0) -> None:
        self.scale = scale
        self.left_out: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        """Rule -> why its last evaluation failed."""
        self._recordings = [rule for rule in map(self._scaled, rules.recordings) if _reach_s(rule.expr) <= keep_s]
        self._unrecorded = rules.recorded_names - {rule.signal.name for rule in self._recordings}
        self._recorded: dict[int, set[Labels]] = {}
        self._alerts = [_Rule(alert) for alert in rules.alerts if self._takes(alert, keep_s)]

    def _scaled(self, rule: Recording) -> Recording:
        return replace(rule, expr=rule.expr.scaled(self.scale))

    def _takes(self, alert: Alert, keep_s: float) -> bool:
        if not alert.local:
            self.left_out[alert.key] = "needs series of a cluster (GPU, node or Kubernetes exporters)"
            return False
        if self._unrecorded & {name for name, _ in lookbacks(alert.expr)}:
            self.left_out[alert.key] = f"its window is longer than the {keep_s:.0f} s that are kept"
            return False
        return True

    def wanted(self) -> dict[str, float]:
        """Series that the rules read -> how many seconds of them to keep."""
        expressions = [rule.expr for rule in self._recordings]
        expressions += [rule.alert.expr.scaled(self.scale) for rule in self._alerts]
        keep: dict[str, float] = {}
        for expr in expressions:
            for name, seconds in lookbacks(expr):
                keep[name] = max(keep.get(name, LOOKBACK_S), seconds + 60.0)
        return keep

    @property
    def evaluated(self) -> int:
        """Alerts that are evaluated."""
        return len(self._alerts)

    def active(self) -> Iterator[Instance]:
        """Instances whose condition holds, pending and firing."""
        for rule in self._alerts:
            yield from rule.instances.values()

    def step(self, store: SeriesStore, now_s: float) -> list[Change]:
        """Evaluate everything at ``now_s``; recordings are added to ``store``."""
        self.errors.clear()
        for index, rule in enumerate(self._recordings):
            self._record(index, rule, store, now_s)
        return [change for rule in self._alerts for change in self._update(rule, store, now_s)]

    def _value(self, name: str, expr: Expr, store: SeriesStore, now_s: float) -> Vector | None:
        try:
            return vector(expr, store, now_s)
        except ValueError as error:
            self.errors[name] = str(error)
            return None

    def _record(self, index: int, rule: Recording, store: SeriesStore, now_s: float) -> None:
        found = self._value(rule.signal.name, rule.expr, store, now_s) or {}
        series = {labels_of(dict(labels) | dict(rule.labels)): value for labels, value in found.items()}
        for labels, value in series.items():
            store.append(rule.signal.name, labels, now_s, value)
        for gone in self._recorded.get(index, set()) - series.keys():
            store.end(rule.signal.name, gone, now_s)
        self._recorded[index] = set(series)

    def _update(self, rule: _Rule, store: SeriesStore, now_s: float) -> Iterator[Change]:
        found = self._value(rule.alert.key, rule.alert.expr.scaled(self.scale), store, now_s)
        if found is None:
            return  # as in Prometheus, a rule that fails keeps its state
        for labels, value in found.items():
            yield from self._holds(rule, labels, value, now_s)
        for labels in rule.instances.keys() - found.keys():
            gone = rule.instances.pop(labels)
            if gone.state is State.FIRING:
                yield Change(instance=gone, firing=False)

    def _holds(self, rule: _Rule, labels: Labels, value: float, now_s: float) -> Iterator[Change]:
        instance = rule.instances.get(labels)
        if instance is None:
            own = labels_of(dict(labels) | rule.alert.static_labels)
            instance = rule.instances[labels] = Instance(alert=rule.alert, labels=own, since_s=now_s, value=value)
        instance.value = value
        if instance.state is State.PENDING and now_s - instance.since_s >= rule.alert.for_s * self.scale:
            instance.state, instance.fired_s = State.FIRING, now_s
            yield Change(instance=instance, firing=True)


def model_of(labels: Mapping[str, str]) -> str:
    """The model an alert speaks of, if any."""
    return labels.get("model_name", "")
