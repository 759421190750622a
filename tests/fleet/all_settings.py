"""Every class of settings in the project."""

from __future__ import annotations

from typing import Final

from alerts.settings import AlertsSettings
from dashboards.settings import ConsoleSettings
from fleet.settings import FleetSettings, Settings
from fleet.up.cli import UpSettings
from predictor.settings import PredictorSettings
from router.picker_server.settings import PickerSettings
from router.settings import RouterSettings
from simulator.settings import SimSettings
from wva.settings import WvaSettings

ALL_SETTINGS: Final[tuple[type[Settings], ...]] = (
    FleetSettings, RouterSettings, PickerSettings, WvaSettings, PredictorSettings, ConsoleSettings, AlertsSettings,
    SimSettings, UpSettings,
)  # fmt: skip


def prefix_of(cls: type[Settings]) -> str:
    """Of its environment variables."""
    return str(cls.model_config["env_prefix"])


def variables_of(cls: type[Settings]) -> tuple[str, ...]:
    """Its environment variables."""
    return tuple(prefix_of(cls) + name.upper() for name in cls.model_fields)
