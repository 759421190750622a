"""The console in a real Chromium: every page renders without an error box or a console error, and keeps its zoom.

Set ``CONSOLE_TEST_URL`` to the address of a running console (``fleet up``) to walk that one as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.dashboards import synthetic
from tests.integration import screenshots

pytestmark = [pytest.mark.integration, pytest.mark.needs_chromium, pytest.mark.timeout(900)]

LIVE_URL = os.environ.get("CONSOLE_TEST_URL", "")
NOBODY = [word for part in ("wva", "router", "predictor", "alerts") for word in (f"--{part}", "")]
KINDS = ["filled", "empty", "missing", *(["live"] if LIVE_URL else [])]


@pytest.fixture(scope="module", params=KINDS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A console over a filled, an empty and a missing history, and the live one if there is one."""
    if request.param == "live":
        yield LIVE_URL.rstrip("/")
        return
    folder: Path = tmp_path_factory.mktemp(request.param)
    url = f"sqlite:///{folder}/history.sqlite3"
    if request.param == "filled":
        synthetic.build(url, now_s=time.time(), span_s=900.0, share=0.9, ahead_s=120.0)
    elif request.param == "empty":
        from fleet.history import History

        History(url).close()
    with screenshots.console(url, *NOBODY, home=folder) as running:
        yield running


def test_every_page_renders_without_an_error(page: Page, address: str):
    heard: list[str] = []
    screenshots.listen(page, heard)
    for name in screenshots.PAGES:
        page.goto(f"{address}/{'' if name == 'overview' else name}")
        screenshots.settle(page)
        assert screenshots.complaints(page) == [], name
        assert page.locator("h1").count() == 1, name
    assert heard == []


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("interactive")
    url = f"sqlite:///{folder}/history.sqlite3"
    synthetic.build(url, now_s=time.time(), span_s=900.0, share=0.9, ahead_s=120.0)
    with screenshots.console(url, *NOBODY, home=folder) as running:
        yield running


@pytest.fixture(scope="module")
def refreshing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same, drawn anew every few seconds."""
    folder = tmp_path_factory.mktemp("refreshing")
    url = f"sqlite:///{folder}/history.sqlite3"
    synthetic.build(url, now_s=time.time(), span_s=900.0, share=0.9, ahead_s=120.0)
    with screenshots.console(url, *NOBODY, home=folder, refresh_s=8.0) as running:
        yield running


DRAWN = """() => {
    const plots = [...document.querySelectorAll('.fleet-plot')];
    return plots.length === 7 && plots.every((plot) => plot.dataset.drawn === 'yes');
}"""


def test_charts_stay_in_place_share_their_zoom_and_keep_it_over_refreshes(page: Page, refreshing: str):
    page.goto(f"{refreshing}/business?range=5m")
    page.wait_for_function(DRAWN)
    page.evaluate("document.querySelectorAll('.fleet-plot').forEach((plot) => { plot.__same = true; })")
    before = page.evaluate("document.querySelector('.fl-status').textContent")
    page.evaluate("""() => {
        const plot = document.querySelector('.fleet-plot');
        const [from, to] = plot.layout.xaxis.range.map((x) => new Date(x + 'Z').getTime());
        const cut = (share) => new Date(from + share * (to - from)).toISOString().slice(0, -1);
        return Plotly.relayout(plot, {'xaxis.range[0]': cut(0.25), 'xaxis.range[1]': cut(0.5)});
    }""")
    zoomed = page.evaluate("document.querySelector('.fleet-plot').layout.xaxis.range.join()")
    page.wait_for_function("(was) => document.querySelector('.fl-status').textContent !== was", arg=before)
    page.wait_for_function(DRAWN)
    plots = page.evaluate(
        "[...document.querySelectorAll('.fleet-plot')].map((p) => [p.__same, p.layout.xaxis.range.join()])"
    )
    assert len(plots) == 7
    assert all(same for same, _ in plots)
    assert {shown for _, shown in plots} == {zoomed}


def test_range_and_model_follow_from_page_to_page(page: Page, filled: str):
    page.goto(filled)
    screenshots.settle(page)
    page.get_by_role("radio", name="5 min", exact=True).click()
    page.wait_for_url("**range=5m**")
    page.get_by_role("link", name="Autoscaling").click()
    page.wait_for_url("**/autoscaling**")
    screenshots.settle(page)
    assert "range=5m" in page.url


def test_a_triangle_opens_the_decision_behind_it(page: Page, filled: str):
    page.goto(f"{filled}/autoscaling")
    screenshots.settle(page)
    picked, x, y = page.evaluate("""() => {
        const marks = (plot) => plot._fullData?.find((one) => one.mode === 'markers' && one.customdata?.length);
        const plot = [...document.querySelectorAll('.fleet-plot')].find(marks);
        const trace = marks(plot);
        const [box, frame] = [plot.getBoundingClientRect(), plot._fullLayout[trace.yaxis.replace('y', 'yaxis')]];
        const x = plot._fullLayout.xaxis;
        return [trace.customdata[0], box.x + x._offset + x.d2p(trace.x[0]),
                box.y + frame._offset + frame.d2p(trace.y[0])];
    }""")
    page.mouse.move(x, y)
    page.mouse.click(x, y)
    page.wait_for_url(f"**decision={picked}**")
    expect(page.get_by_text(f"decision {picked} at")).to_be_visible(timeout=30_000)
    assert f"decision={picked}" in page.url


def test_decisions_are_read_whole_and_one_that_is_chosen_opens(page: Page, filled: str):
    page.goto(f"{filled}/autoscaling")
    screenshots.settle(page)
    entries = page.locator(".st-key-decision-list [data-testid=stCaptionContainer]")
    assert entries.count() >= 2
    cut = entries.evaluate_all("(all) => all.filter((one) => one.scrollWidth > one.clientWidth + 1).length")
    assert cut == 0
    sentence = entries.nth(1).inner_text()
    page.locator(".st-key-decision-list [role=radiogroup] label").nth(1).click()
    page.wait_for_url("**decision=**")
    expect(page.locator(".fl-why p").first).to_have_text(sentence, timeout=30_000)


def test_an_alerts_link_lands_on_its_diagnosis(page: Page, filled: str):
    page.goto(f"{filled}/?alert=HighTTFT&model=")
    page.wait_for_url("**/alerts**")
    screenshots.settle(page)
    expect(page.get_by_text("for the alert HighTTFT")).to_be_visible(timeout=30_000)
    assert "/alerts" in page.url


def test_the_overview_fits_a_phone(page: Page, filled: str):
    page.set_viewport_size(screenshots.PHONE)
    page.goto(filled)
    screenshots.settle(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator(".fl-banner").is_visible()
    assert not page.locator(".fl-head").first.is_visible()
