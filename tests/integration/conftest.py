"""A real Chromium and one page in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.integration import screenshots

WAIT_MS = 120_000


@pytest.fixture(scope="module")
def chromium(chromium_binary: str) -> Iterator[Browser]:
    with screenshots.browser(chromium_binary) as running:
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """An empty page of a laptop's size."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_MS)
    yield context.new_page()
    context.close()
