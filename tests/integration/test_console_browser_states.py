"""Every page in a real Chromium over a history that is filled, stale or broken, in light and dark: no console error,
no traceback, no serious fault for axe-core; every link of the navigation and every download works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from dashboards.frame import SECTIONS
from tests.dashboards import synthetic
from tests.integration import screenshots
from tests.integration.conftest import WAIT_MS

pytestmark = [pytest.mark.integration, pytest.mark.needs_chromium, pytest.mark.timeout(900)]

OURS = {"exclude": [["[data-testid='stSidebarNav']"]]}
"""All but Streamlit's own navigation, whose lists hold more than list items: no page can mend that."""
DARK = ("overview", "autoscaling", "planner", "alerts")
NOBODY = [word for part in ("wva", "router", "predictor", "alerts") for word in (f"--{part}", "")]
GONE = [word for part in ("wva", "router", "predictor", "alerts") for word in (f"--{part}", "http://127.0.0.1:9")]


BREACH_S = 290.0
"""So long before the end of the made-up evening a model breaches its TTFT promise."""


@pytest.fixture(scope="module")
def built_s() -> float:
    """When the evening ends."""
    return time.time()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, built_s: float) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("axe")
    url = f"sqlite:///{folder}/history.sqlite3"
    synthetic.build(url, now_s=built_s, span_s=900.0, share=0.9, ahead_s=120.0)
    with screenshots.console(url, *GONE, home=folder) as running:
        yield running


def serious(page: Page) -> list[str]:
    """What axe-core calls serious or critical on the page as it is."""
    found: list[dict[str, Any]] = Axe().run(page, context=OURS).response["violations"]
    return [
        f"{fault['id']}: {fault['nodes'][0]['html'][:160]}"
        for fault in found
        if fault["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_on_any_page(chromium: Browser, filled: str, theme: str) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme=theme)  # type: ignore[arg-type]
    context.set_default_timeout(WAIT_MS)
    page, heard, faults = context.new_page(), [], {}
    screenshots.listen(page, heard)
    for name in screenshots.PAGES if theme == "light" else DARK:
        page.goto(f"{filled}/{'' if name == 'overview' else name}")
        screenshots.settle(page)
        assert screenshots.complaints(page) == [], name
        if wrong := serious(page):
            faults[name] = wrong
    context.close()
    assert faults == {}
    assert heard == []


def test_the_pages_walked_are_all_there_are() -> None:
    assert {page.path for pages in SECTIONS.values() for page in pages} == set(screenshots.PAGES)


@pytest.mark.parametrize("state", ["stale", "broken"])
def test_a_stale_and_a_broken_history_say_so_on_every_page(
    page: Page, tmp_path_factory: pytest.TempPathFactory, state: str
) -> None:
    folder: Path = tmp_path_factory.mktemp(state)
    url = f"sqlite:///{folder}/history.sqlite3"
    if state == "stale":
        synthetic.build(url, now_s=time.time() - 7_200, span_s=300.0)
    else:
        (folder / "history.sqlite3").write_bytes(b"not a database " * 400)
    heard: list[str] = []
    screenshots.listen(page, heard)
    with screenshots.console(url, *NOBODY, home=folder) as address:
        for name in screenshots.PAGES:
            page.goto(f"{address}/{'' if name == 'overview' else name}")
            screenshots.settle(page)
            assert screenshots.complaints(page) == [], name
            said = page.locator(".fl-empty").first.inner_text()
            assert ("Nothing in the last" if state == "stale" else "cannot be read") in said, name
    assert heard == []


def test_every_link_of_every_page_leads_to_a_page(page: Page, filled: str) -> None:
    links: set[str] = set()
    for name in ("", "autoscaling", "alerts", "planner"):
        page.goto(f"{filled}/{name}")
        screenshots.settle(page)
        links |= set(page.eval_on_selector_all("main a[href], section a[href]", "all => all.map((a) => a.href)"))
    own = sorted({link.split("?")[0]: link for link in links if link.startswith(filled)}.values())
    assert own
    for link in own:
        page.goto(link)
        screenshots.settle(page)
        assert page.locator("h1").count() == 1, link
        assert screenshots.complaints(page) == [], link


def test_from_the_overview_to_the_reason_and_the_plan_in_two_clicks(page: Page, filled: str, built_s: float) -> None:
    page.goto(f"{filled}/?range=5m&at={built_s - BREACH_S:.0f}")
    screenshots.settle(page)
    sentence = page.locator(".fl-banner").inner_text()
    assert "1 model needs you: Llama-3.1-8B-Instruct breaches TTFT since" in sentence, "which model, which promise"
    assert "Why:" in sentence
    page.get_by_role("link", name="Why: open the diagnosis").click()
    page.wait_for_url("**/alerts**alert=HighTTFT**")
    screenshots.settle(page)
    assert page.get_by_text("for the alert HighTTFT").is_visible()
    assert page.locator(".fl-cause strong").inner_text(), "a cause"
    assert page.locator(".fl-cause p").inner_text(), "what to change"
    page.get_by_role("link", name="Autoscaling").click()
    page.wait_for_url("**/autoscaling**")
    screenshots.settle(page)
    assert page.locator("[data-testid=stMain]").get_by_text("until").first.is_visible(), "still at the same moment"
    assert page.get_by_text("Demand, forecast, capacity").is_visible()
    decision = page.locator(".fl-why").inner_text()
    assert "→" in decision, "from how many replicas to how many"
    assert "saturation" in decision, "in words, with its numbers"


def test_the_sentence_leads_to_what_the_controller_will_do_in_one_click(
    page: Page, filled: str, built_s: float
) -> None:
    page.goto(f"{filled}/?range=5m&at={built_s - BREACH_S:.0f}")
    screenshots.settle(page)
    page.get_by_role("link", name="What the controller will do").click()
    page.wait_for_url("**/autoscaling**model=**")
    screenshots.settle(page)
    assert page.locator(".fl-why").is_visible()


def test_what_if_compares_and_a_table_downloads_as_csv(page: Page, filled: str) -> None:
    page.goto(f"{filled}/whatif?range=15m")
    screenshots.settle(page)
    page.get_by_role("button", name="Replay").click()
    page.get_by_text("Side by side").wait_for()
    screenshots.settle(page)
    assert screenshots.complaints(page) == []
    with page.expect_download() as taken:
        page.get_by_role("button", name="Download CSV").last.click()
    text = Path(taken.value.path()).read_text()
    assert text.startswith("figure,recorded,replayed as it is,what if")
