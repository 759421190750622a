"""``fleet bench console``: first paint and refresh of every page over a week of 200 engines, then 20 viewers."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.alerts.stack import binary
from benchmarks.console.seen import PATIENCE_S, RANGES, SETTLED_S, VIEWED_S, VIEWERS, VISITS_S, Crowd, Visit
from benchmarks.console.week import Size, build
from benchmarks.options import Bench, BenchOptions
from benchmarks.result import Bar, Outcome, Table
from dashboards.paths import PATHS
from fleet.errors import ConfigError

STOP_S: Final = 30.0
AHEAD_S: Final = 1_200.0
"""Rows are written so far ahead: live pages find new ones for as long as the bench runs."""
NAMES: Final = ("first_paint_s_worst", "refresh_ms_worst", "refresh_ms_p95_20_viewers")


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


def _run(options: BenchOptions) -> Outcome:
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only this bench needs a browser

        from benchmarks.console import browser  # noqa: PLC0415 - as above
    except ImportError:
        raise ConfigError("the package playwright is missing", next_step="pip install playwright") from None
    chromium_path = binary("chromium", "chromium-browser", "google-chrome", package="chromium")
    now_s = time.time()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as driver:
        options.progress(0.0, "writing a week of 200 engines")
        url, size = build(Path(place), now_s=now_s, seed=options.seeds[0], ahead_s=AHEAD_S)
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        chromium = driver.chromium.launch(executable_path=chromium_path, args=flags)
        with serving(url, Path(place)) as address:
            browser.visit(chromium, address, "overview", "5m", None)  # the server's own imports and the browser's start
            rows = browser.visits(chromium, address, now_s, options.progress)
            options.progress(0.85, f"{VIEWERS} viewers")
            crowd = browser.viewers(chromium, address)
        chromium.close()
    return outcome(rows, crowd, size)


def _ms(seconds: float) -> float | None:
    return 1000 * seconds if math.isfinite(seconds) else None


def _known(found: dict[str, Any]) -> dict[str, Any]:
    """For JSON, which has no word for a number that is none."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found.items()
    }


def outcome(rows: Sequence[Visit], crowd: Crowd, size: Size) -> Outcome:
    """Bars and table of what was measured; a page that was not visited leaves its bars unknown."""
    missing = len(PATHS) * len(RANGES) - len(rows)
    failed = [one for one in rows if one.failed]
    server = [one.server_s for one in rows if math.isfinite(one.server_s)]
    known = not missing and len(server) == len(rows)
    refresh = 1000 * max(server, default=math.nan) if known else None
    first = max((one.first_s for one in rows), default=math.nan) if not missing else None
    within = 1000 * crowd.p95_within_s if crowd.seen == VIEWERS and math.isfinite(crowd.p95_within_s) else None
    notes = [
        f"200 engines, 5 variants, 2 models: {size.raw_rows:,} rows of the newest hour and a week of decisions, "
        f"{size.summary_rows:,} rows of summaries, {size.mib:.0f} MiB.",
        "First paint: from the request for the page to its heading and first panel in Chromium, nothing cached in the "
        "browser. Server: one draw of the page, all queries anew.",
        f"{VIEWERS} viewers of live pages over 15 minutes, one in Chromium, the others speaking its protocol: "
        f"{crowd.seen} saw their page; {crowd.draws:.0f} draws in {VIEWED_S:.0f} s (after {SETTLED_S:.0f} s in which "
        f"the console finds its pace), {1000 * crowd.mean_s:.0f} ms each in the mean.",
    ]
    if failed:
        said = ", ".join(f"{one.page} over {one.range} ({one.failed})" for one in failed)
        notes.append(f"Not seen within {PATIENCE_S:.0f} s: {said}.")
    if missing:
        notes.append(f"{missing} visits were not made: the {VISITS_S:.0f} s for them were over.")
    columns = ("page", "range", "first paint, s", "all charts, s", "server, ms", "failed")
    table = [(one.page, one.range, one.first_s, one.whole_s, _ms(one.server_s), one.failed or "-") for one in rows]
    return Outcome(
        results={"visits": [_known(asdict(one)) for one in rows], "viewers": _known(asdict(crowd)),
                 "raw_rows": size.raw_rows, "summary_rows": size.summary_rows, "mib": size.mib},
        bars={
            "first_paint_s_worst": Bar(value=first, unit="s", limit="< 2"),
            "refresh_ms_worst": Bar(value=refresh, unit="ms", limit="< 500"),
            "refresh_ms_p95_20_viewers": Bar(value=within, unit="ms, bound", limit="< 500"),
        },
        tables=(Table(title="Each page in a fresh browser, its window not cached", columns=columns, rows=table),),
        notes=notes,
    )  # fmt: skip


BENCH = Bench(name="console", what="first paint and refresh of every page over a week of 200 engines; 20 viewers",
              bars=NAMES, run=_run)  # fmt: skip
