"""What the console reads from the history: bounded, aggregated in the database, never written.

Every answer is a pandas frame. A request counts in the bin in which it finished, as a Prometheus histogram has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from fleet.errors import HistoryError
from fleet.history import History
from fleet.history.schema import TABLES, decisions, events, requests, samples
from fleet.slo import DEFAULT_SLOS, SloBook

LOOKBACK_S: Final = 900.0
"""A request that finishes in a window may have arrived this long before it."""
MAX_BINS: Final = 400
MAX_LATENCIES: Final = 20_000
MAX_ROWS: Final = 2_000

OUTCOMES: Final = ("ok", "error", "timeout", "rejected", "aborted")
TOKENS: Final = ("input_tokens", "output_tokens", "cached_tokens")

_NO_LIMIT: Final = 1e12
_DONE: Final = requests.c.at_s + sa.func.coalesce(requests.c.e2e_s, 0.0)
_LATENCY_COLUMNS: Final = (
    requests.c.model,
    requests.c.variant,
    requests.c.endpoint,
    requests.c.outcome,
    requests.c.input_tokens,
    requests.c.output_tokens,
    requests.c.ttft_s,
    requests.c.tpot_s,
    requests.c.e2e_s,
    requests.c.predicted_ttft_s,
    requests.c.predicted_tpot_s,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a page looks at: a stretch of time and, if not empty, one model."""

    since_s: float
    until_s: float
    model: str = ""

    @property
    def span_s(self) -> float:
        """Its length, seconds."""
        return self.until_s - self.since_s

    def before(self) -> Window:
        """The stretch of the same length just before."""
        return Window(since_s=self.since_s - self.span_s, until_s=self.since_s, model=self.model)


