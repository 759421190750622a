"""Where each series that an alert rests on can be seen: a recorded page, or the exporter's own source. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from alerts.algebra import Expr, lookbacks
from alerts.model import Alert, Rulebook
from fleet.signals import BY_ANY_NAME, Origin, Signal, base_name

DOCUMENTED: Final[Mapping[Origin, str]] = {
    Origin.ENGINE: "source of vLLM 0.33",
    Origin.ROUTER: "source of llm-d-router ebab687, and our router's page",
    Origin.WVA: "our controller's page",
    Origin.PREDICTOR: "our predictor's page",
    Origin.DCGM: "default-counters.csv of dcgm-exporter d5e5f51",
    Origin.NODE: "source of node_exporter a7dcc3a",
    Origin.KUBE_STATE: "source of kube-state-metrics c92fe0c",
    Origin.PROMETHEUS: "Prometheus itself",
}
"""By exporter: what was read to know that a series exists, where no page of it was recorded."""


def leaves(expr: Expr, rules: Rulebook) -> frozenset[str]:
    """Names of the exported series under an expression: recorded ones are followed to what they are made of."""
    recorded: dict[str, list[Expr]] = {}
    for rule in rules.recordings:
        recorded.setdefault(rule.signal.name, []).append(rule.expr)
    found: set[str] = set()
    waiting, seen = [expr], set[str]()
    while waiting:
        for name, _ in lookbacks(waiting.pop()):
            if name not in recorded:
                found.add(name)
            elif name not in seen:
                seen.add(name)
                waiting += recorded[name]
    return frozenset(found)


def signals_of(alert: Alert, rules: Rulebook) -> tuple[Signal, ...]:
    """The catalogue's entries that an alert rests on, by name."""
    found = {BY_ANY_NAME[base_name(name)].name: BY_ANY_NAME[base_name(name)] for name in leaves(alert.expr, rules)}
    return tuple(found[name] for name in sorted(found))


def evidence_of(signal: Signal, pages: Mapping[str, Collection[str]]) -> str:
    """A recorded page that has the series, else what documents it."""
    for page, names in pages.items():
        if signal.name in names:
            return page
    if signal.origin is Origin.ROUTER and signal.name.startswith("fleet_"):
        return "our router's page"
    return DOCUMENTED[signal.origin]


def table(rules: Rulebook, pages: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Markdown: alert, its layer and severity, its series, and where each can be seen.

    Args:
        rules: the rulebook.
        pages: recorded metrics page -> names of the series (of histograms: base names) on it.
    """
    yield "| alert | layer | severity | series | seen in |"
    yield "|---|---|---|---|---|"
    told: set[str] = set()
    for alert in rules.alerts:
        if alert.name in told:
            continue
        told.add(alert.name)
        severities = dict.fromkeys(other.severity.value for other in rules.alerts if other.name == alert.name)
        found = signals_of(alert, rules)
        seen = dict.fromkeys(evidence_of(signal, pages) for signal in found)
        names = ", ".join(f"`{signal.name}`" for signal in found)
        yield f"| {alert.name} | {int(alert.layer)} | {', '.join(severities)} | {names} | {'; '.join(seen)} |"
