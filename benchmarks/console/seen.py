"""What was seen of a served console: by its own metrics page, by visits, by a crowd."""

from __future__ import annotations

import math
import re
import urllib.request
from dataclasses import dataclass
from typing import Final

from dashboards.paths import PATHS

RANGES: Final = ("15m", "1h", "24h", "7d")
VIEWERS, VIEWED_S = 20, 30.0
READ_S: Final = 45.0
"""Longest wait for the metrics page: it is drawn by the process that draws all pages."""
SETTLED_S: Final = 60.0
"""All viewers look so long before they are measured: the console adapts its pace to them."""
PATIENCE_S: Final = 45.0
"""A page that takes longer has failed: it is told as such, with so long as its time, and the bench goes on."""
VISITS_S: Final = 420.0
"""All visits together; those that are left then are not made, and no bar can be met."""
OPENING_S: Final = 120.0
"""For all viewers together to see their first content."""
Drawn = dict[str, tuple[float, float, list[tuple[float, float]]]]
"""By page: draws, seconds in all, cumulative buckets."""


def drawn(address: str) -> Drawn:
    """By page: (draws, seconds in all, cumulative buckets) as the console's metrics page tells."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=READ_S) as response:  # noqa: S310 - our own loopback address
        text = response.read().decode()
    found: Drawn = {}
    for page in PATHS:
        labels = rf'(?:le="([^"]+)",)?page="{page}"'
        counts, sums, bounds = (
            re.findall(rf"fleet_console_draw_seconds_{what}\{{{labels}\}} (\S+)", text)
            for what in ("count", "sum", "bucket")
        )
        buckets = [(float(le.replace("+Inf", "inf")), float(n)) for le, n in bounds]
        if counts:
            found[page] = (float(counts[0][1]), float(sums[0][1]), buckets)
    return found


NOTHING: Final[tuple[float, float, list[tuple[float, float]]]] = (0.0, 0.0, [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One page over one range in a fresh browser context."""

    page: str
    range: str
    first_s: float
    """To the heading and the first panel."""
    whole_s: float
    """To the last chart."""
    server_s: float
    """One draw, mean of those of the visit; NaN: none was finished."""
    failed: str = ""
    """What was waited for in vain; empty: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What twenty live viewers cost."""

    seen: int
    """Viewers that saw their page within :data:`OPENING_S`."""
    draws: float
    mean_s: float
    p95_within_s: float
    """The bucket bound that holds 95 % of the draws."""


def crowd_of(seen: int, before: Drawn, after: Drawn) -> Crowd:
    """The figures of a crowd from two readings of the metrics page."""
    draws = sum(after[p][0] - before.get(p, NOTHING)[0] for p in after)
    seconds = sum(after[p][1] - before.get(p, NOTHING)[1] for p in after)
    bounds: dict[float, float] = {}
    for path, (_, _, buckets) in after.items():
        was = dict(before[path][2]) if path in before else {}
        for bound, count in buckets:
            bounds[bound] = bounds.get(bound, 0.0) + count - was.get(bound, 0.0)
    within = min((bound for bound, count in sorted(bounds.items()) if count >= 0.95 * draws), default=math.inf)
    return Crowd(seen=seen, draws=draws, mean_s=seconds / max(draws, 1.0), p95_within_s=within)
