"""Reading and writing the history."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
    StatementError,
)

from fleet.errors import HistoryError
from fleet.history import schema
from fleet.history.rows import Event, RequestRecord, SignalSample, TrainingSample
from fleet.history.wire import Row, values_of
from fleet.types import Decision

log = logging.getLogger(__name__)

_TABLE_OF: Mapping[type[Row], sa.Table] = {
    SignalSample: schema.samples,
    RequestRecord: schema.requests,
    Decision: schema.decisions,
    Event: schema.events,
    TrainingSample: schema.training,
}

_REFUSED: Final = (IntegrityError, DataError, OverflowError, UnicodeEncodeError, TypeError)
"""What a database or its driver raises for a value that cannot be stored: writing it again would fail again."""


_BROKEN: Final = ("file is not a database", "database disk image is malformed")
"""How SQLite says that a file is damaged, or something else."""


class History:
    """The five tables behind one SQLAlchemy URL; opening brings the schema up to date.

    Raises: HistoryError with one line when the database cannot be opened or written.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = url
        self._parsed = parse_url(url)
        self._engine = _engine(self._parsed, read_only=read_only)
        try:
            if not read_only:
                self._migrate()
            with self._engine.connect() as connection:
                connection.execute(sa.select(sa.func.count()).select_from(schema.events))
        except (SQLAlchemyError, CommandError, OSError) as error:
            raise self._error(error) from None

    def _error(self, error: BaseException) -> HistoryError:
        cause = cause_of(error)
        step = "Move it away, and a new one is begun" if cause.endswith(_BROKEN) else "Check its permissions"
        return HistoryError(f"cannot be opened or written: {cause}", where=shown(self.url),
                            next_step=f"{step}, or set FLEET_HISTORY_URL or FLEET_HOME.")  # fmt: skip

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # two processes may start at once: one migrates
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            if connection.dialect.name == "sqlite":  # a file that can only be read is found out here, not row by row
                connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")
            connection.commit()

    def add(self, rows: Iterable[Row]) -> int:
        """Write rows of any of the five kinds in one transaction; returns how many."""
        return self.insert(values_of(rows).items())

    def insert(self, values: Iterable[tuple[type[Row], list[dict[str, Any]]]]) -> int:
        """The same from dictionaries of their fields, by kind."""
        by_table: dict[sa.Table, list[dict[str, Any]]] = {}
        for kind, rows in values:
            by_table.setdefault(_TABLE_OF[kind], []).extend(rows)
        if not by_table:
            return 0
        with self._engine.begin() as connection:
            for table, found in by_table.items():
                connection.execute(sa.insert(table), found)
        return sum(map(len, by_table.values()))

    def keep(self, values: Iterable[tuple[type[Row], list[dict[str, Any]]]]) -> int:
        """Write what the database takes; rows that it refuses for what they hold are left out, not tried for ever.

        Returns: how many rows were refused; why is logged.

        Raises: SQLAlchemyError while the database itself cannot be written; nothing is written then, or only halves of
            a batch that held a refused row, so trying again may write rows twice.
        """
        rows = [(kind, row) for kind, found in values for row in found]
        return self._keep(rows) if rows else 0

    def _keep(self, rows: list[tuple[type[Row], dict[str, Any]]]) -> int:
        try:
            self.insert((kind, [row]) for kind, row in rows)
        except (StatementError, *_REFUSED) as error:
            if isinstance(error, DBAPIError) and not isinstance(error, _REFUSED):
                raise  # the database's own trouble, not the rows'
            if len(rows) > 1:
                middle = len(rows) // 2
                return self._keep(rows[:middle]) + self._keep(rows[middle:])
            log.error("a row of %s was refused and is lost: %s", _TABLE_OF[rows[0][0]].name, cause_of(error))
            return 1
        return 0

    def read(
        self, table: str, *, since_s: float = 0.0, until_s: float | None = None, limit: int | None = None,
        newest_first: bool = False, after_id: int = 0, **equals: str | Sequence[str],
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Rows of ``table`` as dictionaries, by time.

        Args:
            table: ``samples``, ``requests``, ``decisions``, ``events`` or ``training``.
            since_s: earliest ``at_s`` (inclusive), Unix seconds.
            until_s: latest ``at_s`` (exclusive).
            limit: at most so many (with ``newest_first``: the newest).
            newest_first: order.
            after_id: only rows with a larger id, for following the table; the order is then by id.
            equals: column = value, or column IN values.
        """
        source = schema.TABLES[table]
        query = sa.select(source).where(source.c.at_s >= since_s)
        if until_s is not None:
            query = query.where(source.c.at_s < until_s)
        if after_id:
            query = query.where(source.c.id > after_id)
        for column, value in equals.items():
            query = query.where(source.c[column] == value if isinstance(value, str) else source.c[column].in_(value))
        order = source.c.id if after_id else source.c.at_s
        query = query.order_by(order.desc() if newest_first else order.asc()).limit(limit)
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def select(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        """Any SELECT over :mod:`fleet.history.schema`, for aggregates that should run in the database."""
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            names = tuple(rows.keys())
            return [dict(zip(names, row, strict=True)) for row in rows]

    def select_tuples(self, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
        """As :meth:`select`, rows as tuples in the order of the columns: for many of them."""
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def count(self, table: str) -> int:
        """Rows in ``table``."""
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).select_from(schema.TABLES[table])) or 0)

    def prune(self, before_s: float) -> int:
        """Delete rows older than ``before_s``; returns how many."""
        with self._engine.begin() as connection:
            return sum(
                connection.execute(sa.delete(table).where(table.c.at_s < before_s)).rowcount
                for table in schema.TABLES.values()
            )

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()


def must_exist(url: str) -> URL:
    """The URL in its parts; a missing SQLite file is said instead of being made, as its driver does.

    Raises: HistoryError when it is no URL, or there is no such file.
    """
    parsed = parse_url(url)
    file = parsed.database if parsed.get_backend_name() == "sqlite" else ""
    if file and not file.startswith("file:") and not Path(file).is_file():
        raise HistoryError("there is no history yet", where=file,
                           next_step="Start the fleet with: fleet up, or set FLEET_HISTORY_URL.")  # fmt: skip
    return parsed


def existing(url: str) -> History:
    """A history that is there already, to look at: brought up to date, unless it can only be read.

    Raises: HistoryError when there is none, or it cannot be read.
    """
    must_exist(url)
    try:
        return History(url)
    except HistoryError as error:
        if "readonly" not in error.what:
            raise
        return History(url, read_only=True)


def cause_of(error: BaseException) -> str:
    """The driver's own words, on one line, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).partition("\n")[0]


def shown(url: str) -> str:
    """A database's URL for logs and people: without its password, and without its options, which may hold one.

    >>> shown("postgresql+psycopg://fleet:secret@db/fleet?password=secret")
    'postgresql+psycopg://fleet:***@db/fleet'
    """
    try:
        return make_url(url).set(query={}).render_as_string()
    except ArgumentError:
        return "a text that is no URL"  # it may hold a password all the same


def parse_url(url: str) -> URL:
    """The URL in its parts.

    Raises: HistoryError when it is none.
    """
    try:
        return make_url(url)
    except ArgumentError:
        raise HistoryError(
            "is no SQLAlchemy URL",
            where="FLEET_HISTORY_URL or --history-url",
            next_step="Write sqlite:////path/file or postgresql+psycopg://...",
        ) from None


def _engine(url: URL, *, read_only: bool) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database and not url.database.startswith("file:") and not read_only:
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HistoryError(f"its folder cannot be made: {error.strerror}", where=url.database,
                               next_step="Choose another with FLEET_HOME or FLEET_HISTORY_URL.") from None  # fmt: skip
    try:
        engine = sa.create_engine(url, connect_args={"timeout": 30, "check_same_thread": False} if sqlite else {})
    except (ImportError, NoSuchModuleError) as error:
        if url.get_backend_name() != "postgresql":
            raise HistoryError("no such database is supported", where=shown(str(url)), limit="sqlite, postgresql",
                               next_step="Choose one of these.") from None  # fmt: skip
        raise HistoryError(f"its driver is not installed ({error})", where=shown(str(url)),
                           next_step="pip install 'llm-fleet[postgres]'.") from None  # fmt: skip
    if sqlite:
        sa.event.listen(engine, "connect", _sqlite_pragmas)
    return engine


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    """WAL lets readers work while one process writes, and survives the death of any writer."""
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        _insist(connection, f"PRAGMA {pragma}")


def _insist(connection: Any, statement: str, *, limit_s: float = 30.0) -> None:
    """Execute it, again while the file is locked: the change to WAL does not wait for the busy timeout."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


__all__ = ["Connection", "History", "Row", "cause_of", "existing", "must_exist", "parse_url", "shown"]
