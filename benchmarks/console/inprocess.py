"""The console's pages drawn in this process, without a browser: where does the server's time go?

``python -m benchmarks.console.inprocess --range 7d --page overview --profile`` writes a week of a fleet, draws each
page through Streamlit's test runner and prints, by page and range, seconds of the first draw and of the next one. It
shows what to speed up; the bench's own figures come from a served console.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import REGISTRY

from benchmarks.console.week import build
from dashboards.paths import PATHS

RANGES: Final = ("5m", "15m", "1h", "6h", "24h", "7d")
_SCRIPT: Final = """
from dashboards import frame, view
view.restore()
frame.controls()
view.remember()
frame.body(frame.entry("{path}"))
"""
_PROFILED: Final = """
import cProfile, pstats, sys, time
from dashboards import frame, view
view.restore()
frame.controls()
view.remember()
with cProfile.Profile(time.thread_time) as seen:
    frame.write(frame.entry("{path}"), view.asked(), time.time())[1].show()
pstats.Stats(seen, stream=sys.stderr).sort_stats("cumulative").print_stats(60)
"""


def alone(url: str) -> None:
    """Point the console in this process at a history, with no other part beside it."""
    os.environ["CONSOLE_HISTORY_URL"] = url
    for part in ("WVA", "ROUTER", "PREDICTOR", "ALERTS"):
        os.environ[f"CONSOLE_{part}"] = ""


def draw(path: str, query: Mapping[str, str], *, profile: bool = False, timeout_s: float = 120.0) -> dict[str, Any]:
    """Draw one page in a new session.

    Args:
        path: of the page.
        query: what stands in the address: ``range``, ``at``, filters.
    Returns: ``server_s`` (the page, as the console's own histogram has it), ``script_s`` (with the frame around it and
        the messages to the browser), ``cpu_s`` (of all that, what does not depend on what else the machine does),
        ``error`` (empty: none).
    """
    from streamlit.testing.v1 import AppTest  # noqa: PLC0415 - costs a second, only here

    script = (_PROFILED if profile else _SCRIPT).format(path=path)
    test = AppTest.from_string(script, default_timeout=timeout_s)
    for name, value in query.items():
        test.query_params[name] = value
    before, begun, worked = _spent(path), time.perf_counter(), time.process_time()
    test.run()
    said = "; ".join(str(error.value) for error in test.exception)
    return {"server_s": _spent(path) - before, "script_s": time.perf_counter() - begun,
            "cpu_s": time.process_time() - worked, "error": said}  # fmt: skip


def _spent(path: str) -> float:
    return REGISTRY.get_sample_value("fleet_console_draw_seconds_sum", {"page": path}) or 0.0


def pages(
    paths: Sequence[str], ranges: Sequence[str], now_s: float, *, profile: bool = False
) -> list[dict[str, Any]]:  # fmt: skip
    """Each page over each range: drawn with nothing cached for that moment, then for a moment just after."""
    draw("overview", {"range": "5m", "at": f"{now_s - 3:.0f}"})  # imports and the first connection
    rows = []
    for number, (span, path) in enumerate((span, path) for span in ranges for path in paths):
        at = now_s - 10 - 4 * number
        first = draw(path, {"range": span, "at": f"{at:.0f}"}, profile=profile)
        again = draw(path, {"range": span, "at": f"{at + 2:.0f}"})
        rows.append({"page": path, "range": span, "first_s": first["server_s"], "again_s": again["server_s"],
                     "script_s": first["script_s"], "cpu_s": first["cpu_s"],
                     "again_cpu_s": again["cpu_s"], "error": first["error"] or again["error"]})  # fmt: skip
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="append", choices=PATHS, help="only this page (again for more)")
    parser.add_argument("--range", action="append", choices=RANGES, help="only this range (again for more)")
    parser.add_argument("--engines", type=int, default=200)
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--folder", type=Path, help="keep the history here, and use the one that lies there")
    parser.add_argument("--profile", action="store_true", help="print where the time of each first draw goes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        mark, url = folder / "now", f"sqlite:///{folder}/history.sqlite3"
        begun = time.perf_counter()
        if mark.exists():
            now_s = float(mark.read_text())
        else:
            now_s = time.time()
            url, size = build(folder, now_s=now_s, seed=1, engines=asked.engines, days=asked.days)
            mark.write_text(str(now_s))
            print(f"{size} in {time.perf_counter() - begun:.1f} s", file=sys.stderr)  # noqa: T201
        alone(url)
        for row in pages(asked.page or PATHS, asked.range or RANGES, now_s, profile=asked.profile):
            print(json.dumps(row))  # noqa: T201


if __name__ == "__main__":
    main()
