"""What an alert and a recording rule are. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from alerts.algebra import Expr
from alerts.text import as_template
from fleet.signals import Kind, Layer, Origin, Signal


class Severity(enum.StrEnum):
    """How an alert reaches people."""

    CRITICAL = "critical"
    """Wakes somebody."""
    WARNING = "warning"
    """A ticket for the working day."""
    INFO = "info"
    """Context on a page, nobody is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recording rule; ``signal`` is what it records, so that further expressions can select it."""

    signal: Signal
    expr: Expr
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert with everything a person needs to act on it; sentences as in :mod:`alerts.text`."""

    name: str
    expr: Expr
    for_s: float
    """How long the condition must hold, seconds."""
    severity: Severity
    layer: Layer
    group: str
    """Which rule file it goes to: a key of :data:`GROUPS`."""
    summary: str
    description: str
    means: str
    """For the runbook: what this says about the system, without figures."""
    check: tuple[str, ...]
    """For the runbook: what to look at, in order."""
    do: tuple[str, ...]
    """For the runbook: what usually helps."""
    tree: str = ""
    """Name of the diagnosis tree in :mod:`alerts.trees` that it leads to."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels beside severity and layer (windows of a burn rate)."""
    local: bool = True
    """Whether ``fleet alerts watch`` evaluates it: true where engines, router, wva or predictor export its series."""

    @property
    def static_labels(self) -> dict[str, str]:
        """Labels that the rule adds."""
        return {"severity": self.severity.value, "layer": str(int(self.layer)), **self.labels}

    @property
    def key(self) -> str:
        """Tells rules of the same name apart."""
        return ",".join((self.name, *(f"{name}={value}" for name, value in self.labels.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulebook:
    """All rules of one SLO file, recordings in the order they must be evaluated."""

    recordings: tuple[Recording, ...]
    alerts: tuple[Alert, ...]

    def group(self, name: str) -> Iterator[Alert]:
        """Alerts of one rule file."""
        return (alert for alert in self.alerts if alert.group == name)

    @property
    def recorded_names(self) -> frozenset[str]:
        """Series that the recording rules make."""
        return frozenset(recording.signal.name for recording in self.recordings)


CONSOLE: Final = "http://127.0.0.1:8501"
RUNBOOKS: Final = "alerts/runbooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Where annotations point, and which cluster alerts speak of."""

    console: str = CONSOLE
    runbooks: str = RUNBOOKS
    """Folder or URL that holds NAME.md."""
    cluster: str = ""
    """Label ``cluster`` of every alert; empty where Prometheus's external labels say it."""

    @property
    def labels(self) -> dict[str, str]:
        """Labels that every alert gets."""
        return {"cluster": self.cluster} if self.cluster else {}

    def runbook(self, alert: Alert) -> str:
        """Address of the alert's runbook."""
        return f"{self.runbooks.rstrip('/')}/{alert.name}.md"

    def page(self, alert: Alert) -> str:
        """Address of the console at this alert and model (a sentence with marks)."""
        return f"{self.console.rstrip('/')}/?model=<model_name:url>&alert={alert.name}"

    def annotations(self, alert: Alert) -> dict[str, str]:
        """Annotations as Prometheus templates."""
        sentences = {"summary": alert.summary, "description": alert.description, "console": self.page(alert)}
        return {name: as_template(text) for name, text in sentences.items()} | {"runbook_url": self.runbook(alert)}


GROUPS: Mapping[str, str] = {
    "l1_business": "Layer 1: what users were promised.",
    "l2_application": "Layer 2: engines and router.",
    "l3_resources": "Layer 3: GPUs and network.",
    "l4_infrastructure": "Layer 4: pods, nodes, scaling.",
    "fleet": "The project's own parts: controller, predictor, router.",
}
"""Rule file -> its header."""


def recorded(name: str, unit: str, meaning: str, *labels: str, layer: Layer = Layer.APPLICATION,
             kind: Kind = Kind.GAUGE) -> Signal:  # fmt: skip
    """The signal that a recording rule makes."""
    return Signal(name=name, kind=kind, unit=unit, layer=layer, origin=Origin.ALERTS, meaning=meaning, labels=labels)
