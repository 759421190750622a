"""Pictures of the console, light and dark: ``python -m tests.integration.screenshots OUTDIR [--url URL]``.

Without ``--url`` it starts ``fleet console`` over a made-up history, and takes the pages that show what other parts
tell of themselves (:data:`OF_A_LOOP`) from a ``fleet up`` of some minutes. These helpers also drive the browser test.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

PAGES = ("overview", "business", "vllm", "resources", "infrastructure", "autoscaling", "whatif", "routing",
         "prediction", "cache", "planner", "alerts")  # fmt: skip
OF_A_LOOP = ("resources", "infrastructure", "routing", "prediction", "cache")
"""Pages of what router, predictor and controller tell now: over a history alone their panels are empty."""
LOOP_S = 240.0
"""So long a loop runs before it is photographed: the predictor has learnt, the controller has scaled."""
CHROMIUM_ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
QUIET_MS = 400
"""A page is rendered when it has stayed idle this long."""

_SETTLED = """() => {
  const app = document.querySelector('[data-testid="stApp"]');
  if (!app || app.dataset.testConnectionState !== 'CONNECTED') return false;
  if (app.dataset.testScriptState !== 'notRunning') return false;
  if (document.querySelector('[data-testid="stSkeleton"], [data-testid="stAppSkeleton"]')) return false;
  const plots = [...document.querySelectorAll('.fleet-plot')];
  return plots.every((plot) => plot.dataset.drawn === 'yes')
    && document.querySelectorAll('.fl-status, .fl-empty').length > 0;
}"""


@contextmanager
def console(
    history_url: str,
    *options: str,
    home: Path | None = None,
    refresh_s: float = 60.0,
    started: Callable[[subprocess.Popen[bytes]], None] = lambda _process: None,
) -> Iterator[str]:
    """Run ``fleet console`` on a free port; gives its address once it is healthy.

    Live pages draw anew only every ``refresh_s``: on a busy machine a page that draws every two seconds is never idle.
    """
    environment = os.environ | {"CONSOLE_REFRESH_S": f"{refresh_s}"} | ({"FLEET_HOME": str(home)} if home else {})
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fleet.cli", "console", "--port", "0", "--history-url", history_url,
             "--die-with-parent", *options],
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
        started(process)
        try:
            yield _address(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextmanager
def loop(home: Path, *, for_s: float = LOOP_S) -> Iterator[str]:
    """Run ``fleet up`` for a while; gives its console's address then."""
    with (home / "up.log").open("w+") as log:
        process = subprocess.Popen([sys.executable, "-m", "fleet.cli", "up", "--headless", "--home", str(home)],
                                   stdout=log, stderr=log)  # fmt: skip
        try:
            began, said = time.monotonic(), ""
            while "console http" not in said:
                if process.poll() is not None or time.monotonic() - began > 120:
                    raise RuntimeError(f"the loop did not start: {said}")
                time.sleep(0.5)
                said = (home / "up.log").read_text()
            time.sleep(for_s)
            yield said.split("console http", 1)[1].split(",", 1)[0].join(("http", ""))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _address(process: subprocess.Popen[bytes], log: object) -> str:
    """The address that the process logs, once it answers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        log.seek(0)  # type: ignore[attr-defined]  # a temporary file
        text = log.read().decode()  # type: ignore[attr-defined]
        if process.poll() is not None:
            raise RuntimeError(f"the console ended: {text}")
        if "listening on " in text:
            address = text.split("listening on ", 1)[1].split()[0]
            if healthy(address):
                return address
        time.sleep(0.1)
    raise RuntimeError(f"the console did not become healthy: {text}")


def healthy(address: str) -> bool:
    """Whether both health checks answer 200."""
    try:
        for path in ("/healthz", "/_stcore/health"):
            with urllib.request.urlopen(address + path, timeout=2) as response:
                if response.status != 200:
                    return False
    except (urllib.error.URLError, OSError):
        return False
    return True


@contextmanager
def browser(executable: str) -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=list(CHROMIUM_ARGUMENTS))
        try:
            yield chromium
        finally:
            chromium.close()


def settle(page: Page, *, timeout_ms: float = 120_000) -> None:
    """Wait until the page is connected, idle, without skeletons, and every chart is drawn."""
    page.wait_for_function(_SETTLED, timeout=timeout_ms)
    page.wait_for_timeout(QUIET_MS)
    page.wait_for_function(_SETTLED, timeout=timeout_ms)


def complaints(page: Page) -> list[str]:
    """Error boxes that the page shows."""
    boxes = page.locator('[data-testid="stException"], [data-testid="stAlertContentError"], .fleet-plot[data-failed]')
    return [text.strip()[:500] for text in boxes.all_inner_texts()]


def listen(page: Page, heard: list[str]) -> None:
    """Collect console errors, uncaught exceptions, and requests to anywhere but the console itself."""

    def request(sent: Request) -> None:
        here, there = urlsplit(page.url), urlsplit(sent.url)
        if there.scheme in {"http", "https"} and here.netloc and there.netloc != here.netloc:
            heard.append(f"asked elsewhere: {sent.url}")

    def message(entry: ConsoleMessage) -> None:
        probe = entry.location.get("url", "").endswith(("/_stcore/health", "/_stcore/host-config"))
        if entry.type == "error" and not probe:  # on a page's own address Streamlit first asks below that address
            heard.append(f"{entry.text} {entry.location.get('url', '')}")

    page.on("request", request)
    page.on("console", message)
    page.on("pageerror", lambda error: heard.append(str(error)))


def shoot(
    chromium: Browser, url: str, out: Path, *, query: str = "", own: Mapping[str, str] | None = None,
    pages: Sequence[str] = PAGES,
) -> list[Path]:  # fmt: skip
    """One picture a page and theme (``NAME.png``, ``NAME-dark.png``), and the overview on a phone.

    Args:
        query: address parameters of every page.
        own: those of single pages, in their place.
        pages: which.
    """
    taken = []
    for theme in ("light", "dark"):
        for size, suffix, names in ((WIDE, "", pages), (PHONE, "-phone", sorted({"overview"} & set(pages)))):
            context = chromium.new_context(viewport=size, color_scheme=theme)  # type: ignore[arg-type]
            page = context.new_page()
            for name in names:
                page.goto(f"{url}/{'' if name == 'overview' else name}{(own or {}).get(name, query)}")
                settle(page)
                if name == "whatif":
                    _try_another_analyzer(page)
                _grow(page, size)
                taken.append(out / f"{name}{suffix}{'' if theme == 'light' else '-dark'}.png")
                page.screenshot(path=taken[-1])
                page.set_viewport_size(size)  # type: ignore[arg-type]
            context.close()
    return taken


def _try_another_analyzer(page: Page) -> None:
    """Fill the page in: before something was tried it only says so."""
    page.get_by_role("combobox", name="Analyzer").click()
    page.get_by_role("option", name="slo").click()
    settle(page)
    page.get_by_role("button", name="Replay").click()
    page.get_by_text("Nothing has been tried yet").wait_for(state="detached", timeout=60_000)
    settle(page)


def _grow(page: Page, size: dict[str, int]) -> None:
    """Make the window as tall as the page: Streamlit scrolls inside, so a full-page picture would be cut."""
    height = page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight + 20")
    page.set_viewport_size({"width": size["width"], "height": max(size["height"], min(int(height), 4000))})
    page.wait_for_timeout(700)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", help="a running console (default: start one over a made-up history)")
    parser.add_argument("--page", action="append", choices=PAGES, help="with --url: only this page")
    parser.add_argument("--query", default="", help="address parameters, for example ?range=1h")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="path of Chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser(options.chromium) as chromium:
        if options.url:
            pages = options.page or PAGES
            taken = shoot(chromium, options.url.rstrip("/"), options.out, query=options.query, pages=pages)
        else:
            from tests.dashboards import synthetic

            history = f"sqlite:///{folder}/history.sqlite3"
            synthetic.build(history, now_s=(now_s := time.time()), share=0.97, ahead_s=200.0)
            breach = dict.fromkeys(("overview", "alerts"), f"?range=5m&at={now_s - 470:.0f}")
            nobody = [word for part in ("wva", "router", "predictor", "alerts") for word in (f"--{part}", "")]
            alone = [name for name in PAGES if name not in OF_A_LOOP]
            with console(history, *nobody, home=Path(folder)) as url:
                own = None if options.query else breach
                taken = shoot(chromium, url, options.out, query=options.query, own=own, pages=alone)
            (home := Path(folder) / "loop").mkdir()
            with loop(home) as url:
                taken += shoot(chromium, url, options.out, query="?range=5m", pages=OF_A_LOOP)
    print("\n".join(map(str, taken)))  # noqa: T201  # the command's answer


if __name__ == "__main__":
    main()
