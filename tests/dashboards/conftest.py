"""Histories for the console's tests: filled (made up), empty, missing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboards.timing import PACE
from fleet.history import History
from tests.dashboards import synthetic


@pytest.fixture(scope="session")
def filled_until_s() -> float:
    """The moment at which the made-up evening ends."""
    return float(int(time.time()))


@pytest.fixture(scope="session")
def filled_history(tmp_path_factory: pytest.TempPathFactory, filled_until_s: float) -> str:
    """A history with two variants, a rise and fall of load, scale events and an alert."""
    url = f"sqlite:///{tmp_path_factory.mktemp('filled')}/history.sqlite3"
    synthetic.build(url, now_s=filled_until_s, span_s=900.0)
    return url


@pytest.fixture
def empty_history(tmp_path: Path) -> str:
    """A history with tables and no rows."""
    url = f"sqlite:///{tmp_path}/empty.sqlite3"
    History(url).close()
    return url


@pytest.fixture
def missing_history(tmp_path: Path) -> str:
    """A history that nobody has made yet."""
    return f"sqlite:///{tmp_path}/nowhere.sqlite3"


@pytest.fixture(autouse=True)
def _steady_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests draw pages as fast as they can: that must not make the console's live pages rarer."""
    monkeypatch.setattr(PACE, "note", lambda _worked_s: None)


@pytest.fixture
def fresh_caches() -> Iterator[None]:
    """Streamlit's caches outlive a test: settings of one must not reach the next."""
    import streamlit as st

    from dashboards.frame import PRESS

    def forget() -> None:
        st.cache_resource.clear()
        st.cache_data.clear()
        PRESS.forget()

    forget()
    yield
    forget()
