"""The history's rows as they lie there, bounded and never written: decisions, events, tenants, what is newest.

Every answer is a pandas frame. :mod:`dashboards.source` reads the rest by bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dashboards.window import MAX_ROWS, TENANT_COUNTS, TENANTS_S, Window, chosen, counts, finished, within
from fleet.errors import HistoryError
from fleet.history import History, must_exist
from fleet.history.schema import TABLES, decisions, events, requests, samples
from fleet.slo import SloBook


class Rows:
    """Reads single rows of one history; opening never creates or changes it.

    Raises: HistoryError when there is none yet (``where`` is the file) or it cannot be read.
    """

    def __init__(self, url: str, slos: SloBook) -> None:
        self._sqlite = must_exist(url).get_backend_name() == "sqlite"
        self._slos = slos
        self.history = History(url, read_only=True)

    def _frame(self, query: sa.Select[Any]) -> pd.DataFrame:
        try:
            rows = self.history.select_tuples(query)
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise HistoryError(
                f"cannot be read: {cause}", where=self.history.url, next_step="Check that the file is there and intact."
            ) from None
        return framed(rows, [column.name for column in query.selected_columns])

    def _bin(self, moment: sa.ColumnElement[float], width_s: float) -> sa.ColumnElement[Any]:
        """Start of the bin of ``moment``; SQLite without its math functions has no floor, its cast truncates."""
        index = moment / width_s
        whole = sa.cast(index, sa.Integer) if self._sqlite else sa.func.floor(index)
        return whole * width_s

    def newest_s(self, until_s: float) -> float | None:
        """Time of the newest row before ``until_s``; None when there is none."""
        tables = (samples, requests, decisions)
        newest = [
            sa.select(sa.func.max(table.c.at_s)).where(table.c.at_s < until_s).scalar_subquery() for table in tables
        ]
        row = (
            self._frame(sa.select(*[moment.label(f"t{index}") for index, moment in enumerate(newest)])).iloc[0].dropna()
        )
        return float(row.max()) if len(row) else None

    def newest_of(self, window: Window, table: str) -> float | None:
        """Time of the newest row of one table in the window."""
        column = TABLES[table].c.at_s
        newest = self._frame(sa.select(sa.func.max(column).label("at_s")).where(within(column, window)))["at_s"].iloc[0]
        return None if pd.isna(newest) else float(newest)

    def tenants(self, window: Window) -> pd.DataFrame:
        """Requests by tenant over the newest hour of a window, the busiest 50 first; the summaries know no tenants."""
        newest = window.over(max(window.since_s, window.until_s - TENANTS_S), window.until_s)
        columns = [requests.c.tenant, *(column for column in counts(self._slos) if column.name in TENANT_COUNTS)]
        named = sa.select(requests.c.tenant).where(*finished(newest), requests.c.tenant != "").limit(1)
        if self._frame(named).empty:  # most histories: counting all requests to say nothing would cost more
            return framed([], [column.name for column in columns])
        query = sa.select(*columns).where(*finished(newest))
        query = chosen(query, requests, newest).group_by(requests.c.tenant)
        return self._frame(query.order_by(sa.func.count().desc()).limit(50))

    def signal_names(self, window: Window, prefix: str) -> list[str]:
        """Names of signals that begin so."""
        query = sa.select(samples.c.signal).where(
            samples.c.signal.startswith(prefix, autoescape=True), within(samples.c.at_s, window)
        )
        return sorted(self._frame(query.distinct())["signal"])

    def oldest_s(self) -> float | None:
        """Time of the oldest row that can be folded."""
        oldest = [sa.select(sa.func.min(table.c.at_s)).scalar_subquery() for table in (samples, requests)]
        row = self._frame(sa.select(*[moment.label(f"t{i}") for i, moment in enumerate(oldest)])).iloc[0].dropna()
        return float(row.min()) if len(row) else None

    def decisions(self, window: Window, changes_only: bool = False, limit: int = MAX_ROWS) -> pd.DataFrame:
        """The newest decisions, newest first."""
        query = chosen(sa.select(decisions).where(within(decisions.c.at_s, window)), decisions, window)
        if changes_only:
            query = query.where(decisions.c.direction != "hold")
        return self._frame(query.order_by(decisions.c.at_s.desc(), decisions.c.id.desc()).limit(limit))

    def plans(self, window: Window, most: int = 1_000) -> pd.DataFrame:
        """Decisions spread evenly over a window, newest first: for what they expected, over time."""
        here = chosen(sa.select(sa.func.count().label("n")).where(within(decisions.c.at_s, window)), decisions, window)
        step = max(1, -(-int(self._frame(here)["n"].iloc[0]) // most))
        query = sa.select(decisions).where(within(decisions.c.at_s, window), decisions.c.id % step == 0)
        query = chosen(query, decisions, window).order_by(decisions.c.at_s.desc(), decisions.c.id.desc())
        return self._frame(query.limit(2 * most))

    def last_decisions(self, window: Window) -> pd.DataFrame:
        """The newest decision of each variant."""
        query = sa.select(decisions).where(decisions.c.id.in_(newest_of_each(window)))
        return self._frame(chosen(query, decisions, window).order_by(decisions.c.variant))

    def decision(self, number: int) -> pd.DataFrame:
        """One decision by its id: one row or none."""
        return self._frame(sa.select(decisions).where(decisions.c.id == number))

    def events(self, window: Window, kinds: Sequence[str] = (), limit: int = MAX_ROWS) -> pd.DataFrame:
        """The newest events, newest first."""
        query = sa.select(events).where(within(events.c.at_s, window))
        if kinds:
            query = query.where(events.c.kind.in_(kinds))
        return self._frame(query.order_by(events.c.at_s.desc(), events.c.id.desc()).limit(limit))


_WORDS: Final = frozenset(
    {"signal", "model", "variant", "endpoint", "outcome", "tenant", "accelerator", "namespace", "direction", "reason",
     "detail", "signals", "kind", "subject", "message", "severity", "data"}
)  # fmt: skip
"""Columns that are no plain numbers."""


def framed(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame; columns of numbers are typed also where the database left them untyped (no rows, or only NULLs):
    pandas works on untyped columns in Python, row by row."""
    found: dict[str, np.ndarray] = {}
    for name, values in zip(columns, zip(*rows, strict=True) if rows else ((),) * len(columns), strict=True):
        if name in _WORDS:
            found[name] = np.empty(len(values), dtype=object)
            found[name][:] = values
        else:
            numbers = np.array(values) if rows else np.array([], dtype=float)
            found[name] = numbers.astype(float) if numbers.dtype == object else numbers
    return pd.DataFrame(found)


def newest_of_each(window: Window) -> sa.Select[Any]:
    """The id of each variant's newest decision in a window, found by hopping along the index from variant to variant:
    a week holds a hundred thousand decisions of a handful of variants."""
    names = sa.select(sa.func.min(decisions.c.variant).label("name")).cte("names", recursive=True)
    after = sa.select(sa.func.min(decisions.c.variant)).where(decisions.c.variant > names.c.name).scalar_subquery()
    names = names.union_all(sa.select(after).where(names.c.name.is_not(None)))
    own = sa.select(decisions.c.id).where(decisions.c.variant == names.c.name, within(decisions.c.at_s, window))
    newest = own.order_by(decisions.c.at_s.desc(), decisions.c.id.desc()).limit(1).correlate(names).scalar_subquery()
    return sa.select(newest).select_from(names)
