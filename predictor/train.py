"""Rows of the history: the newest for a fit, and the following of new ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from fleet.errors import HistoryError
from fleet.history import Event, History, TrainingSample, schema
from predictor.pool import Pool
from predictor.samples import WAITED

_REQUESTS, _TRAINING = schema.requests.c, schema.training.c

LOOK_BACK: Final = 3
"""At the start so many times the pool's size is read, so that rare regimes among older rows are found again."""


class Follower:
    """Reads each finished request and each sample from elsewhere once, in the order they were written.

    A history that is missing, locked or broken costs one failed :meth:`poll`; the next one opens it anew.

    Args:
        url: SQLAlchemy URL.
        limit: rows of one poll at most.
        own: ``source`` of training rows that the caller wrote itself and need not be told.
    """

    def __init__(self, url: str, *, limit: int, own: str = "") -> None:
        self._url, self._limit, self._own = url, limit, own
        self._history: History | None = None
        self._positions: dict[str, int] = {}

    def poll(self) -> list[dict[str, Any]]:
        """Finished requests and other samples since the last poll, oldest first; at first the newest ones.

        Call it again while it returns rows: one call gives at most ``limit`` of each kind.

        Raises: HistoryError when it cannot be opened or read now.
        """
        try:
            history = self._open()
            rows = self._news(history, schema.training) + self._news(history, schema.requests)
        except SQLAlchemyError as error:
            raise self._lost(error) from None
        return [{**row, "features": _features(row["features"])} for row in rows]

    def _news(self, history: History, table: sa.Table) -> list[dict[str, Any]]:
        """Rows of one table that were not read yet."""
        newest = int(history.select(sa.select(sa.func.max(table.c.id).label("id")))[0]["id"] or 0)
        position = self._positions.get(table.name)
        if position is None or newest < position:  # first poll, or another file took its place
            position = max(newest - LOOK_BACK * self._limit, 0)
        upto = min(newest, position + self._limit)
        query = _finished(position, upto) if table is schema.requests else _told(position, upto, self._own)
        rows = history.select(query) if upto > position else []
        self._positions[table.name] = upto
        return rows

    def note(self, rows: Iterable[Event | TrainingSample]) -> None:
        """Write events and samples.

        Raises: HistoryError when they cannot be written now.
        """
        try:
            self._open().add(rows)
        except SQLAlchemyError as error:
            raise self._lost(error) from None

    def close(self) -> None:
        """Release the connections."""
        if self._history is not None:
            self._history.close()
            self._history = None

    def _open(self) -> History:
        if self._history is None:
            self._history = History(self._url)
        return self._history

    def _lost(self, error: SQLAlchemyError) -> HistoryError:
        self.close()
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        return HistoryError(f"cannot be used now: {cause}", where="history", next_step="Trying again.")


def _finished(after_id: int, upto_id: int) -> sa.Select[Any]:
    """Requests with ids in (after, upto] whose times are the engine's.

    Features come as text, so that one garbled row spoils only itself.
    """
    wanted = (_REQUESTS.at_s, _REQUESTS.model, _REQUESTS.tenant, _REQUESTS.endpoint, _REQUESTS.variant,
              _REQUESTS.outcome, _REQUESTS.streaming, _REQUESTS.ttft_s, _REQUESTS.tpot_s, _REQUESTS.e2e_s,
              _REQUESTS.output_tokens, _REQUESTS.predicted_ttft_s, _REQUESTS.predicted_tpot_s,
              sa.cast(_REQUESTS.features, sa.Text).label("features"))  # fmt: skip
    query = sa.select(*wanted).where(_REQUESTS.id > after_id, _REQUESTS.id <= upto_id, _REQUESTS.outcome.in_(WAITED))
    return query.order_by(_REQUESTS.id)


def _told(after_id: int, upto_id: int, own: str) -> sa.Select[Any]:
    """Samples from elsewhere with ids in (after, upto], in the words of a request's row."""
    wanted = (_TRAINING.at_s, _TRAINING.endpoint, _TRAINING.variant, _TRAINING.ttft_s, _TRAINING.tpot_s,
              _TRAINING.censored, _TRAINING.output_tokens, sa.literal("training").label("outcome"),
              sa.cast(_TRAINING.features, sa.Text).label("features"))  # fmt: skip
    query = sa.select(*wanted).where(_TRAINING.id > after_id, _TRAINING.id <= upto_id, _TRAINING.source != own)
    return query.order_by(_TRAINING.id)


def _features(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def newest_pool(url: str, *, limit: int) -> Pool:
    """A pool filled from the newest rows of the history; of more than ``limit``, the rare ones stay.

    Raises: HistoryError if the history cannot be opened or read.
    """
    pool, follower = Pool(limit), Follower(url, limit=limit)
    try:
        while rows := follower.poll():
            pool.add_records(rows)
    finally:
        follower.close()
    return pool
