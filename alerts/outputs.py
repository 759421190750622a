"""Everything that ``fleet alerts generate`` writes, by format. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from alerts.alertmanager import alertmanager_files
from alerts.grafana import grafana_files
from alerts.kubernetes import kubernetes_files
from alerts.model import Links, Rulebook
from alerts.render import rule_files
from fleet.slo import SloBook


class Format(enum.StrEnum):
    """What can be generated."""

    PROMETHEUS = "prometheus"
    KUBERNETES = "kubernetes"
    ALERTMANAGER = "alertmanager"
    GRAFANA = "grafana"


ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhooks:
    """Where Alertmanager delivers; empty: a receiver that tells nobody."""

    page: str = ""
    ticket: str = ""


def _files(
    kind: Format, book: SloBook, rules: Rulebook, *, links: Links, webhooks: Webhooks, source: str
) -> Mapping[str, str]:
    match kind:
        case Format.PROMETHEUS:
            return rule_files(rules, links, source=source)
        case Format.KUBERNETES:
            return kubernetes_files(rules, links, source=source)
        case Format.ALERTMANAGER:
            return alertmanager_files(page=webhooks.page, ticket=webhooks.ticket, source=source)
        case Format.GRAFANA:
            return grafana_files(book, links)


def outputs(
    wanted: str, book: SloBook, rules: Rulebook, *, links: Links, webhooks: Webhooks, source: str
) -> dict[str, str]:
    """Path under the output folder -> text. Rule files lie at its top, each other format in a folder of its name."""
    found: dict[str, str] = {}
    for kind in Format if wanted == ALL else (Format(wanted),):
        folder = "" if kind is Format.PROMETHEUS else f"{kind.value}/"
        for name, text in _files(kind, book, rules, links=links, webhooks=webhooks, source=source).items():
            found[folder + name] = text
    return found
