"""A real Chromium in front of a served console: visits of every page, then a crowd of live viewers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

from playwright.sync_api import Error as PlaywrightError

from benchmarks.console.seen import (
    NOTHING,
    OPENING_S,
    PATIENCE_S,
    RANGES,
    SETTLED_S,
    VIEWED_S,
    VIEWERS,
    VISITS_S,
    Crowd,
    Drawn,
    Visit,
    crowd_of,
    drawn,
)
from benchmarks.console.session import crowd
from dashboards.paths import PATHS

_FIRST: Final = "() => document.querySelector('h1') && document.querySelector('.fl-tile, .fl-empty, .fl-panel-title')"
_DRAWN: Final = (
    "() => document.querySelector('h1') && [...document.querySelectorAll('.fleet-plot')]"
    ".every((plot) => plot.dataset.drawn === 'yes')"
    " && document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
)


def _noted(address: str) -> Drawn | None:
    """The metrics page; None: it did not come, so what the server needed is not known."""
    try:
        return drawn(address)
    except OSError:
        return None


def visit(chromium: Any, address: str, path: str, span: str, at_s: float | None) -> Visit:
    """One visit: seconds to the first content, to the last chart, and of the server."""
    first_look, failed = _noted(address), ""
    at = "" if at_s is None else f"&at={at_s:.0f}"
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    begun, first = time.perf_counter(), PATIENCE_S
    try:
        page.goto(f"{address}/{'' if path == 'overview' else path}?range={span}{at}", wait_until="commit",
                  timeout=1000 * PATIENCE_S)  # fmt: skip
        failed = "first panel"
        page.wait_for_function(_FIRST, timeout=1000 * PATIENCE_S)
        first, failed = time.perf_counter() - begun, "last chart"
        page.wait_for_function(_DRAWN, timeout=1000 * PATIENCE_S)
        failed = ""
    except PlaywrightError as error:
        failed = failed or str(error).splitlines()[0]
    whole = time.perf_counter() - begun
    server_s = math.nan
    for _ in range(20 if first_look is not None else 0):  # the server notes a draw when its last message is out
        before, after = (look.get(path, NOTHING) for look in (first_look or {}, _noted(address) or {}))
        if after[0] > before[0]:
            server_s = (after[1] - before[1]) / (after[0] - before[0])
            break
        time.sleep(0.25)
    context.close()
    return Visit(page=path, range=span, first_s=first, whole_s=whole, failed=failed, server_s=server_s)


def visits(chromium: Any, address: str, now_s: float, progress: Callable[[float, str], None]) -> list[Visit]:
    """Every page over every range, until the time for it is over."""
    rows, begun = [], time.monotonic()
    steps = [(path, span) for span in RANGES for path in PATHS]
    for number, (path, span) in enumerate(steps):
        if time.monotonic() - begun > VISITS_S:
            break
        progress(0.1 + 0.7 * number / len(steps), f"{path} over {span}")
        rows.append(visit(chromium, address, path, span, None if span in {"15m", "1h"} else now_s - number * 2))
    return rows


def viewers(chromium: Any, address: str) -> Crowd:
    """One tab of Chromium and nineteen sessions of its protocol on live pages: server time of a draw while all look.

    A browser on the server's own two cores would measure Chromium's painting, twenty times.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    paths = [PATHS[number % len(PATHS)] for number in range(1, VIEWERS)]
    with crowd(address, [f"/{'' if path == 'overview' else path}" for path in paths], "range=15m") as others:
        seen = 1
        try:
            page.goto(f"{address}/?range=15m", wait_until="commit", timeout=1000 * PATIENCE_S)
            page.wait_for_function(_FIRST, timeout=1000 * OPENING_S)
        except PlaywrightError:
            seen = 0
        seen += others.wait(OPENING_S)
        page.wait_for_timeout(SETTLED_S * 1000)
        before = _noted(address)
        page.wait_for_timeout(VIEWED_S * 1000)
        after = _noted(address)
    context.close()
    if before is None or after is None:
        return Crowd(seen=seen, draws=0.0, mean_s=math.nan, p95_within_s=math.inf)
    return crowd_of(seen, before, after)