class Reader:
    """Reads one history; opening never creates or changes it.

    Raises: HistoryError when there is none yet (``where`` is the file) or it cannot be read.
    """

    def __init__(self, url: str, slos: SloBook = DEFAULT_SLOS) -> None:
        self._sqlite = _must_exist(url)
        self._slos = slos
        self.history = History(url, read_only=True)

    def _frame(self, query: sa.Select[Any]) -> pd.DataFrame:
        try:
            rows = self.history.select(query)
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise HistoryError(
                f"cannot be read: {cause}", where=self.history.url, next_step="Check that the file is there and intact."
            ) from None
        return pd.DataFrame(rows, columns=[column.name for column in query.selected_columns])

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
        newest = self._frame(sa.select(sa.func.max(column).label("at_s")).where(_within(column, window)))["at_s"].iloc[
            0
        ]
        return None if pd.isna(newest) else float(newest)

    def models(self, window: Window) -> list[str]:
        """Models that were decided on, or asked for, in the window."""
        names: set[str] = set()
        for table in (decisions, requests):
            query = sa.select(table.c.model).where(_within(table.c.at_s, window)).distinct().limit(200)
            names |= set(self._frame(query)["model"])
        return sorted(names - {""})

    def variants(self, window: Window) -> pd.DataFrame:
        """Variants with model and accelerator, as the newest decisions and the requests name them."""
        named = (decisions.c.variant, decisions.c.model, decisions.c.accelerator)
        decided = sa.select(*named, sa.func.max(decisions.c.at_s).label("at_s"))
        table = self._frame(decided.where(_within(decisions.c.at_s, window)).group_by(*named))
        served = sa.select(requests.c.variant, requests.c.model).where(_within(requests.c.at_s, window)).distinct()
        rows = self._frame(served.where(requests.c.variant != "").limit(200)).assign(accelerator="", at_s=0.0)
        both = pd.concat([table, rows[~rows["variant"].isin(table["variant"])]], ignore_index=True)
        both = both.sort_values("at_s").drop_duplicates("variant", keep="last").sort_values("variant")
        return both[both["model"] == window.model] if window.model else both

    def request_bins(self, window: Window, width_s: float) -> pd.DataFrame:
        """Requests by bin, model and variant: outcomes, tokens, and how many kept each promise. Exact."""
        bin_s = self._bin(_DONE, width_s).label("bin_s")
        query = sa.select(bin_s, requests.c.model, requests.c.variant, *_counts(self._slos))
        query = _of_model(query.where(*_finished(window)), requests, window)
        query = query.group_by(bin_s, requests.c.model, requests.c.variant).limit(MAX_BINS * 100)
        return self._frame(query)

    def latencies(self, window: Window) -> tuple[pd.DataFrame, int]:
        """Single requests with their latencies, and the step of the systematic sample (1: all of them)."""
        counted: sa.Select[Any] = sa.select(sa.func.count().label("n")).where(*_finished(window))
        count = int(self._frame(_of_model(counted, requests, window))["n"].iloc[0])
        step = max(1, -(-count // MAX_LATENCIES))
        query: sa.Select[Any] = sa.select(_DONE.label("done_s"), *_LATENCY_COLUMNS).where(*_finished(window))
        if step > 1:
            query = query.where(requests.c.id % step == 0)
        query = _of_model(query, requests, window).order_by(sa.text("done_s")).limit(2 * MAX_LATENCIES)
        return _numeric(self._frame(query)), step

    def signal_bins(self, window: Window, names: Sequence[str], width_s: float) -> pd.DataFrame:
        """Signals by bin and series: mean, highest, lowest."""
        bin_s = self._bin(samples.c.at_s, width_s).label("bin_s")
        series = (samples.c.signal, samples.c.model, samples.c.variant, samples.c.endpoint)
        value = samples.c.value
        spread = (sa.func.avg(value).label("mean"), sa.func.max(value).label("high"), sa.func.min(value).label("low"))
        query: sa.Select[Any] = sa.select(bin_s, *series, *spread)
        query = query.where(samples.c.signal.in_(names), _within(samples.c.at_s, window))
        if window.model:
            query = query.where(samples.c.model.in_(("", window.model)))
        return self._frame(query.group_by(bin_s, *series).limit(MAX_BINS * 2_000))

    def signal_names(self, window: Window, prefix: str) -> list[str]:
        """Names of signals that begin so."""
        query = sa.select(samples.c.signal).where(
            samples.c.signal.startswith(prefix, autoescape=True), _within(samples.c.at_s, window)
        )
        return sorted(self._frame(query.distinct())["signal"])

    def decisions(self, window: Window, changes_only: bool = False, limit: int = MAX_ROWS) -> pd.DataFrame:
        """The newest decisions, newest first."""
        query = _of_model(sa.select(decisions).where(_within(decisions.c.at_s, window)), decisions, window)
        if changes_only:
            query = query.where(decisions.c.direction != "hold")
        return self._frame(query.order_by(decisions.c.at_s.desc(), decisions.c.id.desc()).limit(limit))

    def last_decisions(self, window: Window) -> pd.DataFrame:
        """The newest decision of each variant."""
        newest = sa.select(sa.func.max(decisions.c.id)).where(_within(decisions.c.at_s, window))
        query = sa.select(decisions).where(decisions.c.id.in_(newest.group_by(decisions.c.variant)))
        return self._frame(_of_model(query, decisions, window).order_by(decisions.c.variant))

    def decision(self, number: int) -> pd.DataFrame:
        """One decision by its id: one row or none."""
        return self._frame(sa.select(decisions).where(decisions.c.id == number))

    def events(self, window: Window, kinds: Sequence[str] = (), limit: int = MAX_ROWS) -> pd.DataFrame:
        """The newest events, newest first."""
        query = sa.select(events).where(_within(events.c.at_s, window))
        if kinds:
            query = query.where(events.c.kind.in_(kinds))
        return self._frame(query.order_by(events.c.at_s.desc(), events.c.id.desc()).limit(limit))


def _must_exist(url: str) -> bool:
    """Whether the history is SQLite; a missing file is said instead of being created by the driver."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return False  # History words this error
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite and parsed.database and not Path(parsed.database).is_file():
        raise HistoryError(
            "there is no history yet", where=parsed.database, next_step="Start the fleet with: fleet up."
        )
    return sqlite


def _within(column: sa.ColumnElement[float], window: Window) -> sa.ColumnElement[bool]:
    return sa.and_(column >= window.since_s, column < window.until_s)


def _finished(window: Window) -> tuple[sa.ColumnElement[bool], ...]:
    arrived = sa.and_(requests.c.at_s >= window.since_s - LOOKBACK_S, requests.c.at_s < window.until_s)
    return arrived, window.since_s <= _DONE, window.until_s > _DONE


def _of_model(query: sa.Select[Any], table: sa.Table, window: Window) -> sa.Select[Any]:
    return query.where(table.c.model == window.model) if window.model else query


def _limit(slos: SloBook, promise: str) -> sa.ColumnElement[float]:
    """The promised threshold of a request's model, as SQL."""

    def threshold(model: str) -> float:
        target = getattr(slos.of(model), promise)
        return _NO_LIMIT if target is None else float(target.threshold_s)

    own = [(requests.c.model == model, sa.literal(threshold(model))) for model in slos.models]
    default = sa.literal(threshold(""))
    return sa.case(*own, else_=default) if own else default


def _total(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((condition, 1), else_=0))


def _counts(slos: SloBook) -> list[sa.ColumnElement[Any]]:
    """Columns of :meth:`Reader.request_bins` after its keys."""
    outcome = requests.c.outcome
    columns: list[sa.ColumnElement[Any]] = [sa.func.count().label("requests")]
    columns += [_total(outcome == name).label(name) for name in OUTCOMES]
    columns += [sa.func.sum(requests.c[name]).label(name) for name in TOKENS]
    kept: list[sa.ColumnElement[bool]] = []
    for promise in ("ttft", "tpot", "e2e"):
        latency = requests.c[f"{promise}_s"]
        within = latency < _limit(slos, promise)
        columns.append(sa.func.count(latency).label(f"{promise}_n"))
        columns.append(_total(sa.and_(latency.is_not(None), within)).label(f"{promise}_ok"))
        kept.append(sa.or_(latency.is_(None), within))
    return [*columns, _total(sa.and_(outcome == "ok", *kept)).label("good")]


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """Latency columns that hold only NULLs come as objects: make them floats."""
    latency = [name for name in frame.columns if name.endswith("_s")]
    return frame.astype(dict.fromkeys(latency, float))
