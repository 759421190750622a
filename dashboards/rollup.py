"""The console's own summaries of the history: what makes a week of a large fleet quick to draw.

One small SQLite file beside the history, which itself is only read. Minute by minute, closed minutes are folded into
rows of ten seconds, of a minute and of fifteen: each variant's signals, the fullest engines' KV cache, requests with
the promises they kept, and some of their latencies. Summaries stay when raw rows are pruned.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dashboards.queries import joined
from dashboards.rows import framed
from fleet.errors import FleetError
from fleet.slo import SloBook

if TYPE_CHECKING:
    from dashboards.source import Reader
    from dashboards.window import Window

log = logging.getLogger(__name__)

QUICK_S: Final = 10.0
"""Bins of a page over a quarter of an hour, what a console opens with."""
FINE_S: Final = 60.0
COARSE_S: Final = 900.0
LONG_S: Final = 7_200.0
"""Bins of a page over a week."""
LAG_S: Final = 20.0
"""A minute is folded this long after its end: writers batch, and requests are recorded when they finish."""
KEEP_S: Final = {QUICK_S: 3_600.0, FINE_S: 8 * 86_400.0, COARSE_S: 35 * 86_400.0, LONG_S: 35 * 86_400.0}
ENGINES_KEEP_S: Final = 8 * 3600.0
"""Minutes of single engines are kept so long: heat maps of longer ranges are drawn from quarters of an hour."""
SAMPLED: Final = 6
"""Single requests that are kept of each variant and minute."""
PER_ENDPOINT: Final = ("vllm:kv_cache_usage_perc", "vllm:num_requests_waiting")
"""Signals that heat maps show engine by engine."""
BACK_S: Final = 31 * 86_400.0

_SIGNALS: Final = "bin_s, signal, model, variant, endpoint, mean, high, low"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS signals (width_s REAL, bin_s REAL, signal TEXT, model TEXT, variant TEXT, endpoint TEXT,
  mean REAL, high REAL, low REAL);
CREATE INDEX IF NOT EXISTS signals_at ON signals (width_s, signal, bin_s);
CREATE INDEX IF NOT EXISTS signals_of_variants ON signals (width_s, signal, bin_s, variant, model, mean, high, low)
  WHERE endpoint = '';
CREATE INDEX IF NOT EXISTS signals_of_engines ON signals (width_s, signal, endpoint, bin_s, variant, model, mean, high,
  low) WHERE endpoint != '';
CREATE TABLE IF NOT EXISTS request_bins (width_s REAL, bin_s REAL, model TEXT, variant TEXT, requests REAL, ok REAL,
  error REAL, timeout REAL, rejected REAL, aborted REAL, input_tokens REAL, output_tokens REAL, cached_tokens REAL,
  ttft_n REAL, ttft_ok REAL, tpot_n REAL, tpot_ok REAL, e2e_n REAL, e2e_ok REAL, good REAL);
CREATE INDEX IF NOT EXISTS request_bins_at ON request_bins (width_s, bin_s);
CREATE TABLE IF NOT EXISTS latencies (id INTEGER PRIMARY KEY, done_s REAL, model TEXT, variant TEXT, endpoint TEXT,
  outcome TEXT, input_tokens REAL, output_tokens REAL, ttft_s REAL, tpot_s REAL, e2e_s REAL, predicted_ttft_s REAL,
  predicted_tpot_s REAL);
CREATE INDEX IF NOT EXISTS latencies_at ON latencies (done_s);
CREATE INDEX IF NOT EXISTS latencies_thin ON latencies (done_s, model, variant, ttft_s, tpot_s, e2e_s, id)
  WHERE id % 8 = 0;
"""
_COUNTED: Final = 2
"""Which requests are counted as what (:func:`dashboards.window.counts`); with another number all is summed up anew."""
_THIN: Final = 8
"""One kept request in so many has a place in an index of its own, which is all that a week's percentiles read."""
COUNTS: Final = (
    "requests", "ok", "error", "timeout", "rejected", "aborted", "input_tokens", "output_tokens", "cached_tokens",
    "ttft_n", "ttft_ok", "tpot_n", "tpot_ok", "e2e_n", "e2e_ok", "good",
)  # fmt: skip
_BIN_COLUMNS: Final = ("bin_s", "model", "variant", *COUNTS)
LATENCIES: Final = (
    "done_s", "model", "variant", "endpoint", "outcome", "input_tokens", "output_tokens", "ttft_s", "tpot_s", "e2e_s",
    "predicted_ttft_s", "predicted_tpot_s",
)  # fmt: skip
TIMED: Final = ("done_s", "model", "variant", "ttft_s", "tpot_s", "e2e_s")
"""What percentiles are made of."""


