"""``fleet up --vllm`` from nothing: real servers as processes, real requests, pictures of the console over it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.engine.checks import Check
from tests.engine.servers import ENGINE_ARGUMENTS, ENVIRONMENT, START_S, make_model, until
from tests.integration.screenshots import WIDE, browser, complaints, settle

PAGES = {"overview": "", "vllm": "vllm", "prediction": "prediction"}


def over_fleet_up(vllm: Path, folder: Path, out: Path) -> Check:
    """The whole loop over real engines: its own summary, and the console's pages without a complaint."""
    model = make_model(vllm, folder)
    home = folder / "up"
    with up(vllm, model, home) as process:
        address = _console(process, home)
        until(lambda: _answered(home) >= 40, "requests are answered", limit_s=START_S)
        time.sleep(15)  # something to see
        taken, wrong = pictures(address, out)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    summary = json.loads((home / "summary.json").read_text(encoding="utf-8").splitlines()[-1])
    figures = {key: summary[key] for key in ("requests", "success_rate", "died", "ttft_p95_s", "tpot_p95_s")} | {
        "failed": _failed(home), "pictures": taken, "complaints": wrong}  # fmt: skip
    return Check(
        name="console", promise="fleet up --vllm serves without a failure, the console shows it without a complaint",
        ok=not wrong and not summary["died"] and summary["requests"] >= 40 and summary["success_rate"] == 1.0,
        figures=figures, note="".join(f"\n\n![The console's page {name}]({name})" for name in taken),
    )  # fmt: skip


@contextmanager
def up(vllm: Path, model: Path, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``fleet up --vllm``, headless; its summary goes to ``summary.json``, its words to ``said``."""
    home.mkdir()
    command = [sys.executable, "-m", "fleet.cli", "up", "--vllm", str(model), "--vllm-bin", str(vllm),
               f"--vllm-args={' '.join(ENGINE_ARGUMENTS)}", "--replicas", "2", "--mean-rps", "2", "--home", str(home),
               "--headless", "--json"]  # fmt: skip
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{vllm.parent}{os.pathsep}{os.environ['PATH']}"}
    with (home / "summary.json").open("wb") as summary, (home / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=summary, stderr=said, env=environment)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def _said(home: Path) -> str:
    return (home / "said").read_text(encoding="utf-8", errors="replace")


def _console(process: subprocess.Popen[bytes], home: Path) -> str:
    """Its address, once all parts are up."""

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"fleet up ended: {_said(home)[-4000:]}")
        return "all parts are up" in _said(home)

    until(ready, "all parts are up", limit_s=START_S)
    found = re.search(r"console (http://\S+?)[,;\s]", _said(home))
    if found is None:
        raise RuntimeError(f"no address of a console: {_said(home)[-2000:]}")
    return found[1]


def _answered(home: Path) -> int:
    try:
        return int(json.loads((home / "traffic.json").read_text(encoding="utf-8")).get("ok") or 0)
    except (OSError, ValueError):
        return 0


def _failed(home: Path) -> Sequence[Mapping[str, object]]:
    """Every request that was neither served nor left by its client, as the history has it."""
    with sqlite3.connect(home / "history.sqlite3") as history:
        history.row_factory = sqlite3.Row
        first = history.execute("SELECT min(at_s) FROM requests").fetchone()[0]
        rows = history.execute("SELECT * FROM requests WHERE outcome NOT IN ('ok', 'aborted') ORDER BY at_s").fetchall()
    return [{"after_s": round(row["at_s"] - first, 2), **{key: row[key] for key in ("outcome", "status", "endpoint",
             "e2e_s")}} for row in rows]  # fmt: skip


def pictures(address: str, out: Path) -> tuple[Sequence[str], Sequence[str]]:
    """Files in ``out``, and what the pages complained about."""
    taken, wrong = [], []
    out.mkdir(parents=True, exist_ok=True)
    with browser(shutil.which("chromium") or "chromium") as chromium:
        page = chromium.new_context(viewport=WIDE).new_page()  # type: ignore[arg-type]
        for name, path in PAGES.items():
            page.goto(f"{address}/{path}")
            settle(page, timeout_ms=90_000)
            wrong += [f"{name}: {text}" for text in complaints(page)]
            taken.append(f"real-engines-{name}.png")
            page.screenshot(path=out / taken[-1])
    return taken, wrong
