"""Alertmanager configuration: who is told, and which alert keeps which other one quiet. Pure.

Alertmanager takes a label that both alerts lack for equal, so an inhibition by ``model_name`` alone would let one
node's page silence every other alert without a model. Each rule therefore asks for the label on both sides first. No
two rules may point at each other: both alerts would be silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from alerts.model import Severity
from alerts.render import HEADER

PAGE, TICKET, QUIET = "page", "ticket", "quiet"
GROUP_BY: Final = ("cluster", "namespace", "model_name")
"""One notification for a model: what fires later joins the page that is already there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inhibition:
    """While ``source`` fires, ``target`` is quiet where ``equal`` labels agree; ``present`` must be on both."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    equal: tuple[str, ...]
    present: tuple[str, ...] = ()
    why: str

    def to_json(self) -> dict[str, Any]:
        """As Alertmanager reads it."""
        there = [f'{label}=~".+"' for label in self.present]
        return {"source_matchers": [*self.source, *there], "target_matchers": [*self.target, *there],
                "equal": list(self.equal)}  # fmt: skip


_MATCHER: Final = re.compile(r'(\w+)(=~|=)"(.*)"')
_MODEL: Final = ("cluster", "namespace", "model_name")
INHIBITIONS: Final = (
    Inhibition(source=('severity="critical"',), target=('severity=~"warning|info"',), equal=_MODEL,
               present=("model_name",), why="a model's page silences its tickets"),
    Inhibition(source=('alertname="EngineStalled"',), target=('alertname="GPUHung"',),
               equal=("cluster", "namespace", "pod"), present=("pod",),
               why="a stalled engine explains its idle GPU"),
    Inhibition(source=('alertname=~"EngineStalled|ModelVanished"',),
               target=('alertname=~"HighTTFT|.*ErrorBudgetBurn"',), equal=_MODEL, present=("model_name",),
               why="the cause silences the symptoms of layer 1"),
    Inhibition(source=('alertname=~"EPPPodDown|ModelVanished"',), target=('alertname="RouterShedding"',),
               equal=("cluster",), why="nothing is left to route, or nobody routes"),
    Inhibition(source=('alertname="PodCrashLooping"',), target=('alertname=~"PodNotReady|TargetDown"',),
               equal=("cluster", "namespace", "pod"), present=("pod",), why="it crashes, so it does not answer"),
)  # fmt: skip


def _matches(matchers: Sequence[str], labels: Mapping[str, str]) -> bool:
    return all(
        re.fullmatch(part[3], labels.get(part[1], "")) if part[2] == "=~" else labels.get(part[1], "") == part[3]
        for part in map(_MATCHER.fullmatch, matchers) if part is not None
    )  # fmt: skip


def muted(labels: Mapping[str, str], firing: Iterable[Mapping[str, str]]) -> bool:
    """Whether an alert with ``labels`` is inhibited while those of ``firing`` fire, as Alertmanager decides it."""
    rules = [(rule.to_json(), rule.equal) for rule in INHIBITIONS]
    targets = [(rule["source_matchers"], equal) for rule, equal in rules if _matches(rule["target_matchers"], labels)]
    return any(
        _matches(source, other) and all(other.get(name, "") == labels.get(name, "") for name in equal)
        for source, equal in targets for other in firing
    )  # fmt: skip


def _receiver(name: str, webhook: str) -> dict[str, Any]:
    return {"name": name, "webhook_configs": [{"url": webhook, "send_resolved": True}]} if webhook else {"name": name}


def _route(severity: Severity, receiver: str, **more: str) -> dict[str, Any]:
    return {"matchers": [f'severity="{severity.value}"'], "receiver": receiver, **more}


def configuration(*, page: str = "", ticket: str = "", inhibitions: Sequence[Inhibition] = INHIBITIONS
                  ) -> dict[str, Any]:  # fmt: skip
    """The configuration; ``page`` and ``ticket`` are webhooks that are called (empty: a receiver without any)."""
    return {
        "route": {
            "receiver": TICKET, "group_by": list(GROUP_BY), "group_wait": "30s", "group_interval": "5m",
            "repeat_interval": "12h",
            "routes": [
                _route(Severity.CRITICAL, PAGE, group_wait="10s", repeat_interval="4h"),
                _route(Severity.WARNING, TICKET),
                _route(Severity.INFO, QUIET),
            ],
        },
        "inhibit_rules": [rule.to_json() for rule in inhibitions],
        "receivers": [_receiver(PAGE, page), _receiver(TICKET, ticket), {"name": QUIET}],
    }  # fmt: skip


def alertmanager_files(*, page: str, ticket: str, source: str) -> Mapping[str, str]:
    """File name -> text."""
    head = HEADER.format(title="Alertmanager: critical pages, warning makes a ticket, info is quiet.", source=source)
    body = yaml.safe_dump(configuration(page=page, ticket=ticket), sort_keys=False, width=10**6)
    return {"alertmanager.yaml": head + body}