class Rollup:
    """One file of summaries. Each call opens its own connection: any thread may read while one writes."""

    def __init__(self, path: Path, slos: SloBook) -> None:
        self._path, self._slos = path, slos
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_SCHEMA)
            self._begin_anew_if_promises_changed(db)
            if db.execute("SELECT 1 FROM meta WHERE name = 'long'").fetchone() is None:
                widen(db)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=10)
        try:
            with db:
                yield db
        finally:
            db.close()

    def _begin_anew_if_promises_changed(self, db: sqlite3.Connection) -> None:
        """Counts of kept promises hold for one SLO file only."""
        said = repr(
            (_COUNTED, asdict(self._slos.default), sorted((k, asdict(v)) for k, v in self._slos.models.items()))
        )
        mark = hashlib.sha256(said.encode()).hexdigest()
        known = db.execute("SELECT value FROM meta WHERE name = 'slos'").fetchone()
        if known is None or known[0] != mark:
            for table in ("meta", "signals", "request_bins", "latencies"):
                db.execute(f"DELETE FROM {table}")
            db.execute("INSERT INTO meta VALUES ('slos', ?)", (mark,))

    def span(self, width_s: float = FINE_S) -> tuple[float, float] | None:
        """From when to when everything is folded into bins of a width, Unix seconds; None: nothing yet."""
        begin = "quick_from_s" if width_s == QUICK_S else "from_s"
        with self._open() as db:
            found = dict(db.execute("SELECT name, value FROM meta WHERE name IN (?, 'to_s')", (begin,)))
        return (float(found[begin]), float(found["to_s"])) if len(found) == 2 else None

    # ---- writing

    def fold(self, reader: Reader, since_s: float, until_s: float) -> None:
        """Fold whole minutes [since, until), which must touch what is folded already (or be the first)."""
        known, quick = self.span(), self.span(QUICK_S)
        low, high = (since_s, until_s) if known is None else (min(known[0], since_s), max(known[1], until_s))
        meta = {"from_s": low, "to_s": high}
        widths = [FINE_S]
        if high - since_s <= KEEP_S[QUICK_S] and (quick is None or until_s >= quick[0]):
            widths.append(QUICK_S)
            meta["quick_from_s"] = since_s if quick is None else min(quick[0], since_s)
        parts = [(width_s, *reader.to_fold(since_s, until_s, width_s, PER_ENDPOINT)) for width_s in widths]
        single = reader.sampled(since_s, until_s, SAMPLED)
        with self._open() as db:
            for width_s, signals, bins in parts:
                _insert(db, "signals", signals.assign(width_s=width_s), ("width_s", *_SIGNALS.split(", ")))
                _insert(db, "request_bins", bins.assign(width_s=width_s), ("width_s", *_BIN_COLUMNS))
            _insert(db, "latencies", single, LATENCIES)
            for width_s, from_s in ((COARSE_S, FINE_S), (LONG_S, COARSE_S)):
                for start in _whole(since_s, until_s, low, high, width_s):
                    _coarsen(db, start, width_s, from_s)
            rows = [(name, str(value)) for name, value in meta.items()]
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def catch_up(
        self, reader: Reader, now_s: float, *, most: int = 60, stop: Callable[[], bool] = lambda: False
    ) -> int:
        """Fold what is new, then go back in time; at most ``most`` minutes.

        Returns: how many minutes were folded; 0: there is nothing left to do.
        """
        done, end = 0, (now_s - LAG_S) // FINE_S * FINE_S
        while done < most and not stop():
            known = self.span()
            if known is None:
                oldest = reader.oldest_s()
                if oldest is None or oldest >= end:
                    break
                start = end - FINE_S
            elif known[1] < end:
                start = known[1]
            else:
                oldest = reader.oldest_s()
                if oldest is None or known[0] <= oldest or known[0] <= now_s - BACK_S:
                    break
                start = known[0] - FINE_S
            self.fold(reader, start, start + FINE_S)
            done += 1
        if done:
            self._forget(now_s)
        return done

    def _forget(self, now_s: float) -> None:
        with self._open() as db:
            for width_s, keep_s in KEEP_S.items():
                for table in ("signals", "request_bins"):
                    db.execute(f"DELETE FROM {table} WHERE width_s = ? AND bin_s < ?", (width_s, now_s - keep_s))
            old = (FINE_S, now_s - ENGINES_KEEP_S)
            db.execute("DELETE FROM signals WHERE width_s = ? AND bin_s < ? AND endpoint != ''", old)
            db.execute("DELETE FROM latencies WHERE done_s < ?", (now_s - KEEP_S[FINE_S],))
            kept_s = -(-(now_s - KEEP_S[QUICK_S]) // FINE_S) * FINE_S
            begin = "UPDATE meta SET value = ? WHERE name = 'quick_from_s' AND CAST(value AS REAL) < ?"
            db.execute(begin, (str(kept_s), kept_s))

    # ---- reading

    def _frame(self, query: str, values: tuple[Any, ...], columns: tuple[str, ...]) -> pd.DataFrame:
        with self._open() as db:
            return framed(db.execute(query, values).fetchall(), columns)

    def worst(self, since_s: float, until_s: float, name: str, window: Window, most: int) -> tuple[str, ...]:
        """The engines in which a signal was highest, the highest first."""
        own = "AND (? = '' OR model = ?)" + (f" AND variant IN ({_marks(window.variants)})" if window.variants else "")
        query = (
            f"SELECT endpoint, AVG(high) AS badness FROM signals WHERE width_s = ? AND signal = ? AND bin_s >= ? "
            f"AND bin_s < ? AND endpoint != '' {own} GROUP BY endpoint ORDER BY badness DESC LIMIT ?"
        )
        width_s = FINE_S if until_s - since_s < 4 * COARSE_S else COARSE_S
        values = (width_s, name, since_s, until_s, window.model, window.model, *window.variants, most)
        return tuple(self._frame(query, values, ("endpoint", "badness"))["endpoint"])

    def signal_bins(
        self, since_s: float, until_s: float, names: tuple[str, ...], width_s: float, *, only: tuple[str, ...] = ()
    ) -> pd.DataFrame:
        """Signals in bins of ``width_s``, a multiple of a level's: of variants, or of some engines (``only``)."""
        own = f"endpoint != '' AND endpoint IN ({_marks(only)})" if only else "endpoint = ''"
        step = level_of(width_s) or FINE_S
        query = (
            f"SELECT CAST(bin_s / ? AS INTEGER) * ? AS b, signal, model, variant, endpoint, AVG(mean), MAX(high), "
            f"MIN(low) FROM signals WHERE width_s = ? AND signal IN ({_marks(names)}) AND bin_s >= ? "
            f"AND bin_s < ? AND {own} GROUP BY b, signal, model, variant, endpoint"
        )
        parts = [
            self._frame(query, (width_s, width_s, level, *names, start, end, *only), tuple(_SIGNALS.split(", ")))
            for level, start, end in _levels(step, since_s, until_s)
        ]
        return joined(parts)

    def request_bins(self, since_s: float, until_s: float, width_s: float, model: str) -> pd.DataFrame:
        """Requests by bin, model and variant, as :meth:`dashboards.source.Reader.request_bins` has them."""
        step = level_of(width_s) or FINE_S
        sums = ", ".join(f"SUM({name})" for name in COUNTS)
        query = (
            f"SELECT CAST(bin_s / ? AS INTEGER) * ? AS b, model, variant, {sums} FROM request_bins WHERE width_s = ? "
            f"AND bin_s >= ? AND bin_s < ? AND (? = '' OR model = ?) GROUP BY b, model, variant"
        )
        parts = [
            self._frame(query, (width_s, width_s, level, start, end, model, model), _BIN_COLUMNS)
            for level, start, end in _levels(step, since_s, until_s)
        ]  # fmt: skip
        return joined(parts)

    def latencies(
        self, since_s: float, until_s: float, model: str, variants: tuple[str, ...], most: int, *,
        columns: tuple[str, ...] = LATENCIES,
    ) -> tuple[pd.DataFrame, int]:  # fmt: skip
        """Some single requests, evenly spread, and how many kept ones each stands for."""
        where = "done_s >= ? AND done_s < ? AND (? = '' OR model = ?)"
        where += f" AND variant IN ({_marks(variants)})" if variants else ""
        values, thin = (since_s, until_s, model, model, *variants), f"INDEXED BY latencies_thin WHERE id % {_THIN} = 0"
        count = _THIN * self._count(f"{thin} AND {where}", values)
        if count > _THIN * most:  # whole steps of the index, rounded down: rather more requests than fewer
            step, source = count // most // _THIN * _THIN, thin
        else:
            count = self._count(f"WHERE {where}", values)
            step, source = max(1, -(-count // most)), "WHERE 1"
        query = f"SELECT {', '.join(columns)} FROM latencies {source} AND {where} AND id % ? = 0 ORDER BY done_s"
        return self._frame(query, (*values, step), columns), step

    def _count(self, where: str, values: tuple[Any, ...]) -> int:
        return int(self._frame(f"SELECT COUNT(*) FROM latencies {where}", values, ("n",))["n"].iloc[0])

    def models(self, since_s: float, until_s: float) -> set[str]:
        """Models that were asked for, and that somebody serves."""
        query = ("SELECT DISTINCT model FROM request_bins WHERE width_s = ? AND bin_s >= ? AND bin_s < ? "
                 "AND (variant != '' OR requests > aborted)")  # fmt: skip
        return set(self._frame(query, (COARSE_S, since_s, until_s), ("model",))["model"])

    def variants(self, since_s: float, until_s: float) -> pd.DataFrame:
        """Variants that served, with their model."""
        query = "SELECT DISTINCT variant, model FROM request_bins WHERE width_s = ? AND bin_s >= ? AND bin_s < ?"
        return self._frame(query, (COARSE_S, since_s, until_s), ("variant", "model"))


def level_of(width_s: float) -> float | None:
    """The widest bins of the summaries that bins of a width can be made of; None: there are none.

    >>> level_of(7200.0), level_of(1800.0), level_of(120.0), level_of(10.0), level_of(3.0)
    (7200.0, 900.0, 60.0, 10.0, None)
    """
    return next((level for level in (LONG_S, COARSE_S, FINE_S, QUICK_S) if width_s % level == 0), None)


def _marks(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))


def _levels(step_s: float, since_s: float, until_s: float) -> list[tuple[float, float, float]]:
    """(width, from, to) of the summaries that cover a window: wide ones as far as they reach, then finer ones."""
    if step_s < COARSE_S:
        return [(step_s, since_s, until_s)]
    found, start = [], since_s // step_s * step_s
    for width_s in (LONG_S, COARSE_S, FINE_S):
        end = max(start, until_s // width_s * width_s) if width_s > FINE_S else until_s
        if width_s <= step_s and (start < end or width_s == FINE_S):
            found.append((width_s, start, end))
            start = end
    return found


def _whole(since_s: float, until_s: float, low: float, high: float, width_s: float) -> Iterator[float]:
    """Starts of the bins of a width that [since, until) touches and that [low, high) holds whole."""
    start = since_s // width_s * width_s
    while start < until_s:
        if low <= start and start + width_s <= high:
            yield start
        start += width_s


def _insert(db: sqlite3.Connection, table: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    if len(frame):
        rows = frame[list(columns)].astype(object).where(frame[list(columns)].notna(), None).to_numpy().tolist()
        db.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({','.join('?' * len(columns))})", rows)


def _coarsen(db: sqlite3.Connection, start: float, width_s: float, from_s: float) -> None:
    """Fold the narrower bins of one wide bin."""
    span = (from_s, start, start + width_s)
    for table in ("signals", "request_bins"):
        db.execute(f"DELETE FROM {table} WHERE width_s = ? AND bin_s = ?", (width_s, start))
    db.execute(
        "INSERT INTO signals SELECT ?, ?, signal, model, variant, endpoint, AVG(mean), MAX(high), MIN(low) "
        "FROM signals WHERE width_s = ? AND bin_s >= ? AND bin_s < ? GROUP BY signal, model, variant, endpoint",
        (width_s, start, *span),
    )
    db.execute(
        "INSERT INTO request_bins SELECT ?, ?, model, variant, "
        + ", ".join(f"SUM({name})" for name in COUNTS)
        + " FROM request_bins WHERE width_s = ? AND bin_s >= ? AND bin_s < ? GROUP BY model, variant",
        (width_s, start, *span),
    )


def widen(db: sqlite3.Connection) -> None:
    """Make all bins of two hours from quarters of an hour: files of earlier versions have none."""
    known = dict(db.execute("SELECT name, CAST(value AS REAL) FROM meta WHERE name IN ('from_s', 'to_s')"))
    if len(known) == 2:
        for start in _whole(known["from_s"], known["to_s"], known["from_s"], known["to_s"], LONG_S):
            _coarsen(db, start, LONG_S, COARSE_S)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('long', 'made')")


class Folder:
    """Folds in the background while the console runs."""

    def __init__(self, reader: Callable[[], Reader], *, every_s: float = 20.0) -> None:
        self._reader, self._every_s = reader, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console-rollup", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the minute in hand."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        told = ""
        while not self._stop.is_set():
            done = 0
            try:
                reader = self._reader()
                if reader.rollup is not None:
                    done = reader.rollup.catch_up(reader, time.time(), stop=self._stop.is_set)
                told = ""
            except (FleetError, sqlite3.Error, OSError) as error:
                if told != str(error):
                    told = str(error)
                    log.warning("summaries wait: %s", error)
            self._stop.wait(0.05 if done else self._every_s)
