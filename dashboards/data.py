"""Cached reads: viewers of the same moment share one query, and a live page asks anew once a tick."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import pandas as pd
import streamlit as st
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from dashboards.metricspage import Page
from dashboards.parts import Answer, Parts
from dashboards.prometheus import Client, PrometheusReader
from dashboards.rollup import Rollup
from dashboards.settings import ConsoleSettings
from dashboards.source import Reader
from dashboards.window import Window
from fleet.settings import load, load_slos
from fleet.slo import SloBook
from fleet.sources.exposition import Point

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

_KEEP_S: Final = 60.0
_ENTRIES: Final = 160


@st.cache_resource(show_spinner=False)
def settings() -> ConsoleSettings:
    """The console's settings, read once."""
    return load(ConsoleSettings)


@st.cache_resource(show_spinner=False)
def slos() -> SloBook:
    """The promises, read once."""
    return load_slos(settings().resolved_slo_file())


def user() -> str:
    """Who looks, as the proxy or the login names them; ``console`` where nobody signs in."""
    header = settings().login_header
    if settings().oidc is not None:
        return str(st.user.get("email") or st.user.get("name") or "")
    return str(st.context.headers.get(header, "") if header else "") or "console"


@st.cache_resource(show_spinner=False)
def _parts() -> Parts:
    return Parts(timeout_s=settings().timeout_s)


@st.cache_data(ttl=2.0, max_entries=16, show_spinner=False)
def health() -> dict[str, Answer]:
    """Whether each configured part answers."""
    return _parts().health(settings().parts())


@st.cache_data(ttl=2.0, max_entries=32, show_spinner=False)
def ask(part: str, path: str) -> Answer | None:
    """One document of one part; None when that part is not configured."""
    base = settings().parts().get(part)
    return None if base is None else _parts().ask(part, base, path)


@st.cache_data(ttl=2.0, max_entries=8, show_spinner=False)
def page(part: str) -> Page:
    """A part's metrics page; empty where it is not configured or does not answer."""
    base = settings().parts().get(part)
    text = "" if base is None else _parts().text(base, "/metrics")
    try:
        found = [
            Point(sample.name, float(sample.value), dict(sample.labels))
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
    except ValueError:  # no metrics page: another service listens there
        found = []
    return Page(points=found)


@st.cache_resource(show_spinner=False, max_entries=4)
def _opened(url: str, identity: int) -> Reader:
    return opened(url, settings(), slos())


def opened(url: str, chosen: ConsoleSettings, book: SloBook) -> Reader:
    """A reader of the history with the console's summaries, where it can keep some.

    Raises: HistoryError when there is no history.
    """
    reader = Reader(url, book)
    path = chosen.resolved_summaries()
    if path is not None:
        try:
            reader.rollup = Rollup(path, book)
        except (OSError, sqlite3.Error) as error:
            log.warning("no summaries: %s: %s; long ranges read single rows", path, error)
    return reader


@st.cache_resource(show_spinner=False, max_entries=4)
def _over_prometheus(url: str, identity: int) -> PrometheusReader:
    """A reader of series in Prometheus, with the history beside it where there is one."""
    chosen = settings()
    client = Client(chosen.prometheus_url, timeout_s=chosen.prometheus_timeout_s,
                    most_samples=chosen.prometheus_max_samples)  # fmt: skip
    return PrometheusReader(client, slos(), _opened(url, identity) if identity else None)


def reader() -> Reader | PrometheusReader:
    """Prometheus where one is configured, else the history; a file put in place of the old one is opened anew.

    Raises: HistoryError when there is no history yet or it cannot be read.
    """
    if settings().prometheus_url:
        url = settings().resolved_history_url()
        return _over_prometheus(url, file_identity(url))
    return history()


def history() -> Reader:
    """The history; a file that was put in place of the old one is opened anew.

    Raises: HistoryError when there is none yet or it cannot be read.
    """
    url = settings().resolved_history_url()
    number = file_identity(url)  # 0: let Reader word the error
    return Reader(url, slos()) if number == 0 else _opened(url, number)


def file_identity(url: str) -> int:
    """The inode of an SQLite file, 0 when it is missing, 1 for any other database."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return 0
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return 1
    path = Path(parsed.database)
    return path.stat().st_ino if path.is_file() else 0


def _cached(function: Any) -> Any:
    return st.cache_data(ttl=_KEEP_S, max_entries=_ENTRIES, show_spinner=False)(function)


@_cached
def newest_s(until_s: float) -> float | None:
    """Time of the newest row before a moment."""
    return reader().newest_s(until_s)


@_cached
def models(since_s: float, until_s: float) -> list[str]:
    """Models seen in the window."""
    return reader().models(Window(since_s=since_s, until_s=until_s))


@_cached
def _read(method: str, key: tuple[float, float, str, tuple[str, ...]], arguments: tuple[Any, ...]) -> Any:
    window = Window(since_s=key[0], until_s=key[1], model=key[2], variants=key[3])
    return getattr(reader(), method)(window, *arguments)


def read(method: Callable[Concatenate[Reader, Window, P], R], window: Window, *args: P.args, **kwargs: P.kwargs) -> R:
    """One of :class:`dashboards.source.Reader`'s answers for a window, from the cache when it is there.

    Raises: HistoryError when the history cannot be read.
    """
    assert not kwargs, "arguments are cache keys: give them by position"  # noqa: S101
    answer: R = _read(method.__name__, (window.since_s, window.until_s, window.model, window.variants), args)
    return answer


def decision(number: int) -> pd.DataFrame:
    """One decision by its id."""
    frame: pd.DataFrame = reader().decision(number)
    return frame


@st.cache_data(ttl=20.0, max_entries=16, show_spinner=False)
def evidence(since_s: float, until_s: float, model: str) -> Mapping[str, float | None]:
    """Evidence for the decision trees at the end of a window; asked for at most every 20 s, as it reads single rows."""
    window = Window(since_s=since_s, until_s=until_s, model=model)
    return dict(reader().evidence(window))
