"""``fleet bench console``: first paint and refresh of every page over a week of 200 engines, then 20 viewers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.alerts.stack import binary
from benchmarks.console.week import Size, build
from benchmarks.options import Bench, BenchOptions
from benchmarks.result import Bar, Outcome, Table
from dashboards.paths import PATHS
from fleet.errors import ConfigError

RANGES: Final = ("15m", "1h", "24h", "7d")
VIEWERS, VIEWED_S = 20, 30.0
PATIENCE_MS: Final = 180_000
"""A page that takes longer is broken, not slow; on a busy machine slow ones are to be measured, not given up."""
STOP_S: Final = 30.0
NAMES: Final = ("first_paint_s_worst", "refresh_ms_worst", "refresh_ms_p95_20_viewers")
_FIRST: Final = "() => document.querySelector('h1') && document.querySelector('.fl-tile, .fl-empty, .fl-panel-title')"
_DRAWN: Final = (
    "() => document.querySelector('h1') && [...document.querySelectorAll('.fleet-plot')]"
    ".every((plot) => plot.dataset.drawn === 'yes')"
)


@contextmanager
def serving(url: str, home: Path) -> Iterator[str]:
    """``fleet console`` over a history; gives its address."""
    nobody = [word for part in ("wva", "router", "predictor", "alerts") for word in (f"--{part}", "")]
    command = [sys.executable, "-m", "fleet.cli", "console", "--port", "0", "--history-url", url, "--die-with-parent"]
    log = home / "console.log"
    with log.open("w") as out:
        process = subprocess.Popen([*command, *nobody], stdout=out, stderr=out,
                                   env=os.environ | {"FLEET_HOME": str(home)})  # fmt: skip
    try:
        yield _address(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # what was measured stands, however long its last pages take to end
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(600):
        if (said := re.search(r"listening on (http://\S+)", log.read_text())) is not None:
            return said[1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the console did not start: {log.read_text()[-1000:]}")


def drawn(address: str) -> dict[str, tuple[float, float, list[tuple[float, float]]]]:
    """By page: (draws, seconds in all, cumulative buckets) as the console's metrics page tells."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as response:  # noqa: S310 - our own loopback address
        text = response.read().decode()
    found: dict[str, tuple[float, float, list[tuple[float, float]]]] = {}
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


def visit(chromium: Any, address: str, path: str, query: str) -> dict[str, float]:
    """One visit in a fresh context: seconds to the first content, to the last chart, and of the server."""
    before = drawn(address).get(path, (0.0, 0.0, []))
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    begun = time.perf_counter()
    page.goto(f"{address}/{'' if path == 'overview' else path}?{query}", wait_until="commit", timeout=PATIENCE_MS)
    page.wait_for_function(_FIRST, timeout=PATIENCE_MS)
    first = time.perf_counter() - begun
    page.wait_for_function(_DRAWN, timeout=PATIENCE_MS)
    whole = time.perf_counter() - begun
    context.close()
    after = drawn(address).get(path, before)
    draws = max(after[0] - before[0], 1.0)
    return {"first_s": first, "whole_s": whole, "server_s": (after[1] - before[1]) / draws}


def viewers(chromium: Any, address: str) -> dict[str, float]:
    """Twenty tabs on live pages: server time of a draw, mean and the bucket bound that holds 95 %."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    pages = [context.new_page() for _ in range(VIEWERS)]
    for number, page in enumerate(pages):
        path = PATHS[number % len(PATHS)]
        page.goto(f"{address}/{'' if path == 'overview' else path}?range=15m", wait_until="commit", timeout=PATIENCE_MS)
    for page in pages:
        page.wait_for_function(_FIRST, timeout=3 * PATIENCE_MS, polling=500)
    before = drawn(address)
    pages[0].wait_for_timeout(VIEWED_S * 1000)
    after = drawn(address)
    context.close()
    draws = sum(after[p][0] - before.get(p, (0.0, 0.0, []))[0] for p in after)
    seconds = sum(after[p][1] - before.get(p, (0.0, 0.0, []))[1] for p in after)
    bounds: dict[float, float] = {}
    for path, (_, _, buckets) in after.items():
        was = dict(before[path][2]) if path in before else {}
        for bound, count in buckets:
            bounds[bound] = bounds.get(bound, 0.0) + count - was.get(bound, 0.0)
    within = min((bound for bound, count in sorted(bounds.items()) if count >= 0.95 * draws), default=float("inf"))
    return {"draws": draws, "mean_s": seconds / max(draws, 1.0), "p95_within_s": within}


def _run(options: BenchOptions) -> Outcome:
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only this bench needs a browser
    except ImportError:
        raise ConfigError("the package playwright is missing", next_step="pip install playwright") from None
    chromium_path = binary("chromium", "chromium-browser", "google-chrome", package="chromium")
    now_s = time.time()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        options.progress(0.0, "writing a week of 200 engines")
        url, size = build(Path(place), now_s=now_s, seed=options.seeds[0])
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        chromium = driver.chromium.launch(executable_path=chromium_path, args=flags)
        with serving(url, Path(place)) as address:
            rows, steps = [], len(PATHS) * len(RANGES)
            visit(chromium, address, "overview", "range=5m")  # the server's own imports and the browser's start
            for number, (path, span) in enumerate((p, r) for r in RANGES for p in PATHS):
                options.progress(0.1 + 0.7 * number / steps, f"{path} over {span}")
                at = "" if span in {"15m", "1h"} else f"&at={now_s - number * 2:.0f}"
                rows.append((path, span, visit(chromium, address, path, f"range={span}{at}")))
            options.progress(0.85, f"{VIEWERS} viewers")
            crowd = viewers(chromium, address)
        chromium.close()
    return _outcome(rows, crowd, size)


def _outcome(rows: list[tuple[str, str, dict[str, float]]], crowd: dict[str, float], size: Size) -> Outcome:
    first, server = (max(found[name] for _, _, found in rows) for name in ("first_s", "server_s"))
    columns = ("page", "range", "first paint, s", "all charts, s", "server, ms")
    table = [(path, span, f["first_s"], f["whole_s"], 1000 * f["server_s"]) for path, span, f in rows]
    return Outcome(
        results={"visits": [{"page": p, "range": r, **f} for p, r, f in rows], "viewers": crowd,
                 "raw_rows": size.raw_rows, "summary_rows": size.summary_rows, "mib": size.mib},
        bars={
            "first_paint_s_worst": Bar(value=first, unit="s", limit="< 2"),
            "refresh_ms_worst": Bar(value=1000 * server, unit="ms", limit="< 500"),
            "refresh_ms_p95_20_viewers": Bar(value=1000 * crowd["p95_within_s"], unit="ms, bound", limit="< 500"),
        },
        tables=(Table(title="Each page in a fresh browser, its window not cached", columns=columns, rows=table),),
        notes=(
            f"200 engines, 5 variants, 2 models: {size.raw_rows:,} rows of the newest hour and a week of decisions, "
            f"{size.summary_rows:,} rows of summaries, {size.mib:.0f} MiB.",
            "First paint: from the request for the page to its heading and first panel in Chromium. Server: one draw "
            "of the page, all queries anew. 20 viewers: live pages over 15 minutes, "
            f"{crowd['draws']:.0f} draws, {1000 * crowd['mean_s']:.0f} ms each in the mean.",
        ),
    )  # fmt: skip


BENCH = Bench(name="console", what="first paint and refresh of every page over a week of 200 engines; 20 viewers",
              bars=NAMES, run=_run)  # fmt: skip
