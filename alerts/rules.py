"""The rulebook of an SLO file: recording rules and the alerts of all four layers. Pure."""

from __future__ import annotations

from alerts import application, business, components, infrastructure, resources
from alerts.burn import burn_recordings
from alerts.model import Rulebook
from alerts.recording import recordings
from fleet.slo import SloBook


def rulebook(book: SloBook) -> Rulebook:
    """All rules for the promises in ``book``.

    >>> from fleet.slo import DEFAULT_SLOS
    >>> "HighTTFT" in {alert.name for alert in rulebook(DEFAULT_SLOS).alerts}
    True
    """
    return Rulebook(
        recordings=(*recordings(), *burn_recordings(book)),
        alerts=(
            *business.alerts(book),
            *application.alerts(book),
            *resources.alerts(),
            *infrastructure.alerts(),
            *components.alerts(),
        ),
    )
