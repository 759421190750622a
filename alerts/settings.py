"""Settings of ``fleet alerts watch``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from alerts.model import CONSOLE, RUNBOOKS
from fleet.settings import Settings


class AlertsSettings(Settings):
    """Environment prefix ``ALERTS_``; the command line wins."""

    model_config = SettingsConfigDict(env_prefix="ALERTS_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on; the default is loopback: nothing is reachable from outside."""
    port: int = Field(default=8095, ge=0, le=65_535)
    """Port for the alerts that fire, health and metrics; 0 takes any free one."""
    interval_s: float = Field(default=2.0, gt=0)
    """Seconds from one scrape and evaluation to the next; a window needs at least two scrapes."""
    scrape_timeout_s: float = Field(default=2.0, gt=0)
    """A page that takes longer counts as not answering (``up`` 0)."""
    for_scale: float = Field(default=1.0, gt=0, le=1.0)
    """Multiplies windows and ``for`` durations: 1.0 as in production, 0.1 makes five minutes thirty seconds."""
    keep_s: float = Field(default=21_600.0, ge=600)
    """How far back rates of requests are kept (6 h: the paging windows); rules with longer windows are left out."""
    platform: str = ""
    """Platform API that lists the engines (``GET /fleet``)."""
    engines: str = ""
    """Engines without a platform: URLs, comma-separated."""
    targets_file: Path | None = None
    """YAML list of further pages: {job, url, labels}."""
    router: str = ""
    """Base URL of the router's admin port."""
    wva: str = ""
    """Base URL of the controller."""
    predictor: str = ""
    """Base URL of the predictor."""
    console_url: str = CONSOLE
    """Where an alert's link into the console leads."""
    runbook_base: str = RUNBOOKS
    """Folder or URL in front of runbooks' names."""
