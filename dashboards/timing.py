"""How long the server takes to draw a page, on the console's own ``/metrics``."""

from __future__ import annotations

from typing import Final

from prometheus_client import Histogram

DRAWN: Final = Histogram(
    "fleet_console_draw_seconds",
    "Server time to draw a page once, first or again.",
    ["page"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0),
)
